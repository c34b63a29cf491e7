/** Database nodes (agents) and the instances they declare. */
import { formatLsn } from '../../foundation/lsn.ts';
import type { Queryable } from './catalog.ts';
import { updateRows } from './rows.ts';

export type Server = {
  readonly server_id: bigint;
  readonly agent_uuid: string;
  readonly ip: string;
  readonly port: number;
  readonly zone: string;
  readonly status: 'ACTIVE' | 'INACTIVE';
  readonly heartbeat_us: bigint;
};
export type InstanceRoleName = 'UNKNOWN' | 'PRIMARY' | 'STANDBY' | 'DOWN';
/** What an instance is found to be (agents/membership.ts): only a MEMBER is given tasks. */
export type Membership = 'MEMBER' | 'UNASSIGNED' | 'UNASSIGNED CLONE';
export type InstanceRow = {
  readonly server_id: bigint;
  readonly instance: string;
  /** Null: it is declared for no tenant, and only watched. */
  readonly tenant_id: bigint | null;
  readonly partition_group: string;
  readonly restored: boolean;
  readonly role: InstanceRoleName;
  readonly system_identifier: string;
  /** 0: not known. */
  readonly timeline: bigint;
  /** `X/X`; null: not known. */
  readonly lsn: string | null;
  readonly server_version: string;
  readonly error: string;
  readonly host: string;
  readonly port: number;
  readonly data_directory: string;
  /** As the server shows them; empty: not known. */
  readonly max_slot_wal_keep_size: string;
  readonly idle_slot_timeout: string;
  /** What must be changed there for the log to be kept as wanted; empty: nothing. */
  readonly advice: string;
  /** As it was found when it was last judged. */
  readonly membership: Membership;
  /** `tenant.group`; empty: it is no clone. */
  readonly clone_of: string;
};
/** An instance that is declared for a tenant. */
export type MemberInstance = InstanceRow & { readonly tenant_id: bigint };

const SERVER_COLUMNS = 'server_id, agent_uuid, ip, port, zone, status, heartbeat_us';
const INSTANCE_COLUMNS = `server_id, instance, tenant_id, partition_group, restored, role, system_identifier,
  timeline, lsn::text AS lsn, server_version, error, host, port, data_directory, max_slot_wal_keep_size,
  idle_slot_timeout, advice, membership, clone_of`;

export async function listServers(db: Queryable): Promise<readonly Server[]> {
  return await db.query<Server>(`SELECT ${SERVER_COLUMNS} FROM holdfast.servers ORDER BY server_id`);
}

/** Registers an agent that attached; its server id is given once, by its uuid, and stays. */
export async function attachServer(
  tx: Queryable,
  agent: {
    readonly uuid: string;
    readonly ip: string;
    readonly port: number;
    readonly zone: string;
    readonly version: string;
  },
  nowUs: bigint,
): Promise<bigint> {
  const rows = await tx.query<{ server_id: bigint }>(
    `INSERT INTO holdfast.servers (server_id, agent_uuid, ip, port, zone, version, status, attached_us, heartbeat_us)
     SELECT coalesce(max(server_id), 0) + 1, $1, $2, $3, $4, $5, 'ACTIVE', $6, $6 FROM holdfast.servers
     ON CONFLICT (agent_uuid) DO UPDATE SET ip = EXCLUDED.ip, port = EXCLUDED.port, zone = EXCLUDED.zone,
       version = EXCLUDED.version, status = 'ACTIVE', attached_us = EXCLUDED.attached_us, heartbeat_us = EXCLUDED.heartbeat_us
     RETURNING server_id`,
    [agent.uuid, agent.ip, agent.port, agent.zone, agent.version, nowUs],
  );
  const id = rows[0]?.server_id;
  if (id === undefined) throw new Error('bug: attaching a server returned nothing');
  return id;
}

export async function deactivateServer(tx: Queryable, serverId: bigint): Promise<boolean> {
  return (
    (await updateRows(tx, 'servers', { server_id: serverId, status: 'ACTIVE' }, { status: 'INACTIVE' })) > 0
  );
}

export async function recordHeartbeat(
  tx: Queryable,
  serverId: bigint,
  facts: { readonly residentMemoryBytes: bigint; readonly freeDiskBytes: bigint },
  nowUs: bigint,
): Promise<void> {
  await updateRows(
    tx,
    'servers',
    { server_id: serverId },
    {
      heartbeat_us: nowUs,
      status: 'ACTIVE',
      resident_memory_bytes: facts.residentMemoryBytes,
      free_disk_bytes: facts.freeDiskBytes,
    },
  );
}

export async function listInstances(db: Queryable): Promise<readonly InstanceRow[]> {
  return await db.query<InstanceRow>(
    `SELECT ${INSTANCE_COLUMNS} FROM holdfast.instances ORDER BY server_id, instance`,
  );
}

export async function listInstancesOf(db: Queryable, tenantId: bigint): Promise<readonly MemberInstance[]> {
  return await db.query<MemberInstance>(
    `SELECT ${INSTANCE_COLUMNS} FROM holdfast.instances WHERE tenant_id = $1 ORDER BY server_id, instance`,
    [tenantId],
  );
}

export async function declareInstance(
  tx: Queryable,
  instance: {
    readonly serverId: bigint;
    readonly instance: string;
    /** Undefined: it is only watched, and belongs to nobody. */
    readonly tenantId: bigint | undefined;
    readonly partitionGroup: string;
    readonly restored: boolean;
  },
): Promise<void> {
  await tx.query(
    `INSERT INTO holdfast.instances (server_id, instance, tenant_id, partition_group, restored, membership)
     VALUES ($1, $2, $3, $4, $5, CASE WHEN $3::bigint IS NULL THEN 'UNASSIGNED' ELSE 'MEMBER' END)
     ON CONFLICT (server_id, instance) DO UPDATE SET tenant_id = EXCLUDED.tenant_id,
       partition_group = EXCLUDED.partition_group, restored = EXCLUDED.restored`,
    [
      instance.serverId,
      instance.instance,
      instance.tenantId ?? null,
      instance.partitionGroup,
      instance.restored,
    ],
  );
}

export async function recordMembership(
  tx: Queryable,
  instance: Pick<InstanceRow, 'server_id' | 'instance'>,
  membership: Membership,
  cloneOf: string,
): Promise<void> {
  await updateRows(
    tx,
    'instances',
    { server_id: instance.server_id, instance: instance.instance },
    { membership, clone_of: cloneOf },
  );
}

/** Forgets the instances of a server that it declares no more, and returns them. */
export async function keepInstances(
  tx: Queryable,
  serverId: bigint,
  declared: readonly string[],
): Promise<readonly Pick<InstanceRow, 'instance' | 'tenant_id' | 'partition_group'>[]> {
  return await tx.query<InstanceRow>(
    `DELETE FROM holdfast.instances WHERE server_id = $1
     AND instance NOT IN (SELECT jsonb_array_elements_text($2::jsonb))
     RETURNING instance, tenant_id, partition_group`,
    [serverId, JSON.stringify(declared)],
  );
}

/** True when it was another one before. */
export async function setAdvice(
  tx: Queryable,
  member: Pick<InstanceRow, 'server_id' | 'instance' | 'advice'>,
  advice: string,
): Promise<boolean> {
  const where = { server_id: member.server_id, instance: member.instance, advice: member.advice };
  return (await updateRows(tx, 'instances', where, { advice })) > 0;
}

export async function forgetInstances(tx: Queryable, tenantId: bigint): Promise<void> {
  await tx.query('DELETE FROM holdfast.instances WHERE tenant_id = $1', [tenantId]);
}

export type InstanceFacts = {
  readonly role: InstanceRoleName;
  readonly systemIdentifier: bigint;
  readonly timeline: number;
  readonly lsn: bigint;
  readonly serverVersion: string;
  readonly postgresMajor: number;
  readonly host: string;
  readonly port: number;
  readonly dataDirectory: string;
  readonly error: string;
  readonly maxSlotWalKeepSize: string;
  readonly idleReplicationSlotTimeout: string;
};

export async function recordInstance(
  tx: Queryable,
  serverId: bigint,
  instance: string,
  facts: InstanceFacts,
  nowUs: bigint,
): Promise<void> {
  await updateRows(
    tx,
    'instances',
    { server_id: serverId, instance },
    {
      role: facts.role,
      // A server that does not answer says nothing of itself: what was known stays.
      system_identifier: facts.systemIdentifier === 0n ? undefined : String(facts.systemIdentifier),
      timeline: facts.timeline === 0 ? undefined : facts.timeline,
      lsn: facts.lsn === 0n ? undefined : formatLsn(facts.lsn),
      server_version: facts.serverVersion === '' ? undefined : facts.serverVersion,
      postgres_major: facts.postgresMajor === 0 ? undefined : facts.postgresMajor,
      host: facts.host === '' ? undefined : facts.host,
      port: facts.port === 0 ? undefined : facts.port,
      data_directory: facts.dataDirectory === '' ? undefined : facts.dataDirectory,
      error: facts.error,
      max_slot_wal_keep_size: facts.maxSlotWalKeepSize === '' ? undefined : facts.maxSlotWalKeepSize,
      idle_slot_timeout:
        facts.idleReplicationSlotTimeout === '' ? undefined : facts.idleReplicationSlotTimeout,
      seen_us: nowUs,
    },
  );
}
