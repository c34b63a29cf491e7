/** The backup that an increment goes on from, at the destination. */
import { isError } from '../../../foundation/errors.ts';
import type { PartitionGroupBackup } from '../../../proto/gen/holdfast/v1/records_pb.ts';
import { EntryStream } from '../../../storage-layout/macroblock/entry-stream.ts';
import { readIndexChunks } from '../../../storage-layout/macroblock/index.ts';
import type { Medium } from '../../../storage-layout/media/medium.ts';
import { openSourceSet, readBackupMeta, readFiles, type SourceSet } from '../../restore/backup-set.ts';
import type { BackupTarget } from '../target.ts';
import { needFull } from './change-maps.ts';
import type { NumbersBefore } from './file-numbers.ts';

export type SetBefore = {
  readonly backup: PartitionGroupBackup;
  readonly numbers: NumbersBefore;
  /** A new reading of its index, from its beginning. */
  openIndex(signal: AbortSignal): EntryStream;
};

/** Opens and checks it. Throws FULL_BACKUP_NEEDED when it is not there or damaged, and the medium's errors. */
export async function openSetBefore(
  medium: Medium,
  target: BackupTarget,
  setId: bigint,
  signal: AbortSignal,
): Promise<SetBefore> {
  const key = { ...target.setKey, setId };
  try {
    const source = await openSourceSet(medium, target.root, key, target.group, signal);
    return {
      backup: source.backup,
      numbers: await readNumbers(source, signal),
      openIndex: (readSignal) => new EntryStream(readIndexChunks(medium, source.indexKey, readSignal)),
    };
  } catch (error) {
    if (!isError(error, 'DATA_CORRUPT', 'FORMAT_UNKNOWN', 'FILE_NOT_FOUND', 'INVALID_BACKUP_SET_ID'))
      throw error;
    return needFull(`backup set ${setId} cannot be gone on from: ${error.message}`, error);
  }
}

async function readNumbers(source: SourceSet, signal: AbortSignal): Promise<NumbersBefore> {
  const { nextFileNumber } = await readBackupMeta(source, signal);
  const byPath = new Map<string, number>();
  let last = 0;
  for await (const { path, fileNumber } of readFiles(source, signal)) {
    byPath.set(path, fileNumber);
    last = fileNumber;
  }
  return { byPath, next: Math.max(nextFileNumber, last + 1) };
}
