/**
 * Copies one sub task: extent after extent, read, page-checked, appended to its macro_block file.
 *
 * The database writes while this reads. So a file may be gone (left out), shorter than listed (its real size counts) or
 * longer (the rest is the log's).
 */
import type { ExtentFacts } from '../../engine/engine.ts';
import { PAGE_BYTES } from '../../engine/postgres/pages.ts';
import type { Clock } from '../../foundation/clock.ts';
import { toLsn } from '../../foundation/lsn.ts';
import type { Compression } from '../../storage-layout/macroblock/compress.ts';
import { MACROBLOCK_BYTES, type MacroBlockEntry } from '../../storage-layout/macroblock/entry.ts';
import type { MacroBlockFileName } from '../../storage-layout/macroblock/file-name.ts';
import { MacroBlockFileWriter } from '../../storage-layout/macroblock/writer.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { type SetKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';
import { copyDelta, PLACE_OF_BEFORE } from './copy-delta.ts';
import type { Counters } from './counters.ts';
import { checkUntilStill } from './page-check.ts';
import type { Piece, SubTask } from './plan.ts';
import { readExtent, SourceFile } from './source-file.ts';
import type { Throttle } from './throttle.ts';
import type { BlocksBefore } from './unchanged-block.ts';
import type { EndFound, SuspectFound, VanishedFile } from './worker-protocol.ts';

const PAGES_PER_MACROBLOCK = MACROBLOCK_BYTES / PAGE_BYTES;

/** What a copy needs besides its sub task; the buffer (2 MiB) is reused for every extent. */
export type CopyContext = {
  readonly medium: Medium;
  readonly root: TreeRoot;
  readonly setKey: SetKey;
  readonly group: string;
  readonly compression: Compression;
  readonly pageChecksums: boolean;
  readonly counters: Counters;
  readonly throttle: Throttle;
  readonly clock: Clock;
  readonly blocksBefore: BlocksBefore;
  readonly buffer: Buffer;
};

/** What is gathered while a sub task is copied. */
export type Found = {
  readonly entries: MacroBlockEntry[];
  readonly suspects: SuspectFound[];
  readonly vanished: VanishedFile[];
  readonly ended: EndFound[];
};

export type CopiedBlocks = Found & { readonly writer: MacroBlockFileWriter };

/** Everything but the closing of the file, which the caller does (and disposes the writer): it waits for the disk. */
export async function copyBlocks(
  context: CopyContext,
  { pieces }: SubTask,
  name: MacroBlockFileName,
  signal: AbortSignal,
): Promise<CopiedBlocks> {
  const { medium, root, setKey, group } = context;
  const key = tree.macroBlock(root, setKey, group, name.subTaskId);
  const writer = await MacroBlockFileWriter.create(medium, key, name, context.compression, signal);
  try {
    const found = { entries: [], suspects: [], vanished: [], ended: [] };
    using source = new SourceFile();
    context.blocksBefore.expect(pieces.flatMap(({ before = [] }) => before));
    for (const piece of pieces) await copyPiece(context, writer, piece, source, found, signal);
    return { writer, ...found };
  } catch (error) {
    await writer[Symbol.asyncDispose]();
    // What was begun would only take up room: no index names it. Where that fails it stays, as garbage.
    await medium.deleteMany([key], signal).catch(() => undefined);
    throw error;
  }
}

async function copyPiece(
  context: CopyContext,
  writer: MacroBlockFileWriter,
  piece: Piece,
  source: SourceFile,
  found: Found,
  signal: AbortSignal,
): Promise<void> {
  const { fileNumber, beginBlock } = piece;
  const descriptor = source.open(piece);
  if (descriptor === undefined) {
    found.vanished.push({ fileNumber, beginBlock });
    return;
  }
  signal.throwIfAborted();
  if (piece.pages === undefined) await copyWhole(context, writer, piece, descriptor, found, signal);
  else await copyDelta(context, writer, piece, piece.pages, descriptor, found, signal);
  if (piece.endBlock * MACROBLOCK_BYTES >= piece.listedBytes) context.counters.add('files', 1);
}

async function copyWhole(
  context: CopyContext,
  writer: MacroBlockFileWriter,
  piece: Piece,
  descriptor: number,
  found: Found,
  signal: AbortSignal,
): Promise<void> {
  for (let block = piece.beginBlock; block < piece.endBlock; block += 1) {
    signal.throwIfAborted();
    const begin = block * MACROBLOCK_BYTES;
    const wanted = Math.min(MACROBLOCK_BYTES, piece.listedBytes - begin);
    const extent = readExtent(piece, descriptor, begin, context.buffer.subarray(0, wanted));
    context.counters.add('readBytes', extent.length);
    if (extent.length > 0) await copyExtent(context, writer, piece, block, extent, descriptor, found, signal);
    if (extent.length === wanted) continue;
    // Truncated since it was listed: it ends here.
    found.ended.push({ fileNumber: piece.fileNumber, endBlock: extent.length > 0 ? block + 1 : block });
    break;
  }
}

async function copyExtent(
  context: CopyContext,
  writer: MacroBlockFileWriter,
  piece: Piece,
  block: number,
  extent: Buffer,
  descriptor: number,
  found: Found,
  signal: AbortSignal,
): Promise<void> {
  const facts = isRelation(piece)
    ? await checkUntilStill(context, piece, block * PAGES_PER_MACROBLOCK, extent, descriptor, signal)
    : NO_PAGES;
  for (const { pageNo, pageLsn } of facts.suspects) {
    const { fileNumber, path } = piece;
    const pageInFile = block * PAGES_PER_MACROBLOCK + pageNo;
    found.suspects.push({ fileNumber, path, macroblock: block, pageInFile, pageLsn });
  }
  const name = { fileNumber: piece.fileNumber, blockNumber: block };
  const checked = { newestPageLsn: facts.newestPageLsn, pageCheckFailed: false }; // decided when the end of the log is known
  context.counters.add('plainBytes', extent.length);
  context.counters.add('macroblocks', 1);
  const before = piece.before?.find(({ blockNumber }) => blockNumber === block);
  if (
    before !== undefined &&
    facts.suspects.length === 0 &&
    (await context.blocksBefore.isSame(context, extent, before, signal))
  ) {
    found.entries.push({ ...PLACE_OF_BEFORE, ...name, ...checked, plainBytes: extent.length });
    return;
  }
  const place = await writer.append(extent, name);
  found.entries.push({ ...place, ...checked });
  context.counters.add('storedBytes', place.storedBytes);
  await context.throttle.spend(place.storedBytes, signal);
}

const NO_PAGES: ExtentFacts = { newestPageLsn: toLsn(0n), suspects: [] };

function isRelation(piece: Piece): boolean {
  return piece.kind === 'main' || piece.kind === 'fsm' || piece.kind === 'vm' || piece.kind === 'init';
}
