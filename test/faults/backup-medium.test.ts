/**
 * Backups to a destination that fails. The copy is real: a real server, worker threads, macroblocks, an index. In the
 * parent thread and in the coordinator every call may fail as a seed says (faulty-medium.ts); workers, which open their own
 * medium, meet a full file system, a directory that is gone, a name that is taken, and the death of their thread. Meanwhile
 * backups are cancelled, agents restarted, coordinators restarted, some with a catalog that has lost what came last.
 * Whatever happens:
 *
 *  1. every set that has a backup_info is whole: digests right, every block readable and its own, log covered (J3);
 *  2. no set is shown as done that has no backup_info at the destination;
 *  3. what is written once, never changes: an id is never used a second time;
 *  4. a copy that fails leaves no session that holds a backup open at the server, and no thread.
 */
import { execFile } from 'node:child_process';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import type { Worker } from 'node:worker_threads';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { claimLeadership } from '../../coordinator/catalog/leadership.ts';
import { publishBackup } from '../../coordinator/destination/publish.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { tree } from '../../storage-layout/tree.ts';
import { ARCHIVE_ROOT, ARCHIVE_ROUND, startArchiver, writeMountFile } from '../support/archiver.ts';
import { BackupLife } from '../support/backup-life.ts';
import { backUp, GROUP, ROOT } from '../support/backup-task.ts';
import { CoordinatorInTest } from '../support/coordinator-in-test.ts';
import { LOG_BEGIN } from '../support/fake-heartbeat.ts';
import { FAULTS, type Fault, FaultyMedium, seededPlan } from '../support/faulty-medium.ts';
import { archivedInput, backUpArchived } from '../support/increments.ts';
import { createServer, makeTestDirectory, type TestServer } from '../support/postgres.ts';
import { verifyCopy } from '../support/published-sets.ts';
import { createRandom } from '../support/random.ts';

const SECONDS = Number(process.env['HOLDFAST_FAULT_SECONDS'] ?? 45);
const TENANT = 1001n;
const { signal } = new AbortController();

let server: TestServer;
let base: string;
const threads = new Set<Worker>();
const noteThread = (thread: Worker) => {
  threads.add(thread);
  thread.once('exit', () => threads.delete(thread));
};

beforeAll(async () => {
  process.on('worker', noteThread);
  server = await createServer({ walSegmentSizeMegabytes: 1, settings: { fsync: 'off', autovacuum: 'off' } });
  await server.query(
    'CREATE TABLE rows AS SELECT i, md5(i::text) || md5((i * 7)::text) AS filler FROM generate_series(1, 60000) i',
  );
  // The fake agent's log begins there.
  for (;;) {
    const [row] = await server.query<{ done: boolean }>(
      `SELECT pg_current_wal_lsn() > '0/${LOG_BEGIN.toString(16)}'::pg_lsn AS done`,
    );
    if (row?.done === true) break;
    await server.query("SELECT pg_logical_emit_message(false, 'x', 'x'), pg_switch_wal()");
  }
  base = await makeTestDirectory('backup-faults');
});
afterAll(async () => {
  process.off('worker', noteThread);
  await server?.[Symbol.asyncDispose]();
  await rm(base, { recursive: true, force: true });
});

/** Invariant 4. */
afterEach(async () => {
  const left = await server.query(
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'holdfast backup'",
  );
  expect({ sessions: left.length, threads: threads.size }).toEqual({ sessions: 0, threads: 0 });
});

/** One attempt of a backup, with names of its own, that waits for its destination a moment only. */
function attempt(destination: string, retry: number, more: Partial<Parameters<typeof backUp>[0]> = {}) {
  const ids = { retry, firstSubTaskId: retry * 1000 + 1, subTaskIdCount: 1000, metaTaskId: retry * 10 + 1 };
  const task = { ...ids, concurrency: 2, destinationWaitMs: 500 };
  return backUp({ port: server.port, destination, ...more, task: { ...task, ...more.task } });
}

describe('a copy whose destination fails in the parent thread', () => {
  test('fails with the reason, or is whole', async () => {
    const destination = join(base, 'parent');
    const key = { tenantId: 1n, fullSetId: 1n, setId: 1n };
    await failOften('copies', async (retry, open) => {
      const backup = await attempt(destination, retry, { openMedium: open });
      await using medium = await openMedium(`file://${destination}`);
      await verifyCopy(medium, ROOT, key, backup, signal);
    });
  });

  test('fails with the reason, or is whole, when it is an increment', async () => {
    const destination = join(base, 'parent-increments');
    await mkdir(destination);
    await writeMountFile(destination);
    const archiver = startArchiver({ port: server.port, destination, epoch: 1, fresh: true });
    const key = { tenantId: ARCHIVE_ROUND.tenantId, fullSetId: 1n, setId: 2n };
    try {
      await backUpArchived(server, destination, archiver, 1n);
      await failOften('increments', async (retry, open) => {
        await server.query(`UPDATE rows SET filler = filler || 'x' WHERE i % 500 = ${retry % 500}`);
        const input = archivedInput(server, destination, archiver, key.setId);
        const backup = await attempt(destination, retry, { ...input, openMedium: open });
        expect(backup.previousSetId).toBe(1n);
        await using medium = await openMedium(`file://${destination}`);
        await verifyCopy(medium, ARCHIVE_ROOT, key, backup, signal);
      });
    } finally {
      archiver.drain();
      await archiver.result;
    }
  });

  /** Copies over a medium that fails, many times. */
  async function failOften(
    what: string,
    copy: (retry: number, open: (uri: string) => Promise<Medium>) => Promise<void>,
  ): Promise<void> {
    const random = createRandom(`${what} over a failing medium`);
    const counts = new Map<Fault, number>();
    const found = { whole: 0, failed: 0 };
    const deadline = performance.now() + (SECONDS / 6) * 1000;
    for (let retry = 0; retry < 4 || performance.now() < deadline; retry += 1) {
      const plan = seededPlan(random, random.next() * 0.3, 5);
      try {
        await copy(retry, async (uri) => new FaultyMedium(await openMedium(uri), plan));
        found.whole += 1;
      } catch (error) {
        if (!(error instanceof HoldfastError)) throw error;
        const isDoneTwice = error.code === 'FILE_EXISTS' && (plan.counts.get('duplicate') ?? 0) > 0;
        if (!isDoneTwice && !error.code.startsWith('DESTINATION_')) throw error;
        found.failed += 1;
      }
      for (const [fault, count] of plan.counts) counts.set(fault, (counts.get(fault) ?? 0) + count);
    }
    report(`${found.whole} whole ${what}, ${found.failed} failed`, counts);
  }
});

describe('a copy whose destination fails for a moment in the parent thread', () => {
  test.each([
    ['where the control file', 'macro_block_1.'],
    ['where the index', 'macro_block_index_1'],
    ['where the meta file', 'meta_file_'],
    ['where the index of the meta file', 'meta_index_file_'],
  ])('%s is written: waits, and is whole', async (_, name) => {
    const destination = join(base, `moment-${name}`);
    const faults: Fault[] = ['tear', 'failAfter', 'full', 'failBefore'];
    const next = (_call: string, key: string) => {
      const fault = key.includes(name) ? faults.shift() : undefined;
      return fault === undefined ? undefined : { fault, delayMs: 0 };
    };
    const open = async (uri: string) => new FaultyMedium(await openMedium(uri), { next });
    const backup = await attempt(destination, 0, { openMedium: open, task: { destinationWaitMs: 30_000 } });
    expect(faults).toEqual([]);
    await using medium = await openMedium(`file://${destination}`);
    await verifyCopy(medium, ROOT, { tenantId: 1n, fullSetId: 1n, setId: 1n }, backup, signal);
  });
});

describe('a copy whose worker threads fail', () => {
  test('by the death of one: ends, and another attempt is whole', async () => {
    const destination = join(base, 'killed');
    const died = attempt(destination, 0, {
      task: { netLimitBytesPerSecond: 2_000_000n },
      report: ({ phase }) => {
        if (phase === 'COPY') void [...threads][0]?.terminate();
      },
    });
    await expect(died).rejects.toMatchObject({ code: 'INTERNAL' });
    await expectWhole(destination, 1);
  });

  test('because the destination is gone: says so, and another attempt is whole', async () => {
    const destination = join(base, 'gone');
    let moved: Promise<void> | undefined;
    const lost = attempt(destination, 0, {
      task: { netLimitBytesPerSecond: 2_000_000n, concurrency: 1 },
      report: ({ phase, macroblocksDone }) => {
        if (phase === 'COPY' && macroblocksDone > 0n) moved ??= rename(destination, `${destination}.away`);
      },
    });
    await expect(lost).rejects.toMatchObject({
      code: expect.stringMatching(/^(DESTINATION_|FILE_NOT_FOUND|INVALID_BACKUP_DEST)/),
    });
    await moved;
    await rename(`${destination}.away`, destination);
    await expectWhole(destination, 1);
  });

  test('because names are taken, by files or by what is no directory: overwrites nothing', async () => {
    const destination = join(base, 'taken');
    await expectWhole(destination, 0);
    await expect(attempt(destination, 0)).rejects.toMatchObject({ code: 'FILE_EXISTS' });
    await expectWhole(destination, 1);
    const other = join(base, 'blocked');
    const directory = join(other, tree.macroDirectory(ROOT, 1n, 1n, GROUP));
    await mkdir(dirname(directory), { recursive: true });
    await writeFile(directory, 'no directory');
    await expect(attempt(other, 0)).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  });

  test('because the file system is full: DESTINATION_FULL', async ({ skip }) => {
    const destination = join(base, 'full');
    await mkdir(destination);
    const run = promisify(execFile);
    const mounted = await run('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', destination]).then(
      () => true,
      () => false,
    );
    if (!mounted) skip('no right to mount');
    try {
      await expect(attempt(destination, 0)).rejects.toMatchObject({ code: 'DESTINATION_FULL' });
      await run('mount', ['-o', 'remount,size=200m', destination]);
      await expectWhole(destination, 1);
      await run('mount', ['-o', 'remount,ro', destination]);
      await expect(attempt(destination, 2)).rejects.toMatchObject({ code: 'DESTINATION_IO' });
    } finally {
      await run('umount', ['-l', destination]);
    }
  });

  async function expectWhole(destination: string, retry: number): Promise<void> {
    const backup = await attempt(destination, retry);
    await using medium = await openMedium(`file://${destination}`);
    await verifyCopy(medium, ROOT, { tenantId: 1n, fullSetId: 1n, setId: 1n }, backup, signal);
  }
});

describe('a coordinator', () => {
  test('that was replaced publishes nothing more', async () => {
    const destination = join(base, 'stale');
    await mkdir(destination);
    await using coordinator = await CoordinatorInTest.start(join(base, 'stale-state'));
    const { context } = coordinator;
    const set = {
      tenant_id: TENANT,
      backup_set_id: 1n,
      full_set_id: 1n,
      backup_type: 'FULL',
      previous_set_id: 0n,
      full_reason: '',
      source_set_id: 0n,
      source_full_set_id: 0n,
      pages_read_us: 0n,
      tenant_name: 'orders',
      job_id: 1n,
      state: 'DOING',
      round: 1n,
      epoch: context.epoch,
      destination: '',
      display_destination: '',
      description: '',
      start_us: 1n,
      encryption_mode: 'NONE',
    } as const;
    await using medium = await openMedium(`file://${destination}`);
    await context.catalog.transaction((tx) => claimLeadership(tx, 'another', context.clock.nowUs()));
    const late = publishBackup(context, medium, { set, backups: [], replicas: [] }, signal);
    await expect(late).rejects.toMatchObject({ code: 'BACKUP_IO_PROHIBITED' });
    const key = { tenantId: TENANT, fullSetId: 1n, setId: 1n };
    expect(await medium.stat(tree.backupInfo(context.root, key))).toBeUndefined();
  });

  test('over a failing medium publishes whole sets only, whoever is cancelled, restarted or robbed of its memory', async () => {
    const life = await BackupLife.begin(server, base, createRandom('publish over a failing medium'));
    await using _held = life;
    await life.refusesAnotherServersCopy();
    const deadline = performance.now() + SECONDS * 1000;
    const hasTime = (longerMs: number) => performance.now() < deadline + longerMs;
    // Chance may have it that no increment is published so soon.
    while (hasTime(0) || (life.increments === 0 && hasTime(60_000))) await life.liveThrough();
    report(life.summary(), life.counts);
    expect(life.published).toBeGreaterThan(0);
    expect(life.increments).toBeGreaterThan(0);
  });
});

function report(what: string, counts: ReadonlyMap<Fault, number>): void {
  const told = FAULTS.map((fault) => `${fault} ${counts.get(fault) ?? 0}`).join(', ');
  process.stderr.write(`${what}; faults: ${told}\n`);
}
