/** ARCHIVELOG and NOARCHIVELOG. */
import { HoldfastError } from '../../foundation/errors.ts';
import { isRunning } from '../archive/round-states.ts';
import { alreadyStarted, startRound } from '../archive/start-round.ts';
import { stopRound } from '../archive/stop-round.ts';
import { findLastRound } from '../catalog/rounds.ts';
import type { Tenant } from '../catalog/tenants.ts';
import type { CoordinatorContext } from '../context.ts';
import { destinationParameter } from '../parameters/values.ts';
import type { CurrentStatement } from '../sql/statements.ts';
import { checkTenant } from './check.ts';
import { type Events, notice, selectTenants } from './command.ts';
import { asDestinationError } from './parameters.ts';

type Of<Kind extends CurrentStatement['kind']> = Extract<CurrentStatement, { readonly kind: Kind }>;

/** The destination that is set. Throws INVALID_BACKUP_DEST when there is none. */
export async function requireDestination(
  context: CoordinatorContext,
): Promise<{ readonly uri: string; readonly display: string }> {
  const destination = await destinationParameter(context.catalog, context.secrets);
  if (destination !== undefined) return destination;
  throw new HoldfastError('INVALID_BACKUP_DEST', 'backup_dest is not set', {
    hint: "ALTER SYSTEM SET backup_dest = 'file:///path/of/a/directory';",
  });
}

/** Begins a round for each tenant. All are checked before any begins. */
export async function* archiveLog(
  context: CoordinatorContext,
  statement: Of<'archiveLog'>,
  signal: AbortSignal,
): Events {
  const destination = await requireDestination(context);
  const tenants: Tenant[] = [];
  let refused: HoldfastError | undefined;
  for (const tenant of await selectTenants(context, statement.tenants)) {
    const round = await findLastRound(context.catalog, tenant.tenant_id);
    if (round === undefined || round.state === 'STOP') {
      tenants.push(tenant);
      continue;
    }
    refused = alreadyStarted(tenant, round.state);
    if (statement.tenants !== 'all') throw refused;
    if (round.state === 'INTERRUPTED') yield notice(refused.message, { hint: refused.hint ?? '' });
  }
  if (tenants.length === 0 && refused !== undefined) throw refused;
  for (const tenant of tenants) await checkTenant(context, tenant, 'archive', destination, signal);
  for (const tenant of tenants) {
    try {
      const { round } = await startRound(context, tenant, destination, statement.description ?? '', signal);
      yield notice(`log archive of tenant "${tenant.tenant_name}": round ${round} is BEGINNING`, {
        hint: 'SELECT * FROM CDB_OB_BACKUP_ARCHIVELOG;',
      });
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof HoldfastError && error.code === 'CANNOT_START_LOG_ARCHIVE_BACKUP') throw error;
      throw asDestinationError(error, destination.display);
    }
  }
}

export async function* noArchiveLog(context: CoordinatorContext, statement: Of<'noArchiveLog'>): Events {
  const stopped: string[] = [];
  let refused: HoldfastError | undefined;
  for (const tenant of await selectTenants(context, statement.tenants)) {
    if (statement.tenants === 'all' && !(await hasRound(context, tenant))) continue;
    try {
      await stopRound(context, tenant);
      stopped.push(tenant.tenant_name);
    } catch (error) {
      if (statement.tenants !== 'all' || !(error instanceof HoldfastError)) throw error;
      refused = error;
    }
  }
  if (stopped.length === 0)
    throw (
      refused ??
      new HoldfastError('ALREADY_NO_LOG_ARCHIVE_BACKUP', 'log archive is STOP for every tenant', {
        hint: 'To begin: ALTER SYSTEM ARCHIVELOG;',
      })
    );
  yield notice(`log archive is STOPPING: ${stopped.map((name) => `"${name}"`).join(', ')}`, {
    hint: 'SELECT * FROM CDB_OB_BACKUP_ARCHIVELOG;',
  });
}

async function hasRound(context: CoordinatorContext, tenant: Tenant): Promise<boolean> {
  const round = await findLastRound(context.catalog, tenant.tenant_id);
  return round !== undefined && (isRunning(round.state) || round.state === 'INTERRUPTED');
}
