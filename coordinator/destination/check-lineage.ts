/** Whether a backup's end still lies on the history that its round goes on with. */
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn, toLsn, toTimeline } from '../../foundation/lsn.ts';
import type { PartitionGroupBackup } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { findFork } from '../../storage-layout/plan/lineage.ts';
import { readGroupLog } from '../../storage-layout/plan/tenant-history.ts';
import type { RoundKey, TreeRoot } from '../../storage-layout/tree.ts';

/**
 * Throws LOG_ARCHIVE_LEADER_CHANGED when the group's archived log has gone on to a timeline that left the backup's before
 * its stop: it was copied from a leader that was left behind, and no restore on the present history can use it. Throws what
 * reading the log throws.
 */
export async function checkIsOnLineage(
  medium: Medium,
  root: TreeRoot,
  key: RoundKey,
  backup: PartitionGroupBackup,
  signal: AbortSignal,
): Promise<void> {
  const { partitionGroup, segmentSizeBytes, stop } = backup;
  if (stop === undefined) return; // checkLogIsThere refuses it
  const log = await readGroupLog(medium, root, key, { partitionGroup, segmentSizeBytes }, signal);
  const position = { timeline: toTimeline(stop.timeline), lsn: toLsn(stop.lsn) };
  const fork = findFork(log, position);
  if (fork === undefined) return;
  const where =
    fork.end === undefined
      ? `of which timeline ${fork.newest} does not descend`
      : `which timeline ${fork.newest} left at ${formatLsn(fork.end)}`;
  throw new HoldfastError(
    'LOG_ARCHIVE_LEADER_CHANGED',
    `the backup of partition group ${partitionGroup} ends at ${formatLsn(position.lsn)} of timeline ${stop.timeline}, ${where}: it was copied from a leader that was left behind`,
    { hint: 'Begin the backup again: it copies from the new leader.' },
  );
}
