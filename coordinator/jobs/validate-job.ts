/**
 * A validation job, step by step (job-states.ts): the destination says what there is to read, agents read it, and what
 * came out is noted beside each set and round at the destination before the job ends. A job with findings is FAILED, and
 * so is one of which a task could not be done; the findings of the others are kept all the same.
 */
import { create } from '@bufbuild/protobuf';
import { ERRORS, type ErrorCode, HoldfastError } from '../../foundation/errors.ts';
import {
  type ValidateFinding,
  type ValidateResult,
  ValidateResultSchema,
  ValidateTaskSchema,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { type Note, NoteSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { type NotePlace, readNotes, writeNote } from '../../storage-layout/records/notes.ts';
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
import { type ValidateJobSpec, type ValidateTaskSpec, validateJobSpec, validateTaskSpec } from './specs.ts';
import { step } from './state-machine.ts';
import { abandonCancelled, cancelTasks, isEnded, sendCancel } from './task-care.ts';
import { messageFromJson, messageToJson } from './task-results.ts';

/** Reading everything that there is may take days, and waiting for an agent that is free as well. */
const TASK_LIMIT_US = 7n * 86_400_000_000n;
const MAX_EVENTS = 100;

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
      await finishCancel(context, job);
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
  const spec = validateJobSpec.parse(job.spec);
  const tasks = await listTasks(context.catalog, job.job_id);
  const notes = notesOf(job, context.epoch, context.clock.nowUs(), tasks);
  if (notes.length > 0) {
    const medium = await context.destinations.open(context.secrets.decrypt(spec.destination), signal);
    await checkOwner(medium, context.deployment, signal);
    for (const { place, note } of notes) {
      const known = await readNotes(medium, context.root, place, signal);
      if (!known.some((one) => one.jobId === job.job_id && one.epoch === note.epoch))
        await writeNote(medium, context.root, place, note, signal);
    }
  }
  await finish(context, job, tasks, '');
}

async function finish(
  context: CoordinatorContext,
  job: Job,
  tasks: readonly Task[],
  comment: string,
): Promise<void> {
  const results = resultsOf(tasks);
  const findings = results.flatMap(({ result }) => result.findings);
  const count = results.reduce((sum, { result }) => sum + result.findingCount, 0n);
  const error = findingsError(job, findings, count) ?? taskError(tasks);
  await write(context, async (tx) => {
    const moved = await advance(tx, job, error === undefined ? 'recorded' : 'fail', { error, comment });
    if (!moved) return;
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

type Result = { readonly spec: ValidateTaskSpec; readonly task: Task; readonly result: ValidateResult };

function resultsOf(tasks: readonly Task[]): readonly Result[] {
  return tasks
    .filter((task) => task.state === 'SUCCEEDED')
    .map((task) => ({
      spec: validateTaskSpec.parse(task.spec),
      task,
      result: messageFromJson(ValidateResultSchema, task.result),
    }));
}

/**
 * The note of each set all of whose tasks were done, and of each round of which one was. Pure.
 */
export function notesOf(
  job: Pick<Job, 'job_id' | 'tenant_id'>,
  epoch: bigint,
  nowUs: bigint,
  tasks: readonly Task[],
): readonly { readonly place: NotePlace; readonly note: Note }[] {
  const undone = new Set(
    tasks
      .filter((task) => task.state !== 'SUCCEEDED')
      .map((task) => subjectOf(validateTaskSpec.parse(task.spec))),
  );
  const bySubject = Map.groupBy(resultsOf(tasks), ({ spec }) => subjectOf(spec));
  return [...bySubject].flatMap(([subject, results]) => {
    const place = placeOf(job.tenant_id, results);
    if (place === undefined || (place.kind === 'set' && undone.has(subject))) return [];
    return [
      {
        place,
        note: noteOf(
          job.job_id,
          epoch,
          nowUs,
          results.map(({ result }) => result),
        ),
      },
    ];
  });
}

function subjectOf({ subject }: ValidateTaskSpec): string {
  return subject.setId === undefined ? `round ${subject.round}` : `set ${subject.setId}`;
}

function placeOf(tenantId: bigint, results: readonly Result[]): NotePlace | undefined {
  const subject = results[0]?.spec.subject;
  if (subject?.setId !== undefined && subject.fullSetId !== undefined)
    return {
      kind: 'set',
      key: { tenantId, setId: BigInt(subject.setId), fullSetId: BigInt(subject.fullSetId) },
    };
  return subject?.round === undefined
    ? undefined
    : { kind: 'round', key: { tenantId, round: BigInt(subject.round) } };
}

function noteOf(jobId: bigint, epoch: bigint, timeUs: bigint, results: readonly ValidateResult[]): Note {
  const sum = (value: (result: ValidateResult) => bigint) =>
    results.reduce((all, one) => all + value(one), 0n);
  const begins = results.map((result) => result.beginUs);
  const ends = results.map((result) => result.endUs);
  return create(NoteSchema, {
    timeUs,
    epoch,
    jobId,
    kind: {
      case: 'validated',
      value: {
        beginUs: begins.reduce((a, b) => (a < b ? a : b)),
        endUs: ends.reduce((a, b) => (a > b ? a : b)),
        macroblockCount: sum((result) => result.macroblockCount),
        bytes: sum((result) => result.bytes),
        logBytes: sum((result) => result.logBytes),
        findingCount: sum((result) => result.findingCount),
        logs: results.flatMap((result) => result.logs),
      },
    },
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
    hint: `SELECT * FROM CDB_OB_BACKUP_VALIDATION_FINDING WHERE job_id = ${job.job_id};`,
  });
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

async function finishCancel(context: CoordinatorContext, job: Job): Promise<void> {
  const tasks = await listTasks(context.catalog, job.job_id);
  if (!tasks.every(isEnded) && context.clock.nowUs() < job.deadline_us) return;
  await write(context, async (tx) => {
    await abandonCancelled(tx, job.job_id);
    const error = new HoldfastError('CANCELLED', 'the validation was cancelled');
    if (!(await advance(tx, job, 'stopped', { error }))) return;
    await tx.event({
      module: 'validate',
      event: 'validation_cancelled',
      tenantId: job.tenant_id,
      tenantName: job.tenant_name,
      message: `the validation of tenant "${job.tenant_name}" was cancelled`,
      facts: { job_id: job.job_id },
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
