/** BACKUP SYNTHETIC at a whole coordinator, with an agent that copies nothing. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  BackupInfoSchema,
  BackupType,
  PartitionGroupListSchema,
} from '../../../proto/gen/holdfast/v1/records_pb.ts';
import { openMedium } from '../../../storage-layout/media/open.ts';
import { readInfo } from '../../../storage-layout/records/info-file.ts';
import { tree } from '../../../storage-layout/tree.ts';
import type { CoordinatorInTest } from '../../support/coordinator-in-test.ts';
import { type FakeAgent, fakeCopy } from '../../support/fake-agent.ts';
import { startTenant, type TenantInTest } from '../../support/tenant-in-test.ts';

const ROOT = { clusterName: 'c', clusterId: 1n };
const TENANT = 1001n;
const BACKUP = { kind: 'backup', tenants: 'all', plusArchivelog: false, wait: true } as const;
const TIMEOUT_MS = 120_000;

let tenant: TenantInTest | undefined;
let directory: string;
let coordinator: CoordinatorInTest;
let agent: FakeAgent;

beforeAll(async () => {
  tenant = await startTenant('synthetic', { archives: true });
  ({ directory, coordinator, agent } = tenant);
}, TIMEOUT_MS);

afterAll(async () => await tenant?.[Symbol.asyncDispose]());

async function row(setId: number): Promise<Record<string, unknown> | undefined> {
  return (await coordinator.sets()).find((each) => each['bs_key'] === setId);
}

async function newestSet(): Promise<Record<string, unknown> | undefined> {
  return (await coordinator.sets()).toSorted((a, b) => Number(a['bs_key']) - Number(b['bs_key'])).at(-1);
}

test(
  'is refused by name while there is no complete set',
  async () => {
    await expect(coordinator.run({ ...BACKUP, mode: 'synthetic' })).rejects.toMatchObject({
      code: 'SYNTHETIC_BACKUP_REFUSED',
      message: expect.stringContaining('no complete backup set') as string,
    });
  },
  TIMEOUT_MS,
);

test(
  'makes a full set of the last increment, and the next increment goes on from it',
  async () => {
    await coordinator.run({ ...BACKUP, mode: 'full' });
    await coordinator.run({ ...BACKUP, mode: 'incremental' });
    const checks = agent.started.filter((one) => one.kind.case === 'check').length;
    await coordinator.run({ ...BACKUP, mode: 'synthetic' });
    expect(agent.started.filter((one) => one.kind.case === 'check')).toHaveLength(checks);
    const task = agent.started.findLast((one) => one.kind.case === 'backup');
    expect(task?.kind.value).toMatchObject({
      backupSetId: 3n,
      fullSetId: 3n,
      previousSetId: 0n,
      sourceSetId: 2n,
      sourceFullSetId: 1n,
      instance: '',
    });
    expect(await row(3)).toMatchObject({
      status: 'SUCCESS',
      backup_type: 'S',
      full_set_id: 3,
      prev_backup_set_id: null,
      source_backup_set_id: 2,
      input_bytes: 0,
    });
    await using medium = await openMedium(`file://${directory}/dest`);
    const full = { tenantId: TENANT, fullSetId: 1n, setId: 1n };
    const { startUs } = await readInfo(medium, tree.backupInfo(ROOT, full), BackupInfoSchema);
    const key = { tenantId: TENANT, fullSetId: 3n, setId: 3n };
    expect(await readInfo(medium, tree.backupInfo(ROOT, key), BackupInfoSchema)).toMatchObject({
      type: BackupType.SYNTHETIC,
      round: 1n,
      previousSetId: 0n,
      sourceSetId: 2n,
      sourceFullSetId: 1n,
      pagesReadUs: startUs,
    });
    expect(await readInfo(medium, tree.pgList(ROOT, key), PartitionGroupListSchema)).toMatchObject({
      sourceSetId: 2n,
      sourceFullSetId: 1n,
      replicas: [{ partitionGroup: 'p0', role: 'PRIMARY' }],
    });
    await coordinator.run({ ...BACKUP, mode: 'incremental' });
    expect(await row(4)).toMatchObject({ backup_type: 'I', full_set_id: 3, prev_backup_set_id: 3 });
  },
  TIMEOUT_MS,
);

test(
  'needs no running round, and no server',
  async () => {
    await coordinator.run({ kind: 'noArchiveLog', tenants: 'all' });
    await coordinator.until('the end of the round', async () => (await coordinator.roundState()) === 'STOP');
    await coordinator.run({ ...BACKUP, mode: 'synthetic' });
    expect(await row(5)).toMatchObject({ status: 'SUCCESS', backup_type: 'S', log_archive_round: 1 });
    await coordinator.run({ kind: 'archiveLog', tenants: 'all' });
    await coordinator.until('a round', async () => (await coordinator.roundState()) === 'DOING');
  },
  TIMEOUT_MS,
);

test(
  'is not published when it was made of another set',
  async () => {
    agent.options.copy = async (task) => ({ ...(await fakeCopy(task)), sourceSetId: 1n });
    await expect(coordinator.run({ ...BACKUP, mode: 'synthetic' })).rejects.toMatchObject({
      code: 'BACKUP_FAILED',
      message: expect.stringContaining('was made of set 1') as string,
    });
    delete agent.options.copy;
    expect(await row(6)).toMatchObject({ status: 'FAILED' });
  },
  TIMEOUT_MS,
);

test(
  'is refused while a page of the last set has failed its check',
  async () => {
    agent.options.copy = async (task) => ({
      ...(await fakeCopy(task)),
      pageFailures: [
        { $typeName: 'holdfast.v1.PageFailure', path: 'base/5/1259', block: 7, reason: 'wrong checksum' },
      ],
    });
    await coordinator.run({ ...BACKUP, mode: 'full' });
    delete agent.options.copy;
    await expect(coordinator.run({ ...BACKUP, mode: 'synthetic' })).rejects.toMatchObject({
      code: 'SYNTHETIC_BACKUP_REFUSED',
      message: expect.stringContaining('block 7 of base/5/1259') as string,
    });
    await coordinator.run({ ...BACKUP, mode: 'incremental' });
    await coordinator.run({ ...BACKUP, mode: 'synthetic' });
    expect(await newestSet()).toMatchObject({ status: 'SUCCESS', backup_type: 'S' });
  },
  TIMEOUT_MS,
);

test(
  'becomes a real full backup, with the reason, when every page was last read too long ago',
  async () => {
    await coordinator.run({ kind: 'setParameter', name: 'full_backup_max_age', value: '1ms' });
    await coordinator.run({ ...BACKUP, mode: 'synthetic' });
    const reason = expect.stringContaining('longer than full_backup_max_age (1ms) ago') as string;
    expect(await newestSet()).toMatchObject({ status: 'SUCCESS', backup_type: 'D', full_reason: reason });
    const events = await coordinator.view('cdb_ob_event_history');
    expect(events.filter((event) => event['event'] === 'backup_became_full')).toHaveLength(1);
  },
  TIMEOUT_MS,
);
