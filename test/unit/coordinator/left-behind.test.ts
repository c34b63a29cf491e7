/** A failover overtakes a backup: what ends on the history that was left is not published. */
import { mkdirSync, renameSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { formatLsn, toLsn, toTimeline } from '../../../foundation/lsn.ts';
import { LogFileWriter } from '../../../storage-layout/clog/writer.ts';
import { openMedium } from '../../../storage-layout/media/open.ts';
import { RECORD } from '../../../storage-layout/records/framing.ts';
import { writeBytesOnce } from '../../../storage-layout/records/info-file.ts';
import { tree } from '../../../storage-layout/tree.ts';
import { CoordinatorInTest } from '../../support/coordinator-in-test.ts';
import { FakeAgent } from '../../support/fake-agent.ts';
import { LOG_BEGIN } from '../../support/fake-heartbeat.ts';

const ROOT = { clusterName: 'c', clusterId: 1n };
const KEY = { tenantId: 1001n, round: 1n };
/** Between the start and the stop of what the fake agent copies. */
const FORK = toLsn(LOG_BEGIN + 0x150n);
const BACKUP = { kind: 'backup', mode: 'full', tenants: 'all', plusArchivelog: false, wait: true } as const;
const FILES = [tree.history(ROOT, KEY, 'p0', 2), tree.logData(ROOT, KEY, 'p0', 2n, 2n)];

let directory: string;
let coordinator: CoordinatorInTest;
let agent: FakeAgent;
/** Called before each call to the coordinator's medium. */
let onCall: (call: string, key: string) => void = () => undefined;

/** The new leader's first log and its history, made beside the destination. */
async function prepareFork(): Promise<void> {
  const medium = await openMedium(`file://${join(directory, 'prepared')}`);
  const history = Buffer.from(`1\t${formatLsn(FORK)}\tno recovery target specified\n`);
  await writeBytesOnce(medium, FILES[0] ?? '', RECORD.timelineHistory, history);
  const writer = await LogFileWriter.create(medium, ROOT, KEY, 'p0', {
    fileId: 2n,
    epoch: 2n,
    timeline: toTimeline(2),
    begin: FORK,
    segmentSizeBytes: 16 * 2 ** 20,
    systemIdentifier: 7_000_000_000_000_000_001n,
    compression: 'none',
  });
  await writer.appendBlock({ begin: FORK, data: [Buffer.alloc(0x1000, 9)] });
  await writer[Symbol.asyncDispose]();
  await medium[Symbol.asyncDispose]();
}

/** At once, as far as the coordinator can see. */
function fork(): void {
  for (const file of FILES) {
    const to = join(directory, 'destination', file);
    mkdirSync(dirname(to), { recursive: true });
    renameSync(join(directory, 'prepared', file), to);
  }
}

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-left-behind-'));
  for (const name of ['destination', 'prepared']) mkdirSync(join(directory, name));
  await prepareFork();
  coordinator = await CoordinatorInTest.start(join(directory, 'state'), {
    next(call, key) {
      onCall(call, key);
      return undefined;
    },
  });
  agent = new FakeAgent({ address: `127.0.0.1:${coordinator.port}`, tenant: 'orders', token: 'shared' });
  await coordinator.until('a leader', async () =>
    (await coordinator.view('dba_ob_partition_groups')).some((row) => row['role'] === 'LEADER'),
  );
  const value = `file://${join(directory, 'destination')}`;
  await coordinator.run({ kind: 'setParameter', name: 'backup_dest', value });
  await coordinator.run({ kind: 'archiveLog', tenants: 'all' });
  await coordinator.until('DOING', async () => (await coordinator.roundState()) === 'DOING');
}, 300_000);

afterEach(async () => {
  onCall = () => undefined;
  await agent[Symbol.asyncDispose]();
  await coordinator[Symbol.asyncDispose]();
  await rm(directory, { recursive: true });
}, 60_000);

const REFUSAL = {
  code: 'LOG_ARCHIVE_LEADER_CHANGED',
  message: expect.stringMatching(
    /ends at 0\/3000200 of timeline 1, which timeline 2 left at 0\/3000150/,
  ) as string,
  hint: expect.stringContaining('new leader') as string,
};

async function expectNothingPublished(): Promise<void> {
  expect(await coordinator.sets()).toMatchObject([{ status: 'FAILED', file_status: 'INCOMPLETE' }]);
  expect(await coordinator.view('cdb_ob_restore_windows')).toEqual([]);
  await using medium = await openMedium(`file://${join(directory, 'destination')}`);
  const info = tree.backupInfo(ROOT, { tenantId: 1001n, fullSetId: 1n, setId: 1n });
  expect(await medium.stat(info)).toBeUndefined();
}

describe('L5: a backup that was copied from a leader left behind fails by name', () => {
  test('when the fork is known before its log is looked for', async () => {
    const hold = Promise.withResolvers<void>();
    agent.options.holdBackup = hold.promise;
    const running = coordinator.run(BACKUP);
    const refused = expect(running).rejects.toMatchObject(REFUSAL);
    await coordinator.until('the task', async () =>
      agent.started.some((task) => task.kind.case === 'backup'),
    );
    fork();
    hold.resolve();
    await refused;
    await expectNothingPublished();
  }, 300_000);

  test('when the fork becomes known between that and the commit point', async () => {
    let isForked = false;
    onCall = (call, key) => {
      if (isForked || call !== 'stat' || !key.endsWith('/backup_info')) return;
      isForked = true;
      fork();
    };
    await expect(coordinator.run(BACKUP)).rejects.toMatchObject(REFUSAL);
    expect(isForked).toBe(true);
    await expectNothingPublished();
  }, 300_000);
});
