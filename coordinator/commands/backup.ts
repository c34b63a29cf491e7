/** BACKUP and CANCEL BACKUP. */
import { HoldfastError, isError } from '../../foundation/errors.ts';
import type { NewDataKey } from '../../storage-layout/encryption/key-records.ts';
import type { DataKey } from '../../storage-layout/encryption/key-ring.ts';
import type { SetKey } from '../../storage-layout/tree.ts';
import { requireMembers } from '../archive/require-members.ts';
import { findLastJob, findRunningJob, insertJob, type Job, requestCancel } from '../catalog/jobs.ts';
import { backupProgress } from '../catalog/progress.ts';
import { findLastRound, type Round } from '../catalog/rounds.ts';
import type { Tenant } from '../catalog/tenants.ts';
import { type CoordinatorContext, write } from '../context.ts';
import { overdueReason } from '../destination/full-age.ts';
import { findSource } from '../destination/synthetic-source.ts';
import { formatKeyRecord, keepDataKey, keySecrets, modeName, newKeyFor } from '../encryption/keys.ts';
import { keysOfSource } from '../encryption/task-keys.ts';
import { tellBecameFull } from '../jobs/begin-backup.ts';
import type { BackupJobSpec } from '../jobs/specs.ts';
import { parameterText } from '../parameters/values.ts';
import type { CommandEvent } from '../sql/results.ts';
import type { SqlSession } from '../sql/session.ts';
import type { CurrentStatement } from '../sql/statements.ts';
import { requireDestination } from './archive.ts';
import { checkTenant } from './check.ts';
import { type Events, notice, progressLine, selectTenants, waitForJob } from './command.ts';

type BackupMode = BackupJobSpec['mode'];
type Of<Kind extends CurrentStatement['kind']> = Extract<CurrentStatement, { readonly kind: Kind }>;

export async function* backup(
  context: CoordinatorContext,
  statement: Of<'backup'>,
  session: SqlSession,
  signal: AbortSignal,
): Events {
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
  const chosen: (Chosen & ChosenKeys)[] = [];
  let refused: HoldfastError | undefined;
  for (const tenant of await selectTenants(context, statement.tenants)) {
    try {
      const choice = await chooseBackup(context, tenant, statement.mode, destination, signal);
      chosen.push({ ...choice, ...(await chooseKeys(context, choice, session, signal)) });
    } catch (error) {
      if (statement.tenants !== 'all' || !isRefusal(error)) throw error;
      refused = error;
      yield { kind: 'notice', severity: 'WARNING', message: `not backed up: ${refused.message}` };
    }
  }
  if (chosen.length === 0 && refused !== undefined) throw refused;
  const read = chosen.filter(({ mode }) => mode !== 'synthetic'); // the others need no server
  for (const { tenant, round } of read) await requireMembers(context.catalog, tenant, round);
  for (const { tenant } of chosen) {
    const running = await findRunningJob(context.catalog, 'BACKUP', tenant.tenant_name);
    if (running !== undefined) throw inProgress(tenant, running);
  }
  for (const { tenant } of read) await checkTenant(context, tenant, 'backup', undefined, signal);
  const jobs: bigint[] = [];
  for (const each of chosen) {
    const { tenant, mode, fullReason, logMode, key, carried } = each;
    const jobId = await createJob(context, each, statement, key, carried);
    jobs.push(jobId);
    if (fullReason !== '') yield notice(`a real full backup is made instead: ${fullReason}`);
    if (key !== undefined && logMode === 'NONE') yield logIsPlain(tenant, each.round);
    yield notice(
      `${mode === 'full' ? '' : `${mode} `}backup of tenant "${tenant.tenant_name}" started: job ${jobId}`,
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

/** One tenant's backup. `fullReason`: why it is a real full one though another was asked for. */
type Chosen = {
  readonly tenant: Tenant;
  readonly mode: BackupMode;
  readonly fullReason: string;
  /** The set that a synthetic full is made of. */
  readonly source?: SetKey;
  readonly round: bigint;
  /** What opens the round's log; undefined: there is no round. */
  readonly logMode: string | undefined;
  /** Encrypted URI. */
  readonly destination: string;
  readonly displayDestination: string;
};

/** Throws BACKUP_CAN_NOT_START, SYNTHETIC_BACKUP_REFUSED and the destination's errors. */
async function chooseBackup(
  context: CoordinatorContext,
  tenant: Tenant,
  mode: BackupMode,
  destination: { readonly uri: string; readonly display: string },
  signal: AbortSignal,
): Promise<Chosen> {
  const round = await findLastRound(context.catalog, tenant.tenant_id);
  const synthetic =
    mode === 'synthetic' ? await chooseSynthetic(context, tenant, round, destination, signal) : undefined;
  const fullReason = synthetic?.fullReason ?? '';
  if (synthetic !== undefined && fullReason === '') {
    // The job finds the set, and its round, anew.
    const place = {
      destination: round?.destination ?? context.secrets.encrypt(destination.uri),
      displayDestination: round?.display_destination ?? destination.display,
    };
    const logMode = round?.encryption_mode;
    const { source } = synthetic;
    return { tenant, mode, fullReason, source, round: round?.round ?? 0n, logMode, ...place };
  }
  if (round?.state !== 'DOING') throw notArchiving(tenant, round);
  return {
    tenant,
    mode: mode === 'synthetic' ? 'full' : mode,
    fullReason,
    round: round.round,
    logMode: round.encryption_mode,
    destination: round.destination,
    displayDestination: round.display_destination,
  };
}

/**
 * What a synthetic full is made of. `fullReason`: why it will not do; empty: it will. Throws SYNTHETIC_BACKUP_REFUSED when
 * there is nothing to make one of.
 */
async function chooseSynthetic(
  context: CoordinatorContext,
  tenant: Tenant,
  round: Round | undefined,
  destination: { readonly uri: string },
  signal: AbortSignal,
): Promise<{ readonly source: SetKey; readonly fullReason: string }> {
  const uri = round === undefined ? destination.uri : context.secrets.decrypt(round.destination);
  const medium = await context.destinations.open(uri, signal);
  const { set, pagesReadUs } = await findSource(medium, context.root, tenant, signal);
  const maxAge = await parameterText(context.catalog, 'full_backup_max_age', tenant.tenant_id);
  return {
    source: { tenantId: set.tenantId, fullSetId: set.fullSetId, setId: set.backupSetId },
    fullReason: overdueReason(pagesReadUs, { nowUs: context.clock.nowUs(), maxAge }) ?? '',
  };
}

/**
 * The data keys of the set that a synthetic full is made of: files that are copied whole keep theirs. Throws
 * BACKUP_INVALID_PASSWORD when neither the coordinator nor the session opens them.
 */
async function carriedKeys(
  context: CoordinatorContext,
  { source, destination }: Chosen,
  session: SqlSession,
  signal: AbortSignal,
): Promise<readonly DataKey[]> {
  if (source === undefined) return [];
  const medium = await context.destinations.open(context.secrets.decrypt(destination), signal);
  const secrets = { ...(await keySecrets(context)), passwords: session.decryptionPasswords };
  return await keysOfSource(medium, context.root, source, secrets, signal);
}

/** `key`: of the new set; undefined: it is plain. */
type ChosenKeys = { readonly key: NewDataKey | undefined; readonly carried: readonly DataKey[] };

async function chooseKeys(
  context: CoordinatorContext,
  choice: Chosen,
  session: SqlSession,
  signal: AbortSignal,
): Promise<ChosenKeys> {
  const carried = await carriedKeys(context, choice, session, signal);
  const key = await newKeyFor(context, choice.tenant.tenant_id, session, carried);
  if (key === undefined && carried.length > 0) throw wouldBePlain(choice.tenant, choice.source?.setId ?? 0n);
  return { key, carried };
}

function isRefusal(error: unknown): error is HoldfastError {
  return isError(error, 'BACKUP_CAN_NOT_START', 'SYNTHETIC_BACKUP_REFUSED');
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

export function inProgress(tenant: Tenant, job: Job): HoldfastError {
  return new HoldfastError('BACKUP_IN_PROGRESS', `a backup of tenant "${tenant.tenant_name}" is running`, {
    detail: `Job ${job.job_id} is ${job.state}.`,
    hint: `Wait for it, or: ALTER SYSTEM CANCEL BACKUP TENANT = ${tenant.tenant_name};`,
  });
}

/** The log from its start to its end belongs to a backup. */
function logIsPlain(tenant: Tenant, round: bigint): CommandEvent {
  return {
    kind: 'notice',
    severity: 'WARNING',
    message: `the backup of tenant "${tenant.tenant_name}" is encrypted, its log in archive round ${round} is not`,
    hint: "ALTER SYSTEM SET backup_encryption = 'on'; then NOARCHIVELOG and ARCHIVELOG, for a round that is.",
  };
}

/** What was encrypted does not become plain by itself: not by a schedule that knows no password either. */
function wouldBePlain(tenant: Tenant, setId: bigint): HoldfastError {
  return new HoldfastError(
    'SYNTHETIC_BACKUP_REFUSED',
    `backup set ${setId} of tenant "${tenant.tenant_name}" is encrypted, and a synthetic full that is made of it here would not be`,
    {
      hint: "SET ENCRYPTION ON IDENTIFIED BY '<password>'; or ALTER SYSTEM SET backup_encryption = 'on'; a plain full set comes of BACKUP DATABASE only.",
    },
  );
}

async function createJob(
  context: CoordinatorContext,
  { tenant, mode, fullReason, round, destination, displayDestination }: Chosen,
  statement: Of<'backup'>,
  key: NewDataKey | undefined,
  carried: readonly DataKey[],
): Promise<bigint> {
  const spec: BackupJobSpec = {
    description: statement.description ?? '',
    plusArchivelog: statement.plusArchivelog,
    destination,
    displayDestination,
    round: String(round),
    mode,
    fullReason,
    ...(key === undefined
      ? {}
      : { encryption: { mode: modeName(key.record), record: formatKeyRecord(key.record) } }),
  };
  return await write(context, async (tx) => {
    const running = await findRunningJob(tx, 'BACKUP', tenant.tenant_name);
    if (running !== undefined) throw inProgress(tenant, running);
    for (const each of key === undefined ? carried : [key, ...carried]) await keepDataKey(context, tx, each);
    const jobId = await insertJob(tx, {
      kind: 'BACKUP',
      tenantId: tenant.tenant_id,
      tenantName: tenant.tenant_name,
      state: 'PREPARE',
      spec,
      description: statement.description,
      deadlineUs: tx.nowUs + BigInt(context.timing.logWaitTimeoutMs) * 1000n,
      nowUs: tx.nowUs,
    });
    const named = { job_id: jobId, tenant_id: tenant.tenant_id, tenant_name: tenant.tenant_name };
    if (fullReason !== '') await tellBecameFull(tx, named, fullReason);
    return jobId;
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
