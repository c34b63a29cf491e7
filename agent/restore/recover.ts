/**
 * From a laid-down baseline to a checked server: settings, the log through the spool, promotion, questions, final
 * settings. The server is stopped when anything fails.
 */
import { rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  awaitPromotion,
  type RecoveredServer,
  verifyServer,
} from '../../engine/postgres/restore/recovery.ts';
import {
  type CopyPlace,
  finalAutoConf,
  formatRestoreCommand,
  recoveryAutoConf,
} from '../../engine/postgres/restore/settings.ts';
import {
  type LaunchedServer,
  launchServer,
  type ServerPaths,
  stopServer,
} from '../../engine/postgres/server-process.ts';
import { defined } from '../../foundation/assert.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn } from '../../foundation/lsn.ts';
import { writeOwned } from './baseline.ts';
import { planCopyPlace, readAutoConf } from './copy-place.ts';
import { endDelta } from './delta.ts';
import { syncPath } from './durability.ts';
import { LogFeeder } from './log-feeder.ts';
import { guardOf } from './log-guard.ts';
import { findEndOfRecords } from './log-target.ts';
import type { Prepared } from './prepare.ts';
import type { RestoreReporter } from './progress.ts';
import { ReadAheadLog } from './read-ahead.ts';
import { createSpool, type Spool } from './spool.ts';
import { ClaimedDirectories, removeMarker } from './target-directory.ts';

/** The unix socket's path must fit into 107 bytes (sockaddr_un). */
const MAX_SOCKET_DIRECTORY_BYTES = 90;
/** While it is checked, nobody but this host's owner of the socket directory comes in. */
const CHECK_HBA = 'local all all trust\n';
const HOST = '127.0.0.1';

export type RestoredServer = RecoveredServer & {
  readonly host: string;
  readonly port: number;
  readonly socketDirectory: string;
};
/**
 * Starts the server on the laid-down directory, feeds it its log, checks it and starts it for good. Throws RESTORE_FAILED
 * with the end of its log, or what reading the log failed with; the server is stopped then.
 */
export async function recoverAndCheck(
  prepared: Prepared,
  reporter: RestoreReporter,
  signal: AbortSignal,
): Promise<RestoredServer> {
  const { request, dataDirectory, workDirectory } = prepared;
  reporter.set({ phase: 'LOG' });
  const spool = await createSpool(join(workDirectory, 'spool'), request.user);
  const { place, source } = await configureRecovery(prepared, spool, signal);
  const paths: ServerPaths = { binDirectory: prepared.binDirectory, dataDirectory, user: request.user };
  await using server = new ServerInWork(paths, join(workDirectory, 'server.log'));
  await replayLog(prepared, spool, server, reporter, signal);
  reporter.set({ phase: 'CHECK' });
  const login = { socketDirectory: place.socketDirectory, port: place.port, user: request.checkUser };
  const found = await verifyServer(login, signal);
  await checkReached(prepared, found, signal);
  await server.stop(signal);
  await finishSettings(prepared, place, source);
  await server.launch();
  await awaitPromotion(server.launched, dataDirectory, server.logPath, signal);
  if (request.delta) await endDelta(dataDirectory);
  await removeMarker(dataDirectory);
  server.keep();
  for (const name of ['spool', 'external', 'hba.conf'])
    await rm(join(workDirectory, name), { recursive: true, force: true });
  return { ...found, host: HOST, port: place.port, socketDirectory: place.socketDirectory };
}

/** Starts the server, its log being read ahead meanwhile, and waits until it has replayed it. */
async function replayLog(
  prepared: Prepared,
  spool: Spool,
  server: ServerInWork,
  reporter: RestoreReporter,
  signal: AbortSignal,
): Promise<void> {
  const { log } = prepared;
  await using feeder = new LogFeeder(spool, {
    reader: log.lookup,
    sequenceReader: new ReadAheadLog(log.lookup, prepared.request.uri),
    path: log.path,
    segmentSizeBytes: log.segmentSizeBytes,
    histories: prepared.groupLog.histories,
    inspect: guardOf(prepared),
  });
  try {
    await server.launch();
    await awaitPromotion(server.launched, prepared.dataDirectory, server.logPath, signal, () => {
      if (feeder.failure !== undefined) throw feeder.failure;
      reporter.set({ replayLsn: feeder.takenUntil });
    });
  } catch (error) {
    throw feeder.failure ?? error; // when feeding failed, the server ended because of that
  }
}

async function configureRecovery(
  prepared: Prepared,
  spool: Spool,
  signal: AbortSignal,
): Promise<{ readonly place: CopyPlace; readonly source: string }> {
  const { request, dataDirectory, workDirectory } = prepared;
  const socketDirectory = await makeSocketDirectory(prepared);
  const place = await planCopyPlace(prepared, await request.port(), socketDirectory, signal);
  const hbaFile = join(workDirectory, 'hba.conf');
  await writeOwned(hbaFile, CHECK_HBA, request.user);
  const source = await readAutoConf(dataDirectory);
  const text = recoveryAutoConf(
    source,
    place,
    {
      target: prepared.target,
      timeline: prepared.path.timeline,
      restoreCommand: formatRestoreCommand(spool.script, spool.readyDirectory),
    },
    hbaFile,
  );
  await writeOwned(join(dataDirectory, 'postgresql.auto.conf'), text, request.user);
  await writeOwned(join(dataDirectory, 'recovery.signal'), '', request.user);
  return { place, source };
}

/** Recovery is over: its settings go, and what only it needed. */
async function finishSettings(prepared: Prepared, place: CopyPlace, source: string): Promise<void> {
  const { dataDirectory, request } = prepared;
  const path = join(dataDirectory, 'postgresql.auto.conf');
  await writeOwned(`${path}.new`, finalAutoConf(source, place), request.user);
  await syncPath(`${path}.new`);
  await rename(`${path}.new`, path);
  for (const name of ['backup_label.old', 'recovery.signal'])
    await rm(join(dataDirectory, name), { force: true });
  await syncPath(dataDirectory);
}

/** The right server at the right place: else the restore has failed, however well it answers. */
async function checkReached(prepared: Prepared, found: RecoveredServer, signal: AbortSignal): Promise<void> {
  const { target, log, source } = prepared;
  if (found.systemIdentifier !== source.backup.systemIdentifier) {
    throw new HoldfastError(
      'RESTORE_FAILED',
      `the restored server is ${found.systemIdentifier}, the backup is of ${source.backup.systemIdentifier}`,
    );
  }
  if (target.kind !== 'endOfLog' || found.replayed === undefined) return;
  const end = await findEndOfRecords(log, signal);
  if (end !== undefined && found.replayed < end) {
    throw new HoldfastError(
      'RESTORE_FAILED',
      `recovery ended at ${formatLsn(found.replayed)}, the archived log goes on to ${formatLsn(end)}`,
    );
  }
}

async function makeSocketDirectory(prepared: Prepared): Promise<string> {
  const { workDirectory, request } = prepared;
  const wanted = join(workDirectory, 'socket');
  const path =
    Buffer.byteLength(wanted) <= MAX_SOCKET_DIRECTORY_BYTES
      ? wanted
      : join(tmpdir(), `holdfast-${process.pid}-${Date.now().toString(36)}`);
  const directories = new ClaimedDirectories(request.user);
  await directories.claim(path, 0o700, 'the socket directory'); // goes with the work directory that it is in
  return path;
}

/** The restored server while the restore goes on: stopped when it is disposed, unless it is to be kept. */
class ServerInWork implements AsyncDisposable {
  readonly logPath: string;
  readonly #paths: ServerPaths;
  #launched: LaunchedServer | undefined;
  #isKept = false;

  constructor(paths: ServerPaths, logPath: string) {
    this.#paths = paths;
    this.logPath = logPath;
  }

  get launched(): LaunchedServer {
    return defined(this.#launched, 'a launched server');
  }

  async launch(): Promise<void> {
    // -c wins over a data_directory in any file, which would lead to the source.
    const args = ['-c', `data_directory=${this.#paths.dataDirectory}`];
    this.#launched = await launchServer(this.#paths, { logPath: this.logPath, arguments: args });
  }

  async stop(signal: AbortSignal): Promise<void> {
    await stopServer(this.#paths, 'fast', signal);
    await this.launched.ended;
  }

  /** Leaves the server running, beyond this process. */
  keep(): void {
    this.#isKept = true;
    this.launched.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isKept || this.#launched === undefined || this.#launched.end() !== undefined) return;
    try {
      process.kill(this.launched.pid, 'SIGQUIT'); // at once: the directory is about to be removed
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error; // it has just ended
    }
    await this.launched.ended;
  }
}
