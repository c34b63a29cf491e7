/**
 * Partition groups join a tenant when an agent declares them, and leave it when no agent does any more: the agent that
 * declared them attached without them. An agent that is away declares what it last did. What changes is written to
 * tenant_info first, then in the catalog; a running round has more to say (round-members.ts).
 */
import type { Medium } from '../../storage-layout/media/medium.ts';
import { findLastRound } from '../catalog/rounds.ts';
import {
  leftUsOf,
  listAllGroups,
  listReturningGroups,
  listTenants,
  type PartitionGroup,
  rejoinGroup,
  settleGroup,
} from '../catalog/tenants.ts';
import { type CoordinatorContext, type Transaction, write } from '../context.ts';
import { checkOwner } from '../destination/claims.ts';
import { writeTenantSummaries } from '../destination/summaries.ts';
import { destinationParameter } from '../parameters/values.ts';
import { isRunning } from './round-states.ts';

/** Groups that are declared again after they left begin a new membership. */
export async function welcomeBack(context: CoordinatorContext): Promise<void> {
  const returning = await listReturningGroups(context.catalog);
  if (returning.length === 0) return;
  await write(context, async (tx) => {
    for (const group of returning) await rejoinGroup(tx, group, tx.nowUs);
  });
}

/** The tenants with groups that tenant_info does not show as they are. */
export async function listUnrecorded(context: CoordinatorContext): Promise<readonly bigint[]> {
  const groups = await listAllGroups(context.catalog);
  return [...new Set(groups.filter(({ recorded }) => !recorded).map(({ tenant_id }) => tenant_id))];
}

/**
 * Of a tenant without a running round. Where the destination cannot be reached the catalog goes on: what the next round
 * begins with is written then.
 */
export async function settleTenant(
  context: CoordinatorContext,
  tenantId: bigint,
  signal: AbortSignal,
): Promise<void> {
  const round = await findLastRound(context.catalog, tenantId);
  if (round !== undefined && isRunning(round.state)) return;
  const groups = await listUnrecordedOf(context, tenantId);
  const destination = await destinationParameter(context.catalog, context.secrets);
  if (destination !== undefined) {
    try {
      const medium = await context.destinations.open(destination.uri, signal);
      await recordTenants(context, medium, signal);
    } catch (error) {
      signal.throwIfAborted();
      context.logger.warn({ err: error, tenantId: String(tenantId) }, 'tenant_info could not be written');
    }
  }
  await write(context, (tx) => settleGroups(tx, tenantId, groups));
}

/** tenant_info and tenant_name_info, at a destination that is ours. */
export async function recordTenants(
  context: CoordinatorContext,
  medium: Medium,
  signal: AbortSignal,
): Promise<void> {
  await checkOwner(medium, context.deployment, signal);
  await writeTenantSummaries(medium, context.root, context.catalog, signal);
}

export async function listUnrecordedOf(
  context: CoordinatorContext,
  tenantId: bigint,
): Promise<readonly PartitionGroup[]> {
  const groups = await listAllGroups(context.catalog);
  return groups.filter((group) => group.tenant_id === tenantId && !group.recorded);
}

/** The rows follow what tenant_info says since it was written from `groups`. */
export async function settleGroups(
  tx: Transaction,
  tenantId: bigint,
  groups: readonly PartitionGroup[],
): Promise<void> {
  const tenant = (await listTenants(tx)).find((each) => each.tenant_id === tenantId);
  for (const group of groups) {
    if (!(await settleGroup(tx, group)) || tenant?.status !== 'NORMAL') continue;
    const left = leftUsOf(group) !== 0n;
    await tx.event({
      module: 'tenant',
      event: left ? 'group_left' : 'group_joined',
      severity: left ? 'WARNING' : 'INFO',
      tenantId,
      tenantName: tenant.tenant_name,
      message: left
        ? `partition group ${group.partition_group} has left tenant "${tenant.tenant_name}": no agent declares it any more. Its slot stays on its servers until it is dropped there.`
        : `partition group ${group.partition_group} has joined tenant "${tenant.tenant_name}"`,
      facts: { partition_group: group.partition_group, joined_us: group.joined_us, left_us: leftUsOf(group) },
    });
  }
}
