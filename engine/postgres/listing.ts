/**
 * The files of a data directory that a backup takes, listed after the backup began. What is left out, and why nothing
 * is lost by it: reference 5.3 (server-written, rebuilt at start, or of this one server process only).
 *
 * - A file that vanishes while the listing runs is left out; one that appears later needs no copy: the log makes it.
 * - Symbolic links are followed in two places: `pg_tblspc/<oid>`, and directly in the data directory (people move
 *   `base` or `postgresql.conf` that way). Elsewhere a link is left out, as pg_basebackup does.
 * - A tablespace that stands inside the data directory is listed as a tablespace, not a second time as a directory of it.
 * - A name that is not UTF-8 ends the listing: it cannot be stored, and left out it would be lost without a word.
 * - In a tablespace only this server's directory `PG_<major>_<catalog version>` counts: others may share the location.
 */
import type { Dirent, Stats } from 'node:fs';
import { lstat, readdir, readlink, realpath, stat } from 'node:fs/promises';
import { basename, isAbsolute, join, resolve } from 'node:path';
import type pg from 'pg';
import { HoldfastError } from '../../foundation/errors.ts';
import type { DataFile, DataListing, FileKind, TablespaceInfo } from '../engine.ts';
import { CONTROL_FILE_PATH } from './control-file.ts';
import { isRelationDirectory, parseRelationFileName, type RelationFileName } from './relation-files.ts';

export type ListingInput = {
  readonly dataDirectory: string;
  readonly major: number;
  readonly catalogVersion: number;
  /** What pg_tablespace says, the two built-in ones left out. */
  readonly tablespaces: readonly TablespaceInfo[];
  /** Absolute paths of the configuration files that the server reads, wherever they stand. */
  readonly configurationFiles: readonly string[];
};

/** Directories that are recreated empty. */
const EMPTY_DIRECTORIES: ReadonlySet<string> = new Set([
  'pg_dynshmem',
  'pg_notify',
  'pg_replslot',
  'pg_serial',
  'pg_snapshots',
  'pg_stat_tmp',
  'pg_subtrans',
  'pg_wal',
]);

/** Files directly in the data directory that belong to the running server or to an earlier restore. */
const LEFT_OUT_AT_TOP: ReadonlySet<string> = new Set([
  'backup_label',
  'backup_label.old',
  'backup_manifest',
  'current_logfiles.tmp',
  'postgresql.auto.conf.tmp',
  'postmaster.opts',
  'postmaster.pid',
  'recovery.signal',
  'standby.signal',
  'tablespace_map',
  'tablespace_map.old',
]);

/**
 * Lists the data directory, its tablespaces and the configuration outside it. Files and directories are in path order.
 * Throws BACKUP_FAILED for a name that is not UTF-8.
 */
export async function listFiles(input: ListingInput, signal: AbortSignal): Promise<DataListing> {
  const locations = new Set<string>();
  for (const { location } of input.tablespaces) {
    const real = isAbsolute(location) ? await ifThere(realpath(location)) : undefined;
    if (real !== undefined) locations.add(real);
  }
  const walk: Walk = { input, signal, locations, files: [], directories: [], tablespaces: [] };
  await listTop(walk);
  await listExternal(walk);
  return {
    files: walk.files.sort(byPath),
    directories: walk.directories.sort(byPath),
    tablespaces: walk.tablespaces.sort((a, b) => a.oid - b.oid),
  };
}

/** Asks the server what the listing must know. Needs pg_read_all_settings, which precheck asks for. */
export async function readListingInput(
  client: pg.Client,
  dataDirectory: string,
  major: number,
  signal: AbortSignal,
): Promise<ListingInput> {
  signal.throwIfAborted();
  const tablespaces = await client.query<{ oid: string; name: string; location: string }>(
    `SELECT oid::text, spcname::text AS name, pg_catalog.pg_tablespace_location(oid) AS location
       FROM pg_catalog.pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')`,
  );
  const control = await client.query<{ version: number }>(
    'SELECT catalog_version_no AS version FROM pg_catalog.pg_control_system()',
  );
  const catalogVersion = control.rows[0]?.version;
  if (catalogVersion === undefined) throw new HoldfastError('INTERNAL', 'pg_control_system() gave no row');
  return {
    dataDirectory,
    major,
    catalogVersion,
    tablespaces: tablespaces.rows.map(({ oid, name, location }) => ({
      oid: Number(oid),
      name,
      location,
      inPlace: !isAbsolute(location),
    })),
    configurationFiles: await readConfigurationFiles(client, major),
  };
}

/** Every configuration file that the server names: the three main ones and whatever their include directives read. */
async function readConfigurationFiles(client: pg.Client, major: number): Promise<readonly string[]> {
  const sources = [
    `SELECT setting AS path FROM pg_catalog.pg_settings WHERE name IN ('config_file', 'hba_file', 'ident_file')
     UNION SELECT sourcefile FROM pg_catalog.pg_settings WHERE sourcefile IS NOT NULL`,
    'SELECT DISTINCT sourcefile AS path FROM pg_catalog.pg_file_settings',
    ...(major >= 16
      ? [
          `SELECT DISTINCT file_name AS path FROM pg_catalog.pg_hba_file_rules
           UNION SELECT DISTINCT file_name FROM pg_catalog.pg_ident_file_mappings`,
        ]
      : []),
  ];
  const paths = new Set<string>();
  for (const [index, sql] of sources.entries()) {
    const rows = index === 0 ? (await client.query<PathRow>(sql)).rows : await queryIfAllowed(client, sql);
    for (const { path } of rows) if (path !== null && path !== '') paths.add(path);
  }
  return [...paths].sort();
}

type PathRow = { path: string | null };

/** The views that only superusers may read by default: without the right, the settings' own source files must do. */
async function queryIfAllowed(client: pg.Client, sql: string): Promise<readonly PathRow[]> {
  try {
    return (await client.query<PathRow>(sql)).rows;
  } catch (error) {
    if ((error as { code?: string }).code === '42501') return []; // pg's errors carry the SQLSTATE
    throw error;
  }
}

type Walk = {
  readonly input: ListingInput;
  readonly signal: AbortSignal;
  /** Where the tablespaces really stand that are not in place. */
  readonly locations: ReadonlySet<string>;
  readonly files: DataFile[];
  readonly directories: { readonly path: string; readonly mode: number }[];
  readonly tablespaces: TablespaceInfo[];
};

async function listTop(walk: Walk): Promise<void> {
  const { dataDirectory } = walk.input;
  for (const entry of await readdir(dataDirectory, { withFileTypes: true })) {
    const { name } = entry;
    const absolute = join(dataDirectory, name);
    if (isLeftOutAnywhere(name) || LEFT_OUT_AT_TOP.has(name)) continue;
    refuseUnreadable('', name);
    const facts = await ifThere(stat(absolute)); // follows a link
    if (facts === undefined) continue;
    if (facts.isFile()) addFile(walk, name, await realpath(absolute), 'other', facts);
    else if (!facts.isDirectory()) continue;
    else if (EMPTY_DIRECTORIES.has(name)) addEmptyDirectory(walk, name, facts);
    else if (name === 'pg_tblspc') await listTablespaces(walk, facts);
    else await listDirectory(walk, name, await realpath(absolute), facts);
  }
}

function addEmptyDirectory(walk: Walk, name: string, facts: Stats): void {
  const mode = permissions(facts);
  walk.directories.push({ path: name, mode });
  if (name !== 'pg_wal') return;
  walk.directories.push({ path: 'pg_wal/archive_status', mode });
  if (walk.input.major >= 17) walk.directories.push({ path: 'pg_wal/summaries', mode });
}

async function listTablespaces(walk: Walk, facts: Stats): Promise<void> {
  const { dataDirectory, major, catalogVersion } = walk.input;
  walk.directories.push({ path: 'pg_tblspc', mode: permissions(facts) });
  const named = new Map(walk.input.tablespaces.map((tablespace) => [tablespace.oid, tablespace]));
  for (const entry of await readdir(join(dataDirectory, 'pg_tblspc'), { withFileTypes: true })) {
    if (!/^[1-9]\d*$/.test(entry.name)) continue;
    const path = `pg_tblspc/${entry.name}`;
    const absolute = join(dataDirectory, path);
    const own = await ifThere(stat(absolute));
    if (own === undefined || !own.isDirectory()) continue;
    const oid = Number(entry.name);
    const inPlace = !entry.isSymbolicLink();
    const location = inPlace ? path : resolve(dataDirectory, 'pg_tblspc', await readlink(absolute));
    walk.tablespaces.push({ oid, name: named.get(oid)?.name ?? '', location, inPlace });
    walk.directories.push({ path, mode: permissions(own) });
    const versioned = `PG_${major}_${catalogVersion}`;
    const versionedFacts = await ifThere(lstat(join(absolute, versioned)));
    if (versionedFacts?.isDirectory() === true)
      await listDirectory(walk, `${path}/${versioned}`, join(absolute, versioned), versionedFacts);
  }
}

/** Everything below one directory. `absolute` is where it really stands. */
async function listDirectory(walk: Walk, path: string, absolute: string, facts: Stats): Promise<void> {
  walk.signal.throwIfAborted();
  const isTablespace = path.startsWith('pg_tblspc/');
  if (!isTablespace && walk.locations.size > 0 && walk.locations.has(await realpath(absolute))) return;
  const entries = await ifThere(readdir(absolute, { withFileTypes: true }));
  if (entries === undefined) return;
  walk.directories.push({ path, mode: permissions(facts) });
  for (const { name, kind } of selectEntries(path, entries)) {
    refuseUnreadable(path, name);
    const child = join(absolute, name);
    const childFacts = await ifThere(lstat(child));
    if (childFacts === undefined) continue;
    if (childFacts.isDirectory()) await listDirectory(walk, `${path}/${name}`, child, childFacts);
    else if (childFacts.isFile()) addFile(walk, `${path}/${name}`, child, kind, childFacts);
  }
}

/** Which of a directory's entries are taken, and what a file among them is. */
function selectEntries(
  path: string,
  entries: readonly Dirent[],
): readonly { readonly name: string; readonly kind: FileKind }[] {
  const wanted = entries.map(({ name }) => name).filter((name) => !isLeftOutAnywhere(name));
  if (!isRelationDirectory(path)) return wanted.map((name) => ({ name, kind: 'other' }));
  const relations = new Map(wanted.map((name) => [name, parseRelationFileName(name)]));
  const unlogged = new Set<number>();
  for (const relation of relations.values()) {
    if (relation?.fork === 'init' && !relation.temporary) unlogged.add(relation.relFile);
  }
  return wanted.flatMap((name) => {
    const kind = kindOf(`${path}/${name}`, relations.get(name), unlogged);
    return kind === undefined ? [] : [{ name, kind }];
  });
}

function kindOf(
  path: string,
  relation: RelationFileName | undefined,
  unlogged: ReadonlySet<number>,
): FileKind | undefined {
  if (path === CONTROL_FILE_PATH) return 'control';
  if (relation === undefined) return 'other';
  if (relation.temporary) return undefined;
  if (relation.fork !== 'init' && unlogged.has(relation.relFile)) return undefined;
  return relation.fork;
}

/** Node shows bytes that are not UTF-8 as U+FFFD, a name that the file does not have. */
function refuseUnreadable(path: string, name: string): void {
  if (!name.includes('\uFFFD')) return;
  const where = path === '' ? 'the data directory' : path;
  throw new HoldfastError('BACKUP_FAILED', `${where} holds a file whose name is not UTF-8: "${name}"`, {
    hint: 'No file of the server is named so: rename it, or move it away.',
  });
}

function isLeftOutAnywhere(name: string): boolean {
  return name.startsWith('pgsql_tmp') || name.startsWith('pg_internal.init') || name === '.DS_Store';
}

/** Configuration that stands outside the data directory, under `external/`; a second file of one name gets a number. */
async function listExternal(walk: Walk): Promise<void> {
  const home = await realpath(walk.input.dataDirectory);
  const inside = new Set(walk.files.map((file) => file.absolutePath));
  const names = new Set<string>();
  for (const named of walk.input.configurationFiles) {
    const path = resolve(walk.input.dataDirectory, named);
    const real = await ifThere(realpath(path));
    const facts = await ifThere(stat(path));
    // One that is linked to from the data directory has been listed there.
    if (real === undefined || facts?.isFile() !== true || real.startsWith(`${home}/`) || inside.has(real))
      continue;
    inside.add(real);
    const name = freeName(basename(path), names);
    names.add(name);
    addFile(walk, `external/${name}`, path, 'external', facts);
  }
}

function freeName(base: string, taken: ReadonlySet<string>): string {
  for (let n = 1; ; n += 1) {
    const name = n === 1 ? base : `${base}.${n}`;
    if (!taken.has(name)) return name;
  }
}

function addFile(walk: Walk, path: string, absolutePath: string, kind: FileKind, facts: Stats): void {
  walk.files.push({
    path,
    absolutePath,
    kind,
    sizeBytes: facts.size,
    mode: permissions(facts),
    modifiedMs: facts.mtimeMs,
  });
}

function permissions(facts: Stats): number {
  return facts.mode & 0o7777;
}

/** Undefined when the file is gone: normal in a running data directory. */
async function ifThere<T>(found: Promise<T>): Promise<T | undefined> {
  try {
    return await found;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined; // node:fs throws errno errors
    throw error;
  }
}

function byPath(a: { readonly path: string }, b: { readonly path: string }): number {
  return a.path < b.path ? -1 : Number(a.path > b.path);
}
