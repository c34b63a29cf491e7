/** What the steps of a backup job share. */
import { create } from '@bufbuild/protobuf';
import { HoldfastError } from '../../foundation/errors.ts';
import { BackupProgressSchema, FlushLogSchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { findTask, type Job, listTasks, moveJob, type Task } from '../catalog/jobs.ts';
import { listRoundGroups, type RoundGroup } from '../catalog/rounds.ts';
import { type BackupSet, findSetOfJob } from '../catalog/sets.ts';
import type { CoordinatorContext, Transaction } from '../context.ts';
import { BACKUP_TRANSITIONS, type BackupEvent, type BackupState } from './job-states.ts';
import { backupJobSpec, backupTaskSpec } from './specs.ts';
import { step } from './state-machine.ts';
import { messageFromJson } from './task-results.ts';

/** Moves the job along its table. False when the table or the row says no. */
export async function advance(
  tx: Transaction,
  job: Job,
  event: BackupEvent,
  more: Parameters<typeof moveJob>[5] = {},
): Promise<boolean> {
  const state = job.state as BackupState; // a BACKUP job's state
  const next = step(BACKUP_TRANSITIONS, state, event);
  return next !== undefined && (await moveJob(tx, job.job_id, state, next, tx.nowUs, more));
}

/** The set that the job makes, and its tasks; those of an increment that became a full backup are none of them. */
export async function setOf(
  context: CoordinatorContext,
  job: Job,
): Promise<{ readonly set: BackupSet; readonly tasks: readonly Task[] }> {
  const set = await findSetOfJob(context.catalog, job.job_id);
  if (set === undefined) throw new HoldfastError('INTERNAL', `job ${job.job_id} has no backup set`);
  const setId = String(set.backup_set_id);
  const tasks = await listTasks(context.catalog, job.job_id);
  return { set, tasks: tasks.filter((task) => backupTaskSpec.parse(task.spec).setId === setId) };
}

/** The log up to each start is to be sealed: an increment waits for its change map, this one or the next. */
export async function askForSeals(
  context: CoordinatorContext,
  job: Job,
  tasks: readonly Task[],
): Promise<void> {
  const starts = tasks.flatMap((task) => {
    if (task.state !== 'RUNNING') return [];
    const { start } = messageFromJson(BackupProgressSchema, task.progress ?? {});
    return start === undefined ? [] : [{ group: task.partition_group, lsn: start.lsn }];
  });
  if (starts.length === 0) return;
  const round = BigInt(backupJobSpec.parse(job.spec).round);
  const groups = await listRoundGroups(context.catalog, job.tenant_id, round);
  for (const { group, lsn } of starts)
    askForFlush(context, await archiveTaskOf(context, groups, group), lsn, true);
}

export async function archiveTaskOf(
  context: CoordinatorContext,
  groups: readonly RoundGroup[],
  partitionGroup: string,
): Promise<Task | undefined> {
  const group = groups.find((candidate) => candidate.partition_group === partitionGroup);
  return group === undefined ? undefined : await findTask(context.catalog, group.task_id);
}

export function askForFlush(
  context: CoordinatorContext,
  task: Task | undefined,
  lsn: bigint,
  seal: boolean,
): void {
  if (task?.state !== 'RUNNING') return;
  context.hub.session(task.server_id)?.send({
    case: 'flushLog',
    value: create(FlushLogSchema, { taskId: task.task_id, attempt: task.attempt, lsn, seal }),
  });
}
