/**
 * How fast a restored server replays: the same baseline and the same log, fed once by Holdfast (archived log, its feeder
 * and restore_command) and once by `restore_command = cp` from a directory of plain segments, in turn. Measured from the
 * beginning of the feeder and the server until everything is replayed.
 */
import { execFile } from 'node:child_process';
import { appendFile, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { promisify } from 'node:util';
import { LogFeeder } from '../agent/restore/log-feeder.ts';
import { createLogGuard } from '../agent/restore/log-guard.ts';
import type { LogToRead } from '../agent/restore/log-target.ts';
import { ReadAheadLog } from '../agent/restore/read-ahead.ts';
import { createSpool } from '../agent/restore/spool.ts';
import { freePort } from '../cli/demo/ports.ts';
import { formatRestoreCommand } from '../engine/postgres/restore/settings.ts';
import { launchServer, type ServerPaths } from '../engine/postgres/server-process.ts';
import { type Lsn, toLsn, toTimeline } from '../foundation/lsn.ts';
import { LogLookup } from '../storage-layout/clog/lookup.ts';
import { openMedium } from '../storage-layout/media/open.ts';
import { createServer, serverUser, type TestServer } from '../test/support/postgres.ts';
import { archiveSegments, switchSegment } from './archive.ts';
import { LOG_PLACE } from './log-place.ts';
import { type LogName, WORKLOADS } from './log-workload.ts';

const MAJOR = 17;
const SEGMENT_BYTES = 16 * 2 ** 20;
const POLL_MS = 50;
const LIMIT_MS = 600_000;
const TIMELINE = toTimeline(1);

export type RecoveryFigures = {
  readonly log: LogName;
  readonly logBytes: number;
  /** Of each run. */
  readonly cpSeconds: readonly number[];
  readonly holdfastSeconds: readonly number[];
};

type Course = {
  readonly server: TestServer;
  readonly baseline: string;
  readonly destination: string;
  readonly begin: Lsn;
  readonly end: Lsn;
  readonly directory: string;
};

export async function measureRecovery(
  directory: string,
  log: LogName,
  sizeBytes: number,
  runs: number,
): Promise<RecoveryFigures> {
  const workload = WORKLOADS[log];
  await using server = await createServer({
    major: MAJOR,
    settings: {
      wal_keep_size: `${Math.ceil(sizeBytes / 2 ** 20) * 2 + 512}`,
      max_wal_size: "'2GB'",
      fsync: 'off',
      synchronous_commit: 'off',
    },
  });
  await workload.prepare(server);
  await server.query('CHECKPOINT');
  const begin = await switchSegment(server);
  // The baseline of a server that was shut down: what it replays first is its last checkpoint, in the log from there on.
  await server.stop();
  const baseline = join(directory, 'baseline');
  await promisify(execFile)('cp', ['-a', server.dataDirectory, baseline]);
  await server.start();
  await workload.write(server, toLsn(begin + BigInt(sizeBytes)));
  const end = await switchSegment(server);
  const destination = join(directory, 'archived');
  const walDirectory = join(server.dataDirectory, 'pg_wal');
  await archiveSegments({ walDirectory, destination, begin, end, compression: 'zstd:1' });
  const course = { server, baseline, destination, begin, end, directory };
  const cpSeconds: number[] = [];
  const holdfastSeconds: number[] = [];
  for (let run = 0; run < runs; run += 1) {
    cpSeconds.push(await recoverByCp(course));
    holdfastSeconds.push(await recoverByHoldfast(course));
  }
  await rm(baseline, { recursive: true, force: true });
  await rm(destination, { recursive: true, force: true });
  return { log, logBytes: Number(end - begin), cpSeconds, holdfastSeconds };
}

async function recoverByCp(course: Course): Promise<number> {
  const walDirectory = join(course.server.dataDirectory, 'pg_wal');
  return await recover(course, `cp "${walDirectory}/%f" "%p"`, async (launch) => await launch());
}

/** As a restore does (agent/restore/recover.ts). */
async function recoverByHoldfast(course: Course): Promise<number> {
  const { root, round, group } = LOG_PLACE;
  const uri = `file://${course.destination}`;
  await using medium = await openMedium(uri);
  const lookup = await LogLookup.open(medium, root, round, group);
  const log: LogToRead = {
    lookup,
    path: [{ timeline: TIMELINE, begin: course.begin, end: course.end }],
    stop: course.begin,
    segmentSizeBytes: SEGMENT_BYTES,
    systemIdentifier: await systemIdentifier(course.server),
    major: MAJOR,
  };
  const spool = await createSpool(join(course.directory, 'spool'), serverUser());
  const seconds = await recover(
    course,
    formatRestoreCommand(spool.script, spool.readyDirectory),
    async (launch) => {
      await using feeder = new LogFeeder(spool, {
        reader: lookup,
        sequenceReader: new ReadAheadLog(lookup, uri),
        path: log.path,
        segmentSizeBytes: SEGMENT_BYTES,
        histories: new Map(),
        inspect: createLogGuard(log, new Map(), undefined),
      });
      try {
        return await launch();
      } catch (error) {
        throw feeder.failure ?? error;
      }
    },
  );
  await rm(spool.directory, { recursive: true, force: true });
  return seconds;
}

async function systemIdentifier(server: TestServer): Promise<bigint> {
  const [row] = await server.query<{ id: string }>(
    'SELECT system_identifier::text AS id FROM pg_control_system()',
  );
  return BigInt(row?.id ?? 0);
}

/** Seconds until everything is replayed. `feed` feeds the server that `launch` starts, and awaits what that returns. */
async function recover(
  course: Course,
  restoreCommand: string,
  feed: (launch: () => Promise<void>) => Promise<void>,
): Promise<number> {
  const dataDirectory = join(course.directory, 'recovered');
  await promisify(execFile)('cp', ['-a', course.baseline, dataDirectory]);
  const settings = [
    `restore_command = '${restoreCommand.replaceAll("'", "''")}'`,
    'recovery_target_timeline = current',
    `port = ${await freePort()}`,
  ];
  await appendFile(join(dataDirectory, 'postgresql.auto.conf'), `${settings.join('\n')}\n`);
  await writeFile(join(dataDirectory, 'recovery.signal'), '');
  await promisify(execFile)('chmod', ['a+r', join(dataDirectory, 'recovery.signal')]);
  await promisify(execFile)('sync');
  try {
    const beginMs = performance.now();
    let endMs = beginMs;
    await feed(async () => {
      endMs = await replay({ ...course.server.paths, dataDirectory }, join(course.directory, 'recovery.log'));
    });
    return (endMs - beginMs) / 1000;
  } finally {
    await rm(dataDirectory, { recursive: true, force: true });
  }
}

/** Starts the server and waits until it has replayed everything; returns when that was. It is stopped then. */
async function replay(paths: ServerPaths, logPath: string): Promise<number> {
  await rm(logPath, { force: true });
  const beginMs = performance.now();
  const launched = await launchServer(paths, { logPath });
  try {
    for (;;) {
      const text = await readFile(logPath, 'utf8');
      if (text.includes('redo done at')) return performance.now();
      if (launched.end() !== undefined || performance.now() - beginMs > LIMIT_MS)
        throw new Error(`recovery failed:\n${text.slice(-4000)}`);
      await wait(POLL_MS);
    }
  } finally {
    // By itself it may end too: a feeder that is gone stops it.
    if (launched.end() === undefined) process.kill(launched.pid, 'SIGQUIT');
    await launched.ended;
  }
}
