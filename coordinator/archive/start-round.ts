/** ARCHIVELOG: a new round. The destination first (mount_file claims the id), the catalog second (R1). */
import { HoldfastError } from '../../foundation/errors.ts';
import { roundKeyPlace, writeFirstRecord } from '../../storage-layout/encryption/key-records.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { tree } from '../../storage-layout/tree.ts';
import { insertJob, insertTask } from '../catalog/jobs.ts';
import { findLastRound, highestRound, insertRound, insertRoundGroup } from '../catalog/rounds.ts';
import { breakSet, listAvailableSets } from '../catalog/sets.ts';
import { listGroups, type Tenant } from '../catalog/tenants.ts';
import { type CoordinatorContext, write } from '../context.ts';
import { checkOwner, claimRound } from '../destination/claims.ts';
import { writeTenantSummaries } from '../destination/summaries.ts';
import { checkTenant } from '../destination/tenant-check.ts';
import { keepDataKey, modeName, newKeyFor } from '../encryption/keys.ts';
import { isRunning } from './round-states.ts';

export type StartedRound = { readonly round: bigint; readonly jobId: bigint };

/**
 * Begins a round of the tenant at `destination`. Throws CANNOT_START_LOG_ARCHIVE_BACKUP when one runs already, and
 * whatever the destination throws.
 */
export async function startRound(
  context: CoordinatorContext,
  tenant: Tenant,
  destination: { readonly uri: string; readonly display: string },
  description: string,
  signal: AbortSignal,
): Promise<StartedRound> {
  const medium = await context.destinations.open(destination.uri, signal);
  await checkOwner(medium, context.deployment, signal);
  const named = { tenantId: tenant.tenant_id, name: tenant.tenant_name };
  await checkTenant(medium, context.root, named, signal);
  const highest = await highestRound(context.catalog, tenant.tenant_id);
  const nowUs = context.clock.nowUs();
  const key = await newKeyFor(context, tenant.tenant_id);
  const round = await claimRound(medium, context.deployment, tenant.tenant_id, highest, nowUs, signal);
  if (key !== undefined) {
    const place = roundKeyPlace(medium, context.root, { tenantId: tenant.tenant_id, round });
    await writeFirstRecord(place, key.record, signal);
  }
  const started = await write(context, async (tx) => {
    const last = await findLastRound(tx, tenant.tenant_id);
    if (last !== undefined && isRunning(last.state)) throw alreadyStarted(tenant, last.state);
    const jobId = await insertJob(tx, {
      kind: 'ARCHIVE',
      tenantId: tenant.tenant_id,
      tenantName: tenant.tenant_name,
      state: 'RUNNING',
      spec: {},
      description,
      nowUs: tx.nowUs,
    });
    if (key !== undefined) await keepDataKey(context, tx, key);
    await insertRound(tx, {
      tenantId: tenant.tenant_id,
      round,
      tenantName: tenant.tenant_name,
      jobId,
      destination: context.secrets.encrypt(destination.uri),
      displayDestination: destination.display,
      encryptionMode: modeName(key?.record),
      nowUs: tx.nowUs,
    });
    for (const group of await listGroups(tx, tenant.tenant_id)) {
      const taskId = await insertTask(tx, {
        jobId,
        kind: 'ARCHIVE',
        tenantId: tenant.tenant_id,
        partitionGroup: group.partition_group,
        spec: { round: String(round) },
        nowUs: tx.nowUs,
      });
      await insertRoundGroup(tx, {
        tenantId: tenant.tenant_id,
        round,
        partitionGroup: group.partition_group,
        taskId,
      });
    }
    await tx.event({
      module: 'archive',
      event: 'round_beginning',
      tenantId: tenant.tenant_id,
      tenantName: tenant.tenant_name,
      message: `round ${round} of tenant "${tenant.tenant_name}" is BEGINNING at ${destination.display}`,
      facts: { round, job_id: jobId },
    });
    return { round, jobId };
  });
  await breakLostSets(context, medium, tenant, destination.display, signal).catch((error: unknown) =>
    context.logger.warn({ err: error }, 'the backup sets at the destination could not be looked at'),
  );
  await writeTenantSummaries(medium, context.root, context.catalog, signal).catch((error: unknown) =>
    context.logger.warn({ err: error }, 'tenant_info could not be written'),
  );
  return started;
}

/** A destination that was emptied holds nothing of what the catalog knows there. */
async function breakLostSets(
  context: CoordinatorContext,
  medium: Medium,
  tenant: Tenant,
  display: string,
  signal: AbortSignal,
): Promise<void> {
  for (const set of await listAvailableSets(context.catalog, tenant.tenant_id, display)) {
    const key = { tenantId: set.tenant_id, fullSetId: set.full_set_id, setId: set.backup_set_id };
    if ((await medium.stat(tree.backupInfo(context.root, key), signal)) !== undefined) continue;
    await write(context, async (tx) => {
      await breakSet(tx, set, `its backup_info is gone from ${display}`);
      await tx.event({
        module: 'backup',
        event: 'backup_set_lost',
        severity: 'ERROR',
        tenantId: tenant.tenant_id,
        tenantName: tenant.tenant_name,
        message: `backup set ${set.backup_set_id} of tenant "${tenant.tenant_name}" is gone from ${display}`,
        facts: { backup_set_id: set.backup_set_id },
      });
    });
  }
}

export function alreadyStarted(tenant: Tenant, state: string): HoldfastError {
  return new HoldfastError(
    'CANNOT_START_LOG_ARCHIVE_BACKUP',
    `log archive of tenant "${tenant.tenant_name}" is ${state}`,
    {
      detail: 'A tenant has one round at a time.',
      hint: `To begin a new round: ALTER SYSTEM NOARCHIVELOG TENANT = ${tenant.tenant_name}; then ARCHIVELOG.`,
    },
  );
}
