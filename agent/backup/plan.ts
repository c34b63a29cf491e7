/**
 * Sub tasks: which macroblocks a worker copies at a time. Pure.
 *
 * A sub task is a run of neighbouring macroblocks in (file number, block number) order and becomes one macro_block file: at
 * most 512 macroblocks, small files together. Sub tasks in order give the index in order. Those of a full backup shrink
 * towards the end (a share of what is left, not below a floor), so that workers end together.
 */
import type { DataFile } from '../../engine/engine.ts';
import {
  MACROBLOCK_BYTES,
  MAX_MACROBLOCKS_PER_FILE,
  type MacroBlockEntry,
} from '../../storage-layout/macroblock/entry.ts';
import { countPages, PAGE_BYTES } from '../../storage-layout/macroblock/page-map.ts';

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
  /** Of macroblocks that are read whole: what the backup before has, where it may be the same (unchanged-block.ts). */
  readonly before?: readonly MacroBlockEntry[];
};

export type SubTask = {
  /** Names its files. */
  readonly subTaskId: number;
  readonly pieces: readonly Piece[];
  /** The first id of a sub task that is done again: its place among the others. */
  readonly redoOf?: number;
};

/** Macroblocks of a file of this size. */
export function blockCount(sizeBytes: number): number {
  return Math.ceil(sizeBytes / MACROBLOCK_BYTES);
}

export function pieceOf(file: NumberedFile, beginBlock: number, endBlock: number): Piece {
  const { fileNumber, path, absolutePath, kind, sizeBytes } = file;
  return { fileNumber, path, absolutePath, kind, listedBytes: sizeBytes, beginBlock, endBlock };
}

const SMALLEST_SUB_TASK_BYTES = 16 * 2 ** 20;
/** A sub task is one part in so many of what each worker has still to do. */
const SHARE = 2;
/** The ids of one attempt are a million: with at most so many sub tasks a database of any size gets along. */
const MAX_SUB_TASKS_BY_BYTES = 65_536;

/** How large the next sub task is to be, when so many bytes are in sub tasks already. */
export type WantedBytes = (groupedBytes: number) => number;

/** For a full backup of so many bytes: a share of what is left, so that workers end together. */
export function shrinkingTasks(totalBytes: number, workerCount: number): WantedBytes {
  return (groupedBytes) =>
    Math.max(SMALLEST_SUB_TASK_BYTES, (totalBytes - groupedBytes) / (workerCount * SHARE));
}

/** For an increment of a database of so many bytes: nobody knows how much of it there is to copy. */
export function evenTasks(totalBytes: number): WantedBytes {
  const wantedBytes = Math.max(SMALLEST_SUB_TASK_BYTES, totalBytes / MAX_SUB_TASKS_BY_BYTES);
  return () => wantedBytes;
}

/** Gathers pieces into sub tasks of at most 512 macroblocks. */
export async function* groupPieces(
  pieces: AsyncIterable<Piece>,
  firstSubTaskId: number,
  wantedBytesOf: WantedBytes,
): AsyncGenerator<SubTask, void, undefined> {
  let subTaskId = firstSubTaskId;
  let gathered: Piece[] = [];
  let blocks = 0;
  let bytes = 0;
  let groupedBytes = 0;
  let wantedBytes = wantedBytesOf(groupedBytes);
  const finish = (): SubTask => {
    const subTask = { subTaskId, pieces: gathered };
    subTaskId += 1;
    groupedBytes += bytes;
    gathered = [];
    blocks = 0;
    bytes = 0;
    wantedBytes = wantedBytesOf(groupedBytes);
    return subTask;
  };
  for await (const piece of pieces) {
    for (let beginBlock = piece.beginBlock; beginBlock < piece.endBlock; ) {
      if (blocks >= MAX_MACROBLOCKS_PER_FILE || bytes >= wantedBytes) yield finish();
      const room = Math.max(1, Math.ceil((wantedBytes - bytes) / MACROBLOCK_BYTES));
      const endBlock = Math.min(
        piece.endBlock,
        beginBlock + Math.min(room, MAX_MACROBLOCKS_PER_FILE - blocks),
      );
      gathered.push(partOf(piece, beginBlock, endBlock));
      blocks += endBlock - beginBlock;
      bytes += piece.pages === undefined ? bytesOf(piece, beginBlock, endBlock) : pageBytes(piece.pages);
      beginBlock = endBlock;
    }
  }
  if (gathered.length > 0) yield finish();
}

function partOf({ before, ...piece }: Piece, beginBlock: number, endBlock: number): Piece {
  const part = { ...piece, beginBlock, endBlock };
  const known =
    before?.filter(({ blockNumber }) => blockNumber >= beginBlock && blockNumber < endBlock) ?? [];
  return known.length === 0 ? part : { ...part, before: known };
}

function bytesOf(piece: Piece, beginBlock: number, endBlock: number): number {
  return Math.min(endBlock * MACROBLOCK_BYTES, piece.listedBytes) - beginBlock * MACROBLOCK_BYTES;
}

function pageBytes(pages: Uint8Array): number {
  return countPages(pages) * PAGE_BYTES;
}
