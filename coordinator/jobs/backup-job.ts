/**
 * A backup job, step by step (job-states.ts). The reconcile loop calls `stepBackup` again and again; each call does what
 * the job's state asks for, as far as it can be done now.
 */
import { create } from '@bufbuild/protobuf';
import { HoldfastError, isError, toHoldfastError } from '../../foundation/errors.ts';
import { parseLsn } from '../../foundation/lsn.ts';
import { BackupResultSchema, FlushLogSchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import {
  type PartitionGroupBackup,
  type PartitionGroupList,
  PartitionGroupListSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { listMembersOf } from '../agents/membership.ts';
import {
  commentJob,
  errorOfRow,
  findTask,
  insertTask,
  type Job,
  listTasks,
  moveJob,
  type Task,
} from '../catalog/jobs.ts';
import { findRound, listRoundGroups, type RoundGroup } from '../catalog/rounds.ts';
import { listServers } from '../catalog/servers.ts';
import {
  abandonSet,
  completeSet,
  findSetOfJob,
  highestSet,
  insertSet,
  insertSetGroup,
} from '../catalog/sets.ts';
import { listGroups } from '../catalog/tenants.ts';
import { type CoordinatorContext, type Transaction, write } from '../context.ts';
import { checkOwner, claimSet } from '../destination/claims.ts';
import { checkLogIsThere, publishBackup } from '../destination/publish.ts';
import { writeDataSummaries } from '../destination/summaries.ts';
import { BACKUP_TRANSITIONS, type BackupEvent, type BackupState } from './job-states.ts';
import { backupJobSpec } from './specs.ts';
import { step } from './state-machine.ts';
import { abandonCancelled, cancelTasks, isEnded, sendCancel } from './task-care.ts';
import { messageFromJson } from './task-results.ts';

const TASK_LIMIT_US = 86_400_000_000n;

export async function stepBackup(context: CoordinatorContext, job: Job, signal: AbortSignal): Promise<void> {
  const state = job.state as BackupState; // a BACKUP job's state
  if (job.cancel_requested && step(BACKUP_TRANSITIONS, state, 'cancel') !== undefined) {
    await beginCancel(context, job, state);
    return;
  }
  switch (state) {
    case 'PREPARE':
      await claim(context, job, signal);
      return;
    case 'DOING':
      await awaitCopies(context, job);
      return;
    case 'WAIT_LOG':
      await awaitLog(context, job, signal);
      return;
    case 'PUBLISH':
      await publish(context, job, signal);
      return;
    case 'CANCELLING':
      await finishCancel(context, job);
      return;
    case 'COMPLETED':
    case 'FAILED':
    case 'CANCELLED':
  }
}

/** J2: the set's id is claimed at the destination by its pg_list, then the set and its tasks become rows. */
async function claim(context: CoordinatorContext, job: Job, signal: AbortSignal): Promise<void> {
  const { catalog, root } = context;
  const spec = backupJobSpec.parse(job.spec);
  const medium = await context.destinations.open(context.secrets.decrypt(spec.destination), signal);
  await checkOwner(medium, context.deployment, signal); // below an unmounted share everything could be written
  const groups = await listGroups(catalog, job.tenant_id);
  const replicas = await replicasOf(context, job.tenant_id);
  const listFor = (setId: bigint): PartitionGroupList =>
    create(PartitionGroupListSchema, {
      tenantId: job.tenant_id,
      tenantName: job.tenant_name,
      backupSetId: setId,
      fullSetId: setId,
      deploymentUuid: context.deployment.deploymentUuid,
      epoch: context.epoch,
      createdUs: context.clock.nowUs(),
      replicas,
    });
  const highest = await highestSet(catalog, job.tenant_id);
  const setId = await claimSet(medium, root, job.tenant_id, highest, listFor, signal);
  await write(context, async (tx) => {
    if (!(await advance(tx, job, 'claimed'))) return; // cancelled meanwhile: the claim is garbage for the clean-up
    await insertSet(tx, {
      tenantId: job.tenant_id,
      setId,
      tenantName: job.tenant_name,
      jobId: job.job_id,
      round: BigInt(spec.round),
      epoch: context.epoch,
      destination: spec.destination,
      displayDestination: spec.displayDestination,
      description: spec.description,
      plusArchivelog: spec.plusArchivelog,
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
      facts: { job_id: job.job_id, backup_set_id: setId },
    });
  });
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

async function awaitCopies(context: CoordinatorContext, job: Job): Promise<void> {
  const tasks = await listTasks(context.catalog, job.job_id);
  const failed = tasks.find((task) => task.state === 'FAILED' || task.state === 'CANCELLED');
  if (failed !== undefined) {
    await failBackup(
      context,
      job,
      errorOfRow(failed) ?? new HoldfastError('BACKUP_FAILED', 'a task was cancelled'),
    );
    return;
  }
  if (!tasks.every((task) => task.state === 'SUCCEEDED')) return;
  const deadlineUs = context.clock.nowUs() + BigInt(context.timing.logWaitTimeoutMs) * 1000n;
  await write(context, (tx) => advance(tx, job, 'copied', { deadlineUs }));
}

/** J3: the log from each start to each stop must be at the destination, and no page may be newer than its stop. */
async function awaitLog(context: CoordinatorContext, job: Job, signal: AbortSignal): Promise<void> {
  const { catalog } = context;
  const spec = backupJobSpec.parse(job.spec);
  const backups = backupsOf(await listTasks(catalog, job.job_id));
  const tooNew = backups.find((backup) => backup.newestPageLsn > (backup.stop?.lsn ?? 0n));
  if (tooNew !== undefined) {
    const message = `partition group ${tooNew.partitionGroup} has a page newer than the end of the backup`;
    await failBackup(context, job, new HoldfastError('BACKUP_FAILED', message));
    return;
  }
  const round = BigInt(spec.round);
  const groups = await listRoundGroups(catalog, job.tenant_id, round);
  const stranger = backups.find((backup) => isOfAnother(backup, groups));
  if (stranger !== undefined) {
    const message = `partition group ${stranger.partitionGroup} was copied from system ${stranger.systemIdentifier}, whose log is not what round ${round} archives`;
    await failBackup(context, job, new HoldfastError('BACKUP_FAILED', message));
    return;
  }
  const waiting = backups.filter((backup) => !isArchived(backup, groups));
  const row = await findRound(catalog, job.tenant_id, round);
  const ended = row === undefined || row.state === 'STOP' || row.state === 'INTERRUPTED';
  if (waiting.length > 0 && !ended) {
    for (const backup of waiting) askForFlush(context, backup, await archiveTaskOf(context, groups, backup));
    const comment = `waiting for the log of ${waiting.map((backup) => backup.partitionGroup).join(', ')}`;
    if (job.comment !== comment) await write(context, (tx) => commentJob(tx, job.job_id, comment));
    await failWhenLate(context, job, comment);
    return;
  }
  const medium = await context.destinations.open(context.secrets.decrypt(spec.destination), signal);
  try {
    for (const backup of backups)
      await checkLogIsThere(medium, context.root, { tenantId: job.tenant_id, round }, backup, signal);
  } catch (error) {
    if (!isError(error, 'LOG_GAP')) throw error;
    if (ended)
      await failBackup(
        context,
        job,
        new HoldfastError('LOG_ARCHIVE_INTERRUPTED', error.message, { cause: error }),
      );
    else await failWhenLate(context, job, error.message);
    return;
  }
  await write(context, (tx) => advance(tx, job, 'covered', { comment: '' }));
}

async function failWhenLate(context: CoordinatorContext, job: Job, waitingFor: string): Promise<void> {
  if (job.deadline_us === 0n || context.clock.nowUs() < job.deadline_us) return;
  await failBackup(
    context,
    job,
    new HoldfastError('TIMEOUT', `the log was not archived in time: ${waitingFor}`),
  );
}

/** True when the copied server is not the one that is archived: equal positions say nothing then (correctness.md 13). */
function isOfAnother(backup: PartitionGroupBackup, groups: readonly RoundGroup[]): boolean {
  const group = groups.find((candidate) => candidate.partition_group === backup.partitionGroup);
  return group !== undefined && BigInt(group.system_identifier) !== backup.systemIdentifier;
}

/** What the archiver last reported: a reason to look at the destination, no proof. */
function isArchived(backup: PartitionGroupBackup, groups: readonly RoundGroup[]): boolean {
  const group = groups.find((candidate) => candidate.partition_group === backup.partitionGroup);
  if (group === undefined || group.checkpoint_lsn === null || backup.stop === undefined) return false;
  return (
    group.checkpoint_timeline > BigInt(backup.stop.timeline) ||
    (group.checkpoint_timeline === BigInt(backup.stop.timeline) &&
      parseLsn(group.checkpoint_lsn) >= backup.stop.lsn)
  );
}

async function archiveTaskOf(
  context: CoordinatorContext,
  groups: readonly RoundGroup[],
  backup: PartitionGroupBackup,
): Promise<Task | undefined> {
  const group = groups.find((candidate) => candidate.partition_group === backup.partitionGroup);
  return group === undefined ? undefined : await findTask(context.catalog, group.task_id);
}

function askForFlush(
  context: CoordinatorContext,
  backup: PartitionGroupBackup,
  task: Task | undefined,
): void {
  if (task?.state !== 'RUNNING' || backup.stop === undefined) return;
  context.hub.session(task.server_id)?.send({
    case: 'flushLog',
    value: create(FlushLogSchema, { taskId: task.task_id, attempt: task.attempt, lsn: backup.stop.lsn }),
  });
}

/** The parts of the set, as the agents reported them. */
function backupsOf(tasks: readonly Task[]): readonly PartitionGroupBackup[] {
  return tasks.flatMap((task) => messageFromJson(BackupResultSchema, task.result).backup ?? []);
}

async function publish(context: CoordinatorContext, job: Job, signal: AbortSignal): Promise<void> {
  const spec = backupJobSpec.parse(job.spec);
  const set = await findSetOfJob(context.catalog, job.job_id);
  if (set === undefined) throw new HoldfastError('INTERNAL', `job ${job.job_id} has no backup set`);
  const medium = await context.destinations.open(context.secrets.decrypt(spec.destination), signal);
  const backups = backupsOf(await listTasks(context.catalog, job.job_id));
  const info = await publishBackup(
    context,
    medium,
    { set, backups, replicas: await replicasOf(context, job.tenant_id) },
    signal,
  );
  if (info.epoch !== set.epoch) {
    await failBackup(
      context,
      job,
      new HoldfastError(
        'BACKUP_FAILED',
        `backup set ${set.backup_set_id} was published by another coordinator`,
      ),
    );
    return;
  }
  await writeDataSummaries(medium, context.root, job.tenant_id, signal).catch((error: unknown) =>
    context.logger.warn({ err: error }, 'the summaries of the backup sets could not be written'),
  );
  const failures = info.partitionGroups.reduce((sum, group) => sum + group.pageFailures.length, 0);
  const comment =
    failures === 0 ? '' : `${failures} pages failed their check: see tenant_diagnose_info and inspect`;
  await write(context, async (tx) => {
    await completeSet(tx, info, comment);
    if (!(await advance(tx, job, 'published', { comment }))) return;
    await tx.event({
      module: 'backup',
      event: 'backup_completed',
      severity: failures === 0 ? 'INFO' : 'WARNING',
      tenantId: job.tenant_id,
      tenantName: job.tenant_name,
      message: `backup set ${set.backup_set_id} of tenant "${job.tenant_name}" is COMPLETED`,
      facts: { job_id: job.job_id, backup_set_id: set.backup_set_id, page_failures: failures },
    });
  });
}

/** J4, J5: the job ends at once; its agents stop when they hear of it. */
export async function failBackup(context: CoordinatorContext, job: Job, error: HoldfastError): Promise<void> {
  const told = await write(context, async (tx) => {
    if (!(await advance(tx, job, 'fail', { error }))) return [];
    await abandonSet(tx, job.job_id, 'FAILED', `${error.code}: ${error.message}`, tx.nowUs);
    await tx.event({
      module: 'backup',
      event: 'backup_failed',
      severity: 'ERROR',
      tenantId: job.tenant_id,
      tenantName: job.tenant_name,
      message: `the backup of tenant "${job.tenant_name}" failed: ${error.code}: ${error.message}`,
      facts: { job_id: job.job_id },
    });
    return await cancelTasks(tx, job.job_id);
  });
  for (const task of told) sendCancel(context, task, 'the backup failed', false);
}

async function beginCancel(context: CoordinatorContext, job: Job, state: BackupState): Promise<void> {
  const told = await write(context, async (tx) => {
    const deadlineUs = tx.nowUs + BigInt(context.timing.stopTimeoutMs) * 1000n;
    return (await advance(tx, { ...job, state }, 'cancel', { deadlineUs }))
      ? await cancelTasks(tx, job.job_id)
      : [];
  });
  for (const task of told) sendCancel(context, task, 'CANCEL BACKUP', false);
}

async function finishCancel(context: CoordinatorContext, job: Job): Promise<void> {
  const tasks = await listTasks(context.catalog, job.job_id);
  if (!tasks.every(isEnded) && context.clock.nowUs() < job.deadline_us) return;
  await write(context, async (tx) => {
    await abandonCancelled(tx, job.job_id);
    const error = new HoldfastError('CANCELLED', 'the backup was cancelled');
    if (!(await advance(tx, job, 'stopped', { error }))) return;
    await abandonSet(tx, job.job_id, 'CANCELLED', 'cancelled', tx.nowUs);
    await tx.event({
      module: 'backup',
      event: 'backup_cancelled',
      tenantId: job.tenant_id,
      tenantName: job.tenant_name,
      message: `the backup of tenant "${job.tenant_name}" was cancelled`,
      facts: { job_id: job.job_id },
    });
  });
}

/** Moves the job along its table. False when the table or the row says no. */
async function advance(
  tx: Transaction,
  job: Job,
  event: BackupEvent,
  more: Parameters<typeof moveJob>[5] = {},
): Promise<boolean> {
  const state = job.state as BackupState; // a BACKUP job's state
  const next = step(BACKUP_TRANSITIONS, state, event);
  return next !== undefined && (await moveJob(tx, job.job_id, state, next, tx.nowUs, more));
}

/** Errors that end a step for good, by state. While agents copy, and past the commit point, only time may tell. */
const ENDING: Readonly<Partial<Record<BackupState, (failure: HoldfastError) => boolean>>> = {
  PREPARE: isLasting,
  WAIT_LOG: isLasting,
  PUBLISH: (failure) => ['BACKUP_FAILED', 'DATA_CORRUPT', 'FORMAT_UNKNOWN'].includes(failure.code),
};

/** INTERNAL is what the catalog's own troubles look like: they pass. */
function isLasting(failure: HoldfastError): boolean {
  return !failure.facts.retryable && failure.code !== 'INTERNAL' && failure.code !== 'CANCELLED';
}

/** A step that failed: it is tried again, until the deadline of PREPARE or WAIT_LOG, unless its error lasts. */
export async function handleBackupError(
  context: CoordinatorContext,
  job: Job,
  error: unknown,
): Promise<void> {
  const failure = toHoldfastError(error);
  const ending = ENDING[job.state as BackupState]; // a BACKUP job's state
  const late = job.deadline_us !== 0n && context.clock.nowUs() > job.deadline_us;
  const waits = job.state === 'PREPARE' || job.state === 'WAIT_LOG';
  if (ending?.(failure) === true || (waits && late)) {
    await failBackup(context, job, failure);
    return;
  }
  const comment = `${failure.code}: ${failure.message}`;
  if (job.comment !== comment) await write(context, (tx) => commentJob(tx, job.job_id, comment));
}
