/** NOARCHIVELOG: works whether or not the destination is there (R6). */
import { HoldfastError } from '../../foundation/errors.ts';
import { moveJob } from '../catalog/jobs.ts';
import { findLastRound, moveRound } from '../catalog/rounds.ts';
import type { Tenant } from '../catalog/tenants.ts';
import { type CoordinatorContext, write } from '../context.ts';
import { step } from '../jobs/state-machine.ts';
import { cancelTasks, sendCancel } from '../jobs/task-care.ts';
import { ROUND_TRANSITIONS } from './round-states.ts';

/** Stops the tenant's round. Throws ALREADY_NO_LOG_ARCHIVE_BACKUP when none is running. */
export async function stopRound(context: CoordinatorContext, tenant: Tenant): Promise<void> {
  const round = await findLastRound(context.catalog, tenant.tenant_id);
  const event = round?.state === 'INTERRUPTED' ? 'acknowledge' : 'stop';
  const next = round === undefined ? undefined : step(ROUND_TRANSITIONS, round.state, event);
  if (round === undefined || next === undefined) {
    throw new HoldfastError(
      'ALREADY_NO_LOG_ARCHIVE_BACKUP',
      `log archive of tenant "${tenant.tenant_name}" is ${round?.state ?? 'STOP'}`,
      { hint: `To begin: ALTER SYSTEM ARCHIVELOG TENANT = ${tenant.tenant_name};` },
    );
  }
  const told = await write(context, async (tx) => {
    const stopDeadlineUs = tx.nowUs + BigInt(context.timing.stopTimeoutMs) * 1000n;
    if (!(await moveRound(tx, round, next, { stopDeadlineUs }))) return [];
    if (next === 'STOP') await moveJob(tx, round.job_id, 'RUNNING', 'COMPLETED', tx.nowUs);
    await tx.event({
      module: 'archive',
      event: next === 'STOP' ? 'round_acknowledged' : 'round_stopping',
      tenantId: tenant.tenant_id,
      tenantName: tenant.tenant_name,
      message: `round ${round.round} of tenant "${tenant.tenant_name}" is ${next}`,
      facts: { round: round.round },
    });
    return await cancelTasks(tx, round.job_id);
  });
  for (const task of told) sendCancel(context, task, 'NOARCHIVELOG', true);
}
