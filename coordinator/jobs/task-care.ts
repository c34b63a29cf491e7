/** What keeps tasks moving: lost agents, deadlines, cancelling. */
import { create } from '@bufbuild/protobuf';
import { HoldfastError } from '../../foundation/errors.ts';
import { CancelTaskSchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { listTasks, moveTask, type Task } from '../catalog/jobs.ts';
import { type CoordinatorContext, type Transaction, write } from '../context.ts';
import { step } from './state-machine.ts';
import { TASK_TRANSITIONS } from './task-states.ts';

/** A backup or restore whose agent is lost as often as this is given up: it may be what kills the agent. */
const MAX_ATTEMPTS = 5;

/** Gives a RUNNING or CANCELLING task up when its agent is lost (T3), or no longer has it. */
export async function noticeLoss(context: CoordinatorContext, task: Task): Promise<void> {
  const reason = lossReason(context, task);
  if (reason === undefined) return;
  const hopeless = task.kind !== 'ARCHIVE' && task.state === 'RUNNING' && task.attempt >= MAX_ATTEMPTS;
  const next = step(TASK_TRANSITIONS, task.state, hopeless ? 'fail' : 'lose');
  if (next === undefined) return;
  await write(context, async (tx) => {
    const error = new HoldfastError('AGENT_UNREACHABLE', reason);
    if (!(await moveTask(tx, task, next, tx.nowUs, { error }))) return;
    await tx.event({
      module: task.kind.toLowerCase(),
      event: 'task_lost',
      severity: 'WARNING',
      tenantId: task.tenant_id,
      message: `${task.kind.toLowerCase()} task ${task.task_id} of partition group ${task.partition_group}, attempt ${task.attempt}: ${reason}`,
      facts: { job_id: task.job_id, task_id: task.task_id, server_id: task.server_id },
    });
  });
}

function lossReason(context: CoordinatorContext, task: Task): string | undefined {
  const { hub, timing } = context;
  const session = hub.session(task.server_id);
  if (session === undefined) {
    return hub.silentMs(task.server_id) > timing.agentLeaseMs
      ? `the agent of server ${task.server_id} has been away for longer than its lease`
      : undefined;
  }
  if (session.hasTask(task.task_id, task.attempt)) return undefined;
  // What runs and what has ended with a result that may not have arrived was declared with its Hello.
  return `the agent of server ${task.server_id} was restarted and has the task no more`;
}

/** Ends a task whose deadline has passed. */
export async function noticeDeadline(context: CoordinatorContext, task: Task): Promise<void> {
  if (task.deadline_us === 0n || context.clock.nowUs() < task.deadline_us) return;
  const next = step(TASK_TRANSITIONS, task.state, task.state === 'CANCELLING' ? 'stopped' : 'fail');
  if (next === undefined) return;
  const waited = task.state === 'PENDING' ? 'no agent could take it in time' : 'it took longer than allowed';
  await write(context, async (tx) => {
    const code = task.state === 'PENDING' ? 'AGENT_UNREACHABLE' : 'TIMEOUT';
    const error = new HoldfastError(code, `partition group ${task.partition_group}: ${waited}`, {
      ...(task.error_message === '' ? {} : { detail: `${task.error_code}: ${task.error_message}` }),
      hint: 'SELECT * FROM DBA_OB_PARTITION_GROUPS; shows which instances are in reach.',
    });
    await moveTask(tx, task, next, tx.nowUs, { error });
  });
  sendCancel(context, task, 'the deadline has passed', false);
}

/**
 * Begins to cancel every task of the job that has not ended. Returns those whose agents must be told, after the
 * transaction: by `sendCancel`.
 */
export async function cancelTasks(tx: Transaction, jobId: bigint): Promise<readonly Task[]> {
  const told: Task[] = [];
  for (const task of await listTasks(tx, jobId)) if (await cancelTask(tx, task)) told.push(task);
  return told;
}

/** The same for one task. True when its agent must be told. */
export async function cancelTask(tx: Transaction, task: Task): Promise<boolean> {
  const next = step(TASK_TRANSITIONS, task.state, 'cancel');
  return next !== undefined && (await moveTask(tx, task, next, tx.nowUs)) && next === 'CANCELLING';
}

/** Tells the task's agent, if it is attached. One that is not learns it when it attaches again. */
export function sendCancel(context: CoordinatorContext, task: Task, reason: string, drain: boolean): void {
  if (task.server_id === 0n) return;
  context.hub.session(task.server_id)?.send({
    case: 'cancelTask',
    value: create(CancelTaskSchema, { taskId: task.task_id, attempt: task.attempt, reason, drain }),
  });
}

/** Ends tasks that are being cancelled without waiting for their agents any longer. */
export async function abandonCancelled(tx: Transaction, jobId: bigint): Promise<void> {
  for (const task of await listTasks(tx, jobId)) {
    const next = task.state === 'CANCELLING' ? step(TASK_TRANSITIONS, task.state, 'stopped') : undefined;
    if (next === undefined) continue;
    const error = new HoldfastError('CANCELLED', 'the agent did not answer in time');
    await moveTask(tx, task, next, tx.nowUs, { error });
  }
}

export function isEnded(task: Pick<Task, 'state'>): boolean {
  return task.state === 'SUCCEEDED' || task.state === 'FAILED' || task.state === 'CANCELLED';
}
