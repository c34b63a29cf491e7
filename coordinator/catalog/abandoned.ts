/** What forks left behind, as rows: see archive/abandoned-log.ts. */
import { formatLsn } from '../../foundation/lsn.ts';
import type { AbandonedStretch } from '../../storage-layout/plan/abandoned.ts';
import type { Queryable } from './catalog.ts';
import { insertRow, updateRows } from './rows.ts';

/** By then the archiver of an old leader has ended, and what it wrote is all there. */
const SETTLED_US = 30_000_000n;

export type ForkedGroup = {
  readonly tenant_id: bigint;
  readonly round: bigint;
  readonly partition_group: string;
};

/** Groups whose timeline changed and whose abandoned log was not read since, or not since the old leader's archiver ended. */
export async function findForksToRead(db: Queryable, nowUs: bigint): Promise<readonly ForkedGroup[]> {
  return await db.query<ForkedGroup>(
    `SELECT tenant_id, round, partition_group FROM holdfast.round_groups
     WHERE forked_us > 0 AND (fork_read_us < forked_us
       OR fork_read_us < forked_us + $1::bigint AND $2::bigint >= forked_us + $1::bigint)
     ORDER BY tenant_id, round, partition_group`,
    [SETTLED_US, nowUs],
  );
}

/** What was found at `readUs`; undefined: nothing could be, and what was known stays. */
export async function replaceAbandoned(
  tx: Queryable,
  group: ForkedGroup,
  stretches: readonly AbandonedStretch[] | undefined,
  readUs: bigint,
): Promise<void> {
  const key = { tenant_id: group.tenant_id, round: group.round, partition_group: group.partition_group };
  await updateRows(tx, 'round_groups', key, { fork_read_us: readUs });
  if (stretches === undefined) return;
  await tx.query(
    'DELETE FROM holdfast.abandoned_log WHERE tenant_id = $1 AND round = $2 AND partition_group = $3',
    [group.tenant_id, group.round, group.partition_group],
  );
  for (const stretch of stretches)
    await insertRow(
      tx,
      'abandoned_log',
      {
        ...key,
        timeline: stretch.timeline,
        begin_lsn: formatLsn(stretch.begin),
        end_lsn: formatLsn(stretch.end),
        from_us: stretch.fromUs ?? 0n,
        until_us: stretch.untilUs ?? 0n,
        survivor: stretch.survivor,
      },
      'timeline',
    );
}
