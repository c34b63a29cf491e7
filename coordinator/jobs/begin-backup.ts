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
import {
  type BackupSet,
  highestSet,
  insertSet,
  insertSetGroup,
  type NewSetSource,
  removeSet,
} from '../catalog/sets.ts';
import { type CoordinatorContext, type Transaction, write } from '../context.ts';
import { checkOwner, claimSet } from '../destination/claims.ts';
import { chooseBase, readUsableSets } from '../destination/increment-base.ts';
import type { SetReplica } from '../destination/publish.ts';
import { keySecrets, parseKeyRecord } from '../encryption/keys.ts';
import { parameterText } from '../parameters/values.ts';
import { advance } from './backup-parts.ts';
import { backupJobSpec } from './specs.ts';
import { syntheticBase } from './synthetic-backup.ts';
import { cancelTasks, sendCancel } from './task-care.ts';

const TASK_LIMIT_US = 86_400_000_000n;

/** J2: the set's id is claimed at the destination by its pg_list, then the set and its tasks become rows. */
export async function claimBackup(context: CoordinatorContext, job: Job, signal: AbortSignal): Promise<void> {
  const { catalog, root } = context;
  const spec = backupJobSpec.parse(job.spec);
  const medium = await context.destinations.open(context.secrets.decrypt(spec.destination), signal);
  await checkOwner(medium, context.deployment, signal); // below an unmounted share everything could be written
  const base =
    spec.mode === 'synthetic'
      ? await syntheticBase(context, job, medium, signal)
      : await copyBase(context, job, medium, signal);
  const { groups, replicas, source } = base;
  const listFor = (setId: bigint): PartitionGroupList =>
    create(PartitionGroupListSchema, {
      tenantId: job.tenant_id,
      tenantName: job.tenant_name,
      backupSetId: setId,
      fullSetId: base.fullSetId ?? setId,
      previousSetId: base.previousSetId,
      reason: base.fullReason,
      sourceSetId: source?.setId ?? 0n,
      sourceFullSetId: source?.fullSetId ?? 0n,
      deploymentUuid: context.deployment.deploymentUuid,
      epoch: context.epoch,
      createdUs: context.clock.nowUs(),
      replicas: [...replicas],
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
      source,
      tenantName: job.tenant_name,
      jobId: job.job_id,
      round: base.round,
      epoch: context.epoch,
      destination: spec.destination,
      displayDestination: spec.displayDestination,
      description: spec.description,
      plusArchivelog: spec.plusArchivelog,
      encryptionMode: spec.encryption?.mode,
      nowUs: tx.nowUs,
    });
    for (const [index, partitionGroup] of groups.entries()) {
      const taskId = await insertTask(tx, {
        jobId: job.job_id,
        kind: 'BACKUP',
        tenantId: job.tenant_id,
        partitionGroup,
        spec: { setId: String(setId), ordinal: index + 1, synthetic: source !== undefined },
        deadlineUs: tx.nowUs + TASK_LIMIT_US,
        nowUs: tx.nowUs,
      });
      await insertSetGroup(tx, {
        tenantId: job.tenant_id,
        setId,
        partitionGroup,
        taskId,
      });
    }
    await tx.event({
      module: 'backup',
      event: 'backup_started',
      tenantId: job.tenant_id,
      tenantName: job.tenant_name,
      message: `backup set ${setId} of tenant "${job.tenant_name}" has started`,
      facts: {
        job_id: job.job_id,
        backup_set_id: setId,
        previous_set_id: base.previousSetId,
        source_set_id: source?.setId ?? 0n,
      },
    });
    // The other reasons were told when they were found.
    if (base.fullReason !== '' && spec.fullReason === '') await tellBecameFull(tx, job, base.fullReason);
  });
}

/** What a set begins from. */
export type Base = {
  /** Undefined: the set will be a full one. */
  readonly fullSetId: bigint | undefined;
  readonly previousSetId: bigint;
  readonly fullReason: string;
  /** Of a synthetic full. */
  readonly source: NewSetSource | undefined;
  readonly round: bigint;
  readonly groups: readonly string[];
  readonly replicas: readonly SetReplica[];
};

/** From which set a backup of instances goes on; from none when it is a full one, or must be. */
async function copyBase(
  context: CoordinatorContext,
  job: Job,
  medium: Medium,
  signal: AbortSignal,
): Promise<Base> {
  const { catalog } = context;
  const { mode, fullReason, encryption, ...spec } = backupJobSpec.parse(job.spec);
  const round = BigInt(spec.round);
  const members = await requireMembers(catalog, job, round);
  const groups = members.map((group) => group.partition_group);
  const replicas = await replicasOf(context, job.tenant_id);
  const none = { fullSetId: undefined, previousSetId: 0n, source: undefined, round, groups, replicas };
  if (mode === 'full') return { ...none, fullReason };
  const sets = await readUsableSets(medium, context.root, job.tenant_id, signal);
  const maxAge = await parameterText(catalog, 'full_backup_max_age', job.tenant_id);
  const wanted = { round, groups, encrypted: encryption !== undefined };
  const base = chooseBase(sets, wanted, { nowUs: context.clock.nowUs(), maxAge });
  if (base.kind === 'full') return { ...none, fullReason: base.reason };
  try {
    const key = { tenantId: job.tenant_id, fullSetId: base.fullSetId, setId: base.setId };
    await unlockSet(medium, context.root, key, await keySecrets(context), signal);
  } catch (error) {
    if (!isError(error, 'BACKUP_INVALID_PASSWORD')) throw error;
    return { ...none, fullReason: `the backup that it would go on from cannot be read: ${error.message}` };
  }
  return { ...none, fullSetId: base.fullSetId, previousSetId: base.setId, fullReason: '' };
}

export async function replicasOf(
  context: CoordinatorContext,
  tenantId: bigint,
): Promise<readonly SetReplica[]> {
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

export async function tellBecameFull(
  tx: Transaction,
  job: Pick<Job, 'job_id' | 'tenant_id' | 'tenant_name'>,
  reason: string,
): Promise<void> {
  await tx.event({
    module: 'backup',
    event: 'backup_became_full',
    severity: 'WARNING',
    tenantId: job.tenant_id,
    tenantName: job.tenant_name,
    message: `the backup of tenant "${job.tenant_name}" is made a full one: ${reason}`,
    facts: { job_id: job.job_id },
  });
}
