/** What a RESTORE statement restores: the source at its destination, the target, and the set that leads there. */
import { assertNever } from '../../foundation/assert.ts';
import { HoldfastError, isError } from '../../foundation/errors.ts';
import { formatLsn, toTimeline } from '../../foundation/lsn.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { findRoot, findRoots, findTenant, findTenants } from '../../storage-layout/plan/discovery.ts';
import { findRestorePoints } from '../../storage-layout/plan/restore-points.ts';
import { readTenantHistory } from '../../storage-layout/plan/tenant-history.ts';
import {
  type ChosenSet,
  chooseSet,
  formatInstant,
  type RestoreTarget,
  restorableWindows,
  type TenantHistory,
} from '../../storage-layout/plan/windows.ts';
import type { TreeRoot } from '../../storage-layout/tree.ts';
import { parseInstant } from '../catalog/progress.ts';
import { findLastRound } from '../catalog/rounds.ts';
import type { CoordinatorContext } from '../context.ts';
import type { RestoreStatement } from '../sql/statements.ts';
import type { RestoreOptions } from './restore-options.ts';

/** A target just behind the archived log of a running round is waited for, this long. */
const LOG_WAIT_MS = 20_000;
const LOG_POLL_MS = 500;

export type RestoreSource = {
  readonly uri: string;
  readonly display: string;
  readonly medium: Medium;
  readonly root: TreeRoot;
  readonly tenantId: bigint;
  readonly tenantName: string;
};

export type RestorePlan = {
  readonly source: RestoreSource;
  readonly target: RestoreTarget;
  /** EXCLUSIVE: stop before the target itself. */
  readonly exclusive: boolean;
  /** For people. */
  readonly targetText: string;
  readonly chosen: ChosenSet;
};

/** Throws TENANT_NOT_EXIST, TARGET_NOT_RESTORABLE (which names the windows), INVALID_ARGUMENT, NOT_SUPPORTED. */
export async function planRestore(
  context: CoordinatorContext,
  statement: RestoreStatement,
  options: RestoreOptions,
  from: { readonly uri: string; readonly display: string },
  signal: AbortSignal,
): Promise<RestorePlan> {
  const target = await readTarget(context, statement);
  const source = await findSource(context, statement, options, from, signal);
  const chosen = await chooseWhenArchived(context, source, target, statement.backupSet, signal);
  return {
    source,
    target,
    exclusive: statement.inclusive === false,
    targetText: describeTarget(target, statement.inclusive),
    chosen,
  };
}

async function readTarget(context: CoordinatorContext, statement: RestoreStatement): Promise<RestoreTarget> {
  const timeline = statement.timeline === undefined ? undefined : toTimeline(statement.timeline);
  const { until } = statement;
  switch (until?.kind) {
    case undefined:
      return { kind: 'endOfLog', timeline };
    case 'immediate':
      return { kind: 'immediate', timeline };
    case 'time': {
      const timeUs = await parseTime(context, until.time);
      return { kind: 'time', timeUs, timeline };
    }
    case 'scn': {
      const [position] = until.positions;
      if (position === undefined || until.positions.length > 1)
        throw new HoldfastError(
          'NOT_SUPPORTED',
          'positions of several partition groups are not supported yet',
          {
            hint: 'Give a time.',
          },
        );
      return { kind: 'lsn', lsn: position.lsn, timeline };
    }
    case 'xid':
      // With or without its epoch, as the server's functions show it.
      return { kind: 'xid', xid: Number(until.xid & 0xffff_ffffn), timeline };
    case 'name':
      return { kind: 'name', name: until.name, places: [], timeline };
    default:
      return assertNever(until);
  }
}

async function parseTime(context: CoordinatorContext, text: string): Promise<bigint> {
  let timeUs: bigint;
  try {
    timeUs = await parseInstant(context.catalog, text);
  } catch (error) {
    throw new HoldfastError('INVALID_ARGUMENT', `not a time: "${text}"`, {
      cause: error,
      hint: "Write it like '2026-01-31 13:45:00.123456+00'; without a zone it is UTC.",
    });
  }
  const nowUs = context.clock.nowUs();
  if (timeUs <= nowUs) return timeUs;
  throw new HoldfastError('TARGET_NOT_RESTORABLE', `${formatInstant(timeUs)} is in the future`, {
    detail: `It is ${formatInstant(nowUs)} now.${/[zZ]|[+-]\d\d/.test(text.slice(10)) ? '' : ' A time without a zone is UTC.'}`,
  });
}

async function findSource(
  context: CoordinatorContext,
  statement: RestoreStatement,
  options: RestoreOptions,
  from: { readonly uri: string; readonly display: string },
  signal: AbortSignal,
): Promise<RestoreSource> {
  const medium = await context.destinations.open(from.uri, signal);
  const root = await sourceRoot(context, medium, options, signal);
  const tenant =
    statement.sourceTenant === undefined
      ? await onlyTenant(medium, root, signal)
      : await findTenant(medium, root, statement.sourceTenant, signal);
  return { ...from, medium, root, tenantId: tenant.tenantId, tenantName: tenant.name };
}

/** The cluster that the options name; else our own where it is there; else the only one. */
async function sourceRoot(
  context: CoordinatorContext,
  medium: Medium,
  options: RestoreOptions,
  signal: AbortSignal,
): Promise<TreeRoot> {
  if (options.clusterName === undefined && options.clusterId === undefined) {
    const own = (await findRoots(medium, signal)).find(
      (root) => root.clusterName === context.root.clusterName && root.clusterId === context.root.clusterId,
    );
    if (own !== undefined) return own;
  }
  return await findRoot(medium, { clusterName: options.clusterName, clusterId: options.clusterId }, signal);
}

async function onlyTenant(medium: Medium, root: TreeRoot, signal: AbortSignal) {
  const tenants = await findTenants(medium, root, signal);
  const [only] = tenants;
  if (only !== undefined && tenants.length === 1) return only;
  throw new HoldfastError(
    'INVALID_ARGUMENT',
    `${tenants.length} tenants are at ${medium.displayUri}: name one`,
    {
      detail: tenants.map((tenant) => tenant.name).join(', '),
      hint: "ALTER SYSTEM RESTORE <new> FROM <old> AT '<uri>' …;",
    },
  );
}

/**
 * The set for the target. While the tenant's log is being archived, a target that lies between the end of the archived
 * log and now is waited for a little: the log of the last seconds is on its way.
 */
async function chooseWhenArchived(
  context: CoordinatorContext,
  source: RestoreSource,
  target: RestoreTarget,
  setId: bigint | undefined,
  signal: AbortSignal,
): Promise<ChosenSet> {
  const deadlineMs = context.clock.monotonicMs() + LOG_WAIT_MS;
  for (;;) {
    const history = await readTenantHistory(source.medium, source.root, source.tenantId, signal);
    try {
      const placed = await placeName(source, history, target, signal);
      return chooseSet(history, placed, context.clock.nowUs(), setId);
    } catch (error) {
      const late = context.clock.monotonicMs() >= deadlineMs;
      if (
        late ||
        !isError(error, 'TARGET_NOT_RESTORABLE') ||
        !(await mayCome(context, source, history, target))
      )
        throw error;
      await context.clock.sleep(LOG_POLL_MS, signal);
    }
  }
}

/** A restore point with its places, so that a set before it is chosen. */
async function placeName(
  source: RestoreSource,
  history: TenantHistory,
  target: RestoreTarget,
  signal: AbortSignal,
): Promise<RestoreTarget> {
  if (target.kind !== 'name') return target;
  return {
    ...target,
    places: await findRestorePoints(source.medium, source.root, history, target.name, signal),
  };
}

/** True when the target lies behind what is archived, in a round of ours that goes on and has a set. */
async function mayCome(
  context: CoordinatorContext,
  source: RestoreSource,
  history: TenantHistory,
  target: RestoreTarget,
): Promise<boolean> {
  if (
    source.root.clusterName !== context.root.clusterName ||
    source.root.clusterId !== context.root.clusterId
  )
    return false;
  const round = await findLastRound(context.catalog, source.tenantId);
  if (round?.state !== 'DOING') return false;
  // Where a group joined that the sets lack, no log that is still to come helps.
  return restorableWindows(history, target.timeline).some(
    ({ round: of, fromUs, changesAtUs }) =>
      of === round.round &&
      (target.kind === 'time'
        ? fromUs <= target.timeUs && (changesAtUs === undefined || target.timeUs < changesAtUs)
        : changesAtUs === undefined),
  );
}

function describeTarget(target: RestoreTarget, inclusive: boolean | undefined): string {
  const how = inclusive === undefined ? '' : inclusive ? ' INCLUSIVE' : ' EXCLUSIVE';
  const timeline = target.timeline === undefined ? '' : ` TIMELINE ${target.timeline}`;
  switch (target.kind) {
    case 'endOfLog':
      return `END OF LOG${timeline}`;
    case 'immediate':
      return `IMMEDIATE${timeline}`;
    case 'time':
      return `TIME ${formatInstant(target.timeUs)}${how}${timeline}`;
    case 'lsn':
      return `SCN ${formatLsn(target.lsn)}${how}${timeline}`;
    case 'xid':
      return `XID ${target.xid}${how}${timeline}`;
    case 'name':
      return `NAME '${target.name}'${how}${timeline}`;
    default:
      return assertNever(target);
  }
}
