/** Gives pending tasks to agents: a place, a new attempt, its row, and then the message. */
import { create } from '@bufbuild/protobuf';
import { assertNever } from '../../foundation/assert.ts';
import { HoldfastError, isError, isOfDestination, toHoldfastError } from '../../foundation/errors.ts';
import {
  ArchiveTaskSchema,
  BackupTaskSchema,
  CheckTaskSchema,
  type Destination,
  DestinationSchema,
  RestoreTaskSchema,
  type StartTask,
  StartTaskSchema,
  ValidateTaskSchema,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import type { DataKey } from '../../storage-layout/encryption/key-ring.ts';
import { unlockRound } from '../../storage-layout/encryption/unlock.ts';
import { tree } from '../../storage-layout/tree.ts';
import { awayEvent } from '../archive/changes.ts';
import { listLiveTasks, moveTask, type Task } from '../catalog/jobs.ts';
import {
  beginGroupAttempt,
  findRound,
  findRoundGroupOfTask,
  listRoundGroups,
  markAway,
  type RoundGroup,
} from '../catalog/rounds.ts';
import { findSetOfJob } from '../catalog/sets.ts';
import { type CoordinatorContext, write } from '../context.ts';
import { highestLogEpoch } from '../destination/claims.ts';
import { keyMessages, keySecrets, unsealDataKeys } from '../encryption/keys.ts';
import { keysOfBackup, keysOfValidation } from '../encryption/task-keys.ts';
import { readArchiveOption } from '../parameters/table.ts';
import { parameterIsOn, parameterMs, parameterNumber, parameterText } from '../parameters/values.ts';
import { copyLimits, runningCopies } from './copy-limits.ts';
import {
  type Candidates,
  choosePlace,
  chooseRestoreServer,
  chooseServerForSet,
  type Place,
} from './placement.ts';
import {
  archiveTaskSpec,
  backupTaskSpec,
  checkTaskSpec,
  restoreTaskSpec,
  validateTaskSpec,
} from './specs.ts';
import { step } from './state-machine.ts';
import { isProlonged } from './task-progress.ts';
import { messageFromJson } from './task-results.ts';
import { TASK_TRANSITIONS } from './task-states.ts';

/** Sub task ids of one attempt: enough for 1,000,000 macroblock files of 1 GiB each. */
const SUB_TASKS_PER_ATTEMPT = 1_000_000;
/** Meta files of one attempt: one per partition group. */
const META_TASKS_PER_ATTEMPT = 10_000;
const UNPLACED_RETRY_US = 1_000_000n;

type Prepared = {
  readonly kind: StartTask['kind'];
  /** Archive only: the epoch that this attempt claims. */
  readonly group?: { readonly row: RoundGroup; readonly epoch: bigint };
};

/** Dispatches one PENDING task, if an agent can take it; leaves it PENDING, with a reason, when none can now. */
export async function dispatchTask(
  context: CoordinatorContext,
  task: Task,
  candidates: Candidates,
  signal: AbortSignal,
): Promise<void> {
  const place = placeOf(task, candidates);
  if (place === undefined) return;
  const attempt = task.attempt + 1;
  let prepared: Prepared;
  try {
    prepared = await prepare(context, task, place, attempt, signal);
  } catch (error) {
    await postpone(context, task, toHoldfastError(error));
    return;
  }
  const running = step(TASK_TRANSITIONS, task.state, 'dispatch');
  if (running === undefined) return;
  const moved = await write(context, async (tx) => {
    const change = { attempt, serverId: place.serverId, instance: place.instance, startedUs: tx.nowUs };
    if (!(await moveTask(tx, task, running, tx.nowUs, change))) return false;
    if (prepared.group !== undefined)
      await beginGroupAttempt(tx, prepared.group.row, { epoch: prepared.group.epoch, ...place });
    return true;
  });
  if (!moved) return;
  const session = context.hub.session(place.serverId);
  session?.addTask(task.task_id, attempt);
  session?.send({
    case: 'startTask',
    value: create(StartTaskSchema, {
      taskId: task.task_id,
      attempt,
      jobId: task.job_id,
      deadlineMs: remainingMs(context, task),
      kind: prepared.kind,
    }),
  });
}

function placeOf(task: Task, candidates: Candidates): Place | undefined {
  const member = task.kind === 'CHECK' ? checkTaskSpec.parse(task.spec).member : undefined;
  if (member !== undefined) return { serverId: BigInt(member.serverId), instance: member.instance };
  if (task.kind === 'VALIDATE') {
    const serverId = candidates.validations?.get(task.task_id);
    return serverId === undefined ? undefined : { serverId, instance: '' };
  }
  if (task.kind === 'BACKUP' && backupTaskSpec.parse(task.spec).synthetic) {
    const serverId = chooseServerForSet(task, candidates);
    return serverId === undefined ? undefined : { serverId, instance: '' };
  }
  if (task.kind !== 'RESTORE')
    return choosePlace(task.kind, task.tenant_id, task.partition_group, candidates, {
      serverId: task.server_id,
      instance: task.instance,
    });
  // A retry goes where the files of the attempt before are: that agent cleans them up.
  const sticky =
    task.server_id !== 0n && candidates.attached.has(task.server_id) ? task.server_id : undefined;
  const serverId = sticky ?? chooseRestoreServer(restoreTaskSpec.parse(task.spec).zones, candidates);
  return serverId === undefined ? undefined : { serverId, instance: '' };
}

/** The destination could not be asked: the task stays PENDING and is tried again a little later. */
async function postpone(context: CoordinatorContext, task: Task, error: HoldfastError): Promise<void> {
  context.logger.warn({ err: error, taskId: String(task.task_id) }, 'a task cannot start yet');
  await write(context, async (tx) => {
    await moveTask(tx, task, task.state, tx.nowUs, { error, notBeforeUs: tx.nowUs + UNPLACED_RETRY_US });
    // A step that ran out of time here waited for the destination.
    const isAway = isOfDestination(error) || isError(error, 'TIMEOUT');
    if (task.kind !== 'ARCHIVE' || !isAway) return;
    const group = await findRoundGroupOfTask(tx, task.task_id);
    if (group !== undefined && (await markAway(tx, group, tx.nowUs)))
      await tx.event(awayEvent(group, tx.nowUs, `${error.code}: ${error.message}`));
  });
}

/** 0: none. What moves its deadline by its progress is ended by us alone (task-care.ts). */
function remainingMs(context: CoordinatorContext, task: Task): number {
  if (task.deadline_us === 0n || isProlonged(task.kind)) return 0;
  const left = Number((task.deadline_us - context.clock.nowUs()) / 1000n);
  return Math.min(Math.max(left, 1), 0xffff_ffff);
}

async function prepare(
  context: CoordinatorContext,
  task: Task,
  place: Place,
  attempt: number,
  signal: AbortSignal,
): Promise<Prepared> {
  switch (task.kind) {
    case 'ARCHIVE':
      return await prepareArchive(context, task, place, signal);
    case 'BACKUP':
      return { kind: await prepareBackup(context, task, place, attempt, signal) };
    case 'CHECK': {
      const spec = checkTaskSpec.parse(task.spec);
      const value = create(CheckTaskSchema, { instance: place.instance, purpose: spec.purpose });
      if (spec.destination !== '') value.destination = destinationOf(context, spec.destination);
      return { kind: { case: 'check', value } };
    }
    case 'RESTORE': {
      const spec = restoreTaskSpec.parse(task.spec);
      const value = messageFromJson(RestoreTaskSchema, spec.task);
      if (value.source !== undefined) {
        value.source.uri = context.secrets.decrypt(spec.destination);
        value.source.keys = keyMessages(unsealDataKeys(context.secrets, spec.keys));
      }
      return { kind: { case: 'restore', value } };
    }
    case 'VALIDATE': {
      const spec = validateTaskSpec.parse(task.spec);
      const value = messageFromJson(ValidateTaskSchema, spec.task);
      value.source = destinationOf(context, spec.destination);
      value.source.keys = keyMessages(await keysOfValidation(context, task.tenant_id, spec, signal));
      return { kind: { case: 'validate', value } };
    }
    default:
      return assertNever(task.kind);
  }
}

/** The destination as an agent needs it, with its secrets. */
function destinationOf(context: CoordinatorContext, encryptedUri: string): Destination {
  return create(DestinationSchema, { ...context.root, uri: context.secrets.decrypt(encryptedUri) });
}

async function prepareArchive(
  context: CoordinatorContext,
  task: Task,
  place: Place,
  signal: AbortSignal,
): Promise<Prepared> {
  const { catalog, root } = context;
  const key = { tenantId: task.tenant_id, round: BigInt(archiveTaskSpec.parse(task.spec).round) };
  const round = await findRound(catalog, key.tenantId, key.round);
  const row = (await listRoundGroups(catalog, key.tenantId, key.round)).find(
    (group) => group.partition_group === task.partition_group,
  );
  if (round === undefined || row === undefined)
    throw new HoldfastError('INTERNAL', `task ${task.task_id} has no round`);
  const destination = destinationOf(context, round.destination);
  const medium = await context.destinations.open(destination.uri, signal);
  const keys = await unlockRound(medium, root, key, await keySecrets(context), signal);
  requireKey(round.encryption_mode, keys, tree.roundDirectory(root, key));
  destination.keys = keyMessages(keys);
  const written = await highestLogEpoch(medium, root, key, task.partition_group, signal);
  const epoch = (written > row.epoch ? written : row.epoch) + 1n;
  const option = readArchiveOption(await parameterText(catalog, 'backup_log_archive_option', key.tenantId));
  const compression = await parameterText(catalog, 'backup_compression', key.tenantId);
  const value = create(ArchiveTaskSchema, {
    destination,
    tenantId: key.tenantId,
    round: key.round,
    partitionGroup: task.partition_group,
    instance: place.instance,
    epoch,
    slotName: slotName(context, key.tenantId, task.partition_group),
    fresh: row.start_lsn === null,
    checkpointIntervalMs: await parameterMs(catalog, 'log_archive_checkpoint_interval', key.tenantId),
    compression: option.compressed ? compression : 'none',
    expectedSystemIdentifier: BigInt(row.system_identifier),
    serverId: place.serverId,
    // The first attempt is given while the round has not begun, and runs for years. Where nothing follows after all, the slot is
    // dropped by keep-slots.ts.
    newRoundFollows: await parameterIsOn(catalog, 'archive_auto_new_round', key.tenantId),
  });
  return { kind: { case: 'archive', value }, group: { row, epoch } };
}

/** What is said to be encrypted must not become plain because its key record is gone. */
function requireKey(mode: string, keys: readonly DataKey[], directory: string): void {
  if (mode === 'NONE' || keys.some((key) => key.writes && key.directory === directory)) return;
  throw new HoldfastError('DATA_CORRUPT', `${directory} is encrypted, and its key record is gone`);
}

/** The slot of a partition group: the same for every round and attempt. At most 63 characters of a-z, 0-9 and _. */
export function slotName(context: CoordinatorContext, tenantId: bigint, group: string): string {
  const clean = (text: string) => text.toLowerCase().replaceAll(/[^a-z0-9_]/g, '_');
  const prefix = `holdfast_${clean(context.root.clusterName).slice(0, 20)}_${context.root.clusterId}_${tenantId}_`;
  return (prefix + clean(group)).slice(0, 63);
}

async function prepareBackup(
  context: CoordinatorContext,
  task: Task,
  place: Place,
  attempt: number,
  signal: AbortSignal,
): Promise<StartTask['kind']> {
  const { catalog } = context;
  const spec = backupTaskSpec.parse(task.spec);
  const set = await findSetOfJob(catalog, task.job_id);
  const retry = attempt - 1;
  const others = runningCopies(await listLiveTasks(catalog)).length;
  const limits = await copyLimits(catalog, task.tenant_id, others + 1);
  const destination = destinationOf(context, set?.destination ?? '');
  const fullSetId = set?.full_set_id ?? BigInt(spec.setId);
  const keys = set === undefined ? [] : await keysOfBackup(context, set, signal);
  const directory = tree.backupSetDirectory(context.root, task.tenant_id, fullSetId);
  requireKey(set?.encryption_mode ?? 'NONE', keys, directory);
  destination.keys = keyMessages(keys);
  const value = create(BackupTaskSchema, {
    destination,
    tenantId: task.tenant_id,
    backupSetId: BigInt(spec.setId),
    fullSetId,
    previousSetId: set?.previous_set_id ?? 0n,
    sourceSetId: set?.source_set_id ?? 0n,
    sourceFullSetId: set?.source_full_set_id ?? 0n,
    round: set?.round ?? 0n,
    partitionGroup: task.partition_group,
    instance: place.instance,
    retry,
    firstSubTaskId: retry * SUB_TASKS_PER_ATTEMPT + 1,
    subTaskIdCount: SUB_TASKS_PER_ATTEMPT,
    compression: await parameterText(catalog, 'backup_compression', task.tenant_id),
    concurrency: await parameterNumber(catalog, 'backup_concurrency', task.tenant_id),
    pageCheck: await parameterIsOn(catalog, 'backup_page_check', task.tenant_id),
    metaTaskId: retry * META_TASKS_PER_ATTEMPT + spec.ordinal,
    netLimitBytesPerSecond: limits.netBytesPerSecond,
    limits,
  });
  return { case: 'backup', value };
}
