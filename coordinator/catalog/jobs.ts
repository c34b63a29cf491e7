/** Jobs and tasks as rows. Their states change only through `moveJob` and `moveTask`, which compare before they set. */
import { ERRORS, type ErrorCode, HoldfastError } from '../../foundation/errors.ts';
import { isFinalJobState, type JobState } from '../jobs/job-states.ts';
import type { TaskKind, TaskState } from '../jobs/task-states.ts';
import type { Queryable, SqlParameter } from './catalog.ts';
import { insertRow, updateRows } from './rows.ts';

export type JobKind = TaskKind;
export type Job = {
  readonly job_id: bigint;
  readonly kind: JobKind;
  readonly tenant_id: bigint;
  readonly tenant_name: string;
  readonly state: JobState;
  readonly final: boolean;
  readonly spec: unknown;
  readonly description: string;
  readonly created_us: bigint;
  readonly ended_us: bigint;
  readonly deadline_us: bigint;
  readonly cancel_requested: boolean;
  readonly error_code: string;
  readonly error_message: string;
  readonly error_detail: string;
  readonly error_hint: string;
  readonly comment: string;
};
export type Task = {
  readonly task_id: bigint;
  readonly job_id: bigint;
  readonly kind: TaskKind;
  readonly tenant_id: bigint;
  readonly partition_group: string;
  readonly state: TaskState;
  /** Of the running attempt, or of the last; 0 before the first. */
  readonly attempt: number;
  readonly failures: number;
  readonly server_id: bigint;
  readonly instance: string;
  readonly spec: unknown;
  readonly progress: unknown;
  readonly result: unknown;
  readonly started_us: bigint;
  readonly ended_us: bigint;
  readonly not_before_us: bigint;
  readonly deadline_us: bigint;
  readonly error_code: string;
  readonly error_message: string;
  readonly error_detail: string;
  readonly error_hint: string;
};

const JOB_COLUMNS = `job_id, kind, tenant_id, tenant_name, state, final, spec, description, created_us, ended_us,
  deadline_us, cancel_requested, error_code, error_message, error_detail, error_hint, comment`;
const TASK_COLUMNS = `task_id, job_id, kind, tenant_id, partition_group, state, attempt, failures, server_id, instance,
  spec, progress, result, started_us, ended_us, not_before_us, deadline_us, error_code, error_message, error_detail,
  error_hint`;

export async function insertJob(
  tx: Queryable,
  job: {
    readonly kind: JobKind;
    readonly tenantId: bigint;
    readonly tenantName: string;
    readonly state: JobState;
    readonly spec: object;
    readonly description?: string | undefined;
    readonly deadlineUs?: bigint;
    readonly nowUs: bigint;
  },
): Promise<bigint> {
  return await insertRow<bigint>(
    tx,
    'jobs',
    {
      kind: job.kind,
      tenant_id: job.tenantId,
      tenant_name: job.tenantName,
      state: job.state,
      spec: JSON.stringify(job.spec),
      description: job.description ?? '',
      deadline_us: job.deadlineUs ?? 0n,
      created_us: job.nowUs,
    },
    'job_id',
  );
}

export async function findJob(db: Queryable, jobId: bigint): Promise<Job | undefined> {
  return (await db.query<Job>(`SELECT ${JOB_COLUMNS} FROM holdfast.jobs WHERE job_id = $1`, [jobId]))[0];
}

export async function listRunningJobs(db: Queryable): Promise<readonly Job[]> {
  return await db.query<Job>(`SELECT ${JOB_COLUMNS} FROM holdfast.jobs WHERE NOT final ORDER BY job_id`);
}

/** The job of this kind that is running for the tenant name. */
export async function findRunningJob(
  db: Queryable,
  kind: JobKind,
  tenantName: string,
): Promise<Job | undefined> {
  const rows = await db.query<Job>(
    `SELECT ${JOB_COLUMNS} FROM holdfast.jobs WHERE NOT final AND kind = $1 AND tenant_name = $2`,
    [kind, tenantName],
  );
  return rows[0];
}

/** The newest backup job of the tenant, running or not. */
export async function findLastJob(db: Queryable, kind: JobKind, tenantId: bigint): Promise<Job | undefined> {
  const rows = await db.query<Job>(
    `SELECT ${JOB_COLUMNS} FROM holdfast.jobs WHERE kind = $1 AND tenant_id = $2 ORDER BY job_id DESC LIMIT 1`,
    [kind, tenantId],
  );
  return rows[0];
}

/** Moves a job from one state to the next. False, and nothing done, when it is no longer in `from`. */
export async function moveJob(
  tx: Queryable,
  jobId: bigint,
  from: JobState,
  to: JobState,
  nowUs: bigint,
  more: {
    readonly error?: HoldfastError | undefined;
    readonly spec?: object;
    readonly comment?: string;
    readonly deadlineUs?: bigint;
  } = {},
): Promise<boolean> {
  const final = isFinalJobState(to);
  const changed = await updateRows(
    tx,
    'jobs',
    { job_id: jobId, state: from },
    {
      state: to,
      final,
      ended_us: final ? nowUs : undefined,
      spec: more.spec === undefined ? undefined : JSON.stringify(more.spec),
      comment: more.comment,
      deadline_us: more.deadlineUs,
      ...errorColumns(more.error),
    },
  );
  return changed > 0;
}

export async function requestCancel(tx: Queryable, jobId: bigint): Promise<void> {
  await updateRows(tx, 'jobs', { job_id: jobId, final: false }, { cancel_requested: true });
}

/** What the job waits for, for CDB_OB_BACKUP_JOBS. */
export async function commentJob(tx: Queryable, jobId: bigint, comment: string): Promise<void> {
  await updateRows(tx, 'jobs', { job_id: jobId }, { comment });
}

/** The error that a job or a task ended with. */
export function errorOfRow(row: Job | Task): HoldfastError | undefined {
  if (row.error_code === '') return undefined;
  const code = Object.hasOwn(ERRORS, row.error_code) ? (row.error_code as ErrorCode) : 'INTERNAL'; // checked here
  return new HoldfastError(code, row.error_message, {
    ...(row.error_detail === '' ? {} : { detail: row.error_detail }),
    ...(row.error_hint === '' ? {} : { hint: row.error_hint }),
  });
}

function errorColumns(error: HoldfastError | undefined): Readonly<Record<string, string>> {
  if (error === undefined) return {};
  return {
    error_code: error.code,
    error_message: error.message,
    error_detail: error.detail ?? '',
    error_hint: error.hint ?? '',
  };
}

// ---- tasks ------------------------------------------------------------------------------------------------------

export async function insertTask(
  tx: Queryable,
  task: {
    readonly jobId: bigint;
    readonly kind: TaskKind;
    readonly tenantId: bigint;
    readonly partitionGroup: string;
    readonly spec: object;
    readonly deadlineUs?: bigint;
    readonly nowUs: bigint;
  },
): Promise<bigint> {
  return await insertRow<bigint>(
    tx,
    'tasks',
    {
      job_id: task.jobId,
      kind: task.kind,
      tenant_id: task.tenantId,
      partition_group: task.partitionGroup,
      state: 'PENDING',
      spec: JSON.stringify(task.spec),
      deadline_us: task.deadlineUs ?? 0n,
      created_us: task.nowUs,
    },
    'task_id',
  );
}

export async function findTask(db: Queryable, taskId: bigint): Promise<Task | undefined> {
  return (await db.query<Task>(`SELECT ${TASK_COLUMNS} FROM holdfast.tasks WHERE task_id = $1`, [taskId]))[0];
}

export async function listTasks(db: Queryable, jobId: bigint): Promise<readonly Task[]> {
  return await db.query<Task>(
    `SELECT ${TASK_COLUMNS} FROM holdfast.tasks WHERE job_id = $1 ORDER BY task_id`,
    [jobId],
  );
}

export async function listLiveTasks(db: Queryable): Promise<readonly Task[]> {
  return await db.query<Task>(
    `SELECT ${TASK_COLUMNS} FROM holdfast.tasks WHERE state IN ('PENDING', 'RUNNING', 'CANCELLING') ORDER BY task_id`,
  );
}

export type TaskChange = {
  readonly attempt?: number;
  readonly failures?: number;
  readonly serverId?: bigint;
  readonly instance?: string;
  readonly startedUs?: bigint;
  readonly notBeforeUs?: bigint;
  readonly spec?: object;
  readonly result?: object;
  readonly error?: HoldfastError | undefined;
};

/** Moves an attempt of a task from one state to the next. False, and nothing done, when either is no longer so. */
export async function moveTask(
  tx: Queryable,
  task: Pick<Task, 'task_id' | 'attempt' | 'state'>,
  to: TaskState,
  nowUs: bigint,
  change: TaskChange = {},
): Promise<boolean> {
  const final = to === 'SUCCEEDED' || to === 'FAILED' || to === 'CANCELLED';
  const values: Record<string, SqlParameter | undefined> = {
    state: to,
    attempt: change.attempt,
    failures: change.failures,
    server_id: change.serverId,
    instance: change.instance,
    started_us: change.startedUs,
    not_before_us: change.notBeforeUs,
    ended_us: final ? nowUs : undefined,
    spec: change.spec === undefined ? undefined : JSON.stringify(change.spec),
    result: change.result === undefined ? undefined : JSON.stringify(change.result),
    ...errorColumns(change.error),
  };
  const where = { task_id: task.task_id, attempt: task.attempt, state: task.state };
  return (await updateRows(tx, 'tasks', where, values)) > 0;
}

export async function recordProgress(
  tx: Queryable,
  taskId: bigint,
  attempt: number,
  progress: object,
  nowUs: bigint,
): Promise<void> {
  await updateRows(
    tx,
    'tasks',
    { task_id: taskId, attempt },
    { progress: JSON.stringify(progress), progress_us: nowUs },
  );
}

/** Gives the tasks of a job that have not ended, and have a deadline, one that is no earlier than this. */
export async function prolongTasks(tx: Queryable, jobId: bigint, deadlineUs: bigint): Promise<void> {
  await tx.query(
    'UPDATE holdfast.tasks SET deadline_us = $2 WHERE job_id = $1 AND ended_us = 0 AND deadline_us > 0 AND deadline_us < $2',
    [jobId, deadlineUs],
  );
}
