/** A restore job, step by step (job-states.ts): its phases are those its agents report. */
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn } from '../../foundation/lsn.ts';
import { RestoreResultSchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { errorOfRow, type Job, listTasks, moveJob, type Task } from '../catalog/jobs.ts';
import { forgetInstances } from '../catalog/servers.ts';
import { recordRestoreResult } from '../catalog/sets.ts';
import { leaveGroups, setTenantStatus } from '../catalog/tenants.ts';
import { type CoordinatorContext, type Transaction, write } from '../context.ts';
import { RESTORE_TRANSITIONS, type RestoreEvent, type RestoreState } from './job-states.ts';
import { step } from './state-machine.ts';
import { abandonCancelled, cancelTasks, isEnded, sendCancel } from './task-care.ts';
import { messageFromJson } from './task-results.ts';

export async function stepRestore(context: CoordinatorContext, job: Job): Promise<void> {
  const state = job.state as RestoreState; // a RESTORE job's state
  const tasks = await listTasks(context.catalog, job.job_id);
  if (state === 'CANCELLING') {
    await finishCancel(context, job, tasks);
    return;
  }
  if (job.cancel_requested) {
    await beginCancel(context, job);
    return;
  }
  const failed = tasks.find((task) => task.state === 'FAILED' || task.state === 'CANCELLED');
  if (failed !== undefined) {
    await fail(
      context,
      job,
      errorOfRow(failed) ?? new HoldfastError('RESTORE_FAILED', 'a task was cancelled'),
    );
  } else if (tasks.every((task) => task.state === 'SUCCEEDED')) {
    await succeed(context, job, tasks);
  } else {
    const event = phaseEvent(tasks);
    const next = event === undefined ? undefined : step(RESTORE_TRANSITIONS, state, event);
    if (event !== undefined && next !== undefined && next !== state)
      await write(context, (tx) => advance(tx, job, event));
  }
}

const PHASE_EVENTS: Readonly<Record<string, RestoreEvent>> = {
  SYSTEM_DATA: 'systemData',
  USER_DATA: 'userData',
  LOG: 'log',
  CHECK: 'check',
};
const PHASE_ORDER = ['CREATE', 'SYSTEM_DATA', 'USER_DATA', 'LOG', 'CHECK'];

/** The tenant is as far as its slowest partition group. Pure. */
export function phaseEvent(tasks: readonly Pick<Task, 'state' | 'progress'>[]): RestoreEvent | undefined {
  const phases = tasks
    .filter((task) => task.state !== 'SUCCEEDED')
    .map((task) => (task.progress as { readonly phase?: string } | null)?.phase ?? 'CREATE'); // a RestoreProgress as JSON
  const slowest = PHASE_ORDER.find((phase) => phases.includes(phase));
  return slowest === undefined ? undefined : PHASE_EVENTS[slowest];
}

async function succeed(context: CoordinatorContext, job: Job, tasks: readonly Task[]): Promise<void> {
  const results = tasks.map((task) => {
    const result = messageFromJson(RestoreResultSchema, task.result);
    return {
      partitionGroup: task.partition_group,
      host: result.host,
      port: result.port,
      dataDirectory: result.dataDirectory,
      reachedLsn: result.reached === undefined ? null : formatLsn(result.reached.lsn),
      timeline: result.reached?.timeline ?? 0,
      lastCommitUs: String(result.lastCommitUs),
      serverVersion: result.serverVersion,
    };
  });
  await write(context, async (tx) => {
    if (!(await advance(tx, job, 'restored'))) return;
    await recordRestoreResult(tx, job.job_id, results);
    await setTenantStatus(tx, job.tenant_id, 'NORMAL', tx.nowUs);
    await tx.event({
      module: 'restore',
      event: 'restore_succeeded',
      tenantId: job.tenant_id,
      tenantName: job.tenant_name,
      message: `tenant "${job.tenant_name}" is restored: ${results.map((result) => `${result.host}:${result.port}`).join(', ')}`,
      facts: { job_id: job.job_id },
    });
  });
}

async function fail(context: CoordinatorContext, job: Job, error: HoldfastError): Promise<void> {
  const told = await write(context, async (tx) => {
    if (!(await advance(tx, job, 'fail', { error }))) return [];
    await forgetTenant(tx, job);
    await tx.event({
      module: 'restore',
      event: 'restore_failed',
      severity: 'ERROR',
      tenantId: job.tenant_id,
      tenantName: job.tenant_name,
      message: `the restore of tenant "${job.tenant_name}" failed: ${error.code}: ${error.message}`,
      facts: { job_id: job.job_id },
    });
    return await cancelTasks(tx, job.job_id);
  });
  for (const task of told) sendCancel(context, task, 'the restore failed', false);
}

async function beginCancel(context: CoordinatorContext, job: Job): Promise<void> {
  const told = await write(context, async (tx) => {
    const deadlineUs = tx.nowUs + BigInt(context.timing.stopTimeoutMs) * 1000n;
    return (await advance(tx, job, 'cancel', { deadlineUs })) ? await cancelTasks(tx, job.job_id) : [];
  });
  for (const task of told) sendCancel(context, task, 'CANCEL RESTORE', false);
}

async function finishCancel(context: CoordinatorContext, job: Job, tasks: readonly Task[]): Promise<void> {
  if (!tasks.every(isEnded) && context.clock.nowUs() < job.deadline_us) return;
  await write(context, async (tx) => {
    await abandonCancelled(tx, job.job_id);
    const error = new HoldfastError('CANCELLED', 'the restore was cancelled');
    if (!(await advance(tx, job, 'stopped', { error }))) return;
    await forgetTenant(tx, job);
    await tx.event({
      module: 'restore',
      event: 'restore_cancelled',
      tenantId: job.tenant_id,
      tenantName: job.tenant_name,
      message: `the restore of tenant "${job.tenant_name}" was cancelled`,
      facts: { job_id: job.job_id },
    });
  });
}

/** The half-made tenant is dropped: its name is free again. */
async function forgetTenant(tx: Transaction, job: Job): Promise<void> {
  await setTenantStatus(tx, job.tenant_id, 'DROPPED', tx.nowUs);
  await leaveGroups(tx, job.tenant_id, tx.nowUs);
  await forgetInstances(tx, job.tenant_id);
}

async function advance(
  tx: Transaction,
  job: Job,
  event: RestoreEvent,
  more: Parameters<typeof moveJob>[5] = {},
): Promise<boolean> {
  const state = job.state as RestoreState; // a RESTORE job's state
  const next = step(RESTORE_TRANSITIONS, state, event);
  return next !== undefined && (await moveJob(tx, job.job_id, state, next, tx.nowUs, more));
}
