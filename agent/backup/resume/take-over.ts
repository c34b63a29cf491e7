/**
 * The plan of an attempt that goes on from an earlier one: the pieces of the usual plan, without the blocks that are taken
 * over. Those are written down first, as an index of this attempt's own, so that a third attempt need not know of the
 * first. Both go through the blocks in the order of the index, and hold none of them.
 */
import type { Lsn } from '../../../foundation/lsn.ts';
import type { MacroBlockEntry } from '../../../storage-layout/macroblock/entry.ts';
import { PAGE_MAP_BYTES } from '../../../storage-layout/macroblock/page-map.ts';
import { blockBytes } from '../increment/plan.ts';
import type { Piece } from '../plan.ts';
import { isReusable } from './decision.ts';
import type { BlocksBefore } from './earlier-attempts.ts';

export type TakeOverInput = {
  /** Those of the usual plan, in order. */
  readonly pieces: AsyncIterable<Piece>;
  readonly blocks: BlocksBefore;
  /** Numbers of the files that are the same creation as the earlier attempt read. */
  readonly sameFiles: ReadonlySet<number>;
  /** The pages of a file that were changed between the two starts, 32 bytes per macroblock. */
  readonly mapsOf: (path: string) => Uint8Array;
  /** Of this attempt. */
  readonly start: Lsn;
  /** Whether what the entry names is still there, as long as it must be. */
  readonly isThere: (entry: MacroBlockEntry) => Promise<boolean>;
};

/** The entries that are taken over, in order. */
export async function* takeOver(input: TakeOverInput): AsyncGenerator<MacroBlockEntry, void, undefined> {
  const { blocks, sameFiles, mapsOf, start, isThere } = input;
  let mapped = '';
  let maps: Uint8Array = new Uint8Array();
  for await (const piece of input.pieces) {
    if (piece.kind !== 'main' || !sameFiles.has(piece.fileNumber)) continue;
    if (piece.path !== mapped) {
      mapped = piece.path;
      maps = Uint8Array.from(mapsOf(piece.path));
    }
    for (let block = piece.beginBlock; block < piece.endBlock; block += 1) {
      const entry = await blocks.find(piece.fileNumber, block);
      if (entry === undefined) continue;
      const changed = maps.subarray(block * PAGE_MAP_BYTES, (block + 1) * PAGE_MAP_BYTES);
      const plainBytes = blockBytes({ sizeBytes: piece.listedBytes }, block);
      const wanted = { plainBytes, pages: piece.pages, changed };
      if (isReusable(entry, wanted, start) && (await isThere(entry))) yield entry;
    }
  }
}

/** What is left of the pieces. `onTakenOver` is told the plain length of each block that is not. */
export async function* withoutTakenOver(
  pieces: AsyncIterable<Piece>,
  taken: BlocksBefore,
  onTakenOver: (plainBytes: number) => void,
): AsyncGenerator<Piece, void, undefined> {
  for await (const piece of pieces) {
    if (piece.kind !== 'main') {
      yield piece;
      continue;
    }
    let beginBlock = piece.beginBlock;
    for (let block = piece.beginBlock; block < piece.endBlock; block += 1) {
      if ((await taken.find(piece.fileNumber, block)) === undefined) continue;
      if (beginBlock < block) yield { ...piece, beginBlock, endBlock: block };
      beginBlock = block + 1;
      onTakenOver(blockBytes({ sizeBytes: piece.listedBytes }, block));
    }
    if (beginBlock < piece.endBlock) yield { ...piece, beginBlock };
  }
}
