/** SHOW RESTORE WINDOWS: the rows of log that failovers left behind. */
import { formatLsn } from '../../foundation/lsn.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { type AbandonedStretch, readAbandoned } from '../../storage-layout/plan/abandoned.ts';
import { restorableWindows, type TenantHistory } from '../../storage-layout/plan/windows.ts';
import type { TreeRoot } from '../../storage-layout/tree.ts';
import type { SqlValue } from '../sql/results.ts';

/** From `status` on, one row per stretch; `backup_sets` are those from which naming its timeline leads there. */
export async function describeAbandoned(
  medium: Medium,
  root: TreeRoot,
  history: TenantHistory,
  signal: AbortSignal,
): Promise<readonly (readonly SqlValue[])[]> {
  const rows: SqlValue[][] = [];
  for (const { begin, groups } of history.rounds) {
    const key = { tenantId: history.tenantId, round: begin.round };
    for (const log of groups)
      for (const stretch of await readAbandoned(medium, root, key, log, signal))
        rows.push(rowOf(history, begin.round, stretch));
  }
  return rows;
}

function rowOf(history: TenantHistory, round: bigint, stretch: AbandonedStretch): SqlValue[] {
  const { partitionGroup, timeline, begin, end, survivor, fromUs, untilUs } = stretch;
  const sets = restorableWindows(history, timeline)
    .filter(
      (window) =>
        window.round === round &&
        window.groups.some((group) => group.partitionGroup === partitionGroup && group.untilLsn > begin),
    )
    .map(({ setId }) => setId);
  const where = `${partitionGroup}: ${formatLsn(begin)} to ${formatLsn(end)} of timeline ${timeline}, which timeline ${survivor} does not have`;
  return [
    'ABANDONED',
    instant(fromUs),
    instant(untilUs),
    String(round),
    sets.length === 0 ? null : sets.join(','),
    null,
    `${where}; ${sets.length === 0 ? 'no backup set leads there' : `restored only by RESTORE … TIMELINE = ${timeline}`}`,
  ];
}

function instant(us: bigint | undefined): SqlValue {
  return us === undefined || us === 0n ? null : { timestampUs: us };
}
