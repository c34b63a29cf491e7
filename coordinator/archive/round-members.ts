/**
 * Partition groups that join a running round or leave it. The destination first: a write-once record under members/ of the
 * round, then tenant_info, then the rows. Killed anywhere, the next step finds at the destination what was done, and does
 * the rest (docs/states.md, R7 to R9).
 */
import { create } from '@bufbuild/protobuf';
import { defined } from '../../foundation/assert.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import {
  RoundBeginSchema,
  RoundMemberBeginSchema,
  RoundMemberJoinedSchema,
  RoundMemberLeftSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import type { GroupMembership } from '../../storage-layout/plan/membership.ts';
import { readMembers } from '../../storage-layout/plan/read-members.ts';
import { readInfo } from '../../storage-layout/records/info-file.ts';
import { tree } from '../../storage-layout/tree.ts';
import { findTask, insertTask, type Task } from '../catalog/jobs.ts';
import { listRoundMembers, replaceRoundMembers } from '../catalog/members.ts';
import {
  insertRoundGroup,
  listRoundGroups,
  type Round,
  type RoundGroup,
  renewRoundGroup,
  setRoundGroupBegun,
  setRoundGroupLeft,
  updateRound,
} from '../catalog/rounds.ts';
import {
  leftUsOf,
  listAllGroups,
  listGroups,
  type PartitionGroup,
  setGroupSystemIdentifier,
} from '../catalog/tenants.ts';
import { type CoordinatorContext, type Transaction, write } from '../context.ts';
import { hasRound } from '../destination/claims.ts';
import { writeOnceOrRead } from '../destination/write-once.ts';
import { cancelTask, sendCancel } from '../jobs/task-care.ts';
import { type MemberPlan, planMembers } from './plan-members.ts';
import { groupStart } from './round-begin.ts';
import { listUnrecordedOf, recordTenants, settleGroups } from './tenant-groups.ts';

/** A group that could not begin in a running round tries again after this. */
const RENEW_AFTER_US = 30_000_000n;

export class RoundMembers {
  /** Rounds whose rows were made from what the destination says since this coordinator leads. */
  readonly #read = new Set<string>();

  /** One step, of a round that is BEGINNING or DOING. True when it changed something: the round is to be read again. */
  async step(
    context: CoordinatorContext,
    round: Round & { readonly state: 'BEGINNING' | 'DOING' },
    signal: AbortSignal,
  ): Promise<boolean> {
    const rows = await listRoundGroups(context.catalog, round.tenant_id, round.round);
    const plan = planMembers({
      state: round.state,
      declared: (await listGroups(context.catalog, round.tenant_id)).map((group) => group.partition_group),
      rows,
      members: await listRoundMembers(context.catalog, round),
    });
    const unrecorded = await listUnrecordedOf(context, round.tenant_id);
    const key = `${round.tenant_id}.${round.round}`;
    const isRead = round.state === 'BEGINNING' || this.#read.has(key);
    const nothing = plan.join.length + plan.leave.length + plan.begin.length + unrecorded.length === 0;
    if (nothing && isRead) return await renewFailed(context, round, rows);
    const medium = await openRound(context, round, signal);
    const groups = (await listAllGroups(context.catalog)).filter((it) => it.tenant_id === round.tenant_id);
    const members =
      round.state === 'DOING' ? await record(context, medium, round, plan, groups, signal) : undefined;
    if (unrecorded.length > 0) await recordTenants(context, medium, signal);
    const cancelled = await write(context, async (tx) => {
      if (members !== undefined) await replaceRoundMembers(tx, round, members);
      if (round.last_error !== '') await updateRound(tx, round, { lastError: '' });
      await settleGroups(tx, round.tenant_id, unrecorded);
      for (const name of plan.join) await joinRound(tx, round, rows, name);
      for (const row of plan.begin) await beginInRound(tx, round, row);
      const told: Task[] = [];
      for (const name of plan.leave) told.push(...(await leaveRound(tx, round, rows, groups, name)));
      return told;
    });
    for (const task of cancelled) sendCancel(context, task, 'the partition group left its tenant', true);
    if (members !== undefined) this.#read.add(key);
    return !nothing;
  }
}

/** Throws BACKUP_MOUNT_FILE_NOT_VALID when the round is gone from its destination. */
async function openRound(context: CoordinatorContext, round: Round, signal: AbortSignal): Promise<Medium> {
  const medium = await context.destinations.open(context.secrets.decrypt(round.destination), signal);
  const key = { tenantId: round.tenant_id, round: round.round };
  if (await hasRound(medium, context.deployment, key, signal)) return medium;
  throw new HoldfastError(
    'BACKUP_MOUNT_FILE_NOT_VALID',
    `round ${round.round} is gone from ${medium.displayUri}`,
  );
}

/** Writes what the plan asks for, as far as it is not there, and returns all members as the destination has them. */
async function record(
  context: CoordinatorContext,
  medium: Medium,
  round: Round,
  plan: MemberPlan,
  groups: readonly PartitionGroup[],
  signal: AbortSignal,
): Promise<readonly GroupMembership[]> {
  const { root } = context;
  const key = { tenantId: round.tenant_id, round: round.round };
  const begin = await readInfo(medium, tree.roundBegin(root, key), RoundBeginSchema, signal);
  const found = await readMembers(medium, root, key, begin, signal);
  const ofGroup = (name: string) => found.filter((each) => each.partitionGroup === name);
  const rowOf = (name: string) => groups.find((group) => group.partition_group === name);
  for (const name of plan.leave) {
    const open = ofGroup(name).find((each) => each.leftUs === 0n);
    if (open === undefined) continue;
    const row = rowOf(name);
    const leftUs = latest(row === undefined ? 0n : leftUsOf(row), open.joinedUs + 1n);
    const { membership } = open;
    const message = create(RoundMemberLeftSchema, { ...key, partitionGroup: name, membership, leftUs });
    const path = tree.memberLeft(root, key, name, membership);
    await writeOnceOrRead(medium, path, RoundMemberLeftSchema, message, signal);
  }
  for (const name of plan.join) {
    const before = ofGroup(name).at(-1);
    if (before !== undefined && before.leftUs === 0n) continue;
    const membership = (before?.membership ?? 0) + 1;
    const joinedUs = latest(rowOf(name)?.joined_us ?? 0n, (before?.leftUs ?? 0n) + 1n);
    const message = create(RoundMemberJoinedSchema, { ...key, partitionGroup: name, membership, joinedUs });
    const path = tree.memberJoined(root, key, name, membership);
    await writeOnceOrRead(medium, path, RoundMemberJoinedSchema, message, signal);
  }
  for (const row of plan.begin) {
    const open = ofGroup(row.partition_group).find((each) => each.leftUs === 0n);
    if (open === undefined || open.start !== undefined) continue;
    const { membership } = open;
    const message = create(RoundMemberBeginSchema, { ...key, membership, start: groupStart(row) });
    const path = tree.memberBegin(root, key, row.partition_group, membership);
    await writeOnceOrRead(medium, path, RoundMemberBeginSchema, message, signal);
  }
  return await readMembers(medium, root, key, begin, signal);
}

async function joinRound(
  tx: Transaction,
  round: Round,
  rows: readonly RoundGroup[],
  name: string,
): Promise<void> {
  const row = rows.find((each) => each.partition_group === name);
  if (row !== undefined && row.left_us === 0n) return; // it has its task: only the records were missing
  const late = round.state === 'DOING';
  const taskId = await insertArchiveTask(tx, round, name);
  const group = { tenantId: round.tenant_id, round: round.round, partitionGroup: name, taskId, late };
  if (row === undefined) await insertRoundGroup(tx, group);
  else await renewRoundGroup(tx, row, { taskId, begun: !late });
  await tx.event({
    module: 'archive',
    event: 'group_joining_round',
    tenantId: round.tenant_id,
    tenantName: round.tenant_name,
    message: `partition group ${name} joins round ${round.round} of tenant "${round.tenant_name}"; the tenant is restorable to later instants after a full backup`,
    facts: { round: round.round, partition_group: name },
  });
}

async function beginInRound(tx: Transaction, round: Round, row: RoundGroup): Promise<void> {
  await setRoundGroupBegun(tx, row);
  const systemIdentifier = BigInt(row.system_identifier);
  await setGroupSystemIdentifier(tx, row.tenant_id, row.partition_group, systemIdentifier);
  await tx.event({
    module: 'archive',
    event: 'group_begun_in_round',
    tenantId: round.tenant_id,
    tenantName: round.tenant_name,
    message: `the log of partition group ${row.partition_group} is archived in round ${round.round} from ${row.start_lsn ?? ''} on; BACKUP takes it in`,
    facts: { round: round.round, partition_group: row.partition_group, start_lsn: row.start_lsn ?? '' },
  });
}

/** Returns the tasks whose agents must be told. */
async function leaveRound(
  tx: Transaction,
  round: Round,
  rows: readonly RoundGroup[],
  groups: readonly PartitionGroup[],
  name: string,
): Promise<readonly Task[]> {
  const row = rows.find((each) => each.partition_group === name && each.left_us === 0n);
  if (row === undefined) return [];
  const group = groups.find((each) => each.partition_group === name);
  await setRoundGroupLeft(tx, row, latest(group === undefined ? 0n : leftUsOf(group), 1n));
  await tx.event({
    module: 'archive',
    event: 'group_left_round',
    severity: 'WARNING',
    tenantId: round.tenant_id,
    tenantName: round.tenant_name,
    message: `partition group ${name} has left round ${round.round} of tenant "${round.tenant_name}": its log is archived no more, the round goes on without it`,
    facts: { round: round.round, partition_group: name },
  });
  const task = await findTask(tx, row.task_id);
  return task !== undefined && (await cancelTask(tx, task)) ? [task] : [];
}

/** A group whose log could not begin in the running round ends no round: it tries again, now and then. */
async function renewFailed(
  context: CoordinatorContext,
  round: Round,
  rows: readonly RoundGroup[],
): Promise<boolean> {
  let renewed = false;
  for (const row of rows.filter((each) => isNewcomer(round, each))) {
    const task = defined(await findTask(context.catalog, row.task_id), "a partition group's archive task");
    if (task.state !== 'FAILED' || context.clock.nowUs() < task.ended_us + RENEW_AFTER_US) continue;
    await write(context, async (tx) => {
      const taskId = await insertArchiveTask(tx, round, row.partition_group);
      await renewRoundGroup(tx, row, { taskId, begun: false });
    });
    renewed = true;
  }
  return renewed;
}

/** True while nothing of the group is archived in the round that it joins. */
export function isNewcomer(round: Round, row: RoundGroup): boolean {
  return round.state === 'DOING' && row.left_us === 0n && !row.begun && row.start_lsn === null;
}

async function insertArchiveTask(tx: Transaction, round: Round, partitionGroup: string): Promise<bigint> {
  return await insertTask(tx, {
    jobId: round.job_id,
    kind: 'ARCHIVE',
    tenantId: round.tenant_id,
    partitionGroup,
    spec: { round: String(round.round) },
    nowUs: tx.nowUs,
  });
}

function latest(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
