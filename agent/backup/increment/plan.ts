/**
 * What an increment copies of each macroblock. Only main forks of relations are compared with the
 * backup before; maps, init forks and all other files change without being referred to, and are always read whole
 * (correctness 6, 7). Blocks are planned one after the other in the order of the index, so that nothing grows with the
 * database.
 */
import type { DataFile } from '../../../engine/engine.ts';
import {
  MACROBLOCK_BYTES,
  MAX_MACROBLOCKS_PER_FILE,
  type MacroBlockEntry,
} from '../../../storage-layout/macroblock/entry.ts';
import type { EntryStream } from '../../../storage-layout/macroblock/entry-stream.ts';
import {
  addPageMap,
  addPages,
  countPages,
  cutPages,
  endOfPages,
  PAGE_BYTES,
  PAGE_MAP_BYTES,
} from '../../../storage-layout/macroblock/page-map.ts';
import { blockCount, type Piece, pieceOf } from '../plan.ts';
import { isComparable } from '../unchanged-block.ts';
import type { IncrementFile } from './file-numbers.ts';

export type BlockPlan =
  | { readonly kind: 'keep' }
  | { readonly kind: 'whole' }
  | { readonly kind: 'delta'; readonly pages: Uint8Array };

type EntryBefore = Pick<MacroBlockEntry, 'plainBytes' | 'pageCheckFailed' | 'delta'>;

/**
 * What becomes of one block of a relation's main fork. `plainBytes`: its length now; `changed`: the pages that were
 * changed, or cut off, between the start of the backup before and this one's. Pages behind the old end count as changed:
 * while they are zero, they are not in the log. Pure.
 */
export function planBlock(
  plainBytes: number,
  before: EntryBefore | undefined,
  changed: Uint8Array,
): BlockPlan {
  if (before === undefined || before.pageCheckFailed) return { kind: 'whole' };
  if (changed.length !== PAGE_MAP_BYTES) return { kind: 'whole' }; // the change maps do not reach so far
  if (plainBytes % PAGE_BYTES !== 0 || before.plainBytes % PAGE_BYTES !== 0) return { kind: 'whole' };
  const pageCount = plainBytes / PAGE_BYTES;
  const pages = Uint8Array.from(changed);
  if (before.plainBytes < plainBytes) addPages(pages, before.plainBytes / PAGE_BYTES, pageCount);
  cutPages(pages, pageCount);
  const deltaFits = before.delta === undefined || endOfPages(before.delta.pages) <= pageCount;
  if (deltaFits && endOfPages(pages) === 0) return { kind: 'keep' };
  if (before.delta !== undefined) addPageMap(pages, before.delta.pages);
  cutPages(pages, pageCount);
  if (countPages(pages) * 2 > pageCount) return { kind: 'whole' };
  return { kind: 'delta', pages };
}

/** What was passed over: it stays where the backup before has it. */
export type KeptBytes = { readonly blocks: number; readonly bytes: number; readonly files: number };

/**
 * The pieces to copy, in the order of (file number, block number). `before`: the index of the backup before; `mapsOf`: the
 * changed pages of a file, 32 bytes per macroblock; `onKept` is told of what is not copied.
 */
export async function* planPieces(
  files: readonly IncrementFile[],
  before: EntryStream,
  mapsOf: (path: string) => Uint8Array,
  onKept: (kept: KeptBytes) => void,
): AsyncGenerator<Piece, void, undefined> {
  for (const file of files) {
    if (file.kind === 'control') continue; // copied last, by itself
    const total = blockCount(file.sizeBytes);
    if (isCompared(file)) yield* planFile(file, total, before, mapsOf(file.path), onKept);
    else yield* planWhole(file, total, before);
  }
}

/** A file that is read whole, a macroblock file's worth at a time. */
async function* planWhole(
  file: IncrementFile,
  total: number,
  before: EntryStream,
): AsyncGenerator<Piece, void, undefined> {
  for (let begin = 0; begin < total; begin += MAX_MACROBLOCKS_PER_FILE) {
    const end = Math.min(begin + MAX_MACROBLOCKS_PER_FILE, total);
    const known: MacroBlockEntry[] = [];
    for (let block = begin; file.isKept && block < end; block += 1) {
      const entry = await before.find(file.fileNumber, block);
      if (entry !== undefined && isComparable(entry)) known.push(entry);
    }
    const piece = pieceOf(file, begin, end);
    yield known.length === 0 ? piece : { ...piece, before: known };
  }
}

/** Whether only changed pages of the file are read. */
function isCompared(file: IncrementFile): boolean {
  return file.isKept && file.kind === 'main';
}

async function* planFile(
  file: IncrementFile,
  total: number,
  before: EntryStream,
  sharedMaps: Uint8Array,
  onKept: (kept: KeptBytes) => void,
): AsyncGenerator<Piece, void, undefined> {
  const maps = Uint8Array.from(sharedMaps);
  let wholeBegin = 0; // blocks [wholeBegin, block) are to be copied whole
  let keptBlocks = 0;
  let keptBytes = 0;
  let endsKept = true;
  for (let block = 0; block < total; block += 1) {
    const entry = await before.find(file.fileNumber, block);
    const plainBytes = blockBytes(file, block);
    const changed = maps.subarray(block * PAGE_MAP_BYTES, (block + 1) * PAGE_MAP_BYTES);
    const plan = planBlock(plainBytes, entry, changed);
    endsKept = plan.kind === 'keep';
    if (plan.kind === 'whole') continue;
    if (wholeBegin < block) yield pieceOf(file, wholeBegin, block);
    wholeBegin = block + 1;
    if (plan.kind === 'delta') yield { ...pieceOf(file, block, block + 1), pages: plan.pages };
    else {
      keptBlocks += 1;
      keptBytes += plainBytes;
    }
  }
  if (wholeBegin < total) yield pieceOf(file, wholeBegin, total);
  onKept({ blocks: keptBlocks, bytes: keptBytes, files: endsKept ? 1 : 0 });
}

/** Length of a macroblock of the file as it was listed. */
export function blockBytes(file: Pick<DataFile, 'sizeBytes'>, block: number): number {
  return Math.min(MACROBLOCK_BYTES, file.sizeBytes - block * MACROBLOCK_BYTES);
}
