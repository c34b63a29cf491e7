/** VALIDATE and CANCEL VALIDATE. */
import { HoldfastError, isError } from '../../foundation/errors.ts';
import { parseDurationMs } from '../../foundation/units.ts';
import { openDataKeys } from '../../storage-layout/encryption/key-records.ts';
import { findKeyPlaces } from '../../storage-layout/encryption/unlock.ts';
import { findJob, insertJob, requestCancel } from '../catalog/jobs.ts';
import { validationProgress } from '../catalog/progress.ts';
import type { Tenant } from '../catalog/tenants.ts';
import { type CoordinatorContext, write } from '../context.ts';
import { findSets } from '../destination/validation-subjects.ts';
import { keepDataKey, keySecrets } from '../encryption/keys.ts';
import type { ValidateJobSpec } from '../jobs/specs.ts';
import type { SqlSession } from '../sql/session.ts';
import type { StatementOf } from '../sql/statements.ts';
import { requireDestination } from './archive.ts';
import { type Events, notice, progressLine, selectTenants, waitForJob } from './command.ts';

type Destination = { readonly uri: string; readonly display: string };

/** One job for each tenant: all its sets and rounds, or one set. */
export async function* validate(
  context: CoordinatorContext,
  statement: StatementOf<'validate'>,
  session: SqlSession,
  signal: AbortSignal,
): Events {
  const { object, maxAge } = statement;
  if (object !== undefined && object.kind !== 'backupSet')
    throw new HoldfastError('NOT_SUPPORTED', 'a round or piece is not validated by itself', {
      hint: 'ALTER SYSTEM VALIDATE TENANT = …; reads all sets and the log of all rounds.',
    });
  if ((statement.copy ?? 0) !== 0)
    throw new HoldfastError('NOT_SUPPORTED', 'VALIDATE … COPY is not supported: there are no copies yet');
  // As in OceanBase, set 0 stands for all of them.
  const setId = object === undefined || object.id === 0n ? undefined : object.id;
  const maxAgeMs = maxAge === undefined ? undefined : Math.round(parseDurationMs(maxAge));
  const destination = await requireDestination(context);
  const tenants = await selectTenants(context, statement.tenants);
  const chosen =
    setId === undefined ? tenants : await thoseWithSet(context, tenants, setId, destination, signal);
  if (session.decryptionPasswords.length > 0)
    for (const tenant of chosen) await learnKeys(context, tenant, session, destination, signal);
  const jobs: bigint[] = [];
  for (const tenant of chosen) {
    const jobId = await createJob(context, tenant, setId, maxAgeMs, destination);
    jobs.push(jobId);
    yield notice(`validation of tenant "${tenant.tenant_name}" started: job ${jobId}`, {
      hint: 'SELECT * FROM CDB_OB_BACKUP_VALIDATION_JOB;',
    });
  }
  if (!statement.wait) return;
  for (const jobId of jobs) {
    const line = async () => progressLine(jobId, await validationProgress(context.catalog, jobId));
    yield* waitForJob(context, jobId, line, signal);
  }
}

/** What the session's passwords open is known from now on: the job's agents can read it. */
async function learnKeys(
  context: CoordinatorContext,
  tenant: Tenant,
  session: SqlSession,
  destination: Destination,
  signal: AbortSignal,
): Promise<void> {
  const medium = await context.destinations.open(destination.uri, signal);
  const known = await keySecrets(context);
  const secrets = { ...known, passwords: session.decryptionPasswords };
  for (const place of await findKeyPlaces(medium, context.root, tenant.tenant_id, signal)) {
    try {
      const keys = await openDataKeys(place, secrets, signal);
      await write(context, async (tx) => {
        for (const key of keys) await keepDataKey(context, tx, key);
      });
    } catch (error) {
      if (!isError(error, 'BACKUP_INVALID_PASSWORD', 'DATA_CORRUPT')) throw error; // the job says so
    }
  }
}

/** Throws INVALID_BACKUP_SET_ID when no tenant has it. */
async function thoseWithSet(
  context: CoordinatorContext,
  tenants: readonly Tenant[],
  setId: bigint,
  destination: Destination,
  signal: AbortSignal,
): Promise<readonly Tenant[]> {
  const medium = await context.destinations.open(destination.uri, signal);
  const found: Tenant[] = [];
  for (const tenant of tenants) {
    const place = { medium, display: destination.display, tenantId: tenant.tenant_id };
    const sets = await findSets(context, place, signal);
    if (sets.some(({ key }) => key.setId === setId)) found.push(tenant);
  }
  if (found.length > 0) return found;
  throw new HoldfastError(
    'INVALID_BACKUP_SET_ID',
    `there is no backup set ${setId} at ${destination.display}`,
    {
      hint: 'SELECT backup_set_id FROM CDB_OB_BACKUP_SET_FILES;',
    },
  );
}

async function createJob(
  context: CoordinatorContext,
  tenant: Tenant,
  setId: bigint | undefined,
  maxAgeMs: number | undefined,
  destination: Destination,
): Promise<bigint> {
  const spec: ValidateJobSpec = {
    ...(setId === undefined ? {} : { setId: String(setId) }),
    ...(maxAgeMs === undefined ? {} : { maxAgeMs }),
    destination: context.secrets.encrypt(destination.uri),
    displayDestination: destination.display,
    skipped: '',
  };
  return await write(context, (tx) =>
    insertJob(tx, {
      kind: 'VALIDATE',
      tenantId: tenant.tenant_id,
      tenantName: tenant.tenant_name,
      state: 'SCHEDULE',
      spec,
      deadlineUs: tx.nowUs + BigInt(context.timing.logWaitTimeoutMs) * 1000n,
      nowUs: tx.nowUs,
    }),
  );
}

/** J5: needs no destination. */
export async function* cancelValidate(
  context: CoordinatorContext,
  statement: StatementOf<'cancelValidate'>,
): Events {
  const job = await findJob(context.catalog, statement.job);
  if (job === undefined || job.kind !== 'VALIDATE') {
    throw new HoldfastError('ENTRY_NOT_EXIST', `there is no validation job ${statement.job}`, {
      hint: 'SELECT job_id, status FROM CDB_OB_BACKUP_VALIDATION_JOB;',
    });
  }
  if (job.final) {
    throw new HoldfastError('CANNOT_CANCEL_STOPPED_BACKUP', `validation job ${job.job_id} is ${job.state}`);
  }
  await write(context, (tx) => requestCancel(tx, job.job_id));
  yield notice(`cancelling job ${job.job_id}`);
}
