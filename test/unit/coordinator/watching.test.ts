/** What a coordinator tells, and orders, while an agent's round runs, and after it has ended. */
import { mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { findTenant } from '../../../coordinator/catalog/tenants.ts';
import { HoldfastError } from '../../../foundation/errors.ts';
import { DestinationReach } from '../../../proto/gen/holdfast/v1/agent_pb.ts';
import { CoordinatorInTest } from '../../support/coordinator-in-test.ts';
import { FakeAgent } from '../../support/fake-agent.ts';

const SLOT = /^holdfast_c_1_1001_p0$/;

let directory: string;
let coordinator: CoordinatorInTest;
let agent: FakeAgent;

async function eventsOf(name: string): Promise<Record<string, unknown>[]> {
  return (await coordinator.view('cdb_ob_event_history')).filter((row) => row['event'] === name);
}

async function told(name: string, times: number): Promise<Record<string, unknown>> {
  await coordinator.until(`${times} events ${name}`, async () => (await eventsOf(name)).length >= times);
  const events = await eventsOf(name);
  expect(events).toHaveLength(times);
  return events.at(-1) ?? {};
}

async function progress(): Promise<Record<string, unknown>> {
  return (await coordinator.view('cdb_ob_backup_archivelog_progress'))[0] ?? {};
}

async function member(): Promise<Record<string, unknown>> {
  return (await coordinator.view('dba_ob_partition_groups'))[0] ?? {};
}

async function roundIs(state: string, round = 1n): Promise<void> {
  await coordinator.until(`round ${round} that is ${state}`, async () => {
    const newest = await newestRound();
    return newest?.round === round && newest.state === state;
  });
}

async function newestRound(): Promise<{ readonly round: bigint; readonly state: string } | undefined> {
  const rows = await coordinator.context.catalog.query<{ round: bigint; state: string }>(
    'SELECT round, state FROM holdfast.rounds ORDER BY tenant_id DESC, round DESC LIMIT 1',
  );
  return rows[0];
}

/** The archiver's log has a hole: an attempt that begins meanwhile has it as well. */
async function interrupt(isSeen: () => Promise<boolean>): Promise<void> {
  await coordinator.until('the interruption', async () => {
    const task = agent.started.findLast((one) => one.kind.case === 'archive');
    await agent.fail(task?.taskId ?? 0n, new HoldfastError('LOG_GAP', 'log is gone'));
    return await isSeen();
  });
}

async function set(name: string, value: string): Promise<void> {
  await coordinator.run({ kind: 'setParameter', name, value });
}

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-watching-'));
  await mkdir(join(directory, 'dest'));
  coordinator = await CoordinatorInTest.start(join(directory, 'state'));
  agent = new FakeAgent({
    address: `127.0.0.1:${coordinator.port}`,
    tenant: 'orders',
    token: 'shared',
    instanceStatus: { maxSlotWalKeepSize: '4GB', idleReplicationSlotTimeout: '0' },
  });
  await coordinator.until(
    'the tenant',
    async () => (await findTenant(coordinator.context.catalog, 'orders')) !== undefined,
  );
  await set('backup_dest', `file://${directory}/dest`);
  await coordinator.run({ kind: 'archiveLog', tenants: 'all' });
  await roundIs('DOING');
}, 300_000);

afterAll(async () => {
  await agent[Symbol.asyncDispose]();
  await coordinator[Symbol.asyncDispose]();
  await rm(directory, { recursive: true });
});

describe('while a round runs', () => {
  test('a destination that goes away and comes back is told once each, and shown in between', async () => {
    const awayUs = BigInt(Date.now() - 60_000) * 1000n;
    agent.options.archiveProgress = {
      destination: DestinationReach.AWAY,
      destinationAwayUs: awayUs,
      lastError: 'DESTINATION_IO: gone',
    };
    expect(await told('destination_away', 1)).toMatchObject({ severity: 'WARNING' });
    expect((await progress())['destination_away_since']).not.toBeNull();
    agent.options.archiveProgress = { lastError: 'a new archiver' };
    await coordinator.until('its report', async () => (await progress())['last_error'] === 'a new archiver');
    expect((await progress())['destination_away_since']).not.toBeNull();
    agent.options.archiveProgress = { destination: DestinationReach.REACHED };
    const back = await told('destination_back', 1);
    expect(back['message']).toMatch(/out of reach for 6\d s/);
    expect((await progress())['destination_away_since']).toBeNull();
    expect(await eventsOf('destination_away')).toHaveLength(1);
  }, 120_000);

  test('a destination without which no archiver can begin is told as well', async () => {
    agent.goAway();
    await coordinator.until('the agent away', async () => coordinator.context.hub.session(1n) === undefined);
    await rename(join(directory, 'dest'), join(directory, 'gone'));
    await agent.forget();
    agent.options.archiveProgress = {};
    agent.comeBack();
    await told('destination_away', 2);
    expect((await progress())['destination_away_since']).not.toBeNull();
    await rename(join(directory, 'gone'), join(directory, 'dest'));
    agent.options.archiveProgress = { destination: DestinationReach.REACHED };
    await told('destination_back', 2);
  }, 120_000);

  test('a slot that the server is about to give up is told once', async () => {
    agent.options.archiveProgress = { slotState: 'reserved' };
    await coordinator.until('its slot', async () => (await progress())['slot_state'] === 'reserved');
    agent.options.archiveProgress = { slotState: 'unreserved' };
    expect(await told('slot_state_changed', 1)).toMatchObject({ severity: 'WARNING' });
    agent.options.archiveProgress = { slotState: 'reserved' };
    expect(await told('slot_state_changed', 2)).toMatchObject({ severity: 'INFO' });
  }, 120_000);

  test('a server, and a parameter, that no longer fit are told with the statement, and the round goes on', async () => {
    expect((await member())['max_slot_wal_keep_size']).toBe('4GB');
    expect((await member())['advice']).toBeNull();
    await set('log_archive_max_retained', '1GB');
    expect((await told('retention_wrong', 1))['message']).toMatch(
      /ALTER SYSTEM SET max_slot_wal_keep_size = '1GB'/,
    );
    expect((await member())['advice']).toMatch(/wanted a limit of at most 1GB/);
    expect((await progress())['comment']).toMatch(/wanted a limit of at most 1GB/);
    await set('backup_log_archive_option', 'MANDATORY');
    expect((await told('retention_wrong', 2))['message']).toMatch(/max_slot_wal_keep_size = -1/);
    agent.options.instanceStatus = { maxSlotWalKeepSize: '-1', idleReplicationSlotTimeout: '0' };
    await told('retention_mended', 1);
    expect((await member())['advice']).toBeNull();
    await set('backup_log_archive_option', 'OPTIONAL');
    await told('retention_wrong', 3);
    agent.options.instanceStatus = { maxSlotWalKeepSize: '1MB', idleReplicationSlotTimeout: '0' };
    await told('retention_mended', 2);
    expect((await newestRound())?.state).toBe('DOING');
  }, 120_000);

  test('what a lost agent told last is marked as stale; what its server no longer keeps is told once', async () => {
    expect(await progress()).toMatchObject({ stale: false, comment: '' });
    agent.options.archiveProgress = { backlogBytes: 2n ** 21n };
    await coordinator.until('its backlog', async () => (await progress())['backlog_bytes'] === 2 ** 21);
    agent.goAway();
    const event = await told('log_may_be_lost', 1);
    expect(event).toMatchObject({
      severity: 'ERROR',
      message: expect.stringMatching(
        /has written at least 2\.00MB since, and keeps 1\.00MB .*log may be lost/,
      ),
    });
    expect(await progress()).toMatchObject({
      stale: true,
      comment: expect.stringMatching(
        /agent of server 1 is lost: backlog, slot and free disk are as of 2\d.*may have given up log/,
      ),
    });
    agent.options.archiveProgress = {};
    agent.comeBack();
    await coordinator.until('the agent', async () => (await progress())['stale'] === false);
    await coordinator.until('its report', async () => (await progress())['comment'] === '');
    expect(await eventsOf('log_may_be_lost')).toHaveLength(1);
  }, 120_000);
});

describe('slots that nobody needs any more', () => {
  const drops = () => agent.slotOrders.filter(({ lsn }) => lsn === 0n);

  test('the leader keeps its own while a round runs, and while the next one follows by itself', async () => {
    expect(drops()).toEqual([]);
    await interrupt(async () => (await newestRound())?.state === 'INTERRUPTED');
    await roundIs('DOING', 2n);
    expect(drops()).toEqual([]);
  }, 120_000);

  test('after a hole, without a next round, they are dropped', async () => {
    await set('archive_auto_new_round', 'off');
    await interrupt(async () => (await newestRound())?.state === 'INTERRUPTED');
    await roundIs('INTERRUPTED', 2n);
    await coordinator.until('the order', async () => drops().length > 0);
    expect(drops()[0]).toMatchObject({ instance: 'main', slotName: expect.stringMatching(SLOT) });
  }, 120_000);

  test('of a dropped tenant they are owed until the agent has dropped them', async () => {
    const owed = () => coordinator.context.catalog.query('SELECT slot_name FROM holdfast.owed_slots');
    agent.goAway();
    await coordinator.until('the agent away', async () => coordinator.context.hub.session(1n) === undefined);
    agent.slotOrders.length = 0;
    await coordinator.run({ kind: 'dropTenant', tenant: 'orders', force: true });
    expect(await owed()).toEqual([{ slot_name: expect.stringMatching(SLOT) }]);
    agent.comeBack();
    await coordinator.until('the debt to be paid', async () => (await owed()).length === 0);
    expect(drops()[0]).toMatchObject({ instance: 'main', slotName: expect.stringMatching(SLOT) });
  }, 120_000);

  test('of an instance that its agent declares for another group they are owed as well', async () => {
    const owed = () => coordinator.context.catalog.query('SELECT slot_name FROM holdfast.owed_slots');
    await coordinator.run({ kind: 'archiveLog', tenants: 'all' });
    await roundIs('DOING');
    agent.goAway();
    await agent.forget();
    agent.slotOrders.length = 0;
    const other = new FakeAgent({ ...agent.options, partitionGroup: 'p1' });
    const dropped = () =>
      other.slotOrders.some(({ lsn, slotName }) => lsn === 0n && slotName === 'holdfast_c_1_1002_p0');
    try {
      await coordinator.until('the order', () => Promise.resolve(dropped()));
      await coordinator.until('the debt to be paid', async () => (await owed()).length === 0);
    } finally {
      await other[Symbol.asyncDispose]();
    }
  }, 120_000);

  test('on an instance that is declared no more they are told, with the statement', async () => {
    await using other = new FakeAgent({
      address: `127.0.0.1:${coordinator.port}`,
      tenant: 'orders',
      token: 'shared',
      instance: 'moved',
    });
    const event = await told('slot_left_behind', 1);
    expect(other.refusal).toBeUndefined();
    expect(event['message']).toMatch(
      /instance "main" of server 1 .*SELECT pg_drop_replication_slot\(slot_name\) .* = 'holdfast_c_1_1002_p1';/,
    );
  }, 120_000);
});
