/**
 * A restore over a data directory that is there: the files that the set does not have go, and of the others only the
 * blocks that differ are written (block-worker.ts). The order is what a crash at any moment survives:
 *
 *   1. the control file is moved aside, durably: from now on no server starts on the directory, and another delta restore
 *      knows by it whose directory it is; a server that was started meanwhile gets it back
 *   2. a marker says that the directory is incomplete, and which process is at it
 *   3. links of tablespaces are set; what the set does not have is removed, pg_wal emptied; blocks are compared and written
 *   4. all is made durable, then the control file of the set is laid down, and the one aside removed when the server is right
 *
 * Nothing outside of what the restore owns is touched: links are removed, never followed; a file that has other names is
 * not written to but made anew; a tablespace is written to where the directory's own link leads only if that is where this
 * restore would put it, and no running server has a tablespace there.
 *
 * A postmaster.pid refuses the restore: whether its server runs is known where the server is only. The exception is a
 * directory with both the control file aside and the marker: at the second step no server was on it, so its postmaster.pid
 * is of the server that an interrupted delta restore started itself.
 */
import { lstat, mkdir, readdir, readFile, readlink, realpath, rename, rm, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CONTROL_FILE_PATH, parseControlFile } from '../../engine/postgres/control-file.ts';
import type { Clock } from '../../foundation/clock.ts';
import { HoldfastError, isError } from '../../foundation/errors.ts';
import { FileKind, type PartitionGroupBackup } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { readDirectories, readFiles, type SourceSet } from './backup-set.ts';
import { REQUIRED_DIRECTORIES } from './baseline.ts';
import { syncPath } from './durability.ts';
import { stopLeftover } from './interrupted.ts';
import { isAliveAs, refuseLiveTablespace, refuseRunningServer, refuseServerFile } from './live-server.ts';
import type { Prepared } from './prepare.ts';
import { INCOMPLETE_MARKER, markerProcess, writeMarker } from './target-directory.ts';

/** What of a prepared restore this is about. */
type DeltaPlace = Pick<Prepared, 'dataDirectory' | 'tablespaces'> & {
  readonly source: Pick<SourceSet, 'medium' | 'metaKey' | 'indexKey'> & {
    readonly backup: Pick<PartitionGroupBackup, 'systemIdentifier'>;
  };
};

/** Where the control file waits; in the data directory itself. */
export const CONTROL_ASIDE = 'HOLDFAST_DELTA_CONTROL';
/** Commands that restore. */
const RESTORING = ['restore', 'agent'];

/**
 * Throws TARGET_NOT_EMPTY (a server that runs or may run, another restore under way, a tablespace that is another's),
 * INVALID_ARGUMENT (no data directory), SYSTEM_IDENTIFIER_MISMATCH. Changes nothing, but for a server that an interrupted
 * delta restore of this directory left: it is stopped.
 */
export async function checkDeltaTarget(
  prepared: DeltaPlace,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  const { dataDirectory, source } = prepared;
  await refuseLinkedGlobal(dataDirectory);
  await refuseOtherRestore(dataDirectory);
  const controls = await readControls(dataDirectory);
  if (controls === undefined) {
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `${dataDirectory} is no data directory: it has no control file`,
      {
        hint: 'Leave --delta out, and name a directory that is absent or empty.',
      },
    );
  }
  if (controls.systemIdentifier !== source.backup.systemIdentifier) {
    throw new HoldfastError(
      'SYSTEM_IDENTIFIER_MISMATCH',
      `${dataDirectory} is of system ${controls.systemIdentifier}, the backup of ${source.backup.systemIdentifier}`,
      { hint: 'A delta restore works over the same database only. Restore into an empty directory.' },
    );
  }
  const isInterrupted = await isInterruptedDelta(dataDirectory);
  if (isInterrupted) await stopLeftover(dataDirectory, clock, signal);
  await refuseServer(dataDirectory, isInterrupted);
  for (const tablespace of prepared.tablespaces) {
    if (await isOwnTablespace(dataDirectory, tablespace)) await refuseLiveTablespace(tablespace.directory);
    else await refuseUsedDirectory(tablespace.directory, tablespace.location);
  }
}

/** The control file is moved: it must be in the directory itself. */
async function refuseLinkedGlobal(dataDirectory: string): Promise<void> {
  for (const path of [dataDirectory, dirname(join(dataDirectory, CONTROL_FILE_PATH))]) {
    const found = await lstat(path).catch(() => undefined);
    if (found?.isDirectory() === true) continue;
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `${dataDirectory} is no data directory: ${path} is not a directory`,
      {
        hint: 'Leave --delta out, and name a directory that is absent or empty.',
      },
    );
  }
}

/** Steps 1 and 2. Durable when it returns. Throws TARGET_NOT_EMPTY when a server was started meanwhile. */
export async function beginDelta(dataDirectory: string): Promise<void> {
  const control = join(dataDirectory, CONTROL_FILE_PATH);
  const aside = join(dataDirectory, CONTROL_ASIDE);
  const isInterrupted = await isInterruptedDelta(dataDirectory);
  // One that is aside already is the directory's own; what is in its place then, an interrupted restore laid down.
  const isMoved = !(await exists(aside));
  if (isMoved) await rename(control, aside);
  else await rm(control, { force: true });
  await syncPath(dirname(control));
  await syncPath(dataDirectory);
  try {
    await refuseServer(dataDirectory, isInterrupted); // one that was started meanwhile is not written below
  } catch (error) {
    if (isMoved) await putBack(aside, control);
    throw error;
  }
  await writeMarker(dataDirectory, 'delta');
}

/** A server without its control file ends at its next checkpoint. */
async function putBack(aside: string, control: string): Promise<void> {
  await rename(aside, control);
  await syncPath(dirname(aside));
  await syncPath(dirname(control));
}

/** Throws TARGET_NOT_EMPTY. The postmaster.pid of an interrupted delta restore's own server is no obstacle. */
async function refuseServer(dataDirectory: string, isInterrupted: boolean): Promise<void> {
  await refuseRunningServer(dataDirectory);
  if (!isInterrupted) await refuseServerFile(dataDirectory);
}

/** True when a delta restore of the directory got to its third step. */
async function isInterruptedDelta(dataDirectory: string): Promise<boolean> {
  const names = [INCOMPLETE_MARKER, CONTROL_ASIDE];
  return (await Promise.all(names.map((name) => exists(join(dataDirectory, name))))).every(Boolean);
}

/** The set's own control file is laid down and durable: the old one is needed no more. */
export async function endDelta(dataDirectory: string): Promise<void> {
  await rm(join(dataDirectory, CONTROL_ASIDE), { force: true });
  await syncPath(dataDirectory);
}

/**
 * Step 3, as far as it is about whole files: tablespace links that lead where this restore puts them, nothing in the
 * directory and the tablespaces that the set does not have, an empty pg_wal.
 */
export async function sweep(prepared: DeltaPlace, signal: AbortSignal): Promise<void> {
  const { dataDirectory, tablespaces, source } = prepared;
  const kept = new Map<string, 'file' | 'directory' | 'link'>([
    [INCOMPLETE_MARKER, 'file'],
    [CONTROL_ASIDE, 'file'],
    ...REQUIRED_DIRECTORIES.map((path) => [path, 'directory'] as const),
  ]);
  for await (const { path } of readDirectories(source, signal)) keepDirectory(kept, path);
  for await (const file of readFiles(source, signal)) {
    if (file.kind === FileKind.EXTERNAL || file.kind === FileKind.CONTROL) continue;
    keepDirectory(kept, dirname(file.path));
    kept.set(file.path, 'file');
  }
  for (const { oid } of tablespaces) kept.set(`pg_tblspc/${oid}`, 'link');
  for (const path of kept.keys()) if (path.startsWith('pg_wal/')) kept.delete(path);
  const links = join(dataDirectory, 'pg_tblspc');
  await removeUnlessDirectory(links);
  await mkdir(links, { recursive: true });
  for (const { oid, directory } of tablespaces) await placeLink(join(links, String(oid)), directory);
  await syncPath(links);
  await sweepDirectory(dataDirectory, '', kept, signal);
  for (const { oid, directory } of tablespaces)
    await sweepDirectory(directory, `pg_tblspc/${oid}`, kept, signal);
}

function keepDirectory(kept: Map<string, 'file' | 'directory' | 'link'>, path: string): void {
  for (let each = path; each !== '.' && !kept.has(each); each = dirname(each)) kept.set(each, 'directory');
}

/** Removes below `directory`, which stands at `path` of the set, all that is not kept or of another kind. */
async function sweepDirectory(
  directory: string,
  path: string,
  kept: ReadonlyMap<string, 'file' | 'directory' | 'link'>,
  signal: AbortSignal,
): Promise<void> {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    signal.throwIfAborted();
    const own = path === '' ? entry.name : `${path}/${entry.name}`;
    const full = join(directory, entry.name);
    const wanted = kept.get(own);
    const kind = entry.isDirectory() ? 'directory' : entry.isSymbolicLink() ? 'link' : 'file';
    if (wanted !== kind || (kind === 'file' && (!entry.isFile() || (await hasOtherNames(full)))))
      await rm(full, { recursive: true, force: true });
    else if (kind === 'directory') await sweepDirectory(full, own, kept, signal);
  }
}

/** A file of several names may be part of another directory as well. */
async function hasOtherNames(path: string): Promise<boolean> {
  return (await lstat(path)).nlink > 1;
}

async function removeUnlessDirectory(path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (found !== undefined && !found.isDirectory()) await rm(path);
}

/** Before anything is written to the tablespace's directory: an interrupted restore knows by the link that it is its own. */
async function placeLink(link: string, directory: string): Promise<void> {
  if ((await readlink(link).catch(() => undefined)) === directory) return;
  await rm(link, { recursive: true, force: true });
  await symlink(directory, link);
}

/** The directory's own link leads there already. */
async function isOwnTablespace(
  dataDirectory: string,
  { oid, directory }: { readonly oid: number; readonly directory: string },
): Promise<boolean> {
  const link = join(dataDirectory, 'pg_tblspc', String(oid));
  return (await realpath(link).catch(() => undefined)) === directory;
}

async function refuseUsedDirectory(directory: string, location: string): Promise<void> {
  const names = await readdir(directory).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []; // node:fs throws errno errors
    throw error;
  });
  if (names.length === 0) return;
  throw new HoldfastError(
    'TARGET_NOT_EMPTY',
    `the tablespace directory for ${location}, ${directory}, is not empty and is not the directory's own`,
  );
}

/** Throws TARGET_NOT_EMPTY when a restore, plain or delta, of a command or of an agent, is under way in the directory. */
async function refuseOtherRestore(dataDirectory: string): Promise<void> {
  const pid = await markerProcess(dataDirectory);
  if (pid === undefined || pid === process.pid || !(await isAliveAs(pid, RESTORING))) return;
  throw new HoldfastError('TARGET_NOT_EMPTY', `another restore is at ${dataDirectory}: process ${pid}`, {
    hint: 'Wait for it, or end it.',
  });
}

/** Of the control file that is aside, or else in its place. Throws DATA_CORRUPT, FORMAT_UNKNOWN. */
async function readControls(dataDirectory: string): Promise<ReturnType<typeof parseControlFile> | undefined> {
  for (const path of [join(dataDirectory, CONTROL_ASIDE), join(dataDirectory, CONTROL_FILE_PATH)]) {
    const bytes = await readFile(path).catch((error: unknown) => {
      const code = (error as NodeJS.ErrnoException).code ?? ''; // node:fs throws errno errors
      if (['ENOENT', 'ENOTDIR'].includes(code)) return undefined;
      throw error;
    });
    if (bytes === undefined) continue;
    try {
      return parseControlFile(bytes);
    } catch (error) {
      if (!isError(error, 'DATA_CORRUPT')) throw error;
      throw new HoldfastError('DATA_CORRUPT', `${path} is damaged: whose directory it is cannot be told`, {
        cause: error,
        hint: 'Move the directory away and restore into an empty one.',
      });
    }
  }
  return undefined;
}

async function exists(path: string): Promise<boolean> {
  return (await lstat(path).catch(() => undefined)) !== undefined;
}
