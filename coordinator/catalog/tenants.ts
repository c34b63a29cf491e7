/** Tenants, their partition groups, and the resource units and pools that restores are placed on. */
import { HoldfastError } from '../../foundation/errors.ts';
import type { Queryable } from './catalog.ts';
import { insertRow, updateRows } from './rows.ts';

export type TenantStatus = 'NORMAL' | 'RESTORING' | 'DROPPED';
export type Tenant = {
  readonly tenant_id: bigint;
  readonly tenant_name: string;
  readonly status: TenantStatus;
  readonly created_us: bigint;
  readonly dropped_us: bigint;
  /** The RESTORE that made it; null: an agent declared it. */
  readonly restored_by_job: bigint | null;
};
export type PartitionGroup = {
  readonly tenant_id: bigint;
  readonly partition_group: string;
  readonly joined_us: bigint;
  readonly left_us: bigint;
  /** Since when no agent declares it, 0: declared. It leaves when the destination knows that. */
  readonly undeclared_us: bigint;
  /** False: the destination's tenant_info does not say yet what this row does. */
  readonly recorded: boolean;
  /** Decimal; 0: not known. */
  readonly system_identifier: string;
};
/** A membership that is over, of a group that joined again. */
export type EarlierMembership = Pick<
  PartitionGroup,
  'tenant_id' | 'partition_group' | 'joined_us' | 'left_us' | 'system_identifier'
>;

/** Tenants' ids begin here, as OceanBase's do. */
export const FIRST_TENANT_ID = 1001n;
const COLUMNS = 'tenant_id, tenant_name, status, created_us, dropped_us, restored_by_job';
const GROUP_COLUMNS =
  'tenant_id, partition_group, joined_us, left_us, undeclared_us, recorded, system_identifier';

export async function listTenants(db: Queryable): Promise<readonly Tenant[]> {
  return await db.query<Tenant>(`SELECT ${COLUMNS} FROM holdfast.tenants ORDER BY tenant_id`);
}

/** The tenant that holds this name now. */
export async function findTenant(db: Queryable, name: string): Promise<Tenant | undefined> {
  const rows = await db.query<Tenant>(
    `SELECT ${COLUMNS} FROM holdfast.tenants WHERE tenant_name = $1 AND status <> 'DROPPED'`,
    [name],
  );
  return rows[0];
}

/** Like findTenant; throws TENANT_NOT_EXIST, naming those there are. */
export async function getTenant(db: Queryable, name: string): Promise<Tenant> {
  const tenant = await findTenant(db, name);
  if (tenant !== undefined) return tenant;
  const others = (await listTenants(db)).filter(({ status }) => status !== 'DROPPED');
  throw new HoldfastError('TENANT_NOT_EXIST', `tenant "${name}" does not exist`, {
    detail:
      others.length === 0
        ? 'There are no tenants: a tenant appears when an agent that declares it attaches.'
        : `Tenants: ${others.map((other) => other.tenant_name).join(', ')}.`,
    hint: 'SELECT * FROM DBA_OB_TENANTS;',
  });
}

/** The next free id: above every id in the catalog and above `atLeast` (the highest at the destination). */
export async function nextTenantId(tx: Queryable, atLeast: bigint): Promise<bigint> {
  const rows = await tx.query<{ id: bigint | null }>('SELECT max(tenant_id) AS id FROM holdfast.tenants');
  const highest = [rows[0]?.id ?? 0n, atLeast, FIRST_TENANT_ID - 1n].reduce((a, b) => (a > b ? a : b));
  return highest + 1n;
}

export async function insertTenant(
  tx: Queryable,
  tenant: {
    readonly tenantId: bigint;
    readonly name: string;
    readonly status: TenantStatus;
    readonly nowUs: bigint;
    readonly restoredByJob?: bigint | undefined;
  },
): Promise<void> {
  await insertRow(
    tx,
    'tenants',
    {
      tenant_id: tenant.tenantId,
      tenant_name: tenant.name,
      status: tenant.status,
      created_us: tenant.nowUs,
      restored_by_job: tenant.restoredByJob,
    },
    'tenant_id',
  );
}

export async function setTenantStatus(
  tx: Queryable,
  tenantId: bigint,
  status: TenantStatus,
  nowUs: bigint,
): Promise<void> {
  await updateRows(
    tx,
    'tenants',
    { tenant_id: tenantId },
    { status, dropped_us: status === 'DROPPED' ? nowUs : undefined },
  );
}

/** The groups that a tenant has now: those that have not left and that an agent declares. */
export async function listGroups(db: Queryable, tenantId: bigint): Promise<readonly PartitionGroup[]> {
  return await db.query<PartitionGroup>(
    `SELECT ${GROUP_COLUMNS} FROM holdfast.partition_groups
     WHERE tenant_id = $1 AND left_us = 0 AND undeclared_us = 0 ORDER BY partition_group`,
    [tenantId],
  );
}

export async function listAllGroups(db: Queryable): Promise<readonly PartitionGroup[]> {
  return await db.query<PartitionGroup>(
    `SELECT ${GROUP_COLUMNS} FROM holdfast.partition_groups ORDER BY tenant_id, partition_group`,
  );
}

export async function listEarlierMemberships(db: Queryable): Promise<readonly EarlierMembership[]> {
  return await db.query<EarlierMembership>(
    `SELECT tenant_id, partition_group, joined_us, left_us, system_identifier FROM holdfast.earlier_memberships
     ORDER BY tenant_id, partition_group, joined_us`,
  );
}

/** Adds the group if it is not there. One that has left joins again by `rejoinGroup`, when it is declared. */
export async function joinGroup(
  tx: Queryable,
  tenantId: bigint,
  group: string,
  nowUs: bigint,
): Promise<void> {
  await tx.query(
    `INSERT INTO holdfast.partition_groups (tenant_id, partition_group, joined_us, recorded) VALUES ($1, $2, $3, false)
     ON CONFLICT (tenant_id, partition_group) DO NOTHING`,
    [tenantId, group, nowUs],
  );
}

/** Groups of tenants that are there, that have left and that an agent declares again. */
export async function listReturningGroups(db: Queryable): Promise<readonly PartitionGroup[]> {
  return await db.query<PartitionGroup>(
    `SELECT ${GROUP_COLUMNS} FROM holdfast.partition_groups g WHERE left_us > 0
     AND EXISTS (SELECT FROM holdfast.tenants t WHERE t.tenant_id = g.tenant_id AND t.status = 'NORMAL')
     AND EXISTS (SELECT FROM holdfast.instances i
       WHERE i.tenant_id = g.tenant_id AND i.partition_group = g.partition_group)`,
  );
}

/** Begins a new membership; the one before is kept. */
export async function rejoinGroup(tx: Queryable, group: PartitionGroup, nowUs: bigint): Promise<void> {
  const key = { tenant_id: group.tenant_id, partition_group: group.partition_group };
  const { joined_us, left_us, system_identifier } = group;
  const changed = await updateRows(
    tx,
    'partition_groups',
    { ...key, left_us },
    // Another server may stand under the name now.
    { joined_us: nowUs, left_us: 0n, undeclared_us: 0n, recorded: false, system_identifier: '0' },
  );
  if (changed === 0) return;
  await insertRow(tx, 'earlier_memberships', { ...key, joined_us, left_us, system_identifier }, 'joined_us');
}

/** The last agent that declared the group declares it no more. */
export async function noteUndeclared(
  tx: Queryable,
  tenantId: bigint,
  group: string,
  nowUs: bigint,
): Promise<void> {
  await updateRows(
    tx,
    'partition_groups',
    { tenant_id: tenantId, partition_group: group, left_us: 0n, undeclared_us: 0n },
    { undeclared_us: nowUs, recorded: false },
  );
}

/** The destination says what the row, as it was read, does: one that was not declared any more has left now. */
export async function settleGroup(tx: Queryable, group: PartitionGroup): Promise<boolean> {
  const { tenant_id, partition_group, joined_us, left_us, undeclared_us } = group;
  const changed = await updateRows(
    tx,
    'partition_groups',
    { tenant_id, partition_group, joined_us, left_us, undeclared_us },
    { recorded: true, left_us: leftUsOf(group) },
  );
  return changed > 0;
}

/** When the group left, or will have left; 0: it stays. */
export function leftUsOf(group: Pick<PartitionGroup, 'left_us' | 'undeclared_us'>): bigint {
  return group.left_us === 0n ? group.undeclared_us : group.left_us;
}

export async function leaveGroups(tx: Queryable, tenantId: bigint, nowUs: bigint): Promise<void> {
  await updateRows(
    tx,
    'partition_groups',
    { tenant_id: tenantId, left_us: 0n },
    { left_us: nowUs, recorded: false },
  );
}

export async function setGroupSystemIdentifier(
  tx: Queryable,
  tenantId: bigint,
  group: string,
  systemIdentifier: bigint,
): Promise<void> {
  await updateRows(
    tx,
    'partition_groups',
    { tenant_id: tenantId, partition_group: group },
    { system_identifier: String(systemIdentifier) },
  );
}

// ---- resources --------------------------------------------------------------------------------------------------

export type ResourceUnitRow = {
  readonly name: string;
  readonly max_memory_bytes: bigint;
  readonly max_session_num: number;
  readonly max_cpu: number;
};
export type ResourcePoolRow = {
  readonly name: string;
  readonly unit: string;
  readonly unit_num: number;
  readonly zone_list: readonly string[];
};

export async function findUnit(db: Queryable, name: string): Promise<ResourceUnitRow | undefined> {
  const rows = await db.query<ResourceUnitRow>(
    'SELECT name, max_memory_bytes, max_session_num, max_cpu FROM holdfast.resource_units WHERE name = $1',
    [name],
  );
  return rows[0];
}

export async function findPool(db: Queryable, name: string): Promise<ResourcePoolRow | undefined> {
  const rows = await db.query<ResourcePoolRow>(
    'SELECT name, unit, unit_num, zone_list FROM holdfast.resource_pools WHERE name = $1',
    [name],
  );
  return rows[0];
}

export async function listPools(db: Queryable): Promise<readonly ResourcePoolRow[]> {
  return await db.query<ResourcePoolRow>(
    'SELECT name, unit, unit_num, zone_list FROM holdfast.resource_pools ORDER BY name',
  );
}

export type NewUnit = {
  readonly name: string;
  readonly maxMemoryBytes: bigint;
  readonly minMemoryBytes: bigint;
  readonly maxSessionNum: number;
  readonly maxCpu: number;
  readonly minCpu: number;
  readonly maxIops: number;
  readonly minIops: number;
  readonly maxDiskBytes: bigint;
};

export async function insertUnit(tx: Queryable, unit: NewUnit, nowUs: bigint): Promise<void> {
  await insertRow(
    tx,
    'resource_units',
    {
      name: unit.name,
      max_memory_bytes: unit.maxMemoryBytes,
      min_memory_bytes: unit.minMemoryBytes,
      max_session_num: unit.maxSessionNum,
      max_cpu: unit.maxCpu,
      min_cpu: unit.minCpu,
      max_iops: unit.maxIops,
      min_iops: unit.minIops,
      max_disk_bytes: unit.maxDiskBytes,
      created_us: nowUs,
    },
    'name',
  );
}

export async function insertPool(
  tx: Queryable,
  pool: {
    readonly name: string;
    readonly unit: string;
    readonly unitNum: number;
    readonly zones: readonly string[];
  },
  nowUs: bigint,
): Promise<void> {
  await insertRow(
    tx,
    'resource_pools',
    {
      name: pool.name,
      unit: pool.unit,
      unit_num: pool.unitNum,
      zone_list: JSON.stringify(pool.zones),
      created_us: nowUs,
    },
    'name',
  );
}

export async function deleteUnit(tx: Queryable, name: string): Promise<void> {
  await tx.query('DELETE FROM holdfast.resource_units WHERE name = $1', [name]);
}

export async function deletePool(tx: Queryable, name: string): Promise<void> {
  await tx.query('DELETE FROM holdfast.resource_pools WHERE name = $1', [name]);
}
