/**
 * Copies one sub task: extent after extent, read, page-checked, appended to its macro_block file. Reads are synchronous
 * on purpose: this runs in a worker thread, the pages are mostly in the file cache, and the medium's writes go on meanwhile.
 *
 * The database writes while this reads. So a file may be gone (left out), shorter than listed (its real size counts) or
 * longer (the rest is the log's), and a page may be torn: it is read again a few times, and reported if it stays bad.
 */
import { closeSync, constants, openSync, readSync } from 'node:fs';
import type { ExtentFacts } from '../../engine/engine.ts';
import { checkExtent, PAGE_BYTES } from '../../engine/postgres/pages.ts';
import { firstBlockOf } from '../../engine/postgres/relation-files.ts';
import type { Clock } from '../../foundation/clock.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { toLsn } from '../../foundation/lsn.ts';
import type { Compression } from '../../storage-layout/macroblock/compress.ts';
import { MACROBLOCK_BYTES, type MacroBlockEntry } from '../../storage-layout/macroblock/index.ts';
import { MacroBlockFileWriter } from '../../storage-layout/macroblock/writer.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { type SetKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';
import type { Counters } from './counters.ts';
import type { Piece, SubTask } from './plan.ts';
import type { Throttle } from './throttle.ts';
import type { SuspectFound } from './worker-protocol.ts';

/** A page is written in one system call: whoever sees half of it sees all of it very soon. */
const REREAD_DELAYS_MS = [5, 10, 20, 50, 100, 200] as const;
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
  readonly buffer: Buffer;
};

export type CopiedBlocks = {
  readonly writer: MacroBlockFileWriter;
  readonly entries: readonly MacroBlockEntry[];
  readonly suspects: readonly SuspectFound[];
  readonly vanished: readonly { readonly fileNumber: number; readonly beginBlock: number }[];
};

/** Everything but the closing of the file, which the caller does (and disposes the writer): it waits for the disk. */
export async function copyBlocks(
  context: CopyContext,
  subTask: SubTask,
  signal: AbortSignal,
): Promise<CopiedBlocks> {
  const { medium, root, setKey, group } = context;
  const { subTaskId } = subTask;
  const key = tree.macroBlock(root, setKey, group, subTaskId);
  const id = { setId: setKey.setId, subTaskId, group };
  const writer = await MacroBlockFileWriter.create(medium, key, id, context.compression, signal);
  try {
    const found = { entries: [], suspects: [], vanished: [] };
    for (const piece of subTask.pieces) await copyPiece(context, writer, piece, found, signal);
    return { writer, ...found };
  } catch (error) {
    await writer[Symbol.asyncDispose]();
    throw error;
  }
}

type Found = {
  readonly entries: MacroBlockEntry[];
  readonly suspects: SuspectFound[];
  readonly vanished: { readonly fileNumber: number; readonly beginBlock: number }[];
};

async function copyPiece(
  context: CopyContext,
  writer: MacroBlockFileWriter,
  piece: Piece,
  found: Found,
  signal: AbortSignal,
): Promise<void> {
  const descriptor = openIfThere(piece);
  if (descriptor === undefined) {
    found.vanished.push({ fileNumber: piece.fileNumber, beginBlock: piece.beginBlock });
    return;
  }
  try {
    for (let block = piece.beginBlock; block < piece.endBlock; block += 1) {
      signal.throwIfAborted();
      const begin = block * MACROBLOCK_BYTES;
      const wanted = Math.min(MACROBLOCK_BYTES, piece.listedBytes - begin);
      const extent = readExtent(piece, descriptor, begin, context.buffer.subarray(0, wanted));
      if (extent.length > 0)
        await copyExtent(context, writer, piece, block, extent, descriptor, found, signal);
      if (extent.length < wanted) break; // truncated since it was listed: it ends here
    }
  } finally {
    closeSync(descriptor);
  }
  if (piece.endBlock * MACROBLOCK_BYTES >= piece.listedBytes) context.counters.add('files', 1);
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
    ? await checkUntilStill(context, piece, block, extent, descriptor, signal)
    : NO_PAGES;
  for (const { pageNo, pageLsn } of facts.suspects) {
    const { fileNumber, path } = piece;
    const pageInFile = block * PAGES_PER_MACROBLOCK + pageNo;
    found.suspects.push({ fileNumber, path, macroblock: block, pageInFile, pageLsn });
  }
  const place = await writer.append(extent);
  found.entries.push({
    ...place,
    fileNumber: piece.fileNumber,
    blockNumber: block,
    newestPageLsn: facts.newestPageLsn,
    pageCheckFailed: false, // decided when the end of the log is known
  });
  context.counters.add('plainBytes', place.plainBytes);
  context.counters.add('storedBytes', place.storedBytes);
  context.counters.add('macroblocks', 1);
  await context.throttle.spend(place.storedBytes, signal);
}

const NO_PAGES: ExtentFacts = { newestPageLsn: toLsn(0n), suspects: [] };

function isRelation(piece: Piece): boolean {
  return piece.kind === 'main' || piece.kind === 'fsm' || piece.kind === 'vm' || piece.kind === 'init';
}

/** Checks an extent's pages, reading suspect ones again into `extent` until they are whole or the patience ends. */
async function checkUntilStill(
  context: CopyContext,
  piece: Piece,
  block: number,
  extent: Buffer,
  descriptor: number,
  signal: AbortSignal,
): Promise<ExtentFacts> {
  const firstPage = firstBlockOf(piece.path) + block * PAGES_PER_MACROBLOCK;
  let facts = checkExtent(extent, firstPage, context.pageChecksums);
  for (const delayMs of REREAD_DELAYS_MS) {
    if (facts.suspects.length === 0) return facts;
    await context.clock.sleep(delayMs, signal);
    for (const { pageNo } of facts.suspects) {
      const page = extent.subarray(pageNo * PAGE_BYTES, (pageNo + 1) * PAGE_BYTES);
      const read = readExtent(piece, descriptor, block * MACROBLOCK_BYTES + pageNo * PAGE_BYTES, page);
      page.fill(0, read.length); // truncated meanwhile: the log will say so too
    }
    facts = checkExtent(extent, firstPage, context.pageChecksums);
  }
  return facts;
}

/** Opens without following a link; undefined when the file is gone. */
function openIfThere(piece: Piece): number | undefined {
  const noFollow = piece.kind === 'external' ? 0 : constants.O_NOFOLLOW;
  try {
    return openSync(piece.absolutePath, constants.O_RDONLY | noFollow);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw readFailed(piece, error);
  }
}

/** Fills `into` from `position`; what it returns is shorter at the end of the file. */
function readExtent(piece: Piece, descriptor: number, position: number, into: Buffer): Buffer {
  try {
    let filled = 0;
    while (filled < into.length) {
      const count = readSync(descriptor, into, filled, into.length - filled, position + filled);
      if (count === 0) break;
      filled += count;
    }
    return into.subarray(0, filled);
  } catch (error) {
    throw readFailed(piece, error);
  }
}

function readFailed(piece: Piece, cause: unknown): HoldfastError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new HoldfastError('BACKUP_FAILED', `cannot read ${piece.path}: ${reason}`, {
    cause,
    ...(errnoOf(cause) === 'EACCES' || errnoOf(cause) === 'EPERM'
      ? { hint: `Let the agent's user read ${piece.absolutePath}: run it as the server's user.` }
      : {}),
  });
}

function errnoOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException).code; // node:fs throws errno errors
}
