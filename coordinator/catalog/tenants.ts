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
  /** Decimal; 0: not known. */
  readonly system_identifier: string;
};

/** Tenants' ids begin here, as OceanBase's do. */
export const FIRST_TENANT_ID = 1001n;
const COLUMNS = 'tenant_id, tenant_name, status, created_us, dropped_us, restored_by_job';

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

/** The groups of a tenant that have not left. */
export async function listGroups(db: Queryable, tenantId: bigint): Promise<readonly PartitionGroup[]> {
  return await db.query<PartitionGroup>(
    `SELECT tenant_id, partition_group, joined_us, left_us, system_identifier FROM holdfast.partition_groups
     WHERE tenant_id = $1 AND left_us = 0 ORDER BY partition_group`,
    [tenantId],
  );
}

export async function listAllGroups(db: Queryable): Promise<readonly PartitionGroup[]> {
  return await db.query<PartitionGroup>(
    `SELECT tenant_id, partition_group, joined_us, left_us, system_identifier FROM holdfast.partition_groups
     ORDER BY tenant_id, partition_group`,
  );
}

/** Adds the group if it is not there; one that had left joins again. */
export async function joinGroup(
  tx: Queryable,
  tenantId: bigint,
  group: string,
  nowUs: bigint,
): Promise<void> {
  await tx.query(
    `INSERT INTO holdfast.partition_groups (tenant_id, partition_group, joined_us) VALUES ($1, $2, $3)
     ON CONFLICT (tenant_id, partition_group) DO UPDATE SET left_us = 0`,
    [tenantId, group, nowUs],
  );
}

export async function leaveGroups(tx: Queryable, tenantId: bigint, nowUs: bigint): Promise<void> {
  await updateRows(tx, 'partition_groups', { tenant_id: tenantId }, { left_us: nowUs });
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
