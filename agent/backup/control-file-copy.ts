/** The control file's own macro_block file: one block, written by the parent after all workers are done. */

import { toLsn } from '../../foundation/lsn.ts';
import { crc32c } from '../../storage-layout/crc32c.ts';
import type { Compression } from '../../storage-layout/macroblock/compress.ts';
import { ENTRY_BYTES, encodeMacroBlockEntry } from '../../storage-layout/macroblock/entry.ts';
import { nameMacroBlockFile } from '../../storage-layout/macroblock/file-name.ts';
import { MacroBlockFileWriter } from '../../storage-layout/macroblock/writer.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { type SetKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';
import type { SubTaskCopy } from './worker-protocol.ts';

export async function copyControlFile(
  target: {
    readonly medium: Medium;
    readonly root: TreeRoot;
    readonly setKey: SetKey;
    readonly group: string;
    readonly compression: Compression;
  },
  subTaskId: number,
  fileNumber: number,
  bytes: Buffer,
  signal: AbortSignal,
): Promise<SubTaskCopy> {
  const { medium, root, setKey, group, compression } = target;
  const key = tree.macroBlock(root, setKey, group, subTaskId);
  const name = nameMacroBlockFile(setKey.setId, subTaskId, group);
  await using writer = await MacroBlockFileWriter.create(medium, key, name, compression, signal);
  const place = await writer.append(bytes, { fileNumber, blockNumber: 0 });
  const { sizeBytes } = await writer.close();
  const entries = Buffer.alloc(ENTRY_BYTES);
  encodeMacroBlockEntry(entries, 0, {
    ...place,
    crc32c: crc32c(bytes),
    newestPageLsn: toLsn(0n),
    pageCheckFailed: false,
  });
  return { subTaskId, entries, suspects: [], vanished: [], ended: [], storedBytes: sizeBytes };
}
