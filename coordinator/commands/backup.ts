/** BACKUP and CANCEL BACKUP. */
import { HoldfastError } from '../../foundation/errors.ts';
import type { NewDataKey } from '../../storage-layout/encryption/key-records.ts';
import { requireMembers } from '../archive/require-members.ts';
import { findLastJob, findRunningJob, insertJob, type Job, requestCancel } from '../catalog/jobs.ts';
import { backupProgress } from '../catalog/progress.ts';
import { findLastRound, type Round } from '../catalog/rounds.ts';
import type { Tenant } from '../catalog/tenants.ts';
import { type CoordinatorContext, write } from '../context.ts';
import { formatKeyRecord, keepDataKey, modeName, newKeyFor } from '../encryption/keys.ts';
import type { BackupJobSpec } from '../jobs/specs.ts';
import type { CommandEvent } from '../sql/results.ts';
import type { SqlSession } from '../sql/session.ts';
import type { CurrentStatement } from '../sql/statements.ts';
import { requireDestination } from './archive.ts';
import { checkTenant } from './check.ts';
import { type Events, notice, progressLine, selectTenants, waitForJob } from './command.ts';

type Of<Kind extends CurrentStatement['kind']> = Extract<CurrentStatement, { readonly kind: Kind }>;

export async function* backup(
  context: CoordinatorContext,
  statement: Of<'backup'>,
  session: SqlSession,
  signal: AbortSignal,
): Events {
  refuseLater(statement);
  const destination = await requireDestination(context);
  if (statement.to !== undefined && statement.to !== destination.uri) {
    throw new HoldfastError(
      'NOT_SUPPORTED',
      'BACKUP … TO another destination than backup_dest is not supported yet',
      {
        hint: `Leave TO out: the backup goes to ${destination.display}.`,
      },
    );
  }
  const chosen: { readonly tenant: Tenant; readonly round: Round }[] = [];
  let refused: HoldfastError | undefined;
  for (const tenant of await selectTenants(context, statement.tenants)) {
    const round = await findLastRound(context.catalog, tenant.tenant_id);
    if (round?.state === 'DOING') {
      chosen.push({ tenant, round });
      continue;
    }
    refused = notArchiving(tenant, round);
    if (statement.tenants !== 'all') throw refused;
    yield { kind: 'notice', severity: 'WARNING', message: `not backed up: ${refused.message}` };
  }
  if (chosen.length === 0 && refused !== undefined) throw refused;
  for (const { tenant, round } of chosen) await requireMembers(context.catalog, tenant, round.round);
  for (const { tenant } of chosen) {
    const running = await findRunningJob(context.catalog, 'BACKUP', tenant.tenant_name);
    if (running !== undefined) throw inProgress(tenant, running);
  }
  for (const { tenant } of chosen) await checkTenant(context, tenant, 'backup', undefined, signal);
  const jobs: bigint[] = [];
  for (const { tenant, round } of chosen) {
    const key = await newKeyFor(context, tenant.tenant_id, session);
    const jobId = await createJob(context, tenant, round, statement, key);
    jobs.push(jobId);
    if (key !== undefined && round.encryption_mode === 'NONE') yield logIsPlain(tenant, round);
    yield notice(
      `${statement.mode === 'incremental' ? 'incremental ' : ''}backup of tenant "${tenant.tenant_name}" started: job ${jobId}`,
      {
        hint: 'SELECT * FROM CDB_OB_BACKUP_PROGRESS;',
      },
    );
  }
  if (!statement.wait) return;
  for (const jobId of jobs) {
    const line = async () => progressLine(jobId, await backupProgress(context.catalog, jobId));
    yield* waitForJob(context, jobId, line, signal);
  }
}

/** What this version cannot do is refused by name, never done in part. */
function refuseLater(statement: Of<'backup'>): void {
  if (statement.mode === 'synthetic')
    throw new HoldfastError('NOT_SUPPORTED', 'synthetic backups are not supported yet', {
      hint: 'ALTER SYSTEM BACKUP DATABASE; takes a full backup, ALTER SYSTEM BACKUP INCREMENTAL DATABASE; an increment.',
    });
}

function notArchiving(tenant: Tenant, round: Round | undefined): HoldfastError {
  const state = round?.state ?? 'STOP';
  return new HoldfastError(
    'BACKUP_CAN_NOT_START',
    `log archive of tenant "${tenant.tenant_name}" is ${state}`,
    {
      detail:
        'A backup can be restored only with the log from its start to its end: archiving must be DOING.',
      hint:
        state === 'BEGINNING'
          ? 'Wait until CDB_OB_BACKUP_ARCHIVELOG shows DOING.'
          : `ALTER SYSTEM ARCHIVELOG TENANT = ${tenant.tenant_name};`,
    },
  );
}

function inProgress(tenant: Tenant, job: Job): HoldfastError {
  return new HoldfastError('BACKUP_IN_PROGRESS', `a backup of tenant "${tenant.tenant_name}" is running`, {
    detail: `Job ${job.job_id} is ${job.state}.`,
    hint: `Wait for it, or: ALTER SYSTEM CANCEL BACKUP TENANT = ${tenant.tenant_name};`,
  });
}

/** The log from its start to its end belongs to a backup. */
function logIsPlain(tenant: Tenant, { round }: Round): CommandEvent {
  return {
    kind: 'notice',
    severity: 'WARNING',
    message: `the backup of tenant "${tenant.tenant_name}" is encrypted, its log in archive round ${round} is not`,
    hint: "ALTER SYSTEM SET backup_encryption = 'on'; then NOARCHIVELOG and ARCHIVELOG, for a round that is.",
  };
}

async function createJob(
  context: CoordinatorContext,
  tenant: Tenant,
  round: Round,
  statement: Of<'backup'>,
  key: NewDataKey | undefined,
): Promise<bigint> {
  const spec: BackupJobSpec = {
    description: statement.description ?? '',
    plusArchivelog: statement.plusArchivelog,
    destination: round.destination,
    displayDestination: round.display_destination,
    round: String(round.round),
    mode: statement.mode === 'incremental' ? 'incremental' : 'full', // a synthetic one was refused
    fullReason: '',
    ...(key === undefined
      ? {}
      : { encryption: { mode: modeName(key.record), record: formatKeyRecord(key.record) } }),
  };
  return await write(context, async (tx) => {
    const running = await findRunningJob(tx, 'BACKUP', tenant.tenant_name);
    if (running !== undefined) throw inProgress(tenant, running);
    if (key !== undefined) await keepDataKey(context, tx, key);
    return await insertJob(tx, {
      kind: 'BACKUP',
      tenantId: tenant.tenant_id,
      tenantName: tenant.tenant_name,
      state: 'PREPARE',
      spec,
      description: statement.description,
      deadlineUs: tx.nowUs + BigInt(context.timing.logWaitTimeoutMs) * 1000n,
      nowUs: tx.nowUs,
    });
  });
}

/** J5: needs no destination. */
export async function* cancelBackup(context: CoordinatorContext, statement: Of<'cancelBackup'>): Events {
  const cancelled: bigint[] = [];
  let refused: HoldfastError | undefined;
  for (const tenant of await selectTenants(context, statement.tenants)) {
    const job = await findRunningJob(context.catalog, 'BACKUP', tenant.tenant_name);
    if (job === undefined) {
      const last = await findLastJob(context.catalog, 'BACKUP', tenant.tenant_id);
      refused = new HoldfastError(
        'CANNOT_CANCEL_STOPPED_BACKUP',
        `no backup of tenant "${tenant.tenant_name}" is running`,
        last === undefined ? {} : { detail: `The last one, job ${last.job_id}, is ${last.state}.` },
      );
    } else if (job.state === 'PUBLISH') {
      refused = new HoldfastError(
        'CANCEL_BACKUP_NOT_ALLOWED',
        `the backup of tenant "${tenant.tenant_name}" is being published`,
        { detail: `Job ${job.job_id} is past its commit point.` },
      );
    } else {
      await write(context, (tx) => requestCancel(tx, job.job_id));
      cancelled.push(job.job_id);
      continue;
    }
    if (statement.tenants !== 'all') throw refused;
  }
  if (cancelled.length === 0 && refused !== undefined) throw refused;
  yield notice(`cancelling job ${cancelled.join(', ')}`);
}
