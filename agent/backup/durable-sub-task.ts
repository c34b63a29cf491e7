/**
 * What is left to do for a sub task whose macroblock file a worker thread has made durable: its own index, for an attempt
 * that may follow, and a look at the destination. In the parent thread: workers load no protocol buffers.
 */
import { HoldfastError } from '../../foundation/errors.ts';
import { decodeMacroBlockEntries, type MacroBlockEntry } from '../../storage-layout/macroblock/entry.ts';
import { type RoundKey, tree } from '../../storage-layout/tree.ts';
import { checkMountFile } from '../mount-file.ts';
import type { SubTask } from './plan.ts';
import type { Attempt } from './resume/attempt.ts';
import { type OwnIndexPlace, writeOwnIndex } from './resume/own-index.ts';
import type { SubTaskCopy } from './worker-protocol.ts';

export type DurablePlace = OwnIndexPlace & {
  /** Whose mount_file tells the destination from a directory that its share is not mounted on; undefined: none does. */
  readonly round: RoundKey | undefined;
};

/** Throws FILE_NOT_FOUND, BACKUP_MOUNT_FILE_NOT_VALID, and the medium's errors: then the sub task does not count. */
export async function makeCount(
  place: DurablePlace,
  attempt: Attempt,
  subTask: SubTask,
  copy: SubTaskCopy,
  signal: AbortSignal,
): Promise<void> {
  const copied = { entries: entriesOf(copy), suspects: copy.suspects };
  await writeOwnIndex(place, attempt, subTask, copied, signal);
  await checkIsStored(place, subTask.subTaskId, copy.storedBytes, signal);
}

/** A share may be taken away, and come back, while a file is written: then it stands on the disk below, or is cut. */
async function checkIsStored(
  { medium, root, setKey, group, round }: DurablePlace,
  subTaskId: number,
  sizeBytes: number,
  signal: AbortSignal,
): Promise<void> {
  if (round === undefined) return;
  await checkMountFile({ medium, root, round }, signal);
  const key = tree.macroBlock(root, setKey, group, subTaskId);
  if ((await medium.stat(key, signal))?.sizeBytes === sizeBytes) return;
  throw new HoldfastError('FILE_NOT_FOUND', `${key} is gone from ${medium.displayUri}, or cut`);
}

/** The index entries of a copy. */
export function entriesOf(copy: SubTaskCopy): readonly MacroBlockEntry[] {
  const bytes = Buffer.from(copy.entries.buffer, copy.entries.byteOffset, copy.entries.byteLength);
  return decodeMacroBlockEntries(bytes, 0, { file: `sub task ${copy.subTaskId}` });
}
