/** The limits of running backups: how they are shared, and that agents are told. */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { shareOfLimit } from '../../../coordinator/jobs/copy-limits.ts';
import { parseLoadLimit, readLoadLimit } from '../../../coordinator/parameters/load-limit.ts';
import { CoordinatorInTest } from '../../support/coordinator-in-test.ts';
import { FakeAgent } from '../../support/fake-agent.ts';

const TIMEOUT_MS = 120_000;

test('a limit is shared evenly, and none is none for everyone', () => {
  expect(shareOfLimit(1000, 4)).toBe(250);
  expect(shareOfLimit(1000, 0)).toBe(1000);
  expect(shareOfLimit(2, 3)).toBe(1);
  expect(shareOfLimit(0, 3)).toBe(0);
});

describe('backup_load_limit', () => {
  test.each([
    ['0', '0', { commitLatencyMs: 0, ioWaitPercent: 0 }],
    [' 20ms ', '20ms', { commitLatencyMs: 20, ioWaitPercent: 0 }],
    ['40%', '40%', { commitLatencyMs: 0, ioWaitPercent: 40 }],
    ['1.5S, 12.5 %', '1.5s,12.5%', { commitLatencyMs: 1500, ioWaitPercent: 12.5 }],
    ['40%,20ms', '40%,20ms', { commitLatencyMs: 20, ioWaitPercent: 40 }],
    ['1%', '1%', { commitLatencyMs: 0, ioWaitPercent: 1 }],
  ])('takes %s', (value, stored, limit) => {
    expect(parseLoadLimit(value)).toBe(stored);
    expect(readLoadLimit(stored)).toEqual(limit);
  });

  test.each([
    '',
    '20',
    'much',
    '0%',
    '0.0001%',
    '0.99%',
    '101%',
    '20ms,30ms',
    '10%,20%',
    '20ms,',
    '2min',
    '-5ms',
    '20ms;40%',
  ])('refuses %j', (value) => expect(parseLoadLimit(value)).toBeUndefined());
});

describe('running backups', () => {
  let directory: string;
  let coordinator: CoordinatorInTest;
  let agent: FakeAgent;
  const hold = Promise.withResolvers<void>();

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'holdfast-limits-'));
    await mkdir(join(directory, 'dest'));
    coordinator = await CoordinatorInTest.start(join(directory, 'state'));
    agent = new FakeAgent({
      address: `127.0.0.1:${coordinator.port}`,
      tenant: 'orders',
      token: 'shared',
      groups: ['p0', 'p1'],
      holdBackup: hold.promise,
    });
    await coordinator.until('two leaders', async () => {
      const groups = await coordinator.view('dba_ob_partition_groups');
      return groups.filter((group) => group['role'] === 'LEADER').length === 2;
    });
    await coordinator.run({ kind: 'setParameter', name: 'backup_dest', value: `file://${directory}/dest` });
    await coordinator.run({ kind: 'archiveLog', tenants: 'all' });
    await coordinator.until('a round', async () => (await coordinator.roundState()) === 'DOING');
  }, TIMEOUT_MS);

  afterAll(async () => {
    await agent?.[Symbol.asyncDispose]();
    await coordinator?.[Symbol.asyncDispose]();
    await rm(directory, { recursive: true, force: true });
  });

  /** The last order of each task. */
  const orders = () =>
    [...new Map(agent.limitOrders.map((order) => [order.taskId, order.limits])).values()].map((limits) => ({
      net: limits?.netBytesPerSecond,
      commit: limits?.commitLatencyMs,
      io: limits?.ioWaitPercent,
    }));
  const areTold = async (net: bigint, commit: number, io: number) => {
    const wanted = JSON.stringify([net, commit, io].map(String));
    await coordinator.until(`limits ${wanted}`, async () => {
      const told = orders();
      return (
        told.length === 2 &&
        told.every((each) => JSON.stringify([each.net, each.commit, each.io].map(String)) === wanted)
      );
    });
  };

  test(
    'share the limit, and are told when it changes',
    async () => {
      await coordinator.run({ kind: 'setParameter', name: 'backup_net_limit', value: '1MB' });
      const backup = { kind: 'backup', tenants: 'all', plusArchivelog: false, mode: 'full' } as const;
      await coordinator.run({ ...backup, wait: false });
      await areTold(524_288n, 0, 0);
      const begun = agent.started.filter((task) => task.kind.case === 'backup');
      expect(begun).toHaveLength(2);
      await coordinator.run({ kind: 'setParameter', name: 'backup_net_limit', value: '4MB' });
      await areTold(2_097_152n, 0, 0);
      await coordinator.run({ kind: 'setParameter', name: 'backup_load_limit', value: '20ms, 40%' });
      await areTold(2_097_152n, 20, 40);
      const count = agent.limitOrders.length;
      agent.goAway();
      agent.comeBack();
      await coordinator.until('all again', async () => agent.limitOrders.length >= count + 2);
      await areTold(2_097_152n, 20, 40);
      hold.resolve();
      await coordinator.until('the end', async () => !(await coordinator.isBackingUp()));
    },
    TIMEOUT_MS,
  );
});
