/**
 * A validation job, step by step (job-states.ts): the destination says what there is to read, agents read it, and what
 * came out is noted beside each set and round at the destination before the job ends. A job with findings is FAILED, and
 * so is one of which a task could not be done; the findings of the others are kept and noted all the same, and so
 * they are when it is cancelled.
 */
import { create } from '@bufbuild/protobuf';
import { ERRORS, type ErrorCode, HoldfastError } from '../../foundation/errors.ts';
import { type ValidateFinding, ValidateTaskSchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { listRounds, listSets } from '../../storage-layout/plan/tenant-history.ts';
import { readNotes, writeNote } from '../../storage-layout/records/notes.ts';
import type { TreeRoot } from '../../storage-layout/tree.ts';
import {
  commentJob,
  errorOfRow,
  insertTask,
  type Job,
  listTasks,
  moveJob,
  type Task,
} from '../catalog/jobs.ts';
import { type CoordinatorContext, type Transaction, write } from '../context.ts';
import { checkOwner } from '../destination/claims.ts';
import { findRounds, findSets } from '../destination/validation-subjects.ts';
import { keysOfValidation } from '../encryption/task-keys.ts';
import { VALIDATE_TRANSITIONS, type ValidateEvent, type ValidateState } from './job-states.ts';
import { type PlannedValidation, planValidation } from './plan-validation.ts';
import { type ValidateJobSpec, type ValidateTaskSpec, validateJobSpec } from './specs.ts';
import { step } from './state-machine.ts';
import { abandonCancelled, cancelTasks, isEnded, sendCancel } from './task-care.ts';
import { messageToJson } from './task-results.ts';
import { hasFindings, type Noteworthy, notesOf, outcomesOf } from './validation-notes.ts';

/** Reading everything that there is may take days, and waiting for an agent that is free as well. */
const TASK_LIMIT_US = 7n * 86_400_000_000n;
const MAX_EVENTS = 100;
const NOTHING: Noteworthy = { sets: [], rounds: [] };

export async function stepValidate(
  context: CoordinatorContext,
  job: Job,
  signal: AbortSignal,
): Promise<void> {
  const state = job.state as ValidateState; // a VALIDATE job's state
  if (job.cancel_requested && step(VALIDATE_TRANSITIONS, state, 'cancel') !== undefined) {
    await beginCancel(context, job);
    return;
  }
  switch (state) {
    case 'SCHEDULE':
      await schedule(context, job, signal);
      return;
    case 'DOING':
      await awaitTasks(context, job);
      return;
    case 'RECORD':
      await record(context, job, signal);
      return;
    case 'CANCELLING':
      await finishCancel(context, job, signal);
      return;
    case 'FINISHED':
    case 'FAILED':
    case 'CANCELLED':
  }
}

async function schedule(context: CoordinatorContext, job: Job, signal: AbortSignal): Promise<void> {
  const spec = validateJobSpec.parse(job.spec);
  const medium = await context.destinations.open(context.secrets.decrypt(spec.destination), signal);
  await checkOwner(medium, context.deployment, signal); // below an unmounted share everything seems to be lost
  const place = { medium, display: spec.displayDestination, tenantId: job.tenant_id };
  const sets = (await findSets(context, place, signal)).filter(
    ({ key }) => spec.setId === undefined || key.setId === BigInt(spec.setId),
  );
  if (spec.setId !== undefined && sets.length === 0)
    throw new HoldfastError('INVALID_BACKUP_SET_ID', `there is no backup set ${spec.setId} any more`);
  const rounds = spec.setId === undefined ? await findRounds(context, place, signal) : [];
  const sinceUs = spec.maxAgeMs === undefined ? undefined : job.created_us - BigInt(spec.maxAgeMs) * 1000n;
  const { tasks, skipped } = planValidation(sets, rounds, sinceUs);
  for (const task of tasks) // what nobody can open is told before anything is read
    await keysOfValidation(context, job.tenant_id, taskSpecOf(job, spec, task), signal);
  await write(context, async (tx) => {
    const planned: ValidateJobSpec = { ...spec, skipped: skipped.join(', ') };
    if (!(await advance(tx, job, 'planned', { spec: planned, comment: '' }))) return;
    for (const task of tasks)
      await insertTask(tx, {
        jobId: job.job_id,
        kind: 'VALIDATE',
        tenantId: job.tenant_id,
        partitionGroup: task.partitionGroup,
        spec: taskSpecOf(job, spec, task),
        deadlineUs: tx.nowUs + TASK_LIMIT_US,
        nowUs: tx.nowUs,
      });
    await tx.event({
      module: 'validate',
      event: 'validation_started',
      tenantId: job.tenant_id,
      tenantName: job.tenant_name,
      message: `validation of tenant "${job.tenant_name}" has started: ${tasks.length} tasks, ${skipped.length} sets were found right not long ago`,
      facts: { job_id: job.job_id, tasks: tasks.length, skipped: skipped.join(', ') },
    });
  });
}

function taskSpecOf(job: Job, spec: ValidateJobSpec, planned: PlannedValidation): ValidateTaskSpec {
  const { partitionGroup, bytes } = planned;
  const task = create(ValidateTaskSchema, {
    tenantId: job.tenant_id,
    partitionGroup,
    subject:
      planned.kind === 'set'
        ? { case: 'set', value: { backupSetId: planned.key.setId, fullSetId: planned.key.fullSetId } }
        : {
            case: 'log',
            value: {
              round: planned.round,
              checked: [...planned.checked],
              ...(planned.until === undefined ? {} : { until: planned.until }),
            },
          },
  });
  return {
    task: messageToJson(ValidateTaskSchema, task) as Record<string, unknown>, // a message is a JSON object
    destination: spec.destination,
    subject:
      planned.kind === 'set'
        ? { setId: String(planned.key.setId), fullSetId: String(planned.key.fullSetId) }
        : { round: String(planned.round) },
    bytes: String(bytes),
  };
}

async function awaitTasks(context: CoordinatorContext, job: Job): Promise<void> {
  const tasks = await listTasks(context.catalog, job.job_id);
  if (!tasks.every(isEnded)) return;
  const deadlineUs = context.clock.nowUs() + BigInt(context.timing.logWaitTimeoutMs) * 1000n;
  await write(context, (tx) => advance(tx, job, 'checked', { deadlineUs }));
}

/** Notes first, then the end: a job that is shown FINISHED is known to the destination. */
async function record(context: CoordinatorContext, job: Job, signal: AbortSignal): Promise<void> {
  const tasks = await listTasks(context.catalog, job.job_id);
  await noteOutcome(context, job, tasks, signal);
  await finish(context, job, tasks, '');
}

/** May be repeated. Without anything to note the destination is not needed. */
async function noteOutcome(
  context: CoordinatorContext,
  job: Job,
  tasks: readonly Task[],
  signal: AbortSignal,
): Promise<void> {
  const { root, epoch } = context;
  const outcomes = outcomesOf(job.tenant_id, tasks);
  const stamp = { jobId: job.job_id, epoch, timeUs: context.clock.nowUs() };
  const own = notesOf(root, stamp, outcomes, NOTHING);
  if (own.length === 0) return;
  const spec = validateJobSpec.parse(job.spec);
  const medium = await context.destinations.open(context.secrets.decrypt(spec.destination), signal);
  await checkOwner(medium, context.deployment, signal);
  const notes = hasFindings(outcomes)
    ? notesOf(root, stamp, outcomes, await findNoteworthy(medium, root, job.tenant_id, signal))
    : own;
  for (const { place, note } of notes) {
    const known = await readNotes(medium, root, place, signal);
    if (!known.some((one) => one.jobId === job.job_id && one.epoch === note.epoch))
      await writeNote(medium, root, place, note, signal);
  }
}

async function findNoteworthy(
  medium: Medium,
  root: TreeRoot,
  tenantId: bigint,
  signal: AbortSignal,
): Promise<Noteworthy> {
  const rounds = await listRounds(medium, root, tenantId, signal);
  return {
    sets: await listSets(medium, root, tenantId, signal),
    rounds: rounds.map((round) => ({ tenantId, round })),
  };
}

async function finish(
  context: CoordinatorContext,
  job: Job,
  tasks: readonly Task[],
  comment: string,
): Promise<void> {
  const { findings, count } = findingsOf(job, tasks);
  const error = findingsError(job, findings, count) ?? taskError(tasks);
  await write(context, async (tx) => {
    const moved = await advance(tx, job, error === undefined ? 'recorded' : 'fail', { error, comment });
    if (!moved) return;
    await tellFindings(tx, job, findings);
    await tx.event({
      module: 'validate',
      event: error === undefined ? 'validation_finished' : 'validation_failed',
      severity: error === undefined ? 'INFO' : 'ERROR',
      tenantId: job.tenant_id,
      tenantName: job.tenant_name,
      message:
        error === undefined
          ? `validation of tenant "${job.tenant_name}" found nothing wrong`
          : `validation of tenant "${job.tenant_name}" failed: ${error.code}: ${error.message}`,
      facts: { job_id: job.job_id, findings: count },
    });
  });
}

/** What the tasks that were done, or given up, have found; `count`: with those that are not listed. */
function findingsOf(job: Job, tasks: readonly Task[]) {
  const outcomes = outcomesOf(job.tenant_id, tasks);
  const findings = outcomes.flatMap((outcome) => outcome.findings);
  const unlisted = outcomes.reduce((sum, outcome) => sum + outcome.unlisted, 0n);
  return { findings, count: BigInt(findings.length) + unlisted };
}

async function tellFindings(tx: Transaction, job: Job, findings: readonly ValidateFinding[]): Promise<void> {
  for (const finding of findings.slice(0, MAX_EVENTS))
    await tx.event({
      module: 'validate',
      event: 'validation_finding',
      severity: 'ERROR',
      tenantId: job.tenant_id,
      tenantName: job.tenant_name,
      message: `${finding.code}: ${describeFinding(finding)}`,
      facts: { job_id: job.job_id, object: finding.object, backup_sets: finding.backupSetIds.join(', ') },
    });
}

/** OB-9011 when something is gone, else what the first finding is. */
function findingsError(
  job: Job,
  findings: readonly ValidateFinding[],
  count: bigint,
): HoldfastError | undefined {
  const worst = findings.find(({ code }) => code === 'BACKUP_FILE_NOT_EXIST') ?? findings[0];
  if (worst === undefined) return undefined;
  const code: ErrorCode = Object.hasOwn(ERRORS, worst.code) ? (worst.code as ErrorCode) : 'DATA_CORRUPT'; // checked here
  const more = count === 1n ? '' : `, the first of ${count} findings`;
  return new HoldfastError(code, `${describeFinding(worst)}${more}`, {
    detail: findings
      .slice(0, MAX_EVENTS)
      .map((finding) => `${finding.code}: ${describeFinding(finding)}`)
      .join('\n'),
    hint: hintOf(job),
  });
}

function hintOf(job: Job): string {
  return `SELECT * FROM CDB_OB_BACKUP_VALIDATION_FINDING WHERE job_id = ${job.job_id};`;
}

/** What is wrong, what it holds and who needs it. */
function describeFinding(finding: ValidateFinding): string {
  const files = finding.files.map(({ path, databaseName }) =>
    databaseName === '' ? path : `${path} (database "${databaseName}")`,
  );
  const more = finding.fileCount - BigInt(files.length);
  return [
    finding.message,
    ...(files.length === 0
      ? []
      : [`it holds ${files.join(', ')}${more > 0n ? ` and ${more} more files` : ''}`]),
    ...(finding.backupSetIds.length === 0
      ? []
      : [`needed by backup sets ${finding.backupSetIds.join(', ')}`]),
    ...(finding.shortenedSetIds.length === 0
      ? []
      : [`backup sets ${finding.shortenedSetIds.join(', ')} can be restored up to before it only`]),
  ].join('; ');
}

function taskError(tasks: readonly Task[]): HoldfastError | undefined {
  const undone = tasks.find((task) => task.state !== 'SUCCEEDED');
  if (undone === undefined) return undefined;
  return (
    errorOfRow(undone) ?? new HoldfastError('CANCELLED', `validation task ${undone.task_id} was not done`)
  );
}

async function beginCancel(context: CoordinatorContext, job: Job): Promise<void> {
  const told = await write(context, async (tx) => {
    const deadlineUs = tx.nowUs + BigInt(context.timing.stopTimeoutMs) * 1000n;
    return (await advance(tx, job, 'cancel', { deadlineUs })) ? await cancelTasks(tx, job.job_id) : [];
  });
  for (const task of told) sendCancel(context, task, 'CANCEL VALIDATE', false);
}

/** What was found until then is noted, too; the job ends in time without the destination. */
async function finishCancel(context: CoordinatorContext, job: Job, signal: AbortSignal): Promise<void> {
  const running = await listTasks(context.catalog, job.job_id);
  if (!running.every(isEnded)) {
    if (context.clock.nowUs() < job.deadline_us) return;
    await write(context, (tx) => abandonCancelled(tx, job.job_id));
  }
  await noteOutcome(context, job, await listTasks(context.catalog, job.job_id), signal);
  await endCancelled(context, job, '');
}

async function endCancelled(context: CoordinatorContext, job: Job, comment: string): Promise<void> {
  const { findings, count } = findingsOf(job, await listTasks(context.catalog, job.job_id));
  const found = count === 0n ? '' : `; findings until then: ${count}`;
  const hint = findings.length === 0 ? {} : { hint: hintOf(job) };
  const error = new HoldfastError('CANCELLED', `the validation was cancelled${found}`, hint);
  await write(context, async (tx) => {
    if (!(await advance(tx, job, 'stopped', { error, comment }))) return;
    await tellFindings(tx, job, findings);
    await tx.event({
      module: 'validate',
      event: 'validation_cancelled',
      tenantId: job.tenant_id,
      tenantName: job.tenant_name,
      message: `the validation of tenant "${job.tenant_name}" was cancelled${found}${comment === '' ? '' : `; ${comment}`}`,
      facts: { job_id: job.job_id, findings: count },
    });
  });
}

/**
 * A step that failed is tried again, until its deadline or an error that lasts. What cannot be noted is known all the
 * same: the job then ends as its findings say.
 */
export async function handleValidateError(
  context: CoordinatorContext,
  job: Job,
  failure: HoldfastError,
): Promise<void> {
  const lasts = !failure.facts.retryable && failure.code !== 'INTERNAL' && failure.code !== 'CANCELLED';
  const late = job.deadline_us !== 0n && context.clock.nowUs() > job.deadline_us;
  const comment = `${failure.code}: ${failure.message}`;
  if (job.state === 'RECORD' && (lasts || late)) {
    const tasks = await listTasks(context.catalog, job.job_id);
    await finish(context, job, tasks, `not noted at the destination: ${comment}`);
  } else if (job.state === 'CANCELLING' && (lasts || late)) {
    await endCancelled(context, job, `not noted at the destination: ${comment}`);
  } else if (job.state === 'SCHEDULE' && (lasts || late)) {
    await write(context, async (tx) => {
      if (!(await advance(tx, job, 'fail', { error: failure }))) return;
      await tx.event({
        module: 'validate',
        event: 'validation_failed',
        severity: 'ERROR',
        tenantId: job.tenant_id,
        tenantName: job.tenant_name,
        message: `validation of tenant "${job.tenant_name}" failed: ${comment}`,
        facts: { job_id: job.job_id },
      });
    });
  } else if (job.comment !== comment) await write(context, (tx) => commentJob(tx, job.job_id, comment));
}

async function advance(
  tx: Transaction,
  job: Job,
  event: ValidateEvent,
  more: Parameters<typeof moveJob>[5] = {},
): Promise<boolean> {
  const state = job.state as ValidateState; // a VALIDATE job's state
  const next = step(VALIDATE_TRANSITIONS, state, event);
  return next !== undefined && (await moveJob(tx, job.job_id, state, next, tx.nowUs, more));
}
