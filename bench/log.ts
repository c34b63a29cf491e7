/**
 * `npm run bench -- --log`: what archiving the log costs and gives, each figure beside its goal, in one run:
 *
 *   throughput, memory, size   2 GiB of log (256 MiB) through the archiver and through pgBackRest's archive-push
 *   lag                        a real agent under pgbench, at the default interval and at 100 ms
 *   replay                     4 GiB of log (256 MiB) replayed from the archive and by `cp`: a mixed one, and one about few
 *                              pages
 */
import { rm } from 'node:fs/promises';
import { availableParallelism, cpus } from 'node:os';
import { ensureDebianPackages, TEST_PACKAGES } from '../scripts/debian-packages.ts';
import { createServer, makeTestDirectory } from '../test/support/postgres.ts';
import { measureArchiveThroughput } from './archive.ts';
import { type LagFigures, measureLags } from './lag.ts';
import { formatLogReport } from './log-report.ts';
import { PgBackRest } from './pgbackrest.ts';
import { openPgBench } from './pgbench.ts';
import { measureRecovery, type RecoveryFigures } from './recovery.ts';

const MIB = 2 ** 20;
const FULL = { archivedBytes: 2048 * MIB, replayedBytes: 4096 * MIB, replays: 3, loadSeconds: 30 };
const SMALL = { archivedBytes: 256 * MIB, replayedBytes: 256 * MIB, replays: 2, loadSeconds: 12 };
const INTERVALS = ['1s', '100ms'];

/** Markdown. `directory` is for what the measurements write. */
export async function benchLog(directory: string, small: boolean): Promise<string> {
  const size = small ? SMALL : FULL;
  await ensureDebianPackages([...TEST_PACKAGES, { name: 'pgbackrest', programs: ['/usr/bin/pgbackrest'] }]);
  console.error('what an archiver gets through …');
  const throughput = await measureThroughput(directory, size.archivedBytes);
  console.error('how far it is behind …');
  const lags = await measureLagsOf(size.loadSeconds);
  console.error('how fast its log is replayed …');
  const recoveries: RecoveryFigures[] = [];
  for (const log of ['mixed', 'fewPages'] as const)
    recoveries.push(await measureRecovery(directory, log, size.replayedBytes, size.replays));
  const machine =
    `${availableParallelism()} cores (${cpus()[0]?.model.trim() ?? 'unknown'}), Node ${process.version}, ` +
    `${await PgBackRest.version()}, PostgreSQL 15 and 17.`;
  return formatLogReport({ machine, throughput, lags, recoveries });
}

async function measureThroughput(directory: string, sizeBytes: number) {
  const socketDirectory = await makeTestDirectory('bench-socket');
  try {
    return await measureArchiveThroughput(directory, socketDirectory, sizeBytes, ['zstd:1', 'zstd:3']);
  } finally {
    await rm(socketDirectory, { recursive: true, force: true });
  }
}

async function measureLagsOf(loadSeconds: number): Promise<readonly LagFigures[]> {
  const settings = {
    fsync: 'on',
    shared_buffers: "'256MB'",
    max_slot_wal_keep_size: "'4GB'",
    max_wal_size: "'2GB'",
  };
  await using server = await createServer({ major: 17, settings });
  const pgbench = await openPgBench(server);
  if (pgbench === undefined) throw new Error('there is no pgbench, though it was installed');
  return await measureLags(server, pgbench, INTERVALS, loadSeconds);
}
