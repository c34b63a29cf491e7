/** The tables of docs/ against what there is: nothing is missing there, and nothing is there that is not. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openPgliteCatalog } from '../../../coordinator/catalog/pglite.ts';
import { ERRORS } from '../../../foundation/errors.ts';

const DOCS = join(import.meta.dirname, '..', '..', '..', 'docs');

/** The parts under second headings, by heading. */
async function sectionsOf(name: string): Promise<ReadonlyMap<string, string>> {
  const text = await readFile(join(DOCS, name), 'utf8');
  return new Map(
    text
      .split(/^## /m)
      .slice(1)
      .map((part) => [part.slice(0, part.indexOf('\n')), part]),
  );
}

/** Every name in the first column of a section's table. */
function namesIn(section: string): string[] {
  return [...section.matchAll(/^\| (`.*?) \|/gm)].flatMap(([, names = '']) =>
    [...names.matchAll(/`([^`]+)`/g)].map(([, name = '']) => name),
  );
}

test('docs/errors.md has every error with its number, and whether to try again, and no other', async () => {
  const rows = [...(await sectionsOf('errors.md')).values()].flatMap((section) => [
    ...section.matchAll(/^\| `(\w+)` \| (\d*) ?\| (yes|no) \| \S/gm),
  ]);
  const documented = rows.map(([, code, number, again]) => `${code} ${number} ${again}`);
  const known = Object.entries(ERRORS).map(
    ([code, { number, retryable }]) => `${code} ${number ?? ''} ${retryable ? 'yes' : 'no'}`,
  );
  expect(documented.toSorted()).toEqual(known.toSorted());
});

test('docs/views.md has every view, and each of its columns there or among those of many views, and no other', async () => {
  const sections = await sectionsOf('views.md');
  const shared = namesIn(sections.get('Columns of many views') ?? '');
  const isShared = (column: string) => shared.some((name) => matches(name, column));
  const views = await columnsByView();
  expect([...sections.keys()].slice(1).toSorted()).toEqual([...views.keys()].toSorted());
  const used = new Set<string>();
  for (const [view, columns] of views) {
    const own = namesIn(sections.get(view) ?? '');
    for (const name of own) expect(columns, `${view} as documented`).toContain(name);
    const missing = columns.filter((column) => !own.includes(column) && !isShared(column));
    expect(missing, view).toEqual([]);
    for (const column of columns) used.add(column);
  }
  const unused = shared.filter((name) => ![...used].some((column) => matches(name, column)));
  expect(unused).toEqual([]);
});

function matches(name: string, column: string): boolean {
  return name.startsWith('…') ? column.endsWith(name.slice(1)) : name === column;
}

async function columnsByView(): Promise<ReadonlyMap<string, readonly string[]>> {
  const directory = await mkdtemp(join(tmpdir(), 'holdfast-docs-'));
  try {
    const { catalog } = await openPgliteCatalog(directory, 'docs', 1n);
    await using opened = catalog;
    const rows = await opened.query<{ view: string; columns: string[] }>(
      `SELECT upper(table_name) AS view, array_agg(column_name::text ORDER BY ordinal_position) AS columns
         FROM information_schema.columns WHERE table_schema = 'oceanbase' GROUP BY table_name`,
    );
    return new Map(rows.map(({ view, columns }) => [view, columns]));
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
