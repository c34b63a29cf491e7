/** Where a backup task writes, out of its message. */
import { HoldfastError } from '../../foundation/errors.ts';
import type { BackupTask } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import type { DataKey } from '../../storage-layout/encryption/key-ring.ts';
import { type Compression, parseCompression } from '../../storage-layout/macroblock/compress.ts';
import type { RoundKey, SetKey, TreeRoot } from '../../storage-layout/tree.ts';
import { dataKeysOf } from '../data-keys.ts';

/** Where a task writes. */
export type BackupTarget = {
  readonly uri: string;
  /** Of what is encrypted there. */
  readonly keys: readonly DataKey[];
  readonly root: TreeRoot;
  readonly setKey: SetKey;
  readonly group: string;
  /** Whose log the backup needs, at the same destination; undefined: of none. */
  readonly round: RoundKey | undefined;
  readonly compression: Compression;
};

/** Throws INVALID_ARGUMENT. */
export function targetOf(task: BackupTask): BackupTarget {
  const { destination, tenantId, fullSetId, backupSetId: setId, partitionGroup: group } = task;
  if (destination === undefined)
    throw new HoldfastError('INVALID_ARGUMENT', 'a backup task without a destination');
  return {
    uri: destination.uri,
    keys: dataKeysOf(destination),
    root: { clusterName: destination.clusterName, clusterId: destination.clusterId },
    setKey: { tenantId, fullSetId, setId },
    group,
    round: task.round === 0n ? undefined : { tenantId, round: task.round },
    compression: parseCompression(task.compression === '' ? 'zstd:1' : task.compression),
  };
}
