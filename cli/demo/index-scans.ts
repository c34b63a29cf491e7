/**
 * Whether indexes and visibility maps tell the same as the tables: every plain btree index is read by a forced index-only
 * scan and compared with a sequential scan of its table (correctness.md 20). An index-only scan believes the visibility
 * map, so that a page wrongly marked all-visible shows rows that are dead.
 */
import type pg from 'pg';
import { defined } from '../../foundation/assert.ts';

export type IndexScanReport = {
  /** Indexes that were read by an index-only scan. */
  readonly scanned: number;
  /** What differs, a line each. */
  readonly differences: readonly string[];
};

type IndexRow = { readonly index: string; readonly table: string; readonly columns: readonly string[] };

/** Checks the database that `client` is connected to. Settings are local to a transaction of its own. */
export async function compareIndexScans(client: pg.Client): Promise<IndexScanReport> {
  const differences: string[] = [];
  let scanned = 0;
  for (const index of await listIndexes(client)) {
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    const sql = scanQuery(index);
    await force(client, { seqscan: false });
    if ((await planOf(client, sql)).includes(index.index)) {
      const throughIndex = await digest(client, sql);
      await force(client, { seqscan: true });
      const throughTable = await digest(client, sql);
      scanned += 1;
      if (throughIndex !== throughTable)
        differences.push(
          `${index.index} on ${index.table}: index-only scan ${throughIndex}, table ${throughTable}`,
        );
    }
    await client.query('ROLLBACK');
  }
  return { scanned, differences };
}

/** Ordered inside, so that only the index at hand (or one that begins with the same columns) serves. */
function scanQuery(index: IndexRow): string {
  const columns = index.columns.join(', ');
  return `SELECT count(*) AS rows, sum(hashtextextended(ROW(${columns})::text, 0)) AS digest
    FROM (SELECT ${columns} FROM ${index.table} ORDER BY ${columns}) ordered`;
}

async function force(client: pg.Client, plan: { readonly seqscan: boolean }): Promise<void> {
  const index = plan.seqscan ? 'off' : 'on';
  const table = plan.seqscan ? 'on' : 'off';
  await client.query(
    `SET LOCAL enable_seqscan = ${table}; SET LOCAL enable_sort = ${table}; SET LOCAL enable_bitmapscan = off;
     SET LOCAL enable_indexscan = ${index}; SET LOCAL enable_indexonlyscan = ${index};
     SET LOCAL max_parallel_workers_per_gather = 0`,
  );
}

async function planOf(client: pg.Client, sql: string): Promise<readonly string[]> {
  const { rows } = await client.query<{ 'QUERY PLAN': string }>(`EXPLAIN ${sql}`);
  return rows.flatMap((row) => /Index Only Scan using (\S+) on/.exec(row['QUERY PLAN'])?.[1] ?? []);
}

async function digest(client: pg.Client, sql: string): Promise<string> {
  const { rows } = await client.query<{ rows: string; digest: string | null }>(sql);
  const row = defined(rows[0], 'the row of an aggregate');
  return `${row.rows} rows, digest ${row.digest ?? 'of nothing'}`;
}

/** Valid btree indexes on plain columns of user tables, without a predicate. */
async function listIndexes(client: pg.Client): Promise<readonly IndexRow[]> {
  const { rows } = await client.query<IndexRow>(
    `SELECT quote_ident(i.relname) AS index, format('%I.%I', n.nspname, c.relname) AS "table",
            ARRAY(SELECT quote_ident(attname) FROM unnest(x.indkey) WITH ORDINALITY AS k (attnum, place)
                  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
                  WHERE k.place <= x.indnkeyatts ORDER BY k.place) AS columns
     FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
       JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am am ON am.oid = i.relam
     WHERE x.indisvalid AND x.indpred IS NULL AND x.indexprs IS NULL AND am.amname = 'btree' AND c.relkind = 'r'
       AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_t' AND c.relpersistence = 'p'
     ORDER BY 1`,
  );
  return rows;
}
