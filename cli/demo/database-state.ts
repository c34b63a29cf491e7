/**
 * The contents of a whole server as something to compare: for every table of every database its row count and a digest
 * over each row's full text, for large objects too, and every definition. Two equal states hold the same rows.
 *
 * A table's digest is the sum of two 64-bit hashes of each row (one number of 128 bits and more): it does not depend on the
 * order of rows, and every row counts, equal ones too.
 */
import type pg from 'pg';
import { defined } from '../../foundation/assert.ts';

export type TableState = { readonly rows: number; readonly digest: string };

export type ServerState = {
  /** `<database>.<schema>.<table>`, or `<database> <kind of definition>`. */
  readonly tables: ReadonlyMap<string, TableState>;
  /** `<database> <kind>` → all definitions of that kind, one per line. */
  readonly definitions: ReadonlyMap<string, string>;
};

export type ReadStateOptions = {
  /** Unlogged tables are empty after a recovery: left out unless asked for. */
  readonly unlogged?: boolean;
};

type Connect = (database: string) => Promise<pg.Client>;

/** Reads every database that allows connections, template0 apart. */
export async function readServerState(
  connect: Connect,
  options: ReadStateOptions = {},
): Promise<ServerState> {
  const tables = new Map<string, TableState>();
  const definitions = new Map<string, string>();
  for (const database of await listDatabases(connect)) {
    const client = await connect(database);
    try {
      await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
      for (const table of await listTables(client, options.unlogged === true))
        tables.set(`${database}.${table}`, await readTableState(client, table));
      for (const [kind, sql] of Object.entries(DEFINITIONS))
        definitions.set(`${database} ${kind}`, await readDefinitions(client, sql));
      await client.query('COMMIT');
    } finally {
      await client.end();
    }
  }
  return { tables, definitions };
}

export type StateSummary = { readonly tables: number; readonly rows: number };

export function summarize(state: ServerState): StateSummary {
  const counts = [...state.tables.values()];
  return { tables: counts.length, rows: counts.reduce((sum, table) => sum + table.rows, 0) };
}

/** What differs, a line each; empty when the two hold the same. */
export function compareStates(expected: ServerState, found: ServerState): string[] {
  const differences: string[] = [];
  for (const [name, table] of expected.tables) {
    const other = found.tables.get(name);
    if (other === undefined) differences.push(`${name}: missing (${table.rows} rows expected)`);
    else if (other.rows !== table.rows)
      differences.push(`${name}: ${other.rows} rows, ${table.rows} expected`);
    else if (other.digest !== table.digest)
      differences.push(`${name}: ${table.rows} rows as expected, but their contents differ`);
  }
  for (const name of found.tables.keys())
    if (!expected.tables.has(name)) differences.push(`${name}: not expected`);
  for (const [name, text] of expected.definitions) {
    const other = found.definitions.get(name) ?? '';
    if (other !== text) differences.push(`${name} differ: ${firstDifference(text, other)}`);
  }
  return differences;
}

function firstDifference(expected: string, found: string): string {
  const there = new Set(found.split('\n'));
  const wanted = new Set(expected.split('\n'));
  const lost = [...wanted].find((line) => !there.has(line));
  const added = [...there].find((line) => !wanted.has(line));
  return lost === undefined ? `"${added}" is not expected` : `"${lost}" is missing`;
}

async function listDatabases(connect: Connect): Promise<string[]> {
  const client = await connect('postgres');
  try {
    const { rows } = await client.query<{ datname: string }>(
      "SELECT datname FROM pg_database WHERE datallowconn AND datconnlimit <> -2 AND datname <> 'template0' ORDER BY datname",
    );
    return rows.map((row) => row.datname);
  } finally {
    await client.end();
  }
}

/** Quoted names of the tables and materialized views that users made, and of the large objects' table. */
async function listTables(client: pg.Client, unlogged: boolean): Promise<string[]> {
  const { rows } = await client.query<{ name: string }>(
    `SELECT format('%I.%I', n.nspname, c.relname) AS name
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_t'
       AND (c.relpersistence = 'p' OR ($1 AND c.relpersistence = 'u'))
     ORDER BY 1`,
    [unlogged],
  );
  return [...rows.map((row) => row.name), 'pg_catalog.pg_largeobject'];
}

async function readTableState(client: pg.Client, table: string): Promise<TableState> {
  const { rows } = await client.query<{ rows: string; digest: string }>(
    `SELECT count(*) AS rows, concat(sum(hashtextextended(t::text, 0)), ' ', sum(hashtextextended(t::text, 1))) AS digest
     FROM ${table} t`,
  );
  const row = defined(rows[0], 'the row of an aggregate');
  return { rows: Number(row.rows), digest: row.digest };
}

const USER_SCHEMA = "nspname NOT IN ('pg_catalog', 'information_schema') AND nspname !~ '^pg_t'";

/** One line per definition; each query returns one text column. */
const DEFINITIONS: Readonly<Record<string, string>> = {
  columns: `SELECT format('%I.%I.%I %s', nspname, relname, attname, format_type(atttypid, atttypmod))
    FROM pg_attribute JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
    WHERE attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'p', 'm', 'v') AND ${USER_SCHEMA} ORDER BY 1`,
  indexes: `SELECT pg_get_indexdef(indexrelid) || CASE WHEN indisvalid THEN '' ELSE ' (invalid)' END
    FROM pg_index JOIN pg_class c ON c.oid = indrelid JOIN pg_namespace n ON n.oid = relnamespace
    WHERE ${USER_SCHEMA} ORDER BY 1`,
  constraints: `SELECT format('%I.%I %I %s', nspname, relname, conname, pg_get_constraintdef(k.oid))
    FROM pg_constraint k JOIN pg_class c ON c.oid = conrelid JOIN pg_namespace n ON n.oid = relnamespace
    WHERE ${USER_SCHEMA} ORDER BY 1`,
  roles: 'SELECT rolname::text FROM pg_roles ORDER BY 1',
  tablespaces: 'SELECT spcname::text FROM pg_tablespace ORDER BY 1',
  'table spaces': `SELECT format('%I.%I in %s', nspname, relname, spcname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace JOIN pg_tablespace s ON s.oid = reltablespace
    WHERE ${USER_SCHEMA} ORDER BY 1`,
};

async function readDefinitions(client: pg.Client, sql: string): Promise<string> {
  const { rows } = await client.query<string[]>({ text: sql, rowMode: 'array' });
  return rows.map((row) => row[0] ?? '').join('\n');
}
