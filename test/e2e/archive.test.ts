/** Archiving a real server's log: every byte equal to the server's, through kills, aborts and outages. */
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { assert, defined } from '../../foundation/assert.ts';
import { type Lsn, parseLsn, toLsn } from '../../foundation/lsn.ts';
import type { ArchiveProgress } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { parseHistory } from '../../storage-layout/plan/lineage.ts';
import { RECORD } from '../../storage-layout/records/framing.ts';
import { readBytes } from '../../storage-layout/records/info-file.ts';
import { tree } from '../../storage-layout/tree.ts';
import {
  ARCHIVE_ROOT,
  ARCHIVE_ROUND,
  ARCHIVE_SLOT,
  forkArchiver,
  openArchive,
  type RunningArchiver,
  readServerLog,
  startArchiver,
  writeMountFile,
} from '../support/archiver.ts';
import type { LogArchive } from '../support/log-archive.ts';
import { majors } from '../support/majors.ts';
import { createServer, makeTestDirectory, type TestServer } from '../support/postgres.ts';
import { createRandom } from '../support/random.ts';

let server: TestServer;
let base: string;
const SEGMENT_BYTES = 16 * 1024 * 1024;

beforeAll(async () => {
  server = await createServer({ settings: { wal_keep_size: "'2GB'", checkpoint_timeout: '30s' } });
  await server.query('CREATE TABLE t (id bigserial PRIMARY KEY, filler text)');
  base = await makeTestDirectory('archive');
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await rm(base, { recursive: true, force: true });
});

/** A destination of its own for each test, and no slot left from the one before. */
async function newDestination(name: string): Promise<string> {
  await server.query(
    'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND NOT active',
    [ARCHIVE_SLOT],
  );
  const destination = join(base, name);
  await mkdir(destination);
  await writeMountFile(destination);
  return destination;
}

async function until(
  what: string,
  holds: () => boolean | Promise<boolean>,
  timeoutMs = 30_000,
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await holds())) {
    assert(Date.now() < deadline, `timed out waiting until ${what}`);
    await delay(20);
  }
}

async function serverLsn(): Promise<Lsn> {
  const [row] = await server.query<{ lsn: string }>('SELECT pg_current_wal_flush_lsn()::text AS lsn');
  return parseLsn(defined(row, 'row').lsn);
}

function durable(progress: ArchiveProgress | undefined): bigint {
  return progress?.durable?.lsn ?? 0n;
}

/** Writes transactions until stopped: small ones, and now and then some megabytes at once. */
function startWorkload(): { stop(): Promise<void> } {
  const state = { stopped: false };
  const run = async (bulky: boolean) => {
    const client = await server.connect();
    while (!state.stopped) {
      const rows = bulky ? 4000 : 1;
      await client.query(
        'INSERT INTO t (filler) SELECT repeat(md5(random()::text), 10) FROM generate_series(1, $1)',
        [rows],
      );
      await delay(bulky ? 300 : 5);
    }
    await client.end();
  };
  const runs = [run(false), run(false), run(true)];
  return {
    async stop() {
      state.stopped = true;
      await Promise.all(runs);
    },
  };
}

/** The archive is one unbroken range and equals the server's segments bit for bit. */
async function expectEqualToServer(archive: LogArchive): Promise<Lsn> {
  const coverage = archive.coverage();
  expect(coverage).toHaveLength(1);
  const range = defined(coverage[0], 'range');
  expect(range.begin % BigInt(SEGMENT_BYTES)).toBe(0n);
  const parts: Buffer[] = [];
  for await (const chunk of archive.read(range.timeline, range.begin, range.end))
    parts.push(Buffer.from(chunk.data));
  const archived = Buffer.concat(parts);
  const original = await readServerLog(server, range.timeline, range.begin, range.end, SEGMENT_BYTES);
  expect(archived.equals(original)).toBe(true);
  return range.end;
}

async function acknowledged(): Promise<Lsn | undefined> {
  const [row] = await server.query<{ lsn: string | null }>(
    'SELECT restart_lsn::text AS lsn FROM pg_replication_slots WHERE slot_name = $1',
    [ARCHIVE_SLOT],
  );
  return row?.lsn === null || row === undefined ? undefined : parseLsn(row.lsn);
}

async function drainUpTo(archiver: RunningArchiver, lsn: Lsn): Promise<void> {
  archiver.flush(lsn);
  await until('the log is durable', () => durable(archiver.progress()) >= lsn);
  archiver.drain();
  const result = await archiver.result;
  expect(result.interruptedReason).toBe('');
}

describe('archiving a server', () => {
  test('a drained round equals the server log, its files are sealed with what happened in them, and the slot is gone', async () => {
    const destination = await newDestination('drained');
    const archiver = startArchiver({ port: server.port, destination, epoch: 1, fresh: true });
    await server.query("SELECT pg_create_restore_point('before')");
    await server.query('INSERT INTO t (filler) SELECT md5(i::text) FROM generate_series(1, 20000) i');
    await server.query('CHECKPOINT');
    await server.query("INSERT INTO t (filler) VALUES ('last')");
    await drainUpTo(archiver, await serverLsn());
    const archive = await openArchive(destination);
    await expectEqualToServer(archive);
    expect(archive.unsealed).toEqual([]);
    expect(archive.files.flatMap((file) => file.restorePoints.map((point) => point.name))).toContain(
      'before',
    );
    expect(archive.files.flatMap((file) => file.checkpoints).length).toBeGreaterThan(0);
    expect(archive.files.at(-1)?.maxCommitUs).toBeGreaterThan(0n);
    expect(await acknowledged()).toBeUndefined();
    await using medium = await openMedium(`file://${destination}`);
    const info = tree.clogInfo(ARCHIVE_ROOT, { serverId: 1n, ip: '127.0.0.1', port: 2889 });
    expect(await medium.stat(info)).toBeDefined();
  });

  test('an idle server advances the checkpoint time, at the destination too, without writing log', async () => {
    const destination = await newDestination('idle');
    const archiver = startArchiver({ port: server.port, destination, epoch: 1, fresh: true });
    await until('the first checkpoint', () => (archiver.progress()?.checkpointUs ?? 0n) > 0n);
    const before = await serverLsn();
    const firstUs = archiver.progress()?.checkpointUs ?? 0n;
    await until('seven idle seconds', () => (archiver.progress()?.checkpointUs ?? 0n) > firstUs + 7_000_000n);
    expect((await serverLsn()) - before).toBeLessThan(10_000n);
    const [range] = (await openArchive(destination)).coverage();
    expect(range?.checkpointUs ?? 0n).toBeGreaterThan(firstUs);
    archiver.drain();
    await archiver.result;
  });

  test('killed at random moments, the archive stays whole, and nothing is acknowledged that is not there', async () => {
    const destination = await newDestination('killed');
    const random = createRandom('kill the archiver');
    const workload = startWorkload();
    let begun = false;
    for (let epoch = 1; epoch <= 8; epoch += 1) {
      const archiver = forkArchiver({ port: server.port, destination, epoch, fresh: !begun });
      if (random.next() < 0.7) await until('it archives', () => durable(archiver.progress()) > 0n);
      await delay(random.between(0, 800));
      const claimed = durable(archiver.progress());
      await archiver.kill();
      begun ||= claimed > 0n;
      const archive = await openArchive(destination);
      const end = archive.end()?.end ?? 0n;
      expect(end).toBeGreaterThanOrEqual(claimed);
      const told = await acknowledged();
      if (begun && told !== undefined) expect(told).toBeLessThanOrEqual(end);
    }
    await workload.stop();
    const last = startArchiver({ port: server.port, destination, epoch: 9, fresh: false });
    const lsn = await serverLsn();
    await drainUpTo(last, lsn);
    const archive = await openArchive(destination);
    expect(await expectEqualToServer(archive)).toBeGreaterThanOrEqual(lsn);
    expect(archive.unsealed).toEqual([]);
  });

  test('aborted at random moments and restarted in one process, it goes on without a hole', async () => {
    const destination = await newDestination('aborted');
    const random = createRandom('abort the archiver');
    const workload = startWorkload();
    for (let epoch = 1; epoch <= 6; epoch += 1) {
      const archiver = startArchiver({ port: server.port, destination, epoch, fresh: true });
      await delay(random.between(0, 600));
      if (random.next() < 0.5) archiver.drain('SHUTTING_DOWN');
      else archiver.abort();
      await expect(archiver.result).rejects.toThrow();
    }
    await workload.stop();
    const last = startArchiver({ port: server.port, destination, epoch: 7, fresh: true });
    await drainUpTo(last, await serverLsn());
    await expectEqualToServer(await openArchive(destination));
  });

  test.each(['fast', 'immediate'] as const)(
    'a server that ends (%s) and starts again loses nothing',
    async (mode) => {
      const destination = await newDestination(`restarted-${mode}`);
      const archiver = startArchiver({ port: server.port, destination, epoch: 1, fresh: true });
      await until('it archives', () => durable(archiver.progress()) > 0n);
      await server.query('INSERT INTO t (filler) SELECT md5(i::text) FROM generate_series(1, 20000) i');
      await server.stop(mode);
      await until('the loss is reported', () => archiver.progress()?.lastError !== '');
      await server.start();
      await server.query("INSERT INTO t (filler) VALUES ('after the restart')");
      const lsn = await serverLsn();
      await until('it has caught up', () => durable(archiver.progress()) >= lsn);
      expect(archiver.progress()?.lastError).toBe('');
      await drainUpTo(archiver, lsn);
      await expectEqualToServer(await openArchive(destination));
    },
  );

  test('without the mount_file nothing is written; it waits, says so, and begins when it is there', async () => {
    const destination = await newDestination('unmounted');
    await rename(join(destination, 'hf'), join(destination, 'away'));
    const archiver = startArchiver({ port: server.port, destination, epoch: 1, fresh: true });
    await until('the error is reported', () => /OB-9051/.test(archiver.progress()?.lastError ?? ''));
    expect(archiver.progress()?.waitingFor).toBe('the destination');
    await rename(join(destination, 'away'), join(destination, 'hf'));
    await drainUpTo(archiver, await serverLsn());
    await expectEqualToServer(await openArchive(destination));
  });

  test('an archiver that died before its first byte was durable is followed by one that begins the round', async () => {
    const destination = await newDestination('stillborn');
    const files = join(destination, tree.logDataDirectory(ARCHIVE_ROOT, ARCHIVE_ROUND, 'p0'));
    await mkdir(files, { recursive: true });
    await writeFile(join(files, '1.1'), Buffer.from('torn before its header was whole'));
    const archiver = startArchiver({ port: server.port, destination, epoch: 2, fresh: true });
    await drainUpTo(archiver, await serverLsn());
    const archive = await openArchive(destination);
    await expectEqualToServer(archive);
    expect(archive.files.map((file) => [file.fileId, file.epoch])).toEqual([[2n, 2n]]);
  });

  test('a destination that lost all log of a round that had begun ends it by name', async () => {
    const destination = await newDestination('emptied');
    const archiver = startArchiver({ port: server.port, destination, epoch: 2, fresh: false });
    expect((await archiver.result).interruptedReason).toMatch(/LOG_GAP.*holds no log of this round/);
    // Nor is a file in which nothing is whole a reason to begin it anew.
    const files = join(destination, tree.logDataDirectory(ARCHIVE_ROOT, ARCHIVE_ROUND, 'p0'));
    await mkdir(files, { recursive: true });
    await writeFile(join(files, '1.1'), Buffer.from('damaged'));
    const next = startArchiver({ port: server.port, destination, epoch: 3, fresh: false });
    expect((await next.result).interruptedReason).toMatch(/LOG_GAP.*holds no log of this round/);
  });

  test('a slot that lost its log ends the round by name', async () => {
    const destination = await newDestination('lost');
    const first = startArchiver({ port: server.port, destination, epoch: 1, fresh: true });
    await until('it archives', () => durable(first.progress()) > 0n);
    first.abort();
    await expect(first.result).rejects.toThrow();
    await server.query('SELECT pg_drop_replication_slot($1)', [ARCHIVE_SLOT]);
    await server.query("ALTER SYSTEM SET wal_keep_size = '0'");
    await server.query('SELECT pg_reload_conf()');
    for (let round = 0; round < 4; round += 1) {
      await server.query('INSERT INTO t (filler) SELECT md5(i::text) FROM generate_series(1, 1000) i');
      await server.query('SELECT pg_switch_wal()');
    }
    await server.query('CHECKPOINT');
    await server.query('CHECKPOINT');
    const second = startArchiver({ port: server.port, destination, epoch: 2, fresh: false });
    const result = await second.result;
    expect(result.interruptedReason).toMatch(/LOG_GAP.*already been removed/);
    await server.query("ALTER SYSTEM SET wal_keep_size = '2GB'");
    await server.query('SELECT pg_reload_conf()');
  });

  test('another server at the same address is never archived', async () => {
    const destination = await newDestination('other');
    const first = startArchiver({ port: server.port, destination, epoch: 1, fresh: true });
    await until('it archives', () => durable(first.progress()) > 0n);
    first.abort();
    await expect(first.result).rejects.toThrow();
    await using other = await createServer();
    const second = startArchiver({ port: other.port, destination, epoch: 2, fresh: false });
    expect((await second.result).interruptedReason).toMatch(/SYSTEM_IDENTIFIER_MISMATCH/);
  });

  test('an archiver that was overtaken by a newer epoch gives way', async () => {
    const destination = await newDestination('overtaken');
    const newer = startArchiver({ port: server.port, destination, epoch: 7, fresh: true });
    await drainUpTo(newer, toLsn(await serverLsn()));
    const older = startArchiver({ port: server.port, destination, epoch: 6, fresh: false });
    await expect(older.result).rejects.toMatchObject({ code: 'LOG_ARCHIVE_LEADER_CHANGED' });
    expect((await openArchive(destination)).coverage()).toHaveLength(1);
    expect(ARCHIVE_ROUND.round).toBe(1n);
  });
});

describe('other servers', () => {
  async function archiveAll(other: TestServer, destination: string, segmentBytes: number): Promise<void> {
    await mkdir(destination);
    await writeMountFile(destination);
    const row = async () => {
      const [found] = await other.query<{ lsn: string }>('SELECT pg_current_wal_flush_lsn()::text AS lsn');
      return parseLsn(defined(found, 'row').lsn);
    };
    await other.query('CREATE TABLE IF NOT EXISTS t (id bigserial, filler text)');
    for (let epoch = 1; epoch <= 3; epoch += 1) {
      await other.query('INSERT INTO t (filler) SELECT md5(i::text) FROM generate_series(1, 20000) i');
      if (epoch === 2) await other.query('SELECT pg_switch_wal()');
      const archiver = startArchiver({ port: other.port, destination, epoch, fresh: true });
      const lsn = await row();
      archiver.flush(lsn);
      await until('the log is durable', () => durable(archiver.progress()) >= lsn);
      if (epoch === 3) archiver.drain();
      else archiver.abort();
      await archiver.result.catch(() => undefined);
    }
    const archive = await openArchive(destination);
    const [range, ...more] = archive.coverage();
    expect(more).toEqual([]);
    const { timeline, begin, end } = defined(range, 'range');
    const parts: Buffer[] = [];
    for await (const chunk of archive.read(timeline, begin, end)) parts.push(Buffer.from(chunk.data));
    const original = await readServerLog(other, timeline, begin, end, segmentBytes);
    expect(Buffer.concat(parts).equals(original)).toBe(true);
  }

  test.each(majors(14, 15, 16, 18))('PostgreSQL %i is archived bit for bit', async (major) => {
    await using other = await createServer({ major, settings: { wal_keep_size: "'1GB'" } });
    await archiveAll(other, join(base, `major-${major}`), SEGMENT_BYTES);
  });

  test.each([1, 64])('so is a server with segments of %i MiB', async (walSegmentSizeMegabytes) => {
    await using other = await createServer({
      walSegmentSizeMegabytes,
      settings: { wal_keep_size: "'1GB'", min_wal_size: "'256MB'" },
    });
    await archiveAll(other, join(base, `size-${walSegmentSizeMegabytes}`), walSegmentSizeMegabytes * 2 ** 20);
  });

  test('a promoted server is archived on, over the fork, with the history; and from the beginning on its new timeline', async () => {
    await using other = await createServer({ settings: { wal_keep_size: "'1GB'" } });
    const destination = join(base, 'promoted');
    await mkdir(destination);
    await writeMountFile(destination);
    const before = startArchiver({ port: other.port, destination, epoch: 1, fresh: true });
    await until('it archives', () => durable(before.progress()) > 0n);
    await other.stop();
    await writeFile(join(other.dataDirectory, 'standby.signal'), '');
    await other.start();
    await expect(before.result).rejects.toMatchObject({ code: 'LOG_ARCHIVE_LEADER_CHANGED' });
    await other.query('SELECT pg_promote()');
    const after = startArchiver({ port: other.port, destination, epoch: 2, fresh: false });
    const [row] = await other.query<{ lsn: string }>('SELECT pg_current_wal_flush_lsn()::text AS lsn');
    await drainUpTo(after, parseLsn(defined(row, 'row').lsn));
    const [first, second, ...more] = (await openArchive(destination)).coverage();
    expect(more).toEqual([]);
    expect([first?.timeline, second?.timeline]).toEqual([1, 2]);
    const [line] = parseHistory(await readFile(join(other.dataDirectory, 'pg_wal', '00000002.history')));
    expect([first?.end, second?.begin]).toEqual([line?.end, line?.end]);
    await other.query('CHECKPOINT');
    await archiveAll(other, join(base, 'promoted-2'), SEGMENT_BYTES);
    await using medium = await openMedium(`file://${join(base, 'promoted-2')}`);
    const key = tree.history(ARCHIVE_ROOT, ARCHIVE_ROUND, 'p0', 2);
    const stored = await readBytes(medium, key, RECORD.timelineHistory);
    const original = await readFile(join(other.dataDirectory, 'pg_wal', '00000002.history'));
    expect(stored.equals(original)).toBe(true);
  });
});
