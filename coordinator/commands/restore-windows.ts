/** SHOW RESTORE WINDOWS: what can be restored, and what cannot, as the destination itself says. */
import { formatLsn, toLsn } from '../../foundation/lsn.ts';
import { RoundState } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { readTenantHistory } from '../../storage-layout/plan/tenant-history.ts';
import {
  formatInstant,
  isSameLog,
  mergeWindows,
  restorableWindows,
  type TenantHistory,
} from '../../storage-layout/plan/windows.ts';
import type { CoordinatorContext } from '../context.ts';
import { checkOwner } from '../destination/claims.ts';
import type { SqlValue } from '../sql/results.ts';
import type { CurrentStatement } from '../sql/statements.ts';
import { describeAbandoned } from './abandoned-rows.ts';
import { requireDestination } from './archive.ts';
import { type Events, selectTenants, table } from './command.ts';

/** Read from the destination itself: one row per restorable interval, one per hole between two of them, one per abandoned stretch. */
export async function* showRestoreWindows(
  context: CoordinatorContext,
  statement: Extract<CurrentStatement, { readonly kind: 'showRestoreWindows' }>,
  signal: AbortSignal,
): Events {
  const destination = await requireDestination(context);
  const medium = await context.destinations.open(destination.uri, signal);
  await checkOwner(medium, context.deployment, signal);
  const tenants = await selectTenants(context, statement.tenant === undefined ? 'all' : [statement.tenant]);
  const rows: SqlValue[][] = [];
  for (const tenant of tenants) {
    const history = await readTenantHistory(medium, context.root, tenant.tenant_id, signal);
    const merged = mergeWindows(restorableWindows(history));
    const common = [tenant.tenant_id, tenant.tenant_name];
    for (const [index, window] of merged.entries()) {
      const before = merged[index - 1];
      if (before !== undefined && !isSameLog(before, window))
        rows.push([
          ...common,
          'HOLE',
          { timestampUs: before.untilUs },
          { timestampUs: window.fromUs },
          String(before.windows.at(-1)?.round ?? ''),
          null,
          describeLost(history, before.windows.at(-1)?.round),
          holeReason(history, before.windows.at(-1)?.round, window.fromUs),
        ]);
      const rounds = [...new Set(window.windows.map((one) => one.round))];
      rows.push([
        ...common,
        'RESTORABLE',
        { timestampUs: window.fromUs },
        { timestampUs: window.untilUs },
        rounds.join(','),
        window.windows.map((one) => one.setId).join(','),
        null,
        null,
      ]);
    }
    const last = merged.at(-1);
    const lastRound = last?.windows.at(-1)?.round;
    if (last !== undefined && endsInHole(history, lastRound))
      rows.push([
        ...common,
        'HOLE',
        { timestampUs: last.untilUs },
        null,
        String(lastRound ?? ''),
        null,
        describeLost(history, lastRound),
        holeReason(history, lastRound, undefined),
      ]);
    for (const abandoned of await describeAbandoned(medium, context.root, history, signal))
      rows.push([...common, ...abandoned]);
    for (const file of history.unreadable)
      rows.push([...common, 'UNREADABLE', null, null, null, null, null, `${file.key}: ${file.reason}`]);
  }
  yield* table(
    [
      { name: 'tenant_id', type: 'int8' },
      { name: 'tenant_name', type: 'text' },
      { name: 'status', type: 'text' },
      { name: 'from_time', type: 'timestamptz' },
      { name: 'until_time', type: 'timestamptz' },
      { name: 'log_archive_rounds', type: 'text' },
      { name: 'backup_sets', type: 'text' },
      { name: 'lost_log', type: 'text' },
      { name: 'reason', type: 'text' },
    ],
    rows,
  );
}

function holeReason(
  history: TenantHistory,
  round: bigint | undefined,
  nextFromUs: bigint | undefined,
): string {
  const end = history.rounds.find((candidate) => candidate.begin.round === round)?.end;
  const why =
    end === undefined ? `round ${round ?? 0n} has a hole` : `round ${round ?? 0n} ended: ${end.reason}`;
  return nextFromUs === undefined
    ? `${why}; restorable again after a full backup`
    : `${why}; the next backup set ended at ${formatInstant(nextFromUs)}`;
}

/** True when the tenant's last window is not one that grows. */
function endsInHole(history: TenantHistory, round: bigint | undefined): boolean {
  const ended = history.rounds.find((candidate) => candidate.begin.round === round)?.end;
  return (
    ended?.state === RoundState.INTERRUPTED || history.rounds.some(({ begin }) => begin.round > (round ?? 0n))
  );
}

/** The log that no archive has, by partition group; null when no archiver found any missing. */
function describeLost(history: TenantHistory, round: bigint | undefined): string | null {
  const end = history.rounds.find((candidate) => candidate.begin.round === round)?.end;
  const following = history.rounds.find((candidate) => candidate.begin.round === (round ?? 0n) + 1n);
  const lost = (end?.groups ?? []).flatMap(({ partitionGroup, hole }) => {
    if (hole?.begin === undefined) return [];
    const next = following?.begin.groups.find((group) => group.partitionGroup === partitionGroup)?.start?.lsn;
    const until = next !== undefined && next >= hole.begin.lsn ? next : hole.end;
    const to = until === 0n ? '' : formatLsn(toLsn(until));
    return [
      `${partitionGroup}: ${formatLsn(toLsn(hole.begin.lsn))} to ${to} of timeline ${hole.begin.timeline}`,
    ];
  });
  return lost.length === 0 ? null : lost.join(', ');
}
