/** Where one partition group's log of one round stands at a destination. */
import { HoldfastError } from '../../foundation/errors.ts';
import type { ArchiveTask } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import type { RoundKey, TreeRoot } from '../../storage-layout/tree.ts';

export type LogPlace = {
  readonly medium: Medium;
  readonly root: TreeRoot;
  readonly round: RoundKey;
  readonly group: string;
};

export function placeOf(task: ArchiveTask, medium: Medium): LogPlace {
  const { clusterName, clusterId } = destinationOf(task);
  const { tenantId, round, partitionGroup } = task;
  return { medium, root: { clusterName, clusterId }, round: { tenantId, round }, group: partitionGroup };
}

/** Throws INVALID_ARGUMENT when the task names none. */
export function destinationOf(task: ArchiveTask): NonNullable<ArchiveTask['destination']> {
  if (task.destination !== undefined) return task.destination;
  throw new HoldfastError('INVALID_ARGUMENT', 'the archive task names no destination');
}
