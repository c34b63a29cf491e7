/**
 * How much log an archiver gets through, and what it makes of it: some gigabytes that a real server wrote (small
 * transactions with page images and without, bulk loads, index builds) are replayed from its segments into the archiver's
 * own loops, parser, change map, compression and fsync included, in a process of its own. pgBackRest pushes the same
 * segments, one `archive-push` each as a server's archive_command does. PostgreSQL 15 is the newest that Debian's
 * pgBackRest reads.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Lsn, segmentName, segmentStart, toLsn, toTimeline } from '../foundation/lsn.ts';
import { createServer, type TestServer } from '../test/support/postgres.ts';
import type { ReplayOrder } from './archive-replay.ts';
import { currentLsn, makeMixedTables, writeMixedLog } from './log-workload.ts';
import { runMeasured } from './measured-command.ts';
import { PgBackRest } from './pgbackrest.ts';
import { treeBytes } from './tree-bytes.ts';

const SEGMENT_BYTES = 16 * 2 ** 20;

/** As an agent runs (cli/agent-image.ts). */
const AGENT_OPTIONS = ['--disable-warning=ExperimentalWarning', '--max-semi-space-size=2'];
const AGENT_ENVIRONMENT = { MALLOC_ARENA_MAX: '2', MALLOC_MMAP_THRESHOLD_: '262144' };

export type ArchiveThroughput = {
  readonly bytes: number;
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly peakRssBytes: number;
  readonly storedBytes: number;
};

/**
 * Makes `sizeBytes` of log on a server of its own, archives it with each compression and pushes it by pgBackRest.
 * `directory` is for the archives.
 */
export async function measureArchiveThroughput(
  directory: string,
  socketDirectory: string,
  sizeBytes: number,
  compressions: readonly string[],
): Promise<ReadonlyMap<string, ArchiveThroughput>> {
  await using server = await createServer({
    major: 15,
    settings: {
      unix_socket_directories: `'${socketDirectory}'`,
      wal_keep_size: `${Math.ceil(sizeBytes / 2 ** 20) * 2 + 512}`,
      max_wal_size: "'1GB'",
      fsync: 'off',
      synchronous_commit: 'off',
    },
  });
  const begin = await switchSegment(server);
  await makeMixedTables(server);
  await writeMixedLog(server, toLsn(begin + BigInt(sizeBytes) + BigInt(SEGMENT_BYTES)));
  await server.query('SELECT pg_switch_wal()');
  const end = segmentStart(await currentLsn(server), SEGMENT_BYTES);
  const results = new Map<string, ArchiveThroughput>();
  const pushed = await pushSegments(directory, server, socketDirectory, begin, end);
  results.set('pgBackRest archive-push, zst level 3', pushed);
  for (const compression of compressions) {
    const destination = join(directory, `replay-${compression.replaceAll(/\W/g, '')}`);
    const walDirectory = join(server.dataDirectory, 'pg_wal');
    results.set(
      `Holdfast ${compression}`,
      await archiveSegments({ walDirectory, destination, begin, end, compression }),
    );
    await rm(destination, { recursive: true, force: true });
  }
  return results;
}

/** Ends the segment; returns where the next begins. */
export async function switchSegment(server: TestServer): Promise<Lsn> {
  const begin = segmentStart(await currentLsn(server), SEGMENT_BYTES) + BigInt(SEGMENT_BYTES);
  await server.query('SELECT pg_switch_wal()');
  return toLsn(begin);
}

/** Archives the segments in [begin, end) of timeline 1, which stay at the destination. */
export async function archiveSegments(order: {
  readonly walDirectory: string;
  readonly destination: string;
  readonly begin: Lsn;
  readonly end: Lsn;
  readonly compression: string;
}): Promise<ArchiveThroughput> {
  const text: ReplayOrder = { ...order, begin: String(order.begin), end: String(order.end) };
  const script = join(import.meta.dirname, 'archive-replay.ts');
  const command = [process.execPath, ...AGENT_OPTIONS, script, JSON.stringify(text)];
  const measured = await runMeasured(command, AGENT_ENVIRONMENT);
  const told = JSON.parse(measured.stdout) as { seconds: number }; // from archive-replay.ts
  return {
    bytes: Number(order.end - order.begin),
    seconds: told.seconds,
    cpuSeconds: measured.cpuSeconds,
    peakRssBytes: measured.peakRssBytes,
    storedBytes: await treeBytes(order.destination),
  };
}

async function pushSegments(
  directory: string,
  server: TestServer,
  socketDirectory: string,
  begin: Lsn,
  end: Lsn,
): Promise<ArchiveThroughput> {
  const rival = await PgBackRest.open(directory, server, socketDirectory);
  await rival.prepare();
  const sum = { bytes: Number(end - begin), seconds: 0, cpuSeconds: 0, peakRssBytes: 0 };
  for (let at: bigint = begin; at < end; at += BigInt(SEGMENT_BYTES)) {
    const name = segmentName(toTimeline(1), at, SEGMENT_BYTES);
    const measured = await rival.pushLog(join(server.dataDirectory, 'pg_wal', name));
    sum.seconds += measured.seconds;
    sum.cpuSeconds += measured.cpuSeconds;
    sum.peakRssBytes = Math.max(sum.peakRssBytes, measured.peakRssBytes);
  }
  const storedBytes = await treeBytes(join(rival.repository, 'archive'));
  await rm(rival.repository, { recursive: true, force: true });
  return { ...sum, storedBytes };
}
