/** ALTER SYSTEM CHECK, and the checks that ARCHIVELOG and BACKUP begin with. */
import { HoldfastError } from '../../foundation/errors.ts';
import { listClonesOf, listMembersOf } from '../agents/membership.ts';
import type { Queryable } from '../catalog/catalog.ts';
import { findJob, insertJob, insertTask, listTasks } from '../catalog/jobs.ts';
import type { MemberInstance } from '../catalog/servers.ts';
import { listGroups, type PartitionGroup, type Tenant } from '../catalog/tenants.ts';
import { type CoordinatorContext, write } from '../context.ts';
import { checkError, checkItems, readRetention } from '../jobs/check-job.ts';
import { destinationParameter } from '../parameters/values.ts';
import type { CurrentStatement } from '../sql/statements.ts';
import { type Events, notice, selectTenants, waitForJob } from './command.ts';

type CheckPurpose = 'archive' | 'backup';

/** How long an agent that is not attached (a coordinator that just started) is waited for. */
const ATTACH_WAIT_MS = 5000;
const POLL_MS = 200;

/** Begins a check job of the tenant. Throws AGENT_UNREACHABLE when a partition group has no instance in reach. */
export async function startCheck(
  context: CoordinatorContext,
  tenant: Tenant,
  purpose: CheckPurpose,
  destination: { readonly uri: string } | undefined,
  signal: AbortSignal,
): Promise<bigint> {
  await awaitMembers(context, tenant, signal);
  return await write(context, async (tx) => {
    const deadlineUs = tx.nowUs + BigInt(context.timing.checkTimeoutMs) * 1000n;
    const jobId = await insertJob(tx, {
      kind: 'CHECK',
      tenantId: tenant.tenant_id,
      tenantName: tenant.tenant_name,
      state: 'RUNNING',
      spec: { purpose },
      deadlineUs,
      nowUs: tx.nowUs,
    });
    const common = { jobId, kind: 'CHECK', tenantId: tenant.tenant_id, deadlineUs, nowUs: tx.nowUs } as const;
    for (const { partition_group: partitionGroup } of await listGroups(tx, tenant.tenant_id)) {
      const uri = destination === undefined ? '' : context.secrets.encrypt(destination.uri);
      await insertTask(tx, { ...common, partitionGroup, spec: { purpose, destination: uri } });
      if (purpose === 'backup') continue;
      // A standby becomes the leader one day: its slot must be able to keep the log until then.
      for (const standby of await attachedStandbys(context, tx, tenant, partitionGroup)) {
        const member = { serverId: String(standby.server_id), instance: standby.instance };
        const spec = { purpose: 'standby', destination: '', member };
        await insertTask(tx, { ...common, partitionGroup, spec });
      }
    }
    return jobId;
  });
}

async function attachedStandbys(
  context: CoordinatorContext,
  db: Queryable,
  tenant: Tenant,
  group: string,
): Promise<readonly MemberInstance[]> {
  const attached = new Set(context.hub.attachedServers());
  return (await listMembersOf(db, tenant.tenant_id)).filter(
    (instance) =>
      instance.partition_group === group && instance.role === 'STANDBY' && attached.has(instance.server_id),
  );
}

/** Checks the tenant and waits. Throws SERVER_PRECHECK_FAILED with what mends it in the hint. */
export async function checkTenant(
  context: CoordinatorContext,
  tenant: Tenant,
  purpose: CheckPurpose,
  destination: { readonly uri: string } | undefined,
  signal: AbortSignal,
): Promise<void> {
  const jobId = await startCheck(context, tenant, purpose, destination, signal);
  for (;;) {
    const { version } = context.bus;
    const job = await findJob(context.catalog, jobId);
    if (job === undefined || job.final) break;
    await context.bus.changed(version, POLL_MS, context.clock, signal);
  }
  const error = checkError(
    tenant.tenant_name,
    await listTasks(context.catalog, jobId),
    await readRetention(context, tenant.tenant_id),
  );
  if (error !== undefined) throw error;
}

async function awaitMembers(context: CoordinatorContext, tenant: Tenant, signal: AbortSignal): Promise<void> {
  const deadlineMs = context.clock.monotonicMs() + ATTACH_WAIT_MS;
  for (;;) {
    const { version } = context.bus;
    const attached = new Set(context.hub.attachedServers());
    const members = (await listMembersOf(context.catalog, tenant.tenant_id)).filter((instance) =>
      attached.has(instance.server_id),
    );
    const groups = await listGroups(context.catalog, tenant.tenant_id);
    const late = context.clock.monotonicMs() >= deadlineMs;
    const missing = groups.filter(
      (group) =>
        !members.some(
          (member) => member.partition_group === group.partition_group && (late || member.role === 'PRIMARY'),
        ),
    );
    if (missing.length === 0 && groups.length > 0) return;
    await refuseClones(context, tenant, missing);
    if (late) {
      throw new HoldfastError(
        'AGENT_UNREACHABLE',
        `no attached agent has an instance of ${groups.length === 0 ? `tenant "${tenant.tenant_name}"` : `partition group ${missing.map((group) => group.partition_group).join(', ')}`}`,
        { hint: 'Start the agent. SELECT * FROM DBA_OB_SERVERS; shows which are attached.' },
      );
    }
    await context.bus.changed(version, POLL_MS, context.clock, signal);
  }
}

/** A group whose only instances are another's clones is not waited for. */
async function refuseClones(
  context: CoordinatorContext,
  tenant: Tenant,
  missing: readonly PartitionGroup[],
): Promise<void> {
  const clones = await listClonesOf(context.catalog, tenant.tenant_id);
  const clone = clones.find(({ instance }) =>
    missing.some((group) => group.partition_group === instance.partition_group),
  );
  if (clone === undefined) return;
  const { instance, owner, cloneOf } = clone;
  throw new HoldfastError(
    'SYSTEM_IDENTIFIER_MISMATCH',
    `instance "${instance.instance}" of tenant "${tenant.tenant_name}" is an UNASSIGNED CLONE of ${cloneOf}: it has its system identifier, ${instance.system_identifier}`,
    {
      detail: 'Two partition groups cannot have one system identifier, unless RESTORE made one of them.',
      hint: `Declare the instance for the tenant it belongs to, or for none; or forget the other: ALTER SYSTEM DROP TENANT ${owner?.tenant.tenant_name ?? ''};`,
    },
  );
}

/** It takes seconds and its findings are its result, so it waits for them with and without WAIT. */
export async function* check(
  context: CoordinatorContext,
  statement: Extract<CurrentStatement, { readonly kind: 'check' }>,
  signal: AbortSignal,
): Events {
  const tenants = await selectTenants(context, statement.tenant === undefined ? 'all' : [statement.tenant]);
  const destination = await destinationParameter(context.catalog, context.secrets);
  for (const tenant of tenants) {
    const jobId = await startCheck(context, tenant, 'archive', destination, signal);
    yield notice(`check of tenant "${tenant.tenant_name}": job ${jobId}`);
    try {
      yield* waitForJob(context, jobId, async () => undefined, signal);
    } finally {
      const retention = await readRetention(context, tenant.tenant_id);
      const tasks = await listTasks(context.catalog, jobId);
      for (const { partitionGroup, item } of checkItems(tasks, retention)) {
        const line = `${item.passed ? 'ok' : 'FAILED'}: ${partitionGroup}: ${item.name}: ${item.found}`;
        yield notice(line, item.passed ? {} : { detail: `Wanted: ${item.wanted}.`, hint: item.fix });
      }
    }
  }
  if (destination === undefined)
    yield notice('no destination was checked: backup_dest is not set', {
      hint: "ALTER SYSTEM SET backup_dest = 'file:///…';",
    });
}
