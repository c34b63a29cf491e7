/**
 * Who belongs to a partition group. Membership is declared and never inferred; but a copy of a server looks like the server
 * after a failover: it has its system identifier, and a higher timeline. So every instance is judged by its identifier:
 *
 * M1. An identifier belongs to one partition group: the one whose log was archived under it, else the one that was declared
 *     first among those that have it.
 * M2. A tenant that RESTORE made has its source's identifiers by right, under ids of its own.
 * M3. An instance that is declared for another group than its identifier belongs to, or for none, is an UNASSIGNED CLONE:
 *     shown, and given no task. So is a server that RESTORE made, declared as a member of another tenant.
 */
import type { Queryable } from '../catalog/catalog.ts';
import {
  type InstanceRow,
  listInstances,
  type MemberInstance,
  type Membership,
  recordMembership,
} from '../catalog/servers.ts';
import { listAllGroups, listTenants, type PartitionGroup, type Tenant } from '../catalog/tenants.ts';
import { type CoordinatorContext, type Transaction, write } from '../context.ts';

type Known = {
  readonly instances: readonly InstanceRow[];
  readonly groups: readonly PartitionGroup[];
  readonly tenants: readonly Tenant[];
};
type Judged = {
  readonly instance: InstanceRow;
  readonly membership: Membership;
  /** Whose identifier a clone has. */
  readonly owner: { readonly tenant: Tenant; readonly partitionGroup: string } | undefined;
  /** The same as the views show it; empty: it is no clone. */
  readonly cloneOf: string;
};
type Claim = {
  readonly tenant: Tenant;
  readonly partitionGroup: string;
  readonly systemIdentifier: string;
  readonly archived: boolean;
  readonly joinedUs: bigint;
};

/** Every instance, in the order given. Pure. */
export function judgeInstances(known: Known): readonly Judged[] {
  const claims = listClaims(known);
  return known.instances.map((instance) => {
    const owner = ownerOf(instance, claims, known);
    const cloneOf = owner === undefined ? '' : `${owner.tenant.tenant_name}.${owner.partitionGroup}`;
    if (owner !== undefined) return { instance, membership: 'UNASSIGNED CLONE', owner, cloneOf };
    return { instance, membership: instance.tenant_id === null ? 'UNASSIGNED' : 'MEMBER', owner, cloneOf };
  });
}

/** A tenant's instances that tasks are given to. */
export async function listMembersOf(db: Queryable, tenantId: bigint): Promise<readonly MemberInstance[]> {
  return membersAmong(judgeInstances(await readKnown(db))).filter((row) => row.tenant_id === tenantId);
}

/** A tenant's declared instances that are clones of another's. */
export async function listClonesOf(db: Queryable, tenantId: bigint): Promise<readonly Judged[]> {
  return judgeInstances(await readKnown(db)).filter(
    ({ instance, membership }) => instance.tenant_id === tenantId && membership === 'UNASSIGNED CLONE',
  );
}

/** Judges every instance, keeps what was found for the views, and tells of new clones. Returns the members. */
export async function keepMembership(context: CoordinatorContext): Promise<readonly MemberInstance[]> {
  const known = await readKnown(context.catalog);
  const judged = judgeInstances(known);
  const changed = judged.filter(
    ({ instance, membership, cloneOf }) =>
      instance.membership !== membership || instance.clone_of !== cloneOf,
  );
  if (changed.length > 0)
    await write(context, async (tx) => {
      for (const each of changed) {
        await recordMembership(tx, each.instance, each.membership, each.cloneOf);
        if (each.membership === 'UNASSIGNED CLONE') await tellClone(tx, each, known.tenants);
      }
    });
  return membersAmong(judged);
}

async function tellClone(
  tx: Transaction,
  { instance, cloneOf }: Judged,
  tenants: readonly Tenant[],
): Promise<void> {
  const declared = instance.tenant_id !== null;
  const own = tenants.find(({ tenant_id: id }) => id === instance.tenant_id);
  await tx.event({
    module: 'agent',
    event: 'unassigned_clone',
    severity: declared ? 'ERROR' : 'WARNING',
    tenantId: instance.tenant_id ?? 0n,
    tenantName: own?.tenant_name ?? '',
    message: `instance "${instance.instance}" of server ${instance.server_id} has the system identifier of ${cloneOf}${declared ? ', but is declared for another partition group' : ''}: it is an UNASSIGNED CLONE, and its log is not archived`,
    facts: {
      server_id: instance.server_id,
      instance: instance.instance,
      system_identifier: instance.system_identifier,
      timeline: instance.timeline,
      clone_of: cloneOf,
    },
  });
}

async function readKnown(db: Queryable): Promise<Known> {
  return {
    instances: await listInstances(db),
    groups: await listAllGroups(db),
    tenants: await listTenants(db),
  };
}

function membersAmong(judged: readonly Judged[]): readonly MemberInstance[] {
  return judged.flatMap(({ instance, membership }) =>
    membership === 'MEMBER' && isDeclared(instance) ? [instance] : [],
  );
}

function isDeclared(instance: InstanceRow): instance is MemberInstance {
  return instance.tenant_id !== null;
}

/** What partition groups have: the identifier that was archived, or those of their instances as long as none was. */
function listClaims({ instances, groups, tenants }: Known): readonly Claim[] {
  return groups.flatMap((group): readonly Claim[] => {
    const tenant = tenants.find(({ tenant_id: id }) => id === group.tenant_id);
    if (tenant === undefined || tenant.status === 'DROPPED') return [];
    const claim = { tenant, partitionGroup: group.partition_group, joinedUs: group.joined_us };
    if (group.system_identifier !== '0')
      return [{ ...claim, systemIdentifier: group.system_identifier, archived: true }];
    return instances
      .filter((row) => row.tenant_id === group.tenant_id && row.partition_group === group.partition_group)
      .map((row) => ({ ...claim, systemIdentifier: row.system_identifier, archived: false }));
  });
}

/** The group that the instance is a clone of; undefined: it is none. */
function ownerOf(instance: InstanceRow, claims: readonly Claim[], known: Known): Claim | undefined {
  if (instance.system_identifier === '0') return undefined;
  const all = claims
    .filter(({ systemIdentifier }) => systemIdentifier === instance.system_identifier)
    .sort(compareClaims);
  const own = known.tenants.find(({ tenant_id: id }) => id === instance.tenant_id);
  const original = all.find(({ tenant }) => !isRestored(tenant, known)) ?? all[0];
  if (own === undefined) return original;
  if (isRestored(own, known)) return undefined;
  const copy = known.instances.find(
    (row) => row.restored && isSameServer(row, instance) && row.tenant_id !== instance.tenant_id,
  );
  if (copy !== undefined) return all.find(({ tenant }) => tenant.tenant_id === copy.tenant_id) ?? original;
  // A tenant whose source's copy is here already is no clone of the copy.
  if (original === undefined || isRestored(original.tenant, known)) return undefined;
  const isOwn =
    original.tenant.tenant_id === own.tenant_id && original.partitionGroup === instance.partition_group;
  return isOwn ? undefined : original;
}

function isRestored(tenant: Tenant, { instances }: Known): boolean {
  return (
    tenant.restored_by_job !== null ||
    instances.some((row) => row.restored && row.tenant_id === tenant.tenant_id)
  );
}

function isSameServer(one: InstanceRow, other: InstanceRow): boolean {
  return (
    one.server_id === other.server_id &&
    one.data_directory !== '' &&
    one.data_directory === other.data_directory
  );
}

function compareClaims(a: Claim, b: Claim): number {
  if (a.archived !== b.archived) return a.archived ? -1 : 1;
  if (a.joinedUs !== b.joinedUs) return a.joinedUs < b.joinedUs ? -1 : 1;
  if (a.tenant.tenant_id !== b.tenant.tenant_id) return a.tenant.tenant_id < b.tenant.tenant_id ? -1 : 1;
  return a.partitionGroup < b.partitionGroup ? -1 : 1;
}
