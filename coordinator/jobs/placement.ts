/** Where a task runs. Pure. */
import type { Task } from '../catalog/jobs.ts';
import type { MemberInstance, Server } from '../catalog/servers.ts';
import type { PartitionGroup } from '../catalog/tenants.ts';
import type { TaskKind } from './task-states.ts';

export type Place = { readonly serverId: bigint; readonly instance: string };

export type Candidates = {
  /** Members only: a clone is nobody's (agents/membership.ts). */
  readonly instances: readonly MemberInstance[];
  readonly servers: readonly Server[];
  readonly attached: ReadonlySet<bigint>;
  /** What is known of the partition groups; without it a member is a member. */
  readonly groups?: readonly PartitionGroup[];
  /** Where the next validation tasks run, by task id (`placeValidations`). */
  readonly validations?: ReadonlyMap<bigint, bigint>;
};

/**
 * The instance that does a partition group's task: its leader, on an attached agent. Archiving follows the leader always;
 * a backup reads it too (a standby's files need a restartpoint first, correctness.md 4). A check may also look at an
 * instance that is down or a standby, to say so.
 */
export function choosePlace(
  kind: Exclude<TaskKind, 'RESTORE' | 'VALIDATE'>,
  tenantId: bigint,
  group: string,
  candidates: Candidates,
  present?: Place,
): Place | undefined {
  const chosen =
    chooseLeader(tenantId, group, candidates, present) ??
    (kind === 'CHECK' ? membersOf(tenantId, group, candidates)[0] : undefined);
  return chosen === undefined ? undefined : placeOf(chosen);
}

/**
 * The primary of the group, of several the one on the newest timeline: the last that was promoted. Only members are
 * looked at, so a clone, however new its timeline, is nobody here. A member of another system is one only when there
 * is no other. Among equals the present place is kept.
 */
export function chooseLeader(
  tenantId: bigint,
  group: string,
  candidates: Candidates,
  present?: Place,
): MemberInstance | undefined {
  const known = systemOf(tenantId, group, candidates);
  const rank = (row: MemberInstance) => [
    known === undefined || row.system_identifier === known ? 1n : 0n,
    row.timeline,
    isPlace(row, present) ? 1n : 0n,
  ];
  return membersOf(tenantId, group, candidates)
    .filter((row) => row.role === 'PRIMARY')
    .sort((a, b) => compareRanks(rank(b), rank(a)))[0];
}

/**
 * Where a group's archiver must go on: the new leader, when the one whose log is archived was left behind by a member on
 * a newer timeline. Undefined: it stays.
 */
export function chooseSuccessor(
  tenantId: bigint,
  group: string,
  candidates: Candidates,
  present: Place,
): MemberInstance | undefined {
  const leader = chooseLeader(tenantId, group, candidates, present);
  if (leader === undefined || isPlace(leader, present)) return undefined;
  const archived = candidates.instances.find((row) => isPlace(row, present));
  const known = systemOf(tenantId, group, candidates);
  if (known !== undefined && leader.system_identifier !== known) return undefined;
  return archived === undefined || leader.timeline > archived.timeline ? leader : undefined;
}

/** Members on attached agents that all say that they are the primary; fewer than two: none. */
export function claimants(
  tenantId: bigint,
  group: string,
  candidates: Candidates,
): readonly MemberInstance[] {
  const primaries = membersOf(tenantId, group, candidates).filter((row) => row.role === 'PRIMARY');
  return primaries.length < 2 ? [] : primaries;
}

export function membersOf(
  tenantId: bigint,
  group: string,
  candidates: Candidates,
): readonly MemberInstance[] {
  return candidates.instances.filter(
    (row) =>
      row.tenant_id === tenantId && row.partition_group === group && candidates.attached.has(row.server_id),
  );
}

function systemOf(tenantId: bigint, group: string, candidates: Candidates): string | undefined {
  const found = candidates.groups?.find(
    (row) => row.tenant_id === tenantId && row.partition_group === group,
  )?.system_identifier;
  return found === '0' ? undefined : found;
}

function placeOf(row: MemberInstance): Place {
  return { serverId: row.server_id, instance: row.instance };
}

function isPlace(row: MemberInstance, place: Place | undefined): boolean {
  return row.server_id === place?.serverId && row.instance === place.instance;
}

function compareRanks(a: readonly bigint[], b: readonly bigint[]): number {
  for (const [index, value] of a.entries()) {
    const other = b[index] ?? 0n;
    if (value !== other) return value < other ? -1 : 1;
  }
  return 0;
}

/** The attached agent in the zones with the fewest instances of its own: where a restored instance goes. */
export function chooseRestoreServer(zones: readonly string[], candidates: Candidates): bigint | undefined {
  const load = (serverId: bigint) =>
    candidates.instances.filter((instance) => instance.server_id === serverId).length;
  const servers = candidates.servers
    .filter((server) => candidates.attached.has(server.server_id))
    .filter((server) => zones.length === 0 || zones.includes(server.zone))
    .map((server) => ({ serverId: server.server_id, load: load(server.server_id) }))
    .sort((a, b) => a.load - b.load);
  return servers[0]?.serverId;
}

/**
 * The attached agent for a task that reads a set at the destination and no instance: another one than failed it last, where
 * there is one, and rather one that has an instance of the partition group: it is used to the destination.
 */
export function chooseServerForSet(
  task: Pick<Task, 'tenant_id' | 'partition_group' | 'server_id'>,
  candidates: Candidates,
): bigint | undefined {
  const near = new Set(
    membersOf(task.tenant_id, task.partition_group, candidates).map((instance) => instance.server_id),
  );
  const rank = (serverId: bigint) => (serverId === task.server_id ? 2 : 0) + (near.has(serverId) ? 0 : 1);
  return [...candidates.attached].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1))[0];
}

/** Validations that one agent does at once: each uses all of its cores. */
const VALIDATIONS_PER_AGENT = 1;

/**
 * Spreads the validation tasks that wait over the attached agents that are free, in the order of their ids; any agent can
 * do any. One that failed or was lost goes to another agent where there is one. Tasks that find no agent stay out.
 */
export function placeValidations(
  tasks: readonly Pick<Task, 'task_id' | 'kind' | 'state' | 'server_id'>[],
  attached: ReadonlySet<bigint>,
): ReadonlyMap<bigint, bigint> {
  const validations = tasks.filter((task) => task.kind === 'VALIDATE');
  const busy = new Map([...attached].map((serverId) => [serverId, 0]));
  for (const task of validations)
    if (task.state !== 'PENDING') busy.set(task.server_id, (busy.get(task.server_id) ?? 0) + 1);
  const places = new Map<bigint, bigint>();
  const waiting = validations.filter((task) => task.state === 'PENDING');
  for (const task of waiting.sort((a, b) => (a.task_id < b.task_id ? -1 : 1))) {
    const rank = (serverId: bigint) => (busy.get(serverId) ?? 0) * 2 + (serverId === task.server_id ? 1 : 0);
    const [serverId] = [...attached]
      .filter((id) => (busy.get(id) ?? 0) < VALIDATIONS_PER_AGENT)
      .sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
    if (serverId === undefined) break;
    busy.set(serverId, (busy.get(serverId) ?? 0) + 1);
    places.set(task.task_id, serverId);
  }
  return places;
}
