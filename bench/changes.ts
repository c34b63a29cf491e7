/**
 * What changes between two increments: one row on each of so many of the table's pages, the new version on the same page (an
 * update that touches no index, and pages have room for it), so that exactly those pages change.
 */
import type { TestServer } from '../test/support/postgres.ts';
import type { Random } from '../test/support/random.ts';

export type Spread = 'scattered' | 'clustered';
/** `share` of the table's pages. */
export type Change = { readonly share: number; readonly spread: Spread };

const TABLE = 'order_line';
const PAGE_BYTES = 8192;
const CHUNK_PAGES = 20_000;

/** That many different pages of [0, pageCount): anywhere, or one behind the other. In ascending order. */
export function choosePages(random: Random, pageCount: number, { share, spread }: Change): readonly number[] {
  const count = Math.min(pageCount, Math.max(1, Math.round(pageCount * share)));
  if (spread === 'clustered') {
    const first = random.between(0, pageCount - count + 1);
    return Array.from({ length: count }, (_, index) => first + index);
  }
  const chosen = new Set<number>();
  while (chosen.size < count) chosen.add(random.between(0, pageCount));
  return [...chosen].sort((a, b) => a - b);
}

/** The first row of each page, whichever that is by now. */
const ROWS = `
  SELECT ARRAY(SELECT (SELECT ctid FROM ${TABLE}
                        WHERE ctid >= format('(%s,1)', page)::tid AND ctid < format('(%s,1)', page + 1)::tid LIMIT 1)
                 FROM unnest($1::int[]) page)::text[] AS places`;

/** Returns when the pages are on disk. */
export async function change(server: TestServer, random: Random, wanted: Change): Promise<void> {
  const client = await server.connect();
  try {
    const { rows } = await client.query<{ pages: number }>(
      `SELECT (pg_relation_size('${TABLE}') / ${PAGE_BYTES})::int AS pages`,
    );
    const pages = choosePages(random, rows[0]?.pages ?? 0, wanted);
    let updated = 0;
    for (let at = 0; at < pages.length; at += CHUNK_PAGES) {
      const found = await client.query<{ places: string[] }>(ROWS, [pages.slice(at, at + CHUNK_PAGES)]);
      const sql = `UPDATE ${TABLE} SET status = 'moved' WHERE ctid = ANY ($1::tid[])`;
      updated += (await client.query(sql, [found.rows[0]?.places])).rowCount ?? 0;
    }
    if (updated !== pages.length) throw new Error(`${updated} of ${pages.length} pages were changed`);
    await client.query('CHECKPOINT'); // so that no tool pays for it
  } finally {
    await client.end();
  }
}
