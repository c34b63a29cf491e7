/** The beginning of a backup job: which set it makes, full or an increment of which other, and its claim at the destination. */
import { create } from '@bufbuild/protobuf';
import { isError } from '../../foundation/errors.ts';
import { type PartitionGroupList, PartitionGroupListSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { setKeyPlace, writeFirstRecord } from '../../storage-layout/encryption/key-records.ts';
import { unlockSet } from '../../storage-layout/encryption/unlock.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { listMembersOf } from '../agents/membership.ts';
import { requireMembers } from '../archive/require-members.ts';
import { insertTask, type Job } from '../catalog/jobs.ts';
import { listServers } from '../catalog/servers.ts';
import { type BackupSet, highestSet, insertSet, insertSetGroup, removeSet } from '../catalog/sets.ts';
import { listGroups } from '../catalog/tenants.ts';
import { type CoordinatorContext, type Transaction, write } from '../context.ts';
import { checkOwner, claimSet } from '../destination/claims.ts';
import { findBase } from '../destination/increment-base.ts';
import { keySecrets, parseKeyRecord } from '../encryption/keys.ts';
import { advance } from './backup-parts.ts';
import { backupJobSpec } from './specs.ts';
import { cancelTasks, sendCancel } from './task-care.ts';

const TASK_LIMIT_US = 86_400_000_000n;

/** J2: the set's id is claimed at the destination by its pg_list, then the set and its tasks become rows. */
export async function claimBackup(context: CoordinatorContext, job: Job, signal: AbortSignal): Promise<void> {
  const { catalog, root } = context;
  const spec = backupJobSpec.parse(job.spec);
  const medium = await context.destinations.open(context.secrets.decrypt(spec.destination), signal);
  await checkOwner(medium, context.deployment, signal); // below an unmounted share everything could be written
  const groups = await requireMembers(catalog, job, BigInt(spec.round));
  const replicas = await replicasOf(context, job.tenant_id);
  const base = await baseOf(context, job, medium, signal);
  const listFor = (setId: bigint): PartitionGroupList =>
    create(PartitionGroupListSchema, {
      tenantId: job.tenant_id,
      tenantName: job.tenant_name,
      backupSetId: setId,
      fullSetId: base.fullSetId ?? setId,
      previousSetId: base.previousSetId,
      reason: base.fullReason,
      deploymentUuid: context.deployment.deploymentUuid,
      epoch: context.epoch,
      createdUs: context.clock.nowUs(),
      replicas,
    });
  const highest = await highestSet(catalog, job.tenant_id);
  const setId = await claimSet(medium, root, job.tenant_id, highest, base.fullSetId, listFor, signal);
  const key = { tenantId: job.tenant_id, fullSetId: base.fullSetId ?? setId, setId };
  if (spec.encryption !== undefined)
    await writeFirstRecord(setKeyPlace(medium, root, key), parseKeyRecord(spec.encryption.record), signal);
  await write(context, async (tx) => {
    if (!(await advance(tx, job, 'claimed'))) return; // cancelled meanwhile: the claim is garbage for the clean-up
    await insertSet(tx, {
      tenantId: job.tenant_id,
      setId,
      fullSetId: base.fullSetId ?? setId,
      previousSetId: base.previousSetId,
      fullReason: base.fullReason,
      tenantName: job.tenant_name,
      jobId: job.job_id,
      round: BigInt(spec.round),
      epoch: context.epoch,
      destination: spec.destination,
      displayDestination: spec.displayDestination,
      description: spec.description,
      plusArchivelog: spec.plusArchivelog,
      encryptionMode: spec.encryption?.mode,
      nowUs: tx.nowUs,
    });
    for (const [index, group] of groups.entries()) {
      const taskId = await insertTask(tx, {
        jobId: job.job_id,
        kind: 'BACKUP',
        tenantId: job.tenant_id,
        partitionGroup: group.partition_group,
        spec: { setId: String(setId), ordinal: index + 1 },
        deadlineUs: tx.nowUs + TASK_LIMIT_US,
        nowUs: tx.nowUs,
      });
      await insertSetGroup(tx, {
        tenantId: job.tenant_id,
        setId,
        partitionGroup: group.partition_group,
        taskId,
      });
    }
    await tx.event({
      module: 'backup',
      event: 'backup_started',
      tenantId: job.tenant_id,
      tenantName: job.tenant_name,
      message: `backup set ${setId} of tenant "${job.tenant_name}" has started`,
      facts: { job_id: job.job_id, backup_set_id: setId, previous_set_id: base.previousSetId },
    });
    // The agents' reasons were told when they were found.
    if (base.fullReason !== '' && spec.fullReason === '') await tellBecameFull(tx, job, base.fullReason);
  });
}

type Base = {
  /** Undefined: the set will be a full one. */
  readonly fullSetId: bigint | undefined;
  readonly previousSetId: bigint;
  readonly fullReason: string;
};

/** From which set the backup goes on; from none when it is a full one, or must be. */
async function baseOf(
  context: CoordinatorContext,
  job: Job,
  medium: Medium,
  signal: AbortSignal,
): Promise<Base> {
  const { mode, round, fullReason, encryption } = backupJobSpec.parse(job.spec);
  const none = { fullSetId: undefined, previousSetId: 0n };
  if (mode === 'full') return { ...none, fullReason };
  const groups = (await listGroups(context.catalog, job.tenant_id)).map((group) => group.partition_group);
  const wanted = { round: BigInt(round), groups, encrypted: encryption !== undefined };
  const base = await findBase(medium, context.root, job.tenant_id, wanted, signal);
  if (base.kind === 'full') return { ...none, fullReason: base.reason };
  try {
    const key = { tenantId: job.tenant_id, fullSetId: base.fullSetId, setId: base.setId };
    await unlockSet(medium, context.root, key, await keySecrets(context), signal);
  } catch (error) {
    if (!isError(error, 'BACKUP_INVALID_PASSWORD')) throw error;
    return { ...none, fullReason: `the backup that it would go on from cannot be read: ${error.message}` };
  }
  return { fullSetId: base.fullSetId, previousSetId: base.setId, fullReason: '' };
}

export async function replicasOf(context: CoordinatorContext, tenantId: bigint) {
  const servers = await listServers(context.catalog);
  const instances = await listMembersOf(context.catalog, tenantId);
  return instances.map((instance) => {
    const server = servers.find((candidate) => candidate.server_id === instance.server_id);
    return {
      partitionGroup: instance.partition_group,
      serverId: instance.server_id,
      ip: server?.ip ?? '',
      port: server?.port ?? 0,
      instance: instance.instance,
      role: instance.role,
    };
  });
}

/** An agent found that no increment can be made: the job begins again, as a full backup. */
export async function becomeFull(
  context: CoordinatorContext,
  job: Job,
  set: BackupSet,
  reason: string,
): Promise<void> {
  const told = await write(context, async (tx) => {
    const spec = { ...backupJobSpec.parse(job.spec), mode: 'full', fullReason: reason };
    const deadlineUs = tx.nowUs + BigInt(context.timing.logWaitTimeoutMs) * 1000n;
    if (!(await advance(tx, job, 'becomeFull', { spec, deadlineUs }))) return [];
    await removeSet(tx, set);
    await tellBecameFull(tx, job, reason);
    return await cancelTasks(tx, job.job_id);
  });
  for (const task of told) sendCancel(context, task, 'a full backup is made instead', false);
}

async function tellBecameFull(tx: Transaction, job: Job, reason: string): Promise<void> {
  await tx.event({
    module: 'backup',
    event: 'backup_became_full',
    severity: 'WARNING',
    tenantId: job.tenant_id,
    tenantName: job.tenant_name,
    message: `the incremental backup of tenant "${job.tenant_name}" is made a full one: ${reason}`,
    facts: { job_id: job.job_id },
  });
}
