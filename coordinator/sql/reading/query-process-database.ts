/**
 * The PGlite of a query process: in memory, small, with the views' rows in tables of schema `holdfast_copy` and, over
 * them, the views themselves in schema `oceanbase`.
 *
 * `SET ROLE` to the reader is a courtesy to the user (right errors, `current_user`), not the fence: the fence is that
 * this database is a copy, in a process that can neither write files nor start programs, and that serves one client.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { PGlite } from '@electric-sql/pglite';
import type { ViewDefinition } from '../reader.ts';

const COPY_SCHEMA = 'holdfast_copy';
const READER_ROLE = 'holdfast_reader';

/** PGlite's own start parameters, with less memory and our search path. */
const START_PARAMETERS = [
  '--single',
  '-F',
  '-O',
  '-j',
  ...[
    'search_path=oceanbase,public',
    'exit_on_error=false',
    'log_checkpoints=false',
    'max_worker_processes=0',
    'max_parallel_workers=0',
    'max_parallel_workers_per_gather=0',
    'max_parallel_maintenance_workers=0',
    'io_method=sync',
    'shared_buffers=4MB',
    'wal_buffers=64kB',
    'max_connections=4',
    'temp_file_limit=65536',
    'timezone=UTC',
    'log_timezone=UTC',
  ].flatMap((setting) => ['-c', setting]),
];

/** Makes an empty copy of the views and writes it as a snapshot for `openSnapshot`. */
export async function buildSnapshot(path: string, views: readonly ViewDefinition[]): Promise<void> {
  const database = await PGlite.create({
    startParams: START_PARAMETERS,
    initDbStartParams: ['--wal-segsize=1'],
  });
  await database.exec(`
    CREATE ROLE ${READER_ROLE} LOGIN;
    CREATE SCHEMA ${COPY_SCHEMA};
    CREATE SCHEMA oceanbase;
    GRANT USAGE ON SCHEMA oceanbase TO ${READER_ROLE};
    REVOKE TEMPORARY ON DATABASE postgres FROM PUBLIC;
    REVOKE CREATE ON SCHEMA public FROM PUBLIC;
    ${views.map(createView).join('\n')}
    GRANT SELECT ON ALL TABLES IN SCHEMA oceanbase TO ${READER_ROLE};
    CHECKPOINT;`);
  const snapshot = await database.dumpDataDir('none');
  await writeFile(path, Buffer.from(await snapshot.arrayBuffer()), { flush: true });
  await database.close();
}

function createView({ name, columns }: ViewDefinition): string {
  const fields = columns.map((column) => `${quote(column.name)} ${column.type}`).join(', ');
  const names = columns.map((column) => quote(column.name)).join(', ');
  const table = `${COPY_SCHEMA}.${quote(name)}`;
  return `CREATE UNLOGGED TABLE ${table} (${fields});
    CREATE VIEW oceanbase.${quote(name)} AS SELECT ${names} FROM ${table};`;
}

export async function openSnapshot(path: string): Promise<PGlite> {
  const database = await PGlite.create({
    startParams: START_PARAMETERS,
    loadDataDir: new Blob([await readFile(path)]),
  });
  await database.exec(`SET search_path = oceanbase, public; SET ROLE ${READER_ROLE};`);
  return database;
}

/** Replaces the rows of views. Outside of a transaction only; the client's role and settings stay. */
export async function loadViews(
  database: PGlite,
  views: readonly { readonly name: string; readonly rows: string }[],
): Promise<void> {
  await database.exec('BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL ROLE postgres;');
  try {
    for (const { name, rows } of views) {
      const table = `${COPY_SCHEMA}.${quote(name)}`;
      await database.exec(`TRUNCATE ${table}`);
      await database.query(
        `INSERT INTO ${table} SELECT * FROM pg_catalog.json_populate_recordset(NULL::${table}, $1)`,
        [rows],
      );
    }
    await database.exec('COMMIT');
  } catch (error) {
    await database.exec('ROLLBACK');
    throw error;
  }
}

function quote(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}
