/** Copies the changed pages of one macroblock as a delta: only they are read, and what lies in small gaps between them. */
import { type Lsn, toLsn } from '../../foundation/lsn.ts';
import { packDelta } from '../../storage-layout/macroblock/delta.ts';
import { MACROBLOCK_BYTES, type MacroBlockPlace } from '../../storage-layout/macroblock/entry.ts';
import {
  countPages,
  cutPages,
  MAX_PAGES,
  PAGE_BYTES,
  pageRanges,
} from '../../storage-layout/macroblock/page-map.ts';
import type { MacroBlockFileWriter } from '../../storage-layout/macroblock/writer.ts';
import type { CopyContext, Found } from './copy-sub-task.ts';
import { checkUntilStill } from './page-check.ts';
import type { Piece } from './plan.ts';
import { readExtent } from './source-file.ts';

/** A page between two changed ones is read along: at most as many bytes again as are wanted. */
const MAX_GAP_PAGES = 1;

/** The whole block's place in the entry of a copied delta, or of a block that is as before: the index of the backup before has it. */
export const PLACE_OF_BEFORE: MacroBlockPlace = {
  setId: 0n,
  subTaskId: 0,
  offset: 0,
  storedBytes: 0,
  crc32c: 0,
  compression: 'none',
};

/** True for an entry whose whole block stays where the backup before has it. */
export function isBasedOnBefore(entry: MacroBlockPlace): boolean {
  return entry.storedBytes === 0;
}

/** `wanted`: the pages of the piece's one block. A page behind the end of the file ends the block before it. */
export async function copyDelta(
  context: CopyContext,
  writer: MacroBlockFileWriter,
  piece: Piece,
  wanted: Uint8Array,
  descriptor: number,
  found: Found,
  signal: AbortSignal,
): Promise<void> {
  const { fileNumber, path, beginBlock: blockNumber } = piece;
  const pages = Uint8Array.from(wanted);
  const listedPages = Math.min(MAX_PAGES, (piece.listedBytes - blockNumber * MACROBLOCK_BYTES) / PAGE_BYTES);
  const endPage = readPages(context, piece, pages, descriptor) ?? listedPages;
  if (endPage < listedPages) {
    found.ended.push({ fileNumber, endBlock: blockNumber + (endPage === 0 ? 0 : 1) });
    if (endPage === 0) return;
    cutPages(pages, endPage);
  }
  let newestPageLsn = toLsn(0n);
  const firstPage = blockNumber * MAX_PAGES;
  for (const { begin, end } of pageRanges(pages)) {
    const extent = context.buffer.subarray(begin * PAGE_BYTES, end * PAGE_BYTES);
    const facts = await checkUntilStill(context, piece, firstPage + begin, extent, descriptor, signal);
    newestPageLsn = newest(newestPageLsn, facts.newestPageLsn);
    for (const { pageNo, pageLsn } of facts.suspects)
      found.suspects.push({
        fileNumber,
        path,
        macroblock: blockNumber,
        pageInFile: firstPage + begin + pageNo,
        pageLsn,
      });
  }
  const entry = {
    ...PLACE_OF_BEFORE,
    fileNumber,
    blockNumber,
    plainBytes: endPage * PAGE_BYTES,
    newestPageLsn,
    pageCheckFailed: false, // decided when the end of the log is known
  };
  context.counters.add('plainBytes', entry.plainBytes);
  context.counters.add('macroblocks', 1);
  if (countPages(pages) === 0) {
    found.entries.push(entry);
    return;
  }
  const place = await writer.append(packDelta(context.buffer, pages), entry);
  found.entries.push({ ...entry, delta: { ...place, pages } });
  context.counters.add('storedBytes', place.storedBytes);
  await context.throttle.spend(place.storedBytes, signal);
}

/** Reads each page to its place in the buffer. Returns the page at which the file ended, undefined when it went on. */
function readPages(
  context: CopyContext,
  piece: Piece,
  pages: Uint8Array,
  descriptor: number,
): number | undefined {
  const blockBegin = piece.beginBlock * MACROBLOCK_BYTES;
  for (const { begin, end } of pageRanges(pages, MAX_GAP_PAGES)) {
    const into = context.buffer.subarray(begin * PAGE_BYTES, end * PAGE_BYTES);
    const read = readExtent(piece, descriptor, blockBegin + begin * PAGE_BYTES, into);
    context.counters.add('readBytes', read.length);
    if (read.length < into.length) return begin + Math.floor(read.length / PAGE_BYTES);
  }
  return undefined;
}

function newest(a: Lsn, b: Lsn): Lsn {
  return a > b ? a : b;
}
