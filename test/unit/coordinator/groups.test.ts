/** Partition groups that join a running round and leave it: the coordinator's part, with an agent without a database. */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { executeCommand } from '../../../coordinator/commands/execute.ts';
import { createSession } from '../../../coordinator/sql/session.ts';
import type { AdminStatement } from '../../../coordinator/sql/statements.ts';
import {
  BackupInfoSchema,
  RoundBeginSchema,
  RoundMemberJoinedSchema,
  TenantInfoListSchema,
} from '../../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../../../storage-layout/media/medium.ts';
import { openMedium } from '../../../storage-layout/media/open.ts';
import { readMembers } from '../../../storage-layout/plan/read-members.ts';
import { readInfo, writeOnce } from '../../../storage-layout/records/info-file.ts';
import { tree } from '../../../storage-layout/tree.ts';
import { CoordinatorInTest } from '../../support/coordinator-in-test.ts';
import { FakeAgent } from '../../support/fake-agent.ts';

const { signal } = new AbortController();
const ROOT = { clusterName: 'c', clusterId: 1n };
const KEY = { tenantId: 1001n, round: 1n };
const BACKUP = { kind: 'backup', mode: 'full', tenants: 'all', plusArchivelog: false, wait: true } as const;

let directory: string;
let medium: Medium;
let coordinator: CoordinatorInTest;
let agent: FakeAgent;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-groups-'));
  medium = await openMedium(`file://${directory}`);
  coordinator = await CoordinatorInTest.start(join(directory, '.state'));
  agent = new FakeAgent({
    address: `127.0.0.1:${coordinator.port}`,
    tenant: 'orders',
    token: 'shared',
    groups: ['p0', 'p1'],
  });
  await coordinator.until('two leaders', async () => (await groups()).length === 2);
  await coordinator.run({ kind: 'setParameter', name: 'backup_dest', value: `file://${directory}` });
  await coordinator.run({ kind: 'archiveLog', tenants: 'all' });
  await coordinator.until('DOING', async () => (await coordinator.roundState()) === 'DOING');
}, 300_000);

afterAll(async () => {
  await agent[Symbol.asyncDispose]();
  await coordinator[Symbol.asyncDispose]();
  await medium[Symbol.asyncDispose]();
  await rm(directory, { recursive: true });
});

async function groups(): Promise<readonly string[]> {
  return (await coordinator.view('dba_ob_partition_groups'))
    .filter((row) => row['role'] === 'LEADER')
    .map((row) => String(row['partition_group']));
}

/** As an agent whose configuration was changed does. */
async function declare(...names: readonly string[]): Promise<void> {
  agent.goAway();
  await agent.forget();
  agent.options.groups = names;
  agent.comeBack();
}

async function rows(statement: AdminStatement) {
  const found: unknown[][] = [];
  for await (const event of executeCommand(coordinator.context, statement, createSession('root'), signal))
    if (event.kind === 'row') found.push([...event.values]);
  return found;
}

async function members() {
  const begin = await readInfo(medium, tree.roundBegin(ROOT, KEY), RoundBeginSchema);
  return await readMembers(medium, ROOT, KEY, begin);
}

async function progress(name: string) {
  return (await coordinator.view('cdb_ob_backup_archivelog_progress')).find(
    (row) => row['partition_group'] === name,
  );
}

async function setGroups(setId: bigint): Promise<readonly string[]> {
  const key = { tenantId: 1001n, fullSetId: setId, setId };
  const info = await readInfo(medium, tree.backupInfo(ROOT, key), BackupInfoSchema);
  return info.partitionGroups.map(({ partitionGroup }) => partitionGroup).sort();
}

async function tenantInfo() {
  const list = await readInfo(medium, tree.tenantInfo(ROOT), TenantInfoListSchema);
  return list.tenants[0]?.partitionGroups.map(({ name, leftUs }) => `${name}${leftUs === 0n ? '' : ' left'}`);
}

/** Fails with what the job failed with, or waits for. */
async function backUp(): Promise<void> {
  await coordinator.run({ ...BACKUP, wait: false });
  await coordinator.until('the end of the backup', async () => {
    const [job] = await coordinator.context.catalog.query<{ state: string; error_message: string }>(
      "SELECT state, error_message FROM holdfast.jobs WHERE kind = 'BACKUP' ORDER BY job_id DESC LIMIT 1",
    );
    if (job?.state === 'FAILED') throw new Error(job.error_message);
    return job?.state === 'COMPLETED';
  });
}

/** `RESTORABLE 1,2` or `HOLE <why>`, of SHOW RESTORE WINDOWS and of the view. */
async function windows() {
  const shown = (await rows({ kind: 'showRestoreWindows' })).map((row) =>
    row[2] === 'HOLE' ? `HOLE ${String(row[8])}` : `${String(row[2])} ${String(row[6])}`,
  );
  const viewed = (await coordinator.view('cdb_ob_restore_windows')).map((row) =>
    row['status'] === 'HOLE'
      ? `HOLE ${String(row['comment'])}`
      : `RESTORABLE ${[...new Set([row['first_backup_set_id'], row['last_backup_set_id']])].join(',')}`,
  );
  return { shown, viewed: viewed.sort((a, b) => (a > b ? -1 : 1)) };
}

describe('partition groups of a running round', () => {
  test('all that are there when it begins are in round_begin, and a backup holds them', async () => {
    await backUp();
    expect(await setGroups(1n)).toEqual(['p0', 'p1']);
    expect(await members()).toMatchObject([
      { partitionGroup: 'p0', joinedUs: 0n, leftUs: 0n },
      { partitionGroup: 'p1', joinedUs: 0n, leftUs: 0n },
    ]);
    expect(await tenantInfo()).toEqual(['p0', 'p1']);
  }, 300_000);

  test('R7: one that joins is recorded before it has a task, and a backup says what it waits for', async () => {
    agent.options.silent = ['p2'];
    await declare('p0', 'p1', 'p2');
    await coordinator.until('the task', async () =>
      agent.started.some((task) => task.kind.case === 'archive' && task.kind.value.partitionGroup === 'p2'),
    );
    expect((await members())[2]).toMatchObject({ partitionGroup: 'p2', membership: 1, start: undefined });
    expect(await tenantInfo()).toEqual(['p0', 'p1', 'p2']);
    expect(await coordinator.roundState()).toBe('DOING');
    expect(await progress('p2')).toMatchObject({ status: 'BEGINNING', start_lsn: null });
    await expect(coordinator.run(BACKUP)).rejects.toMatchObject({
      code: 'BACKUP_CAN_NOT_START',
      message: expect.stringContaining('partition group p2'),
      detail: expect.stringMatching(/^p2 waits for /),
      hint: expect.stringContaining('CDB_OB_BACKUP_ARCHIVELOG_PROGRESS'),
    });
    // What follows the joining is not restorable from a set without it.
    await coordinator.until('the hole', async () => (await windows()).viewed.length === 2);
    const { shown, viewed } = await windows();
    expect(shown).toEqual([
      'RESTORABLE 1',
      expect.stringMatching(/^HOLE partition group p2 joined at .*full backup$/),
    ]);
    expect(viewed).toEqual([
      'RESTORABLE 1',
      expect.stringMatching(/^HOLE partition group p2 joined at .*full backup$/),
    ]);
  }, 300_000);

  test('R5, R8: with its own start it is in the round, whose start stays, and the next backup holds it in full', async () => {
    const [before] = await coordinator.view('cdb_ob_backup_archivelog');
    agent.options.silent = [];
    await coordinator.until('the start', async () => (await progress('p2'))?.['status'] === 'DOING');
    expect((await members())[2]).toMatchObject({
      partitionGroup: 'p2',
      start: { partitionGroup: 'p2', start: { timeline: 1 } },
    });
    await backUp();
    expect(await setGroups(2n)).toEqual(['p0', 'p1', 'p2']);
    const [after] = await coordinator.view('cdb_ob_backup_archivelog');
    expect(after).toMatchObject({
      log_archive_round: 1,
      status: 'DOING',
      partition_group_count: 3,
      min_first_time: before?.['min_first_time'],
    });
    expect(String(after?.['checkpoint_time']) >= String(before?.['checkpoint_time'])).toBe(true);
    const { shown, viewed } = await windows();
    const hole = expect.stringMatching(/^HOLE partition group p2 joined at /) as unknown;
    expect(shown).toEqual(['RESTORABLE 1', hole, 'RESTORABLE 2']);
    expect(viewed).toEqual(['RESTORABLE 2', 'RESTORABLE 1', hole]);
  }, 300_000);

  test('an agent that is away takes nothing with it; one that comes back without a group does', async () => {
    agent.goAway();
    await coordinator.until('the loss of the agent', async () =>
      (await coordinator.view('dba_ob_servers')).every((row) => row['status'] === 'INACTIVE'),
    );
    expect(await tenantInfo()).toEqual(['p0', 'p1', 'p2']);
    expect((await members()).every(({ leftUs }) => leftUs === 0n)).toBe(true);
    await declare('p0', 'p2');
    await coordinator.until('the end of the membership', async () => (await members())[1]?.leftUs !== 0n);
    await coordinator.until('two groups in the round', async () => {
      const [row] = await coordinator.view('cdb_ob_backup_archivelog');
      return row?.['partition_group_count'] === 2;
    });
    expect(await tenantInfo()).toEqual(['p0', 'p1 left', 'p2']);
    expect(await coordinator.roundState()).toBe('DOING');
    await coordinator.until('the others', async () => (await progress('p2'))?.['waiting_for'] === '');
    await backUp();
    expect(await setGroups(3n)).toEqual(['p0', 'p2']);
    // Set 2 goes on without the one that left (the agent's log says no times, so the destination knows the stops only).
    const { shown, viewed } = await windows();
    expect(shown.at(-1)).toBe('RESTORABLE 3');
    expect(viewed).toContain('RESTORABLE 2,3');
  }, 300_000);

  test('one that joins again begins another membership, and the one before is kept', async () => {
    await declare('p0', 'p1', 'p2');
    await coordinator.until('the second membership', async () =>
      (await members()).some(({ membership, start }) => membership === 2 && start !== undefined),
    );
    const [, first, second] = await members();
    expect([first?.partitionGroup, second?.partitionGroup, second?.leftUs]).toEqual(['p1', 'p1', 0n]);
    expect(second?.joinedUs).toBeGreaterThan(first?.leftUs ?? 0n);
    expect(await tenantInfo()).toEqual(['p0', 'p1 left', 'p1', 'p2']);
    await coordinator.until('the start', async () => (await progress('p1'))?.['status'] === 'DOING');
    await backUp();
    expect(await setGroups(4n)).toEqual(['p0', 'p1', 'p2']);
  }, 300_000);

  test('R7: a coordinator that was killed between a record and its row goes on from the record', async () => {
    const joinedUs = BigInt(Date.now()) * 1000n - 5_000_000n;
    const record = { ...KEY, partitionGroup: 'p3', membership: 1, joinedUs };
    const path = tree.memberJoined(ROOT, KEY, 'p3', 1);
    await writeOnce(medium, path, RoundMemberJoinedSchema, create(RoundMemberJoinedSchema, record));
    await declare('p0', 'p1', 'p2', 'p3');
    await coordinator.until('the start', async () => (await progress('p3'))?.['status'] === 'DOING');
    expect((await members()).at(-1)).toMatchObject({ partitionGroup: 'p3', joinedUs, leftUs: 0n });
    const stored = await coordinator.context.catalog.query(
      "SELECT joined_us, begun FROM holdfast.round_members WHERE partition_group = 'p3'",
    );
    expect(stored).toEqual([{ joined_us: joinedUs, begun: true }]);
    expect((await readdir(join(directory, tree.memberDirectory(ROOT, KEY, 'p3')))).sort()).toEqual([
      '1.begin',
      '1.joined',
    ]);
  }, 300_000);

  test('a catalog that has lost its last minutes learns from the destination who is a member', async () => {
    const { port } = coordinator;
    await coordinator.context.catalog.transaction(async (tx) => {
      await tx.query("DELETE FROM holdfast.round_members WHERE partition_group = 'p3'");
      await tx.query("UPDATE holdfast.round_members SET left_us = 0 WHERE partition_group = 'p1'");
    });
    const before = await members();
    await coordinator[Symbol.asyncDispose]();
    coordinator = await CoordinatorInTest.start(join(directory, '.state'), undefined, port);
    await coordinator.until('what the destination says', async () => {
      const found = await coordinator.context.catalog.query<{ partition_group: string; left_us: bigint }>(
        'SELECT partition_group, left_us FROM holdfast.round_members ORDER BY partition_group, membership',
      );
      return (
        found.map((row) => `${row.partition_group} ${row.left_us}`).join() ===
        before.map((member) => `${member.partitionGroup} ${member.leftUs}`).join()
      );
    });
    expect(await members()).toEqual(before);
  }, 300_000);
});
