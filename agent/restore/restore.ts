/**
 * One partition group's restore, from the destination alone, in five phases:
 *
 *   CREATE       the set, its log and the target are checked, then the directories claimed (they are absent or empty)
 *   SYSTEM_DATA  the set's meta files are compared with its commit point; directories and links are made
 *   USER_DATA    macroblocks are fetched, checked and written; label, manifest, settings; all durable; control file last
 *   LOG          the server is started and fed the archived log until it is promoted
 *   CHECK        it is asked; then it gets its final settings and is started again
 *
 * A delta restore claims nothing but its work directory: it works over what is there (delta.ts).
 *
 * Nothing is claimed before the target is known to be restorable, and whatever fails, everything that was made is
 * removed again, the server stopped first. Until the end a marker file says that the directory is incomplete.
 */
import { chmod, chown, mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { RecoveryTarget } from '../../engine/postgres/restore/settings.ts';
import type { TablespaceTarget } from '../../engine/postgres/restore/tablespaces.ts';
import { systemClock } from '../../foundation/clock.ts';
import { openKeyedMedium } from '../../storage-layout/media/with-keys.ts';
import {
  type BaselinePlace,
  type BaselineProgress,
  BaselineThreads,
  layControlFile,
  layDirectories,
  layFiles,
  layLabelAndManifest,
} from './baseline.ts';
import { layLog, laySettings } from './by-hand.ts';
import { beginDelta, checkDeltaTarget, endDelta, sweep } from './delta.ts';
import { syncTrees } from './durability.ts';
import { type Prepared, prepareRestore, type RestoreRequest } from './prepare.ts';
import { RestoreReporter, type RestoreStep } from './progress.ts';
import { type RestoredServer, recoverAndCheck } from './recover.ts';
import { ClaimedDirectories, removeMarker, writeMarker } from './target-directory.ts';

export type RestoreOutcome = {
  readonly dataDirectory: string;
  readonly tablespaces: readonly TablespaceTarget[];
  readonly bytesRestored: bigint;
  /** Of a delta restore: how much of it was there already, and how many blocks were kept and written. */
  readonly kept:
    | { readonly bytes: bigint; readonly blocks: bigint; readonly blocksWritten: bigint }
    | undefined;
  readonly target: RecoveryTarget;
  readonly major: number;
  /** Undefined without `start`. */
  readonly server: RestoredServer | undefined;
};

/** Names that a restore puts into its work directory: a leftover of them is no one else's. */
const WORK_NAMES: ReadonlySet<string> = new Set(['spool', 'external', 'socket', 'server.log', 'hba.conf']);

/**
 * Restores. Throws TARGET_NOT_RESTORABLE, TARGET_NOT_EMPTY, DATA_CORRUPT (file and offset), LOG_GAP, RESTORE_FAILED
 * with the end of the server's log, and the medium's errors; nothing is left behind then.
 */
export async function runRestore(
  request: RestoreRequest,
  report: (step: RestoreStep) => void,
  signal: AbortSignal,
): Promise<RestoreOutcome> {
  await using threads = new BaselineThreads(request);
  await using medium = await openKeyedMedium(request.uri, request.keys, signal);
  const reporter = new RestoreReporter(report);
  reporter.set({ phase: 'CREATE' });
  const prepared = await prepareRestore(request, medium, signal);
  reporter.set({
    bytesTotal: prepared.source.backup.inputBytes,
    blocksTotal: prepared.source.backup.macroblockCount,
    targetLsn: prepared.target.kind === 'lsn' ? prepared.target.lsn : prepared.path.end,
  });
  await using claimed = new ClaimedDirectories(request.user);
  if (request.delta) await claimDelta(prepared, claimed, signal);
  else await claim(prepared, claimed);
  await layBaseline(prepared, claimed, threads, reporter, signal);
  const outcome = {
    dataDirectory: prepared.dataDirectory,
    tablespaces: prepared.tablespaces,
    bytesRestored: reporter.step.bytesDone,
    kept: request.delta ? keptOf(reporter.step) : undefined,
    target: prepared.target,
    major: prepared.meta.postgresMajor,
  };
  if (!request.start) {
    if (request.delta) await endDelta(prepared.dataDirectory);
    await removeMarker(prepared.dataDirectory);
    await rm(prepared.workDirectory, { recursive: true, force: true });
    claimed.keep();
    return { ...outcome, server: undefined };
  }
  const server = await recoverAndCheck(prepared, reporter, signal);
  claimed.keep();
  return { ...outcome, server };
}

async function claim(prepared: Prepared, claimed: ClaimedDirectories): Promise<void> {
  const mode = prepared.meta.directoryMode === 0o750 ? 0o750 : 0o700;
  await claimed.claim(prepared.dataDirectory, mode, 'the target directory');
  await writeMarker(prepared.dataDirectory, 'restore');
  await removeLeftover(prepared.workDirectory);
  await claimed.claim(prepared.workDirectory, 0o711, 'the work directory');
  await claimed.claim(join(prepared.workDirectory, 'external'), 0o700, 'the directory');
  for (const tablespace of prepared.tablespaces)
    await claimed.claim(tablespace.directory, mode, `the tablespace directory for ${tablespace.location}`);
}

/**
 * What was there is not claimed: it stays when the restore fails, without a control file, and another delta restore goes on
 * with it. Nothing is touched before all that can be refused is.
 */
async function claimDelta(
  prepared: Prepared,
  claimed: ClaimedDirectories,
  signal: AbortSignal,
): Promise<void> {
  const { dataDirectory, workDirectory, tablespaces, meta, request } = prepared;
  await checkDeltaTarget(prepared, systemClock, signal);
  await removeLeftover(workDirectory);
  await claimed.claim(workDirectory, 0o711, 'the work directory');
  await claimed.claim(join(workDirectory, 'external'), 0o700, 'the directory');
  await beginDelta(dataDirectory);
  const mode = meta.directoryMode === 0o750 ? 0o750 : 0o700;
  for (const directory of [dataDirectory, ...tablespaces.map((tablespace) => tablespace.directory)]) {
    await mkdir(directory, { recursive: true });
    await chmod(directory, mode);
    if (request.user !== undefined) await chown(directory, request.user.uid, request.user.gid);
  }
  await sweep(prepared, signal);
}

function keptOf(step: RestoreStep): NonNullable<RestoreOutcome['kept']> {
  const { bytesKept, blocksKept, blocksDone } = step;
  return { bytes: bytesKept, blocks: blocksKept, blocksWritten: blocksDone - blocksKept };
}

/** A work directory whose data directory is gone is what an earlier restore left. */
async function removeLeftover(workDirectory: string): Promise<void> {
  const names = await readdir(workDirectory).catch(() => []);
  if (names.every((name) => WORK_NAMES.has(name))) await rm(workDirectory, { recursive: true, force: true });
}

async function layBaseline(
  prepared: Prepared,
  claimed: ClaimedDirectories,
  threads: BaselineThreads,
  reporter: RestoreReporter,
  signal: AbortSignal,
): Promise<void> {
  const { source, meta, request } = prepared;
  const place: BaselinePlace = {
    dataDirectory: prepared.dataDirectory,
    externalDirectory: join(prepared.workDirectory, 'external'),
    tablespaces: prepared.tablespaces,
    delta: request.delta,
    user: request.user,
    concurrency: request.concurrency,
    uri: request.uri,
    keys: request.keys,
  };
  reporter.set({ phase: 'SYSTEM_DATA' });
  await layDirectories(source, place, signal);
  reporter.set({ phase: 'USER_DATA' });
  const progress = (done: BaselineProgress) => reporter.set(done);
  const [control] = await runTogether(
    (linked) => layFiles(source, place, threads, progress, linked),
    async (linked) => {
      await layLabelAndManifest(source, meta, place, linked);
      if (!request.start) await layLog(prepared, linked);
    },
    signal,
  );
  if (!request.start) await laySettings(prepared, signal);
  const directories = [prepared.dataDirectory, ...prepared.tablespaces.map(({ directory }) => directory)];
  await syncTrees([...new Set([...directories, ...claimed.paths])], signal);
  await layControlFile(source, place, control, signal);
}

/** Runs both. When one fails the other is aborted and awaited: nothing is written behind a failure. Throws the first. */
async function runTogether<A, B>(
  first: (linked: AbortSignal) => Promise<A>,
  second: (linked: AbortSignal) => Promise<B>,
  signal: AbortSignal,
): Promise<[A, B]> {
  const stop = new AbortController();
  const linked = AbortSignal.any([signal, stop.signal]);
  const orStop = async <T>(task: (linked: AbortSignal) => Promise<T>): Promise<T> => {
    try {
      return await task(linked);
    } catch (error) {
      stop.abort(error);
      throw error;
    }
  };
  const running = [orStop(first), orStop(second)] as const;
  await Promise.allSettled(running);
  if (stop.signal.aborted) throw stop.signal.reason;
  return await Promise.all(running);
}
