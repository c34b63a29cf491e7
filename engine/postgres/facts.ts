/** What a person or a restore wants to know of a database besides its files. */
import type pg from 'pg';
import { HoldfastError } from '../../foundation/errors.ts';
import type { DatabaseFacts } from '../engine.ts';

/** Limits that a restored server must not go below, and what its files were made with; kept whatever their source. */
const ALWAYS_KEPT: readonly string[] = [
  'block_size',
  'config_file',
  'data_checksums',
  'data_directory',
  'hba_file',
  'ident_file',
  'lc_collate',
  'lc_ctype',
  'listen_addresses',
  'max_connections',
  'max_locks_per_transaction',
  'max_prepared_transactions',
  'max_wal_senders',
  'max_worker_processes',
  'port',
  'server_encoding',
  'server_version',
  'shared_buffers',
  'shared_preload_libraries',
  'track_commit_timestamp',
  'unix_socket_directories',
  'wal_level',
  'wal_segment_size',
];

/** Settings whose values hold passwords, keys or commands that may. */
const SECRET = /conninfo|password|passphrase|secret|_command$|_key$|token/;

/** Databases, settings (secrets left out) and the catalog version. Needs pg_read_all_settings to be complete. */
export async function readFacts(client: pg.Client, signal: AbortSignal): Promise<DatabaseFacts> {
  signal.throwIfAborted();
  const databases = await client.query<{ oid: string; name: string }>(
    'SELECT oid::text, datname::text AS name FROM pg_catalog.pg_database ORDER BY pg_database.oid',
  );
  const settings = await client.query<{ name: string; value: string | null; file: string | null }>(
    `SELECT name, pg_catalog.current_setting(name, true) AS value, sourcefile AS file FROM pg_catalog.pg_settings
      WHERE name = ANY ($1) OR source NOT IN ('default', 'override', 'client', 'session') ORDER BY name`,
    [ALWAYS_KEPT],
  );
  const control = await client.query<{ version: number }>(
    'SELECT catalog_version_no AS version FROM pg_catalog.pg_control_system()',
  );
  const catalogVersion = control.rows[0]?.version;
  if (catalogVersion === undefined) throw new HoldfastError('INTERNAL', 'pg_control_system() gave no row');
  return {
    databases: databases.rows.map(({ oid, name }) => ({ oid: Number(oid), name })),
    settings: settings.rows
      .filter(({ name }) => !SECRET.test(name))
      .map(({ name, value, file }) => ({ name, value: value ?? '', sourceFile: file ?? '' })),
    catalogVersion,
  };
}
