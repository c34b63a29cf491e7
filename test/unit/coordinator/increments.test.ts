/** BACKUP INCREMENTAL at a whole coordinator, with an agent that copies nothing. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { HoldfastError } from '../../../foundation/errors.ts';
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
  tenant = await startTenant('increments', { archives: true });
  ({ directory, coordinator, agent } = tenant);
}, TIMEOUT_MS);

afterAll(async () => await tenant?.[Symbol.asyncDispose]());

async function row(setId: number): Promise<Record<string, unknown> | undefined> {
  return (await coordinator.sets()).find((each) => each['bs_key'] === setId);
}

test(
  'the first increment of a round is a full backup, the next goes on from it, in its full set',
  async () => {
    await coordinator.run({ ...BACKUP, mode: 'incremental' });
    expect(await row(1)).toMatchObject({
      backup_type: 'D',
      full_set_id: 1,
      prev_backup_set_id: null,
      full_reason: 'there is no backup set to go on from',
    });
    await coordinator.run({ ...BACKUP, mode: 'incremental' });
    const task = agent.started.findLast((one) => one.kind.case === 'backup');
    expect(task?.kind.value).toMatchObject({
      backupSetId: 2n,
      fullSetId: 1n,
      previousSetId: 1n,
      round: 1n,
    });
    expect(await row(2)).toMatchObject({
      status: 'SUCCESS',
      backup_type: 'I',
      full_set_id: 1,
      prev_backup_set_id: 1,
      full_reason: null,
    });
    await using medium = await openMedium(`file://${directory}/dest`);
    const key = tree.backupInfo(ROOT, { tenantId: TENANT, fullSetId: 1n, setId: 2n });
    expect(await readInfo(medium, key, BackupInfoSchema)).toMatchObject({
      previousSetId: 1n,
      type: BackupType.INCREMENTAL,
      reason: '',
    });
  },
  TIMEOUT_MS,
);

test(
  'an increment that its agent refuses becomes a full backup by itself, with the reason everywhere',
  async () => {
    const reason = 'page checksums were turned off since the backup before';
    agent.options.copy = async (task) => {
      if (task.previousSetId !== 0n) throw new HoldfastError('FULL_BACKUP_NEEDED', reason);
      return await fakeCopy(task);
    };
    await coordinator.run({ ...BACKUP, mode: 'incremental' });
    delete agent.options.copy;
    expect(await row(3)).toBeUndefined();
    expect(await row(4)).toMatchObject({
      backup_type: 'D',
      full_set_id: 4,
      prev_backup_set_id: null,
      full_reason: reason,
    });
    const jobs = await coordinator.view('cdb_ob_backup_jobs');
    expect(jobs.filter((job) => job['backup_set_id'] === 4)).toMatchObject([
      {
        status: 'COMPLETED',
        backup_type: 'FULL',
        full_reason: reason,
        comment: expect.stringContaining(reason) as string,
      },
    ]);
    const events = (await coordinator.view('cdb_ob_event_history')).filter(
      (event) => event['event'] === 'backup_became_full' && JSON.stringify(event).includes(reason),
    );
    expect(events).toHaveLength(1);
    await using medium = await openMedium(`file://${directory}/dest`);
    const key = { tenantId: TENANT, fullSetId: 4n, setId: 4n };
    expect(await readInfo(medium, tree.backupInfo(ROOT, key), BackupInfoSchema)).toMatchObject({
      previousSetId: 0n,
      type: BackupType.FULL,
      reason,
    });
    expect(await readInfo(medium, tree.pgList(ROOT, key), PartitionGroupListSchema)).toMatchObject({
      reason,
    });
  },
  TIMEOUT_MS,
);

test(
  'what was copied as something else than the set is not published',
  async () => {
    agent.options.copy = async (task) => ({ ...(await fakeCopy(task)), previousSetId: 1n });
    await expect(coordinator.run({ ...BACKUP, mode: 'incremental' })).rejects.toMatchObject({
      code: 'BACKUP_FAILED',
      message: expect.stringContaining('was copied as an increment of set 1') as string,
    });
    delete agent.options.copy;
    expect(await row(5)).toMatchObject({ status: 'FAILED' });
  },
  TIMEOUT_MS,
);

test(
  'a backup ends with its round: it would need log that is never archived',
  async () => {
    agent.options.holdBackup = Promise.withResolvers<void>().promise;
    const { wait: _, ...begin } = BACKUP;
    await coordinator.run({ ...begin, wait: false, mode: 'full' });
    await coordinator.until('its task', async () =>
      (await coordinator.view('cdb_ob_backup_progress')).some((job) => job['status'] === 'RUNNING'),
    );
    const archive = agent.started.findLast((one) => one.kind.case === 'archive');
    await agent.fail(archive?.taskId ?? 0n, new HoldfastError('LOG_GAP', 'the server has 0/3000200 no more'));
    const told = async () =>
      (await coordinator.view('cdb_ob_event_history')).find(
        (event) =>
          event['event'] === 'backup_failed' && String(event['message']).includes('LOG_ARCHIVE_INTERRUPTED'),
      );
    await coordinator.until('its end', async () => (await told()) !== undefined);
    delete agent.options.holdBackup;
    expect((await told())?.['message']).toMatch(/round 1 ended while the backup was made: .*0\/3000200/);
  },
  TIMEOUT_MS,
);
