/** Where one partition group's log of one round stands at a destination, and the proof that the right medium is there. */
import { HoldfastError, isError } from '../../foundation/errors.ts';
import type { ArchiveTask } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { MountFileSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { readInfo } from '../../storage-layout/records/info-file.ts';
import { type RoundKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';

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

/**
 * A share that is not mounted looks like an empty directory: nothing is read as "no log yet" or written before the
 * round's mount_file was seen. Throws BACKUP_MOUNT_FILE_NOT_VALID.
 */
export async function checkMountFile(place: LogPlace, signal: AbortSignal): Promise<void> {
  const key = tree.mountFile(place.root, place.round);
  try {
    const mount = await readInfo(place.medium, key, MountFileSchema, signal);
    if (mount.tenantId === place.round.tenantId && mount.round === place.round.round) return;
  } catch (error) {
    if (!isError(error, 'FILE_NOT_FOUND')) throw error;
  }
  throw new HoldfastError(
    'BACKUP_MOUNT_FILE_NOT_VALID',
    `${place.medium.displayUri} has no ${key} of this round`,
    {
      hint: 'Is the share mounted on this node? Archiving goes on when it is there soon; else the round ends.',
    },
  );
}
