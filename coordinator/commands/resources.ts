/** Resource units and pools: where restored instances go and what they may use; and DROP TENANT. */
import { HoldfastError } from '../../foundation/errors.ts';
import { parseSizeBytes } from '../../foundation/units.ts';
import { isRunning } from '../archive/round-states.ts';
import { findRunningJob } from '../catalog/jobs.ts';
import { insertOwedSlot } from '../catalog/owed-slots.ts';
import { findLastRound } from '../catalog/rounds.ts';
import { forgetInstances, listInstancesOf, listServers } from '../catalog/servers.ts';
import {
  deletePool,
  deleteUnit,
  findPool,
  findUnit,
  getTenant,
  insertPool,
  insertUnit,
  leaveGroups,
  listPools,
  setTenantStatus,
} from '../catalog/tenants.ts';
import { type CoordinatorContext, write } from '../context.ts';
import { slotName } from '../jobs/dispatch.ts';
import type { CurrentStatement, ResourceUnitStatement } from '../sql/statements.ts';
import { type Events, notice } from './command.ts';

type Of<Kind extends CurrentStatement['kind']> = Extract<CurrentStatement, { readonly kind: Kind }>;

const MIN_MEMORY_BYTES = 128 * 2 ** 20;

export async function createUnit(
  context: CoordinatorContext,
  statement: ResourceUnitStatement,
): Promise<void> {
  const bytes = (text: string | undefined) => BigInt(text === undefined ? 0 : parseSizeBytes(text));
  const maxMemoryBytes = bytes(statement.maxMemory);
  const minMemoryBytes = bytes(statement.minMemory);
  if (statement.maxMemory !== undefined && maxMemoryBytes < MIN_MEMORY_BYTES)
    throw outOfRange('MAX_MEMORY', statement.maxMemory, '128MB or more');
  if (minMemoryBytes > maxMemoryBytes && maxMemoryBytes > 0n)
    throw outOfRange('MIN_MEMORY', statement.minMemory ?? '', 'at most MAX_MEMORY');
  if (
    statement.maxSessionNum !== undefined &&
    (statement.maxSessionNum < 1 || statement.maxSessionNum > 262_143)
  )
    throw outOfRange('MAX_SESSION_NUM', String(statement.maxSessionNum), '1 to 262143');
  if (statement.maxCpu !== undefined && statement.maxCpu <= 0)
    throw outOfRange('MAX_CPU', String(statement.maxCpu), 'more than 0');
  await write(context, async (tx) => {
    if ((await findUnit(tx, statement.name)) !== undefined) throw exists('unit', statement.name);
    await insertUnit(
      tx,
      {
        name: statement.name,
        maxMemoryBytes,
        minMemoryBytes,
        maxSessionNum: statement.maxSessionNum ?? 0,
        maxCpu: statement.maxCpu ?? 0,
        minCpu: statement.minCpu ?? 0,
        maxIops: statement.maxIops ?? 0,
        minIops: statement.minIops ?? 0,
        maxDiskBytes: bytes(statement.maxDiskSize),
      },
      tx.nowUs,
    );
    await tx.event({
      module: 'resource',
      event: 'unit_created',
      message: `resource unit "${statement.name}" was created`,
    });
  });
}

export async function* createPool(context: CoordinatorContext, statement: Of<'createResourcePool'>): Events {
  await write(context, async (tx) => {
    if ((await findPool(tx, statement.name)) !== undefined) throw exists('pool', statement.name);
    if ((await findUnit(tx, statement.unit)) === undefined) throw missing('unit', statement.unit);
    await insertPool(tx, statement, tx.nowUs);
    await tx.event({
      module: 'resource',
      event: 'pool_created',
      message: `resource pool "${statement.name}" was created`,
    });
  });
  const zones = new Set((await listServers(context.catalog)).map((server) => server.zone));
  const unknown = statement.zones.filter((zone) => !zones.has(zone));
  if (unknown.length > 0)
    yield notice(`no agent of zone ${unknown.join(', ')} has attached yet`, {
      hint: 'SELECT zone, status FROM DBA_OB_SERVERS;',
    });
}

export async function dropUnit(
  context: CoordinatorContext,
  statement: Of<'dropResourceUnit'>,
): Promise<void> {
  await write(context, async (tx) => {
    if ((await findUnit(tx, statement.name)) === undefined) throw missing('unit', statement.name);
    const users = (await listPools(tx)).filter((pool) => pool.unit === statement.name);
    if (users.length > 0)
      throw new HoldfastError(
        'INVALID_ARGUMENT',
        `resource unit "${statement.name}" is used by pool ${users.map((pool) => pool.name).join(', ')}`,
        {
          hint: `DROP RESOURCE POOL ${users[0]?.name ?? ''};`,
        },
      );
    await deleteUnit(tx, statement.name);
    await tx.event({
      module: 'resource',
      event: 'unit_dropped',
      message: `resource unit "${statement.name}" was dropped`,
    });
  });
}

export async function dropPool(
  context: CoordinatorContext,
  statement: Of<'dropResourcePool'>,
): Promise<void> {
  await write(context, async (tx) => {
    if ((await findPool(tx, statement.name)) === undefined) throw missing('pool', statement.name);
    await deletePool(tx, statement.name);
    await tx.event({
      module: 'resource',
      event: 'pool_dropped',
      message: `resource pool "${statement.name}" was dropped`,
    });
  });
}

/** Forgets a tenant; its backups stay. */
export async function* dropTenant(context: CoordinatorContext, statement: Of<'dropTenant'>): Events {
  const tenant = await getTenant(context.catalog, statement.tenant);
  const name = tenant.tenant_name;
  const round = await findLastRound(context.catalog, tenant.tenant_id);
  if (round !== undefined && isRunning(round.state))
    throw new HoldfastError('BACKUP_IN_PROGRESS', `log archive of tenant "${name}" is ${round.state}`, {
      hint: `ALTER SYSTEM NOARCHIVELOG TENANT = ${name};`,
    });
  if ((await findRunningJob(context.catalog, 'BACKUP', name)) !== undefined)
    throw new HoldfastError('BACKUP_IN_PROGRESS', `a backup of tenant "${name}" is running`, {
      hint: `ALTER SYSTEM CANCEL BACKUP TENANT = ${name};`,
    });
  if ((await findRunningJob(context.catalog, 'RESTORE', name)) !== undefined)
    throw new HoldfastError('RESTORE_IN_PROGRESS', `tenant "${name}" is being restored`, {
      hint: `ALTER SYSTEM CANCEL RESTORE ${name};`,
    });
  const attached = new Set(context.hub.attachedServers());
  const declared = (await listInstancesOf(context.catalog, tenant.tenant_id)).filter((instance) =>
    attached.has(instance.server_id),
  );
  if (declared.length > 0 && !statement.force)
    throw new HoldfastError('INVALID_ARGUMENT', `attached agents still declare tenant "${name}"`, {
      detail: declared
        .map((instance) => `Server ${instance.server_id}: instance ${instance.instance}.`)
        .join('\n'),
      hint: `Take it out of the agent's configuration, or: ALTER SYSTEM DROP TENANT ${name} FORCE;`,
    });
  await write(context, async (tx) => {
    await setTenantStatus(tx, tenant.tenant_id, 'DROPPED', tx.nowUs);
    await leaveGroups(tx, tenant.tenant_id, tx.nowUs);
    if (round !== undefined)
      for (const member of await listInstancesOf(tx, tenant.tenant_id))
        await insertOwedSlot(
          tx,
          {
            server_id: member.server_id,
            instance: member.instance,
            slot_name: slotName(context, tenant.tenant_id, member.partition_group),
          },
          tx.nowUs,
        );
    await forgetInstances(tx, tenant.tenant_id);
    await tx.event({
      module: 'tenant',
      event: 'tenant_dropped',
      tenantId: tenant.tenant_id,
      tenantName: name,
      message: `tenant "${name}" was dropped; its backups stay`,
    });
  });
  if (declared.length > 0)
    yield notice(`tenant "${name}" appears again, under a new id, when its agent attaches the next time`);
}

function outOfRange(option: string, value: string, range: string): HoldfastError {
  return new HoldfastError('INVALID_ARGUMENT', `${option} ${value} is out of range`, {
    detail: `Range: ${range}.`,
  });
}

function exists(kind: string, name: string): HoldfastError {
  return new HoldfastError('INVALID_ARGUMENT', `resource ${kind} "${name}" exists already`);
}

function missing(kind: string, name: string): HoldfastError {
  return new HoldfastError('ENTRY_NOT_EXIST', `there is no resource ${kind} "${name}"`, {
    hint:
      kind === 'pool'
        ? 'SELECT * FROM DBA_OB_RESOURCE_POOLS;'
        : `CREATE RESOURCE UNIT ${name} MAX_MEMORY '1G';`,
  });
}
