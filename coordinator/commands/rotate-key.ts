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
const TOLD_NAMES = 100;

const GIVE_PASSWORD = "SET ENCRYPTION ON IDENTIFIED BY '<new>'; and try again.";

/** What is told of places whose keys the old password or key still opens. */
const LEFT: readonly (readonly [Rotation, { readonly message: string; readonly hint: string }])[] = [
  [
    'unopened',
    {
      message: 'not wrapped anew, because nothing given opens them',
      hint: "SET DECRYPTION IDENTIFIED BY '<their passwords>'; or put their key into the key file, and try again.",
    },
  ],
  [
    'unchanged',
    {
      message: 'not wrapped anew, because they open with a password and the session gives no new one',
      hint: GIVE_PASSWORD,
    },
  ],
  [
    'passwordKept',
    {
      message: 'the old password still opens them, because the session gives no new one',
      hint: GIVE_PASSWORD,
    },
  ],
  [
    'keyFileKept',
    {
      message: 'their key of a key file still opens them, because none is configured',
      hint: 'Name a key file in the configuration of the coordinator, encryption.key_file, its new key first, and try again.',
    },
  ],
];

/**
 * What a key file opens is wrapped with the file's first key; what a password of SET DECRYPTION opens, with the password of
 * SET ENCRYPTION, where one is given. What stays as it is, wholly or in one of two ways, is told by name.
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
    const done: Rotated = {};
    for (const place of await findKeyPlaces(medium, context.root, tenant.tenant_id, signal)) {
      const rotation = await rotateDataKeys(place, secrets, wrappers, context.clock.nowUs(), signal);
      (done[rotation] ??= []).push(place);
    }
    const counts = countsOf(done);
    await record(context, tenant, counts);
    yield notice(
      `keys of tenant "${tenant.tenant_name}" wrapped anew: ${counts.rotated}; unchanged: ${counts.unchanged}; not opened: ${counts.unopened}`,
    );
    for (const [rotation, { message, hint }] of LEFT) {
      const places = done[rotation] ?? [];
      if (places.length > 0)
        yield { kind: 'notice', severity: 'WARNING', message: `${message}: ${namesOf(places)}`, hint };
    }
  }
}

/** Places by what became of their keys; those without are left out. */
type Rotated = Partial<Record<Rotation, KeyPlace[]>>;

/** Each place counts once. `stillOpen`: of the rotated ones, those that an old password or key opens as before. */
type Counts = Record<'rotated' | 'stillOpen' | 'unchanged' | 'unopened', number>;

function countsOf(done: Rotated): Counts {
  const count = (rotation: Rotation) => done[rotation]?.length ?? 0;
  const stillOpen = count('passwordKept') + count('keyFileKept');
  return {
    rotated: count('rotated') + stillOpen,
    stillOpen,
    unchanged: count('unchanged'),
    unopened: count('unopened'),
  };
}

function namesOf(places: readonly KeyPlace[]): string {
  const names = places.slice(0, TOLD_NAMES).map(({ name }) => name);
  const more = places.length - names.length;
  return `${names.join(', ')}${more > 0 ? `, and ${more} more` : ''}`;
}

async function record(context: CoordinatorContext, tenant: Tenant, counts: Counts): Promise<void> {
  const { rotated, stillOpen, unchanged, unopened } = counts;
  await write(context, (tx) =>
    tx.event({
      module: 'backup',
      event: 'backup_key_rotated',
      severity: stillOpen + unchanged + unopened === 0 ? 'INFO' : 'WARNING',
      tenantId: tenant.tenant_id,
      tenantName: tenant.tenant_name,
      message:
        `${rotated} backup keys of tenant "${tenant.tenant_name}" were wrapped anew, ${stillOpen} of which an old ` +
        `password or key still opens; ${unchanged} were left as they are, ${unopened} were not opened`,
      facts: counts,
    }),
  );
}
