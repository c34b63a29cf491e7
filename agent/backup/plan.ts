/**
 * Which worker copies what, decided before the first byte is read. Pure.
 *
 * - Files are numbered from 1 in the listing's order; the control file is last, because it is copied last.
 * - A sub task is a run of neighbouring macroblocks in (file number, block number) order and becomes one macro_block file:
 *   at most 512 macroblocks, small files together. Sub tasks in order give the index in order.
 * - Sub tasks shrink towards the end (a share of what is left, not below a floor), so that workers end together.
 */
import type { DataFile } from '../../engine/engine.ts';
import { MACROBLOCK_BYTES, MAX_MACROBLOCKS_PER_FILE } from '../../storage-layout/macroblock/index.ts';

/** A file of the listing with its number in this backup set. */
export type NumberedFile = DataFile & { readonly fileNumber: number };

/** Macroblocks [beginBlock, endBlock) of one file. */
export type Piece = {
  readonly fileNumber: number;
  readonly path: string;
  readonly absolutePath: string;
  readonly kind: DataFile['kind'];
  /** The whole file's size when it was listed: nothing behind it is read. */
  readonly listedBytes: number;
  readonly beginBlock: number;
  readonly endBlock: number;
  /** Of one macroblock: only these pages are copied, as a delta (storage-layout/macroblock/page-map.ts). */
  readonly pages?: Uint8Array;
};

export type SubTask = {
  /** Names its files. */
  readonly subTaskId: number;
  readonly pieces: readonly Piece[];
  /** The first id of a sub task that is done again: its place among the others. */
  readonly redoOf?: number;
};

export type BackupPlan = {
  readonly files: readonly NumberedFile[];
  /** What the workers copy; the control file is not in it. */
  readonly subTasks: readonly SubTask[];
  /** Names the macro_block file that the control file goes to. */
  readonly controlSubTaskId: number;
  readonly totalBytes: number;
  readonly totalBlocks: number;
};

const SMALLEST_SUB_TASK_BYTES = 16 * 2 ** 20;
/** A sub task is one part in so many of what each worker has still to do. */
const SHARE = 2;

export function planBackup(
  listed: readonly DataFile[],
  options: { readonly workerCount: number; readonly firstSubTaskId: number },
): BackupPlan {
  const inOrder = [
    ...listed.filter((file) => file.kind !== 'control'),
    ...listed.filter((file) => file.kind === 'control'),
  ];
  const files = inOrder.map((file, index) => ({ ...file, fileNumber: index + 1 }));
  const copied = files.filter((file) => file.kind !== 'control');
  const subTasks = planSubTasks(copied, options.workerCount, options.firstSubTaskId);
  return {
    files,
    subTasks,
    controlSubTaskId: options.firstSubTaskId + subTasks.length,
    totalBytes: files.reduce((sum, file) => sum + file.sizeBytes, 0),
    totalBlocks: files.reduce((sum, file) => sum + blockCount(file.sizeBytes), 0),
  };
}

/** Macroblocks of a file of this size. */
export function blockCount(sizeBytes: number): number {
  return Math.ceil(sizeBytes / MACROBLOCK_BYTES);
}

function planSubTasks(
  files: readonly NumberedFile[],
  workerCount: number,
  firstSubTaskId: number,
): readonly SubTask[] {
  const subTasks: SubTask[] = [];
  let leftBytes = files.reduce((sum, file) => sum + file.sizeBytes, 0);
  let pieces: Piece[] = [];
  let blocks = 0;
  let bytes = 0;
  let wantedBytes = shareOf(leftBytes, workerCount);
  const finish = () => {
    if (pieces.length === 0) return;
    subTasks.push({ subTaskId: firstSubTaskId + subTasks.length, pieces });
    leftBytes -= bytes;
    pieces = [];
    blocks = 0;
    bytes = 0;
    wantedBytes = shareOf(leftBytes, workerCount);
  };
  for (const file of files) {
    const total = blockCount(file.sizeBytes);
    for (let beginBlock = 0; beginBlock < total; ) {
      if (blocks >= MAX_MACROBLOCKS_PER_FILE || bytes >= wantedBytes) finish();
      const room = Math.max(1, Math.ceil((wantedBytes - bytes) / MACROBLOCK_BYTES));
      const endBlock = Math.min(total, beginBlock + Math.min(room, MAX_MACROBLOCKS_PER_FILE - blocks));
      pieces.push(pieceOf(file, beginBlock, endBlock));
      blocks += endBlock - beginBlock;
      bytes += Math.min(endBlock * MACROBLOCK_BYTES, file.sizeBytes) - beginBlock * MACROBLOCK_BYTES;
      beginBlock = endBlock;
    }
  }
  finish();
  return subTasks;
}

function shareOf(leftBytes: number, workerCount: number): number {
  return Math.max(SMALLEST_SUB_TASK_BYTES, leftBytes / (workerCount * SHARE));
}

export function pieceOf(file: NumberedFile, beginBlock: number, endBlock: number): Piece {
  const { fileNumber, path, absolutePath, kind, sizeBytes } = file;
  return { fileNumber, path, absolutePath, kind, listedBytes: sizeBytes, beginBlock, endBlock };
}
