/** What agents say of their tasks, put into the catalog: progress and results. Another attempt's word is ignored (T1). */
import { type DescMessage, fromJson, type JsonValue, type MessageShape, toJson } from '@bufbuild/protobuf';
import { HoldfastError } from '../../foundation/errors.ts';
import {
  type ArchiveProgress,
  ArchiveResultSchema,
  BackupProgressSchema,
  BackupResultSchema,
  CheckResultSchema,
  RestoreProgressSchema,
  RestoreResultSchema,
  type TaskResult,
  ValidateProgressSchema,
  ValidateResultSchema,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import type { LogHole } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { fromErrorDetail } from '../../proto/grpc-service.ts';
import type { ReportedProgress } from '../agents/hub.ts';
import { awaySince, changesOf } from '../archive/changes.ts';
import { findTask, moveTask, prolongTasks, recordProgress, type Task } from '../catalog/jobs.ts';
import {
  findRoundGroupOfTask,
  recordGroupError,
  recordGroupProgress,
  recordHole,
} from '../catalog/rounds.ts';
import { type CoordinatorContext, type Transaction, write } from '../context.ts';
import { resumeEvent } from './resume-event.ts';
import { step } from './state-machine.ts';
import { prolongedDeadlineUs } from './task-progress.ts';
import { decideAfterFailure, TASK_TRANSITIONS } from './task-states.ts';

/** A message as the JSON object that a row keeps. */
export function messageToJson<Desc extends DescMessage>(schema: Desc, message: MessageShape<Desc>): object {
  return toJson(schema, message) as object; // a message's JSON form is an object
}

/** The inverse. */
export function messageFromJson<Desc extends DescMessage>(schema: Desc, json: unknown): MessageShape<Desc> {
  return fromJson(schema, json as JsonValue, { ignoreUnknownFields: true }); // it was written by messageToJson
}

/** Stores a progress report; only the last one of each task reaches the catalog. */
export async function applyProgress(
  tx: Transaction,
  taskId: bigint,
  reported: ReportedProgress,
): Promise<void> {
  const task = await findTask(tx, taskId);
  if (task === undefined || task.attempt !== reported.attempt || task.ended_us !== 0n) return;
  switch (reported.kind.case) {
    case 'archive':
      await applyArchiveProgress(tx, taskId, reported.kind.value);
      return;
    case 'backup': {
      const before = messageFromJson(BackupProgressSchema, task.progress ?? {});
      const resumed = resumeEvent(task, before, reported.kind.value);
      if (resumed !== undefined) await tx.event(resumed);
      await keepProgress(tx, task, messageToJson(BackupProgressSchema, reported.kind.value));
      return;
    }
    case 'restore':
      await keepProgress(tx, task, messageToJson(RestoreProgressSchema, reported.kind.value));
      return;
    case 'validate': {
      // What an attempt had found before it was lost stays known until one has read everything (V4).
      const { findingCount: known } = messageFromJson(ValidateProgressSchema, task.progress ?? {});
      const { value } = reported.kind;
      const findingCount = known > value.findingCount ? known : value.findingCount;
      await keepProgress(tx, task, messageToJson(ValidateProgressSchema, { ...value, findingCount }));
      return;
    }
    case undefined:
  }
}

async function keepProgress(tx: Transaction, task: Task, progress: object): Promise<void> {
  await recordProgress(tx, task.task_id, task.attempt, progress, tx.nowUs);
  const deadlineUs = prolongedDeadlineUs(task, task.progress, progress, tx.nowUs);
  if (deadlineUs !== undefined) await prolongTasks(tx, task.job_id, deadlineUs);
}

async function applyArchiveProgress(
  tx: Transaction,
  taskId: bigint,
  progress: ArchiveProgress,
): Promise<void> {
  const group = await findRoundGroupOfTask(tx, taskId);
  if (group === undefined) return;
  await recordGroupProgress(
    tx,
    group,
    {
      ...progress,
      start: progress.start,
      checkpoint: progress.durable,
      destinationAwayUs: awaySince(progress),
    },
    tx.nowUs,
  );
  for (const change of changesOf(group, progress, tx.nowUs)) await tx.event(change);
}

/** Stores a result and decides whether the task has ended or is tried again. */
export async function applyResult(context: CoordinatorContext, result: TaskResult): Promise<void> {
  await write(context, async (tx) => {
    const task = await findTask(tx, result.taskId);
    if (task === undefined || task.attempt !== result.attempt || task.ended_us !== 0n) return;
    if (task.state === 'PENDING') return; // this attempt was given up, and the next not begun
    switch (result.kind.case) {
      case 'error':
        await applyFailure(tx, task, fromErrorDetail(result.kind.value));
        return;
      case 'archive':
        if (result.kind.value.final !== undefined)
          await applyArchiveProgress(tx, task.task_id, result.kind.value.final);
        if (result.kind.value.interruptedReason !== '') {
          await applyHole(tx, task.task_id, result.kind.value.hole);
          const reason = new HoldfastError('LOG_ARCHIVE_INTERRUPTED', result.kind.value.interruptedReason);
          await applyFailure(tx, task, reason);
        } else if (task.state === 'RUNNING') {
          // It ended without being asked to: its agent is shutting down. Another attempt goes on.
          await applyFailure(tx, task, new HoldfastError('SHUTTING_DOWN', 'the agent ended the task'));
        } else {
          await succeed(tx, task, messageToJson(ArchiveResultSchema, result.kind.value));
        }
        return;
      case 'backup':
        await succeed(tx, task, messageToJson(BackupResultSchema, result.kind.value));
        return;
      case 'restore':
        await succeed(tx, task, messageToJson(RestoreResultSchema, result.kind.value));
        return;
      case 'check':
        await succeed(tx, task, messageToJson(CheckResultSchema, result.kind.value));
        return;
      case 'validate':
        await succeed(tx, task, messageToJson(ValidateResultSchema, result.kind.value));
        return;
      case undefined:
        await applyFailure(
          tx,
          task,
          new HoldfastError('INTERNAL', 'the agent sent a result without content'),
        );
    }
  });
}

/** Where the hole is: what the agent could not know, the catalog does. */
async function applyHole(tx: Transaction, taskId: bigint, hole: LogHole | undefined): Promise<void> {
  const group = await findRoundGroupOfTask(tx, taskId);
  if (group !== undefined && hole !== undefined) await recordHole(tx, group, hole);
}

async function succeed(tx: Transaction, task: Task, result: object): Promise<void> {
  const next = step(TASK_TRANSITIONS, task.state, 'succeed');
  if (next !== undefined) await moveTask(tx, task, next, tx.nowUs, { result });
}

/** A failed attempt: cancelled when that was asked for, else tried again or given up. */
export async function applyFailure(tx: Transaction, task: Task, error: HoldfastError): Promise<void> {
  if (task.state === 'CANCELLING') {
    const stopped = step(TASK_TRANSITIONS, task.state, 'stopped');
    if (stopped !== undefined) await moveTask(tx, task, stopped, tx.nowUs, { error });
    return;
  }
  // An agent that goes down in good order has not failed.
  const failures = task.failures + (error.code === 'SHUTTING_DOWN' ? 0 : 1);
  const decision = decideAfterFailure(task.kind, error.code, Math.max(failures, 1));
  const next = step(TASK_TRANSITIONS, task.state, decision.kind === 'retry' ? 'retry' : 'fail');
  if (next === undefined) return;
  const notBeforeUs = decision.kind === 'retry' ? tx.nowUs + BigInt(decision.delayMs) * 1000n : 0n;
  await moveTask(tx, task, next, tx.nowUs, { failures, error, notBeforeUs });
  if (task.kind === 'ARCHIVE') await recordGroupError(tx, task.task_id, `${error.code}: ${error.message}`);
  await tx.event({
    module: task.kind.toLowerCase(),
    event: decision.kind === 'retry' ? 'task_retried' : 'task_failed',
    severity: decision.kind === 'retry' ? 'WARNING' : 'ERROR',
    tenantId: task.tenant_id,
    message: `${task.kind.toLowerCase()} task ${task.task_id} of partition group ${task.partition_group}, attempt ${task.attempt}: ${error.code}: ${error.message}`,
    facts: { job_id: task.job_id, task_id: task.task_id, server_id: task.server_id, failures },
  });
}
