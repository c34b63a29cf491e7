/** Where a task runs. Pure. */
import type { InstanceRow, Server } from '../catalog/servers.ts';
import type { TaskKind } from './task-states.ts';

export type Place = { readonly serverId: bigint; readonly instance: string };

export type Candidates = {
  readonly instances: readonly InstanceRow[];
  readonly servers: readonly Server[];
  readonly attached: ReadonlySet<bigint>;
};

/**
 * The instance that does a partition group's task: its leader, on an attached agent. Archiving follows the leader always;
 * a backup reads it too (a standby's files need a restartpoint first, correctness.md 4). A check may also look at an
 * instance that is down or a standby, to say so.
 */
export function choosePlace(
  kind: Exclude<TaskKind, 'RESTORE'>,
  tenantId: bigint,
  group: string,
  candidates: Candidates,
): Place | undefined {
  const members = candidates.instances.filter(
    (instance) =>
      instance.tenant_id === tenantId &&
      instance.partition_group === group &&
      candidates.attached.has(instance.server_id),
  );
  const chosen =
    members.find((instance) => instance.role === 'PRIMARY') ?? (kind === 'CHECK' ? members[0] : undefined);
  return chosen === undefined ? undefined : { serverId: chosen.server_id, instance: chosen.instance };
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
