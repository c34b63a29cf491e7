/**
 * A backup job, step by step (job-states.ts). The reconcile loop calls `stepBackup` again and again; each call does what
 * the job's state asks for, as far as it can be done now.
 */
import { HoldfastError, isError, toHoldfastError } from '../../foundation/errors.ts';
import { parseLsn } from '../../foundation/lsn.ts';
import { BackupResultSchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import type { PartitionGroupBackup } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { tree } from '../../storage-layout/tree.ts';
import { commentJob, errorOfRow, type Job, listTasks, type Task } from '../catalog/jobs.ts';
import { findRound, listRoundGroups, type RoundGroup } from '../catalog/rounds.ts';
import { abandonSet, type BackupSet, completeSet } from '../catalog/sets.ts';
import { listGroups } from '../catalog/tenants.ts';
import { type CoordinatorContext, write } from '../context.ts';
import { checkIsOnLineage } from '../destination/check-lineage.ts';
import { checkLogIsThere, publishBackup } from '../destination/publish.ts';
import { writeDataSummaries } from '../destination/summaries.ts';
import { advance, archiveTaskOf, askForFlush, askForSeals, setOf } from './backup-parts.ts';
import { becomeFull, claimBackup, replicasOf } from './begin-backup.ts';
import { BACKUP_TRANSITIONS, type BackupState } from './job-states.ts';
import { backupJobSpec } from './specs.ts';
import { step } from './state-machine.ts';
import { replicasOfSet } from './synthetic-backup.ts';
import { abandonCancelled, cancelTasks, isEnded, sendCancel } from './task-care.ts';
import { messageFromJson } from './task-results.ts';

export async function stepBackup(context: CoordinatorContext, job: Job, signal: AbortSignal): Promise<void> {
  const state = job.state as BackupState; // a BACKUP job's state
  if (job.cancel_requested && step(BACKUP_TRANSITIONS, state, 'cancel') !== undefined) {
    await beginCancel(context, job, state);
    return;
  }
  switch (state) {
    case 'PREPARE':
      await claimBackup(context, job, signal);
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

async function awaitCopies(context: CoordinatorContext, job: Job): Promise<void> {
  const { set, tasks } = await setOf(context, job);
  const there = await groupNames(context, job);
  const left = tasks.find((task) => !isEnded(task) && !there.has(task.partition_group));
  if (left !== undefined && !isSynthetic(set)) {
    await failBackup(context, job, hasLeft(left.partition_group));
    return;
  }
  const refused = tasks.find((task) => errorOfRow(task)?.code === 'FULL_BACKUP_NEEDED');
  if (refused?.state === 'FAILED') {
    await becomeFull(context, job, set, refused.error_message);
    return;
  }
  const ended = isSynthetic(set) ? undefined : await findEndedRound(context, job);
  if (ended !== undefined && !tasks.every(isEnded)) {
    await failBackup(context, job, ended);
    return;
  }
  const failed = tasks.find((task) => task.state === 'FAILED' || task.state === 'CANCELLED');
  if (failed !== undefined) {
    await failBackup(
      context,
      job,
      errorOfRow(failed) ?? new HoldfastError('BACKUP_FAILED', 'a task was cancelled'),
    );
    return;
  }
  await askForSeals(context, job, tasks);
  if (!tasks.every((task) => task.state === 'SUCCEEDED')) return;
  const deadlineUs = context.clock.nowUs() + BigInt(context.timing.logWaitTimeoutMs) * 1000n;
  await write(context, (tx) => advance(tx, job, 'copied', { deadlineUs }));
}

/** What is still being copied will need log that its round does not take any more. */
async function findEndedRound(context: CoordinatorContext, job: Job): Promise<HoldfastError | undefined> {
  const round = BigInt(backupJobSpec.parse(job.spec).round);
  const row = await findRound(context.catalog, job.tenant_id, round);
  if (row !== undefined && row.state !== 'STOP' && row.state !== 'INTERRUPTED') return undefined;
  return new HoldfastError(
    'LOG_ARCHIVE_INTERRUPTED',
    `round ${round} ended while the backup was made: ${row?.reason ?? 'it is gone'}`,
    { hint: 'Begin the backup again when a round is DOING: SELECT * FROM CDB_OB_BACKUP_ARCHIVELOG;' },
  );
}

async function groupNames(context: CoordinatorContext, job: Job): Promise<ReadonlySet<string>> {
  return new Set((await listGroups(context.catalog, job.tenant_id)).map((group) => group.partition_group));
}

function hasLeft(group: string): HoldfastError {
  return new HoldfastError(
    'BACKUP_FAILED',
    `partition group ${group} left the tenant while it was backed up: no agent declares it any more`,
    { hint: 'Begin the backup again: it takes the groups that the tenant has then.' },
  );
}

/** A set that lacks a group that joined before its end restores no instant at all. */
async function findNewcomer(
  context: CoordinatorContext,
  job: Job,
  backups: readonly PartitionGroupBackup[],
): Promise<HoldfastError | undefined> {
  const stopUs = backups.reduce((latest, backup) => (backup.stopUs > latest ? backup.stopUs : latest), 0n);
  const newcomer = (await listGroups(context.catalog, job.tenant_id)).find(
    (group) =>
      group.joined_us <= stopUs && !backups.some((backup) => backup.partitionGroup === group.partition_group),
  );
  if (newcomer === undefined) return undefined;
  return new HoldfastError(
    'BACKUP_FAILED',
    `partition group ${newcomer.partition_group} joined the tenant while it was backed up: the set would restore no instant`,
    { hint: 'Begin the backup again: it takes the new group in.' },
  );
}

/** J3: the log from each start to each stop must be at the destination, and no page may be newer than its stop. */
async function awaitLog(context: CoordinatorContext, job: Job, signal: AbortSignal): Promise<void> {
  const { catalog } = context;
  const spec = backupJobSpec.parse(job.spec);
  const { set, tasks } = await setOf(context, job);
  const backups = backupsOf(tasks);
  if (isSynthetic(set)) {
    const gap = await findLog(context, job, set, backups, signal);
    if (gap !== undefined) await failBackup(context, job, gap);
    return;
  }
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
  const newcomer = await findNewcomer(context, job, backups);
  if (newcomer !== undefined) {
    await failBackup(context, job, newcomer);
    return;
  }
  const waiting = backups.filter((backup) => !isArchived(backup, groups));
  const there = await groupNames(context, job);
  const left = waiting.find((backup) => !there.has(backup.partitionGroup));
  if (left !== undefined) {
    await failBackup(context, job, hasLeft(left.partitionGroup));
    return;
  }
  const row = await findRound(catalog, job.tenant_id, round);
  const ended = row === undefined || row.state === 'STOP' || row.state === 'INTERRUPTED';
  if (waiting.length > 0 && !ended) {
    for (const { partitionGroup, stop } of waiting)
      askForFlush(context, await archiveTaskOf(context, groups, partitionGroup), stop?.lsn ?? 0n, false);
    const comment = `waiting for the log of ${waiting.map((backup) => backup.partitionGroup).join(', ')}`;
    if (job.comment !== comment) await write(context, (tx) => commentJob(tx, job.job_id, comment));
    await failWhenLate(context, job, comment);
    return;
  }
  const gap = await findLog(context, job, set, backups, signal);
  if (gap === undefined) return;
  if (ended)
    await failBackup(context, job, new HoldfastError('LOG_ARCHIVE_INTERRUPTED', gap.message, { cause: gap }));
  else await failWhenLate(context, job, gap.message);
}

/** Reads the destination: goes on when all of the log is there, else says what is missing. */
async function findLog(
  context: CoordinatorContext,
  job: Job,
  set: BackupSet,
  backups: readonly PartitionGroupBackup[],
  signal: AbortSignal,
): Promise<HoldfastError | undefined> {
  const medium = await context.destinations.open(context.secrets.decrypt(set.destination), signal);
  if (await failWhenLeftBehind(context, job, set, medium, backups, signal)) return undefined;
  const key = { tenantId: job.tenant_id, round: set.round };
  try {
    for (const backup of backups) await checkLogIsThere(medium, context.root, key, backup, signal);
  } catch (error) {
    if (!isError(error, 'LOG_GAP')) throw error;
    return error;
  }
  await write(context, (tx) => advance(tx, job, 'covered', { comment: '' }));
  return undefined;
}

/** Made of what is at the destination, its log too: it waits for no server, and for no archiver. */
function isSynthetic(set: BackupSet): boolean {
  return set.backup_type === 'SYNTHETIC';
}

/** True when a failover has left the copied leader behind before the backup's end: nothing on the present history needs it. */
async function failWhenLeftBehind(
  context: CoordinatorContext,
  job: Job,
  set: BackupSet,
  medium: Medium,
  backups: readonly PartitionGroupBackup[],
  signal: AbortSignal,
): Promise<boolean> {
  const key = { tenantId: job.tenant_id, round: set.round };
  try {
    for (const backup of backups) await checkIsOnLineage(medium, context.root, key, backup, signal);
    return false;
  } catch (error) {
    if (!isError(error, 'LOG_ARCHIVE_LEADER_CHANGED')) throw error;
    await failBackup(context, job, error);
    return true;
  }
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

/** The parts of the set, as the agents reported them. */
function backupsOf(tasks: readonly Task[]): readonly PartitionGroupBackup[] {
  return tasks.flatMap((task) => messageFromJson(BackupResultSchema, task.result).backup ?? []);
}

async function publish(context: CoordinatorContext, job: Job, signal: AbortSignal): Promise<void> {
  const spec = backupJobSpec.parse(job.spec);
  const { set, tasks } = await setOf(context, job);
  const medium = await context.destinations.open(context.secrets.decrypt(spec.destination), signal);
  const backups = backupsOf(tasks);
  // What was published counts; what is not is looked at once more: the fork may have become known since.
  const setKey = { tenantId: set.tenant_id, fullSetId: set.full_set_id, setId: set.backup_set_id };
  const isPublished = (await medium.stat(tree.backupInfo(context.root, setKey), signal)) !== undefined;
  if (!isPublished && (await failWhenLeftBehind(context, job, set, medium, backups, signal))) return;
  const replicas = isSynthetic(set)
    ? await replicasOfSet(medium, context.root, setKey, signal)
    : await replicasOf(context, job.tenant_id);
  const info = await publishBackup(context, medium, { set, backups, replicas }, signal);
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
  const comment = [
    ...(info.reason === '' ? [] : [`a real full backup was made instead: ${info.reason}`]),
    ...(failures === 0 ? [] : [`${failures} pages failed their check: see tenant_diagnose_info and inspect`]),
  ].join('; ');
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
