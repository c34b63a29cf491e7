/** ALTER SYSTEM SET and SHOW PARAMETERS. */
import { HoldfastError, toHoldfastError } from '../../foundation/errors.ts';
import { didYouMean } from '../../foundation/suggest.ts';
import { probeMedium } from '../../storage-layout/media/open.ts';
import { tree } from '../../storage-layout/tree.ts';
import { listRunningJobs } from '../catalog/jobs.ts';
import { findParameterValue, listParameterValues, storeParameterValue } from '../catalog/parameters.ts';
import { getTenant } from '../catalog/tenants.ts';
import { type CoordinatorContext, write } from '../context.ts';
import { claimDestination, refuseForeignFiles } from '../destination/claims.ts';
import { writeTenantSummaries } from '../destination/summaries.ts';
import { requireFileKeys } from '../encryption/keys.ts';
import {
  checkParameterValue,
  findParameter,
  LATER_PARAMETERS,
  PARAMETERS,
  type Parameter,
} from '../parameters/table.ts';
import { destinationParameter } from '../parameters/values.ts';
import type { CurrentStatement } from '../sql/statements.ts';
import { type Events, table } from './command.ts';

type Of<Kind extends CurrentStatement['kind']> = Extract<CurrentStatement, { readonly kind: Kind }>;

export async function setParameter(
  context: CoordinatorContext,
  statement: Of<'setParameter'>,
  signal: AbortSignal,
): Promise<void> {
  const parameter = knownParameter(statement.name);
  const tenant =
    statement.tenant === undefined ? undefined : await getTenant(context.catalog, statement.tenant);
  if (tenant !== undefined && parameter.scope === 'cluster') {
    throw new HoldfastError('INVALID_ARGUMENT', `${parameter.name} is one for the whole cluster`, {
      hint: `ALTER SYSTEM SET ${parameter.name} = '…'; without TENANT.`,
    });
  }
  const value = checkParameterValue(parameter, statement.value);
  if (parameter.name === 'backup_encryption' && value === 'on') await requireFileKeys(context);
  const stored =
    parameter.type === 'uri' ? await acceptDestination(context, value, signal) : { value, display: value };
  if (stored === undefined) return; // the same as before
  await write(context, async (tx) => {
    await storeParameterValue(
      tx,
      { name: parameter.name, tenant_id: tenant?.tenant_id ?? 0n, ...stored },
      tx.nowUs,
    );
    await tx.event({
      module: 'parameter',
      event: 'parameter_set',
      tenantId: tenant?.tenant_id ?? 0n,
      tenantName: tenant?.tenant_name ?? '',
      message: `${parameter.name} is now '${stored.display}'`,
      facts: { name: parameter.name, value: stored.display },
    });
  });
}

function knownParameter(name: string): Parameter {
  const parameter = findParameter(name);
  if (parameter !== undefined) return parameter;
  const later = LATER_PARAMETERS[name];
  if (later !== undefined)
    throw new HoldfastError('NOT_SUPPORTED', `the parameter ${name} (${later}) is not supported yet`);
  const names = PARAMETERS.map((known) => known.name);
  throw new HoldfastError('ENTRY_NOT_EXIST', `there is no parameter "${name}"`, {
    hint: `${didYouMean(name, names)} SHOW PARAMETERS; lists them.`.trim(),
  });
}

/** Proves a destination by doing and makes it this deployment's. Undefined: it is the present one already. */
async function acceptDestination(
  context: CoordinatorContext,
  uri: string,
  signal: AbortSignal,
): Promise<{ readonly value: string; readonly display: string } | undefined> {
  const present = await destinationParameter(context.catalog, context.secrets);
  if ((present?.uri ?? '') === uri && !(await wasEmptied(context, uri, signal))) return undefined;
  const busy = (await listRunningJobs(context.catalog)).find(
    (job) => job.kind === 'ARCHIVE' || job.kind === 'BACKUP',
  );
  if (busy !== undefined) {
    throw new HoldfastError(
      'BACKUP_IN_PROGRESS',
      `backup_dest cannot change while ${busy.kind} of tenant "${busy.tenant_name}" runs`,
      {
        detail: `Job ${busy.job_id} is ${busy.state}.`,
        hint: busy.kind === 'ARCHIVE' ? 'ALTER SYSTEM NOARCHIVELOG;' : 'ALTER SYSTEM CANCEL BACKUP;',
      },
    );
  }
  if (uri === '') return { value: '', display: '' };
  const display = context.destinations.display(uri);
  try {
    const medium = await context.destinations.open(uri, signal);
    await refuseForeignFiles(medium, signal);
    await probeMedium(medium, tree.root(context.root), signal);
    await claimDestination(medium, context.deployment, context.clock.nowUs(), signal);
    await writeTenantSummaries(medium, context.root, context.catalog, signal);
  } catch (error) {
    signal.throwIfAborted();
    throw asDestinationError(error, display);
  }
  return { value: context.secrets.encrypt(uri), display };
}

/** The present destination, come back without our tree: to name it again is to begin anew there. */
async function wasEmptied(context: CoordinatorContext, uri: string, signal: AbortSignal): Promise<boolean> {
  if (uri === '') return false;
  const medium = await context.destinations.open(uri, signal);
  return (await medium.stat(tree.clusterOwner(context.root), signal)) === undefined;
}

/** Whatever the store said, as OB-9026 with the store's own words in the detail. */
export function asDestinationError(error: unknown, display: string): HoldfastError {
  const failure = toHoldfastError(error);
  if (failure.code === 'INVALID_BACKUP_DEST' || failure.code === 'NOT_SUPPORTED') return failure;
  return new HoldfastError('INVALID_BACKUP_DEST', `the destination ${display} cannot be used`, {
    cause: error,
    detail: [failure.message, failure.detail ?? ''].filter((text) => text !== '').join('\n'),
    hint: 'Check that the directory exists and that the coordinator may write to it.',
  });
}

export async function* showParameters(context: CoordinatorContext, statement: Of<'showParameters'>): Events {
  const tenant =
    statement.tenant === undefined ? undefined : await getTenant(context.catalog, statement.tenant);
  const wanted = likePattern(statement.like ?? '%');
  const stored = await listParameterValues(context.catalog);
  const rows = await Promise.all(
    PARAMETERS.filter((parameter) => wanted.test(parameter.name)).map(async (parameter) => {
      const own = await findParameterValue(context.catalog, parameter.name, tenant?.tenant_id ?? 0n);
      const overrides = stored.filter((row) => row.name === parameter.name && row.tenant_id !== 0n).length;
      return [
        parameter.name,
        own?.display ?? parameter.defaultValue,
        parameter.type,
        parameter.unit,
        parameter.range,
        parameter.defaultValue,
        parameter.scope,
        own !== undefined && own.tenant_id !== 0n ? 'tenant' : own === undefined ? 'default' : 'cluster',
        BigInt(overrides),
        parameter.meaning,
      ] as const;
    }),
  );
  yield* table(
    [
      { name: 'name', type: 'text' },
      { name: 'value', type: 'text' },
      { name: 'data_type', type: 'text' },
      { name: 'unit', type: 'text' },
      { name: 'range', type: 'text' },
      { name: 'default_value', type: 'text' },
      { name: 'scope', type: 'text' },
      { name: 'source', type: 'text' },
      { name: 'tenant_values', type: 'int8' },
      { name: 'info', type: 'text' },
    ],
    rows,
  );
}

/** A LIKE pattern as a regular expression: `%` and `_`, backslash escapes. */
function likePattern(like: string): RegExp {
  const source = [...like.matchAll(/\\(.)|(%)|(_)|(.)/gsu)]
    .map(([, escaped, any, one, plain]) => {
      if (any !== undefined) return '.*';
      if (one !== undefined) return '.';
      return (escaped ?? plain ?? '').replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`);
    })
    .join('');
  return new RegExp(`^${source}$`, 'is');
}
