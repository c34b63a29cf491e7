/** PostgreSQL's own referee for tables and indexes: amcheck, over every database of a server. */
import type pg from 'pg';

type Connect = (database: string) => Promise<pg.Client>;

/** What amcheck finds wrong, a line each; empty when all is well. Makes the extension where it is missing. */
export async function runAmcheck(connect: Connect): Promise<string[]> {
  const problems: string[] = [];
  for (const database of await listDatabases(connect)) {
    const client = await connect(database);
    try {
      await client.query('CREATE EXTENSION IF NOT EXISTS amcheck');
      const found = [...(await checkIndexes(client)), ...(await checkTables(client))];
      problems.push(...found.map((problem) => `${database}: ${problem}`));
    } finally {
      await client.end();
    }
  }
  return problems;
}

/** All that allow connections, the templates apart. */
export async function listDatabases(connect: Connect): Promise<string[]> {
  const client = await connect('postgres');
  try {
    const { rows } = await client.query<{ datname: string }>(
      "SELECT datname FROM pg_database WHERE datallowconn AND datconnlimit <> -2 AND datname NOT IN ('template0', 'template1')",
    );
    return rows.map((row) => row.datname);
  } finally {
    await client.end();
  }
}

/** Every valid btree index, the catalogs' too: structure, and that every row of the table is in it. */
async function checkIndexes(client: pg.Client): Promise<string[]> {
  const { rows } = await client.query<{ index: string }>(
    `SELECT c.oid::regclass::text AS index FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
       JOIN pg_am am ON am.oid = c.relam
     WHERE am.amname = 'btree' AND c.relpersistence = 'p' AND x.indisready AND x.indisvalid AND c.relkind = 'i'`,
  );
  const problems: string[] = [];
  for (const { index } of rows) {
    try {
      await client.query('SELECT bt_index_check(index => $1::regclass, heapallindexed => true)', [index]);
    } catch (error) {
      problems.push(`${index}: ${(error as Error).message}`); // pg rejects with an Error
    }
  }
  return problems;
}

async function checkTables(client: pg.Client): Promise<string[]> {
  const { rows } = await client.query<{ relation: string; block: string; message: string }>(
    `SELECT c.oid::regclass::text AS relation, v.blkno AS block, v.msg AS message
     FROM pg_class c CROSS JOIN LATERAL verify_heapam(c.oid) v
     WHERE c.relkind IN ('r', 't', 'm') AND c.relpersistence = 'p'`,
  );
  return rows.map((row) => `${row.relation} block ${row.block}: ${row.message}`);
}
