/** Who is a member of a round, as its destination says, and the timelines that its groups' logs have come along. */
import { formatLsn, type Lsn } from '../../foundation/lsn.ts';
import type { GroupMembership } from '../../storage-layout/plan/membership.ts';
import type { Queryable } from './catalog.ts';
import type { Round, RoundGroup } from './rounds.ts';
import { insertRow, updateRows } from './rows.ts';

export type RoundMember = {
  readonly partition_group: string;
  readonly membership: number;
  readonly joined_us: bigint;
  /** 0: it is a member. */
  readonly left_us: bigint;
  /** False: the destination has no start of it yet. */
  readonly begun: boolean;
};

type RoundRow = Pick<Round, 'tenant_id' | 'round'>;

export async function listRoundMembers(db: Queryable, round: RoundRow): Promise<readonly RoundMember[]> {
  return await db.query<RoundMember>(
    `SELECT partition_group, membership, joined_us, left_us, begun FROM holdfast.round_members
     WHERE tenant_id = $1 AND round = $2 ORDER BY partition_group, membership`,
    [round.tenant_id, round.round],
  );
}

/** Makes the rows what the destination says. */
export async function replaceRoundMembers(
  tx: Queryable,
  round: RoundRow,
  members: readonly GroupMembership[],
): Promise<void> {
  const key = { tenant_id: round.tenant_id, round: round.round };
  await tx.query('DELETE FROM holdfast.round_members WHERE tenant_id = $1 AND round = $2', [
    key.tenant_id,
    key.round,
  ]);
  for (const { partitionGroup, membership, joinedUs, leftUs, start } of members) {
    const row = { partition_group: partitionGroup, membership, joined_us: joinedUs, left_us: leftUs };
    await insertRow(tx, 'round_members', { ...key, ...row, begun: start !== undefined }, 'membership');
  }
}

/** Where the newest archived timeline's ancestors were left; the timeline itself has no end. */
export async function replaceLineage(
  tx: Queryable,
  group: Pick<RoundGroup, 'tenant_id' | 'round' | 'partition_group'>,
  timeline: bigint,
  ancestors: readonly { readonly timeline: number; readonly end: Lsn }[],
): Promise<void> {
  const key = { tenant_id: group.tenant_id, round: group.round, partition_group: group.partition_group };
  await tx.query(
    'DELETE FROM holdfast.round_lineages WHERE tenant_id = $1 AND round = $2 AND partition_group = $3',
    [key.tenant_id, key.round, key.partition_group],
  );
  for (const ancestor of ancestors) {
    const row = { ...key, timeline: ancestor.timeline, end_lsn: formatLsn(ancestor.end) };
    await insertRow(tx, 'round_lineages', row, 'timeline');
  }
  await insertRow(tx, 'round_lineages', { ...key, timeline }, 'timeline');
  await updateRows(tx, 'round_groups', key, { lineage_timeline: timeline });
}

/** Published sets of the round whose backup of the group ends on what its lineage has left. */
export async function listSetsLeftBehind(
  db: Queryable,
  group: Pick<RoundGroup, 'tenant_id' | 'round' | 'partition_group'>,
): Promise<readonly { readonly backup_set_id: bigint; readonly timeline: bigint }[]> {
  return await db.query(
    `SELECT b.backup_set_id, s.timeline FROM holdfast.backup_sets b
     JOIN holdfast.set_groups s ON s.tenant_id = b.tenant_id AND s.backup_set_id = b.backup_set_id
     JOIN holdfast.round_groups g ON g.tenant_id = b.tenant_id AND g.round = b.round
       AND g.partition_group = s.partition_group AND g.lineage_timeline > 0
     LEFT JOIN holdfast.round_lineages l ON l.tenant_id = b.tenant_id AND l.round = b.round
       AND l.partition_group = s.partition_group AND l.timeline = s.timeline
     WHERE b.tenant_id = $1 AND b.round = $2 AND s.partition_group = $3 AND b.file_status = 'AVAILABLE'
       AND (l.timeline IS NULL OR l.end_lsn < s.stop_lsn)
     ORDER BY b.backup_set_id`,
    [group.tenant_id, group.round, group.partition_group],
  );
}
