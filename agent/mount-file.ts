/** The proof that the right medium is at the destination's address. */
import { HoldfastError, isError } from '../foundation/errors.ts';
import { MountFileSchema } from '../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../storage-layout/media/medium.ts';
import { readInfo } from '../storage-layout/records/info-file.ts';
import { type RoundKey, type TreeRoot, tree } from '../storage-layout/tree.ts';

export type RoundPlace = { readonly medium: Medium; readonly root: TreeRoot; readonly round: RoundKey };

/**
 * A share that is not mounted looks like an empty directory: nothing is read as "not there yet" or written before the
 * round's mount_file was seen. Throws BACKUP_MOUNT_FILE_NOT_VALID.
 */
export async function checkMountFile(
  { medium, root, round }: RoundPlace,
  signal: AbortSignal,
): Promise<void> {
  const key = tree.mountFile(root, round);
  try {
    const mount = await readInfo(medium, key, MountFileSchema, signal);
    if (mount.tenantId === round.tenantId && mount.round === round.round) return;
  } catch (error) {
    if (!isError(error, 'FILE_NOT_FOUND')) throw error;
  }
  throw new HoldfastError('BACKUP_MOUNT_FILE_NOT_VALID', `${medium.displayUri} has no ${key} of this round`, {
    hint: 'Is the share mounted on this node? What was waiting for it goes on when it is there soon.',
  });
}
