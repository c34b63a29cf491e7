/**
 * The files that a group's backup names in `backup_info`: its meta file, that one's index, and the block index. What an
 * agent reported is believed only when they are this set's own and at the destination: a result may be that of another set
 * (the catalog had lost the task it belonged to), and what an attempt wrote may be gone.
 */
import { HoldfastError } from '../../foundation/errors.ts';
import type { PartitionGroupBackup } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { parseTreePath, type SetKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';

/** Throws BACKUP_FAILED unless all three are there with their sizes, and the medium's errors. */
export async function checkFilesAreThere(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  backup: PartitionGroupBackup,
  signal: AbortSignal,
): Promise<void> {
  const refuse = (why: string) => {
    throw new HoldfastError(
      'BACKUP_FAILED',
      `what was reported of partition group ${backup.partitionGroup} cannot be published as backup set ${key.setId}: ${why}`,
    );
  };
  const directory = tree.backupSetDirectory(root, key.tenantId, key.fullSetId);
  const missing = new Set(['metaFile', 'metaIndexFile', 'macroBlockIndex']);
  for (const { path, sizeBytes } of backup.files) {
    const kind = ownKind(root, key, backup, `${directory}/${path}`);
    if (kind === undefined || !missing.delete(kind)) refuse(`it names ${path}`);
    const stored = await medium.stat(`${directory}/${path}`, signal);
    if (stored === undefined) refuse(`${path} is not at the destination`);
    else if (BigInt(stored.sizeBytes) !== sizeBytes)
      refuse(`${path} has ${stored.sizeBytes} bytes, it says ${sizeBytes}`);
  }
  if (missing.size > 0) refuse(`it names no ${[...missing].join(', no ')}`);
}

/** What kind of file of this group in this set the key is; undefined: of another, or none. */
function ownKind(
  root: TreeRoot,
  setKey: SetKey,
  { taskId, partitionGroup }: PartitionGroupBackup,
  key: string,
): 'metaFile' | 'metaIndexFile' | 'macroBlockIndex' | undefined {
  if (key === tree.metaFile(root, setKey, taskId)) return 'metaFile';
  if (key === tree.metaIndexFile(root, setKey, taskId)) return 'metaIndexFile';
  const path = parseTreePath(key);
  if (path?.kind !== 'macroBlockIndex') return undefined;
  return key === tree.macroBlockIndex(root, setKey, partitionGroup, path.retry) ? path.kind : undefined;
}
