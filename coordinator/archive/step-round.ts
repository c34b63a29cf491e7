/** Moves rounds: one step of the reconcile loop each. Every step may be repeated (round-states.ts, R1 to R6). */
import { create } from '@bufbuild/protobuf';
import { defined } from '../../foundation/assert.ts';
import { HoldfastError, toHoldfastError } from '../../foundation/errors.ts';
import { parseLsn } from '../../foundation/lsn.ts';
import { RoundBeginSchema, RoundEndSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { readMembers } from '../../storage-layout/plan/read-members.ts';
import { formatInstant } from '../../storage-layout/plan/windows.ts';
import { tree } from '../../storage-layout/tree.ts';
import { errorOfRow, listTasks, moveJob, type Task } from '../catalog/jobs.ts';
import { replaceRoundMembers } from '../catalog/members.ts';
import {
  listRoundGroups,
  moveRound,
  type Round,
  type RoundGroup,
  recordHole,
  updateRound,
} from '../catalog/rounds.ts';
import { setGroupSystemIdentifier } from '../catalog/tenants.ts';
import { type CoordinatorContext, write } from '../context.ts';
import { hasRound } from '../destination/claims.ts';
import { runningGroups, toRoundState, writeClogSummaries } from '../destination/summaries.ts';
import { writeOnceOrRead } from '../destination/write-once.ts';
import { readRetention } from '../jobs/check-job.ts';
import { step } from '../jobs/state-machine.ts';
import { abandonCancelled, cancelTasks, isEnded, sendCancel } from '../jobs/task-care.ts';
import { followLineages } from './lineages.ts';
import { isFollowed } from './next-round.ts';
import { roundBegin } from './round-begin.ts';
import { isNewcomer, type RoundMembers } from './round-members.ts';
import { ROUND_TRANSITIONS, type RoundStateName } from './round-states.ts';

/** One step of a round that is running, or owes its round_end. */
export async function stepRound(
  context: CoordinatorContext,
  round: Round,
  members: RoundMembers,
  signal: AbortSignal,
): Promise<void> {
  const tasks = await tasksOf(context, round);
  switch (round.state) {
    case 'BEGINNING':
    case 'DOING': {
      const failed = tasks.find((task) => task.state === 'FAILED');
      if (failed !== undefined) {
        await interruptRound(context, round, failed);
        return;
      }
      // What changed is for the next step to look at.
      if (await members.step(context, { ...round, state: round.state }, signal)) return;
      if (round.state === 'BEGINNING') await beginWhenAllStarted(context, round, signal);
      else await followLineages(context, round, signal);
      return;
    }
    case 'STOPPING':
      await endWhenStopped(context, round, tasks);
      return;
    case 'STOP':
    case 'INTERRUPTED':
      await payRoundEnd(context, round, tasks, signal);
  }
}

/** The archive tasks that the round hangs on: not those of groups that left, or that have not begun in it yet. */
async function tasksOf(context: CoordinatorContext, round: Round): Promise<readonly Task[]> {
  const rows = await listRoundGroups(context.catalog, round.tenant_id, round.round);
  const ids = new Set(
    rows.filter((row) => row.left_us === 0n && !isNewcomer(round, row)).map((row) => row.task_id),
  );
  return (await listTasks(context.catalog, round.job_id)).filter((task) => ids.has(task.task_id));
}

/** R2: round_begin is at the destination before the round is DOING. */
async function beginWhenAllStarted(
  context: CoordinatorContext,
  round: Round,
  signal: AbortSignal,
): Promise<void> {
  const groups = (await listRoundGroups(context.catalog, round.tenant_id, round.round)).filter(
    (group) => group.left_us === 0n,
  );
  if (!groups.every((group) => group.state === 'DOING' && group.start_lsn !== null)) return;
  if (groups.length === 0) return; // all have left: nothing is archived until one joins
  const medium = await context.destinations.open(context.secrets.decrypt(round.destination), signal);
  const key = { tenantId: round.tenant_id, round: round.round };
  if (!(await hasRound(medium, context.deployment, key, signal)))
    throw new HoldfastError(
      'BACKUP_MOUNT_FILE_NOT_VALID',
      `round ${round.round} is gone from ${medium.displayUri}`,
    );
  const begin = await writeOnceOrRead(
    medium,
    tree.roundBegin(context.root, key),
    RoundBeginSchema,
    roundBegin(round, groups),
    signal,
  );
  const members = await readMembers(medium, context.root, key, begin, signal);
  const next = step(ROUND_TRANSITIONS, round.state, 'allStarted');
  if (next === undefined) return;
  await write(context, async (tx) => {
    if (!(await moveRound(tx, round, next, { startUs: begin.beginUs }))) return;
    await replaceRoundMembers(tx, round, members);
    for (const group of groups)
      await setGroupSystemIdentifier(
        tx,
        group.tenant_id,
        group.partition_group,
        BigInt(group.system_identifier),
      );
    await updateRound(tx, round, { lastError: '' });
    await tx.event({
      module: 'archive',
      event: 'round_doing',
      tenantId: round.tenant_id,
      tenantName: round.tenant_name,
      message: `round ${round.round} of tenant "${round.tenant_name}" is DOING`,
      facts: { round: round.round },
    });
  });
  await writeClogSummaries(medium, context.root, context.catalog, round.tenant_id, signal);
}

/** R3: a hole, or a start that cannot be, ends the round. */
async function interruptRound(context: CoordinatorContext, round: Round, failed: Task): Promise<void> {
  const next = step(ROUND_TRANSITIONS, round.state, 'interrupt');
  if (next === undefined) return;
  const cause = errorOfRow(failed) ?? new HoldfastError('INTERNAL', 'the archiver ended');
  const group = await holeOf(context, round, failed, cause);
  const lost = describeHole(group);
  const kept = (await keepsAllUntilNext(context, round, next))
    ? " Until the next round begins, the slots keep all of the servers' log (MANDATORY)."
    : '';
  const reason = `partition group ${failed.partition_group}: ${cause.code}: ${cause.message}${lost === '' ? '' : `; ${lost}`}`;
  const told = await write(context, async (tx) => {
    const moved = await moveRound(tx, round, next, {
      reason,
      endUs: tx.nowUs,
      endOwed: round.state === 'DOING',
      endState: next,
    });
    if (!moved) return [];
    await moveJob(tx, round.job_id, 'RUNNING', 'FAILED', tx.nowUs, { error: cause });
    await tx.event({
      module: 'archive',
      event: 'round_interrupted',
      severity: 'ERROR',
      tenantId: round.tenant_id,
      tenantName: round.tenant_name,
      message: `round ${round.round} of tenant "${round.tenant_name}" is INTERRUPTED: ${reason}. What follows needs a new round and a full backup.${kept}`,
      facts: {
        round: round.round,
        reason,
        partition_group: failed.partition_group,
        hole_timeline: group.hole_timeline,
        hole_begin: group.hole_begin ?? '',
        hole_end: group.hole_end ?? '',
        hole_begin_us: group.hole_begin_us,
        hole_end_us: group.hole_end_us,
      },
    });
    return await cancelTasks(tx, round.job_id);
  });
  for (const task of told) sendCancel(context, task, 'the round is interrupted', true);
}

/** The slots stay for a round that follows by itself, and nothing bounds what they keep. */
async function keepsAllUntilNext(
  context: CoordinatorContext,
  round: Round,
  next: RoundStateName,
): Promise<boolean> {
  const { mandatory } = await readRetention(context, round.tenant_id);
  return mandatory && (await isFollowed(context, { ...round, state: next }));
}

/** The failed group with its hole: where its archiver said, else behind what it reported as archived. */
async function holeOf(
  context: CoordinatorContext,
  round: Round,
  failed: Task,
  cause: HoldfastError,
): Promise<RoundGroup> {
  const find = async () =>
    defined(
      (await listRoundGroups(context.catalog, round.tenant_id, round.round)).find(
        (candidate) => candidate.partition_group === failed.partition_group,
      ),
      'the partition group of an archive task',
    );
  const group = await find();
  if (group.hole_timeline !== 0n) return group;
  const archived =
    group.checkpoint_lsn === null
      ? undefined
      : { timeline: Number(group.checkpoint_timeline), lsn: parseLsn(group.checkpoint_lsn) };
  const reason = `${cause.code}: ${cause.message}`;
  await write(context, (tx) =>
    recordHole(tx, group, { begin: archived, end: 0n, beginUs: 0n, endUs: 0n, reason }),
  );
  return await find();
}

/** For people; empty when there was no log yet. */
function describeHole(group: RoundGroup): string {
  if (group.hole_begin === null) return '';
  const until =
    group.hole_end === null
      ? 'on'
      : `to ${group.hole_end}${group.hole_end_us === 0n ? '' : ` (${formatInstant(group.hole_end_us)})`}`;
  const since = group.hole_begin_us === 0n ? '' : ` (${formatInstant(group.hole_begin_us)})`;
  return group.hole_begin === group.hole_end
    ? `all log up to ${group.hole_begin} is archived, and the server has what follows`
    : `the log of timeline ${group.hole_timeline} from ${group.hole_begin}${since} ${until} is lost`;
}

/** Ends a round whose archivers have drained, or did not answer in time. */
async function endWhenStopped(
  context: CoordinatorContext,
  round: Round,
  tasks: readonly Task[],
): Promise<void> {
  const late = context.clock.nowUs() >= round.stop_deadline_us;
  if (!late && !tasks.every(isEnded)) return;
  const next = step(ROUND_TRANSITIONS, round.state, 'ended');
  if (next === undefined) return;
  const undrained = tasks.filter((task) => task.state !== 'SUCCEEDED').map((task) => task.partition_group);
  const reason = undrained.length === 0 ? 'stopped' : `stopped; not drained: ${undrained.join(', ')}`;
  await write(context, async (tx) => {
    await abandonCancelled(tx, round.job_id);
    const begun = round.start_us !== 0n;
    if (!(await moveRound(tx, round, next, { reason, endUs: tx.nowUs, endOwed: begun, endState: 'STOP' })))
      return;
    await moveJob(tx, round.job_id, 'RUNNING', 'COMPLETED', tx.nowUs);
    await tx.event({
      module: 'archive',
      event: 'round_stopped',
      tenantId: round.tenant_id,
      tenantName: round.tenant_name,
      message: `round ${round.round} of tenant "${round.tenant_name}" is STOP`,
      facts: { round: round.round },
    });
  });
}

/** R6: writes round_end, now or when the destination is back. */
async function payRoundEnd(
  context: CoordinatorContext,
  round: Round,
  tasks: readonly Task[],
  signal: AbortSignal,
): Promise<void> {
  if (!round.end_owed) return;
  // While an archiver still drains, its last words are not known.
  const settled =
    tasks.every(isEnded) ||
    context.clock.nowUs() > round.end_us + BigInt(context.timing.stopTimeoutMs) * 1000n;
  if (!settled) return;
  const medium = await context.destinations.open(context.secrets.decrypt(round.destination), signal);
  const key = { tenantId: round.tenant_id, round: round.round };
  if (!(await hasRound(medium, context.deployment, key, signal))) {
    // Nobody may write into what is another medium now: the catalog alone keeps how the round ended.
    await write(context, (tx) =>
      updateRound(tx, round, {
        endOwed: false,
        lastError: `round ${round.round} is gone from ${medium.displayUri}`,
      }),
    );
    return;
  }
  await writeOnceOrRead(
    medium,
    tree.roundEnd(context.root, key),
    RoundEndSchema,
    create(RoundEndSchema, {
      round: round.round,
      endUs: round.end_us,
      state: toRoundState(round.end_state as RoundStateName), // only such states are stored
      reason: round.reason,
      groups: await runningGroups(context.catalog, round.tenant_id, round.round),
    }),
    signal,
  );
  await write(context, (tx) => updateRound(tx, round, { endOwed: false, lastError: '' }));
  await writeClogSummaries(medium, context.root, context.catalog, round.tenant_id, signal);
}

/** What a step of a round failed with is shown with the round; the step is tried again. */
export async function recordRoundError(
  context: CoordinatorContext,
  round: Round,
  error: unknown,
): Promise<void> {
  const failure = toHoldfastError(error);
  const text = `${failure.code}: ${failure.message}`;
  if (text !== round.last_error) await write(context, (tx) => updateRound(tx, round, { lastError: text }));
}
