/**
 * Schema migrations: the files of `migrations/`, in the order of their numbers, each applied once, all pending ones in
 * one transaction. The version table is holdfast.schema_version.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HoldfastError } from '../../foundation/errors.ts';

const DIRECTORY = join(import.meta.dirname, 'migrations');

export type Migration = { readonly version: number; readonly name: string; readonly sql: string };

/** What a migration runs on: one connection inside a transaction. `exec` takes several statements. */
export type MigrationTarget = {
  exec(sql: string): Promise<void>;
  /** The versions already applied, from a statement that selects `version`. */
  versions(sql: string): Promise<readonly number[]>;
};

/** The migrations this version knows, in order. */
export async function listMigrations(): Promise<readonly Migration[]> {
  const files = (await readdir(DIRECTORY)).filter((name) => name.endsWith('.sql')).sort();
  return await Promise.all(
    files.map(async (name) => ({
      version: Number.parseInt(name, 10),
      name,
      sql: await readFile(join(DIRECTORY, name), 'utf8'),
    })),
  );
}

/** Brings the schema up to date. Throws INVALID_CONFIG when the catalog is of a newer Holdfast. */
export async function migrate(target: MigrationTarget): Promise<void> {
  await target.exec(`
    CREATE SCHEMA IF NOT EXISTS holdfast;
    CREATE SCHEMA IF NOT EXISTS oceanbase;
    CREATE TABLE IF NOT EXISTS holdfast.schema_version (
      version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());
    LOCK TABLE holdfast.schema_version IN ACCESS EXCLUSIVE MODE;`);
  const migrations = await listMigrations();
  const applied = await target.versions('SELECT version FROM holdfast.schema_version ORDER BY version');
  const newest = applied.at(-1) ?? 0;
  if (newest > (migrations.at(-1)?.version ?? 0)) {
    throw new HoldfastError(
      'INVALID_CONFIG',
      `the catalog has schema version ${newest}, newer than this Holdfast knows (${migrations.at(-1)?.version ?? 0})`,
      { hint: 'Run the version of Holdfast that last used this catalog, or a newer one.' },
    );
  }
  for (const migration of migrations.filter(({ version }) => version > newest)) {
    await target.exec(migration.sql);
    // Both values come from our own file names.
    await target.exec(
      `INSERT INTO holdfast.schema_version (version, name) VALUES (${migration.version}, '${migration.name}')`,
    );
  }
}
