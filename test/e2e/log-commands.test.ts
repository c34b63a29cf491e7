/** `holdfast log` and `holdfast repair clog`, as processes, on what a real archiver left of a real server's log. */
import { execFile } from 'node:child_process';
import { appendFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { waitFor } from '../../cli/demo/wait.ts';
import {
  formatLsn,
  type Lsn,
  parseLsn,
  segmentName,
  segmentStart,
  toTimeline,
} from '../../foundation/lsn.ts';
import { MountFileSchema, RoundBeginSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { RECORD } from '../../storage-layout/records/framing.ts';
import { writeBytesOnce, writeOnce } from '../../storage-layout/records/info-file.ts';
import { tree } from '../../storage-layout/tree.ts';
import {
  ARCHIVE_GROUP,
  ARCHIVE_ROOT,
  ARCHIVE_ROUND,
  openArchive,
  startArchiver,
  writeMountFile,
} from '../support/archiver.ts';
import { createServer, serverUser, type TestServer } from '../support/postgres.ts';
import { copyStandby } from '../support/replicas.ts';

const SEGMENT_BYTES = 16 * 2 ** 20;
const HISTORY = '1\t0/3000000\tno recovery target specified\n';

let server: TestServer;
/** A copy of the server from before anything was archived; not started. */
let standby: TestServer;
let destination: string;
let begin: Lsn;
let end: Lsn;
let xid: string;

beforeAll(async () => {
  server = await createServer({ major: 17, settings: { wal_keep_size: "'1GB'" } });
  await server.stop();
  standby = await copyStandby(server);
  await server.start();
  destination = join(server.directory, 'destination');
  await mkdir(destination);
  await writeMountFile(destination);
  for (const epoch of [1, 2]) {
    const archiver = startArchiver({ port: server.port, destination, epoch, fresh: epoch === 1 });
    await server.query(
      `CREATE TABLE t${epoch} AS SELECT i, repeat('x', 100) AS body FROM generate_series(1, 50000) i`,
    );
    await server.query(`SELECT pg_create_restore_point('point ${epoch}')`);
    const [row] = await server.query<{ xid: string }>(
      `INSERT INTO t${epoch} VALUES (0, '') RETURNING xmin::text AS xid`,
    );
    xid = row?.xid ?? '';
    await server.query('SELECT pg_switch_wal()');
    await server.query('CHECKPOINT');
    end = await currentLsn();
    const deadline = Date.now() + 60_000;
    while ((archiver.progress()?.durable?.lsn ?? 0n) < end) {
      if (Date.now() > deadline) throw new Error('timed out');
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    begin = parseLsn(formatLsn(archiver.progress()?.start?.lsn ?? 0n));
    archiver.drain(epoch === 1 ? 'SHUTTING_DOWN' : 'CANCELLED');
    await archiver.result.catch(() => undefined);
  }
  const [control] = await server.query<{ id: string }>(
    'SELECT system_identifier::text AS id FROM pg_control_system()',
  );
  await using medium = await openMedium(`file://${destination}`);
  const roundBegin = create(RoundBeginSchema, {
    ...ARCHIVE_ROUND,
    tenantName: 'orders',
    beginUs: 1n,
    groups: [
      {
        partitionGroup: ARCHIVE_GROUP,
        systemIdentifier: BigInt(control?.id ?? 0),
        start: { timeline: 1, lsn: begin },
        segmentSizeBytes: SEGMENT_BYTES,
        postgresMajor: 17,
        startUs: 1n,
      },
    ],
  });
  await writeOnce(medium, tree.roundBegin(ARCHIVE_ROOT, ARCHIVE_ROUND), RoundBeginSchema, roundBegin);
  const history = tree.history(ARCHIVE_ROOT, ARCHIVE_ROUND, ARCHIVE_GROUP, 2);
  await writeBytesOnce(medium, history, RECORD.timelineHistory, Buffer.from(HISTORY));
});
afterAll(async () => {
  await standby[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
});

async function currentLsn(): Promise<Lsn> {
  const [row] = await server.query<{ lsn: string }>('SELECT pg_current_wal_flush_lsn()::text AS lsn');
  return parseLsn(row?.lsn ?? '');
}

type Ran = { readonly code: number; readonly stdout: string; readonly stderr: string };

async function holdfast(...args: readonly string[]): Promise<Ran> {
  const script = join(import.meta.dirname, '../../cli/holdfast.ts');
  const place = ['--from', `file://${destination}`, '--tenant', '1001'];
  return await new Promise((resolve) => {
    execFile(
      process.execPath,
      [script, ...args, ...place],
      { maxBuffer: 2 ** 26 },
      (error, stdout, stderr) => {
        resolve({
          code: typeof error?.code === 'number' ? error.code : error === null ? 0 : -1,
          stdout,
          stderr,
        });
      },
    );
  });
}

async function jsonLines(...args: readonly string[]): Promise<Record<string, unknown>[]> {
  const { code, stdout, stderr } = await holdfast(...args, '--json');
  expect([code, stderr]).toEqual([0, '']);
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

describe('holdfast log', () => {
  test('lists commits with their transactions, restore points and checkpoints, of a stretch or of all', async () => {
    const all = await jsonLines('log', 'list');
    const commit = all.find((event) => event['kind'] === 'commit' && String(event['xid']) === xid);
    expect(commit).toBeDefined();
    expect(all.filter((event) => event['kind'] === 'restorePoint').map((event) => event['name'])).toEqual([
      'point 1',
      'point 2',
    ]);
    expect(all.some((event) => event['kind'] === 'checkpoint')).toBe(true);
    const since = String(commit?.['time']);
    const later = await jsonLines('log', 'list', '--since', since);
    expect(later.some((event) => event['begin'] === commit?.['begin'])).toBe(true);
    expect(later.some((event) => event['name'] === 'point 1')).toBe(false);
    const exact = await jsonLines(
      'log',
      'list',
      '--since',
      String(commit?.['begin']),
      '--until',
      String(commit?.['end']),
    );
    expect(exact.map((event) => String(event['xid']))).toEqual([xid]);
    const { stdout } = await holdfast('log', 'list', '--until', since);
    expect(stdout).toContain(`commit ${xid}`);
  });

  test('shows what is archived, and the volume by relation', async () => {
    const rows = await jsonLines('log', 'show');
    expect(rows[0]).toMatchObject({ kind: 'range', timeline: 1, begin: formatLsn(begin) });
    const [file] = await server.query<{ path: string }>(`SELECT pg_relation_filepath('t2') AS path`);
    const relation = rows.find(
      (row) => row['kind'] === 'relation' && file?.path.endsWith(`/${String(row['relation'])}`),
    );
    expect(Number(relation?.['bytes'])).toBeGreaterThan(5_000_000);
  });

  test('fetches every whole segment bit for bit, and nothing that is not there', async () => {
    const target = join(server.directory, 'fetched');
    let segments = 0;
    for (
      let at: bigint = begin;
      at + BigInt(SEGMENT_BYTES) <= segmentStart(end, SEGMENT_BYTES);
      at += BigInt(SEGMENT_BYTES)
    ) {
      const name = segmentName(toTimeline(1), at, SEGMENT_BYTES);
      expect((await holdfast('log', 'fetch', name, target)).code).toBe(0);
      const own = await readFile(join(server.dataDirectory, 'pg_wal', name));
      expect((await readFile(target)).equals(own)).toBe(true);
      segments += 1;
    }
    expect(segments).toBeGreaterThanOrEqual(2);
    await rm(target);
    expect((await holdfast('log', 'fetch', '00000002.history', target)).code).toBe(0);
    expect(await readFile(target, 'utf8')).toBe(HISTORY);
    const started = performance.now();
    for (const name of [
      segmentName(toTimeline(1), end + 2n ** 30n, SEGMENT_BYTES),
      '00000003.history',
      '000000030000000000000001',
    ])
      expect((await holdfast('log', 'fetch', name, join(server.directory, 'absent'))).code).toBe(4);
    expect(performance.now() - started).toBeLessThan(10_000);
    expect((await holdfast('log', 'fetch', 'nonsense', target)).code).toBe(202);
  });
});

describe('holdfast log fetch as restore_command', () => {
  test('feeds a standby that has no other way to its log, up to the last whole segment', async ({ skip }) => {
    const script = join(import.meta.dirname, '../../cli/holdfast.ts');
    const command = [process.execPath, script, 'log', 'fetch', '--from', `file://${destination}`];
    const canRun = await new Promise<boolean>((resolve) => {
      const user = serverUser() ?? {};
      execFile(process.execPath, [script, '--version'], user, (error) => resolve(error === null));
    });
    if (!canRun) skip("the servers' user may not run Holdfast from here");
    await appendFile(
      join(standby.dataDirectory, 'postgresql.auto.conf'),
      `primary_conninfo = ''
restore_command = '${command.join(' ')} --tenant 1001 %f %p'
recovery_target_timeline = 'current'
`,
    );
    const whole = segmentStart(end, SEGMENT_BYTES);
    await standby.start();
    await waitFor(
      async () => {
        const [row] = await standby.query<{ lsn: string }>('SELECT pg_last_wal_replay_lsn()::text AS lsn');
        return parseLsn(row?.lsn ?? '0/0') >= whole ? true : undefined;
      },
      { what: 'the standby to replay what is archived', timeoutMs: 120_000 },
    );
    const count = 'SELECT count(*)::int AS n, max(i) AS most FROM t2';
    expect(await standby.query(count)).toEqual(await server.query(count));
    await standby.stop();
  }, 180_000);
});

describe('holdfast repair clog', () => {
  test('finds nothing to do in what an archiver and its successor wrote', async () => {
    const files = await jsonLines('repair', 'clog');
    expect(files.length).toBeGreaterThanOrEqual(2);
    expect(files.map((file) => file['verdict'])).toEqual(files.map(() => 'right'));
  });

  test('an index that is damaged, another file’s, or gone is refused or missed, and made anew as it was', async () => {
    const { files } = await openArchive(destination);
    const [first, second] = files.map((file) =>
      join(destination, tree.logIndex(ARCHIVE_ROOT, ARCHIVE_ROUND, ARCHIVE_GROUP, file.fileId, file.epoch)),
    );
    if (first === undefined || second === undefined) throw new Error('too few files');
    const right = await readFile(first);
    const damaged = Buffer.from(right);
    damaged.writeUInt8(damaged.readUInt8(100) ^ 1, 100);
    for (const wrong of [damaged, await readFile(second), undefined]) {
      if (wrong === undefined) await rm(first);
      else await writeFile(first, wrong);
      if (wrong !== undefined) {
        const refused = await holdfast('log', 'list');
        expect(refused.code).toBe(4);
        expect(refused.stderr).toContain('holdfast repair clog');
      }
      const [planned] = await jsonLines('repair', 'clog', '--dry-run');
      expect(planned?.['verdict']).toBe(wrong === undefined ? 'missing' : 'wrong');
      const [mended] = await jsonLines('repair', 'clog');
      expect(mended?.['verdict']).toBe(wrong === undefined ? 'missing' : 'wrong');
      expect((await jsonLines('repair', 'clog')).map((file) => file['verdict'])).toEqual(
        files.map(() => 'right'),
      );
      // All but the random id in the file header, and its checksums.
      expect((await readFile(first)).subarray(56).equals(right.subarray(56))).toBe(true);
    }
  });
});

describe('holdfast log over several rounds', () => {
  const SECOND = { ...ARCHIVE_ROUND, round: 2n };

  test('a stretch of time is read from every round that has some of it, and all of the log from the newest', async () => {
    const before = await jsonLines('log', 'list');
    expect(new Set(before.map((event) => event['round']))).toEqual(new Set(['1']));
    await archiveSecondRound();
    // The newest round has no commit of that time.
    const [created] = await commitsOf(1);
    const [later] = await commitsOf(2);
    if (created === undefined || later === undefined) throw new Error('no commits');
    // What has no time of its own is shown with what is around it.
    const earlier = (await jsonLines('log', 'list', '--since', created, '--until', created)).filter(isCommit);
    expect(earlier.map(({ round, time }) => [round, time])).toEqual([['1', created]]);
    const both = (await jsonLines('log', 'list', '--since', created, '--until', later)).filter(isCommit);
    expect(new Set(both.map((event) => event['round']))).toEqual(new Set(['1', '2']));
    expect([both[0]?.['time'], both.at(-1)?.['time']]).toEqual([created, later]);
    const newest = await jsonLines('log', 'list');
    expect(new Set(newest.map((event) => event['round']))).toEqual(new Set(['2']));
    const shown = await jsonLines('log', 'show', '--since', created, '--until', created);
    expect(new Set(shown.filter(({ kind }) => kind === 'range').map(({ round }) => round))).toEqual(
      new Set(['1']),
    );
    const never = await holdfast(
      'log',
      'list',
      '--since',
      '2001-01-01 00:00Z',
      '--until',
      '2001-01-02 00:00Z',
    );
    expect([never.code, never.stderr]).toEqual([0, '']);
    expect(never.stdout).not.toContain('commit');
  }, 120_000);

  function isCommit({ kind }: Record<string, unknown>): boolean {
    return kind === 'commit';
  }

  /** Times of the round's commits. */
  async function commitsOf(round: number): Promise<readonly string[]> {
    const events = await jsonLines('log', 'list', '--round', String(round));
    return events.filter(isCommit).map(({ time }) => String(time));
  }

  async function archiveSecondRound(): Promise<void> {
    const medium = await openMedium(`file://${destination}`);
    const mount = create(MountFileSchema, { ...SECOND, deploymentUuid: 'test' });
    await writeOnce(medium, tree.mountFile(ARCHIVE_ROOT, SECOND), MountFileSchema, mount);
    const startUs = BigInt(Date.now()) * 1000n;
    const archiver = startArchiver({
      port: server.port,
      destination,
      epoch: 1,
      fresh: true,
      round: SECOND.round,
    });
    await server.query('CREATE TABLE in_second_round (i int)');
    const until = await currentLsn();
    archiver.flush(until);
    await waitFor(async () => ((archiver.progress()?.durable?.lsn ?? 0n) >= until ? true : undefined), {
      what: 'the second round',
      timeoutMs: 60_000,
    });
    const progress = archiver.progress();
    archiver.drain();
    await archiver.result;
    const roundBegin = create(RoundBeginSchema, {
      ...SECOND,
      tenantName: 'orders',
      beginUs: startUs,
      groups: [
        {
          partitionGroup: ARCHIVE_GROUP,
          systemIdentifier: progress?.systemIdentifier ?? 0n,
          start: { timeline: 1, lsn: progress?.start?.lsn ?? 0n },
          segmentSizeBytes: SEGMENT_BYTES,
          postgresMajor: 17,
          startUs: progress?.startUs ?? 0n,
        },
      ],
    });
    await writeOnce(medium, tree.roundBegin(ARCHIVE_ROOT, SECOND), RoundBeginSchema, roundBegin);
    await medium[Symbol.asyncDispose]();
  }
});
