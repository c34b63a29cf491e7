/** ROTATE BACKUP KEY: the data keys of all backups and rounds are wrapped anew. No data is read or written. */
import { HoldfastError } from '../../foundation/errors.ts';
import { type KeyPlace, type Rotation, rotateDataKeys } from '../../storage-layout/encryption/key-records.ts';
import { findKeyPlaces } from '../../storage-layout/encryption/unlock.ts';
import { findRunningJob } from '../catalog/jobs.ts';
import type { Tenant } from '../catalog/tenants.ts';
import { type CoordinatorContext, write } from '../context.ts';
import { checkOwner } from '../destination/claims.ts';
import { sessionSecrets } from '../encryption/keys.ts';
import type { SqlSession } from '../sql/session.ts';
import type { StatementOf } from '../sql/statements.ts';
import { requireDestination } from './archive.ts';
import { inProgress } from './backup.ts';
import { type Events, notice, selectTenants } from './command.ts';

/** Names of that many places are told. */
const TOLD_NAMES = 10;

/**
 * What a key file opens is wrapped with the file's first key; what a password of SET DECRYPTION opens, with the password of
 * SET ENCRYPTION, where one is given. What does not open stays as it is, and is told.
 */
export async function* rotateBackupKey(
  context: CoordinatorContext,
  statement: StatementOf<'rotateBackupKey'>,
  session: SqlSession,
  signal: AbortSignal,
): Events {
  const secrets = await sessionSecrets(context, session);
  const wrappers = { password: session.encryption?.password, fileKey: secrets.fileKeys[0] };
  if (wrappers.password === undefined && wrappers.fileKey === undefined)
    throw new HoldfastError('INVALID_CONFIG', 'there is nothing to wrap backup keys with', {
      detail: 'No key file is configured, and this session has set no password.',
      hint: "SET DECRYPTION IDENTIFIED BY '<old>'; SET ENCRYPTION ON IDENTIFIED BY '<new>';",
    });
  const destination = await requireDestination(context);
  const medium = await context.destinations.open(destination.uri, signal);
  await checkOwner(medium, context.deployment, signal);
  const tenants = await selectTenants(context, statement.tenants);
  // What a backup that has not begun will write is wrapped already, in the old way.
  for (const tenant of tenants) {
    const running = await findRunningJob(context.catalog, 'BACKUP', tenant.tenant_name);
    if (running !== undefined) throw inProgress(tenant, running);
  }
  for (const tenant of tenants) {
    const done: Record<Rotation, KeyPlace[]> = { rotated: [], unencrypted: [], unopened: [] };
    for (const place of await findKeyPlaces(medium, context.root, tenant.tenant_id, signal))
      done[await rotateDataKeys(place, secrets, wrappers, context.clock.nowUs(), signal)].push(place);
    await record(context, tenant, done.rotated.length, done.unopened.length);
    yield notice(
      `keys of tenant "${tenant.tenant_name}" wrapped anew: ${done.rotated.length}; not opened: ${done.unopened.length}`,
    );
    if (done.unopened.length === 0) continue;
    const names = done.unopened.slice(0, TOLD_NAMES).map(({ name }) => name);
    const more = done.unopened.length > names.length ? ', …' : '';
    yield {
      kind: 'notice',
      severity: 'WARNING',
      message: `not wrapped anew, because nothing given opens them: ${names.join(', ')}${more}`,
      hint: "SET DECRYPTION IDENTIFIED BY '<their passwords>'; or put their key into the key file, and try again.",
    };
  }
}

async function record(
  context: CoordinatorContext,
  tenant: Tenant,
  rotated: number,
  unopened: number,
): Promise<void> {
  await write(context, (tx) =>
    tx.event({
      module: 'backup',
      event: 'backup_key_rotated',
      severity: unopened === 0 ? 'INFO' : 'WARNING',
      tenantId: tenant.tenant_id,
      tenantName: tenant.tenant_name,
      message: `${rotated} backup keys of tenant "${tenant.tenant_name}" were wrapped anew, ${unopened} were not opened`,
      facts: { rotated, unopened },
    }),
  );
}
