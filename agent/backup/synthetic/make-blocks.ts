/**
 * A worker's part of a synthetic full: copies macroblock files whole, checks every block of them that is live in the copy,
 * and writes all other blocks anew, each merged with its delta. Whatever is not as the source's index says ends the work.
 */
import { checkExtent, PAGE_BYTES } from '../../../engine/postgres/pages.ts';
import { firstBlockOf } from '../../../engine/postgres/relation-files.ts';
import { HoldfastError, isError } from '../../../foundation/errors.ts';
import { formatLsn, type Lsn, toLsn } from '../../../foundation/lsn.ts';
import type { FileCipher } from '../../../storage-layout/encryption/cipher.ts';
import type { FileCiphers } from '../../../storage-layout/encryption/key-ring.ts';
import type { Compression } from '../../../storage-layout/macroblock/compress.ts';
import { applyDelta, baseBytes, deltaBytes } from '../../../storage-layout/macroblock/delta.ts';
import {
  ENTRY_BYTES,
  encodeMacroBlockEntry,
  MACROBLOCK_BYTES,
} from '../../../storage-layout/macroblock/entry.ts';
import { nameMacroBlockFile } from '../../../storage-layout/macroblock/file-name.ts';
import { decodeMacroBlock } from '../../../storage-layout/macroblock/reader.ts';
import { MacroBlockFileWriter } from '../../../storage-layout/macroblock/writer.ts';
import type { Medium } from '../../../storage-layout/media/medium.ts';
import { type SetKey, type TreeRoot, tree } from '../../../storage-layout/tree.ts';
import { checkHeadOf, hasEndMark } from '../../validate/check-frames.ts';
import type { Counters } from '../counters.ts';
import type { Throttle } from '../throttle.ts';
import type { FileCopy } from './plan.ts';
import { type PlacedPart, readRecords, recordOf } from './read-records.ts';
import type { SyntheticBlock, SyntheticFile, SyntheticJob } from './synthetic-job.ts';

const PAGES_PER_MACROBLOCK = MACROBLOCK_BYTES / PAGE_BYTES;
/** Plain bytes of the blocks that are fetched together. */
const FETCH_BYTES = 8 * MACROBLOCK_BYTES;
const FETCH_BLOCKS = 256;

export type MakeContext = {
  readonly medium: Medium;
  readonly ciphers: FileCiphers;
  readonly root: TreeRoot;
  readonly group: string;
  readonly source: SetKey;
  readonly target: SetKey;
  readonly compression: Compression;
  readonly pageChecksums: boolean;
  readonly start: Lsn;
  readonly stop: Lsn;
  readonly counters: Counters;
  readonly throttle: Throttle;
  /** 2 MiB each, reused for every block. */
  readonly blockBuffer: Buffer;
  readonly deltaBuffer: Buffer;
};

export type Made = { readonly entries: Uint8Array<ArrayBuffer>; readonly storedBytes: number };

/** Copies one file. Throws BACKUP_FILE_NOT_EXIST, DATA_CORRUPT, FILE_EXISTS and the medium's errors. */
export async function copyMacroBlockFile(
  context: MakeContext,
  { source, sizeBytes, subTaskId }: FileCopy,
  signal: AbortSignal,
): Promise<Made> {
  const { medium, root, group, target, counters, throttle } = context;
  const from = tree.macroBlock(root, { ...context.source, setId: source.setId }, group, source.subTaskId);
  const to = tree.macroBlock(root, target, group, subTaskId);
  const onPart = (bytes: number) => throttle.spend(bytes, signal);
  try {
    await medium.copyFile(from, to, onPart, signal);
  } catch (error) {
    if (!isError(error, 'FILE_NOT_FOUND')) throw error;
    throw new HoldfastError('BACKUP_FILE_NOT_EXIST', `${from}: the file is missing`, { cause: error });
  }
  const cipher = await checkHeadOf(medium, to, target, subTaskId, group, signal);
  if (!(await hasEndMark(medium, to, sizeBytes, cipher, signal)))
    throw new HoldfastError('DATA_CORRUPT', `${from} at offset ${sizeBytes}: the file is cut off`);
  counters.add('storedBytes', sizeBytes);
  return { entries: new Uint8Array(0), storedBytes: sizeBytes };
}

type BlocksJob = Extract<SyntheticJob, { readonly kind: 'blocks' }>;
type Part = PlacedPart & { readonly block: SyntheticBlock };
type Fetched = {
  readonly blocks: readonly SyntheticBlock[];
  readonly wholes: ReadonlyMap<SyntheticBlock, Part>;
  readonly deltas: ReadonlyMap<SyntheticBlock, Part>;
  readonly records: ReadonlyMap<Part, Buffer>;
  readonly ciphers: ReadonlyMap<string, FileCipher | undefined>;
};

/**
 * Checks or writes anew every block of the job; `entries` are those of the blocks that were written anew. Throws as
 * `copyMacroBlockFile`, SYNTHETIC_BACKUP_REFUSED for a page that fails its check.
 */
export async function makeBlocks(context: MakeContext, job: BlocksJob, signal: AbortSignal): Promise<Made> {
  const { medium, root, group, target, compression } = context;
  const rewritten = job.blocks.filter(({ copiedTo }) => copiedTo === undefined);
  const entries = Buffer.from(new ArrayBuffer(rewritten.length * ENTRY_BYTES));
  const key = tree.macroBlock(root, target, group, job.subTaskId);
  const name = nameMacroBlockFile(target.setId, job.subTaskId, group);
  await using writer =
    rewritten.length === 0
      ? undefined
      : await MacroBlockFileWriter.create(medium, key, name, compression, signal);
  const fetches = cutIntoFetches(job.blocks);
  let pending = fetchBlocks(context, fetches[0] ?? []);
  let written = 0;
  for (const [index] of fetches.entries()) {
    signal.throwIfAborted();
    const fetched = await pending;
    pending = fetchBlocks(context, fetches[index + 1] ?? []);
    pending.catch(() => undefined); // awaited in the next turn, unless this one fails first
    for (const block of fetched.blocks) {
      const plain = decode(context, fetched, block);
      const newestPageLsn = checkPages(context, job.files[block.file], block, plain);
      context.counters.add('plainBytes', plain.length);
      context.counters.add('macroblocks', 1);
      if (block.copiedTo !== undefined || writer === undefined) continue;
      const place = await writer.append(plain, block);
      const entry = { ...place, newestPageLsn, pageCheckFailed: false };
      encodeMacroBlockEntry(entries, written * ENTRY_BYTES, entry);
      written += 1;
      context.counters.add('storedBytes', place.storedBytes);
      await context.throttle.spend(place.storedBytes, signal);
    }
  }
  const closed = await writer?.close();
  return { entries, storedBytes: closed?.sizeBytes ?? 0 };
}

function cutIntoFetches(blocks: readonly SyntheticBlock[]): readonly (readonly SyntheticBlock[])[] {
  const fetches: SyntheticBlock[][] = [];
  let bytes = 0;
  for (const block of blocks) {
    const last = fetches.at(-1);
    if (last === undefined || last.length === FETCH_BLOCKS || bytes + block.plainBytes > FETCH_BYTES) {
      fetches.push([block]);
      bytes = block.plainBytes;
    } else {
      last.push(block);
      bytes += block.plainBytes;
    }
  }
  return fetches;
}

async function fetchBlocks(context: MakeContext, blocks: readonly SyntheticBlock[]): Promise<Fetched> {
  const { medium, root, group, source, target } = context;
  const wholes = new Map<SyntheticBlock, Part>();
  const deltas = new Map<SyntheticBlock, Part>();
  for (const block of blocks) {
    const { copiedTo, delta, setId, subTaskId } = block;
    const key =
      copiedTo === undefined
        ? tree.macroBlock(root, { ...source, setId }, group, subTaskId)
        : tree.macroBlock(root, target, group, copiedTo);
    wholes.set(block, { ...block, key, block });
    if (delta === undefined) continue;
    const deltaKey = tree.macroBlock(root, { ...source, setId: delta.setId }, group, delta.subTaskId);
    deltas.set(block, { ...delta, key: deltaKey, block });
  }
  const parts = [...wholes.values(), ...deltas.values()];
  const records = await readRecords(medium, parts);
  const ciphers = new Map<string, FileCipher | undefined>();
  for (const key of new Set(parts.map((part) => part.key))) ciphers.set(key, await context.ciphers.of(key));
  return { blocks, wholes, deltas, records, ciphers };
}

/** The block's bytes, in the context's buffer. */
function decode(context: MakeContext, fetched: Fetched, block: SyntheticBlock): Buffer {
  const { blockBuffer, deltaBuffer } = context;
  const whole = fetched.wholes.get(block);
  if (whole === undefined) throw new HoldfastError('INTERNAL', 'a block that was not fetched');
  const base = { ...block, plainBytes: baseBytes(block) };
  const cipher = fetched.ciphers.get(whole.key);
  decodeMacroBlock(recordOf(fetched.records, whole), base, blockBuffer, whole.key, cipher);
  const part = fetched.deltas.get(block);
  if (part === undefined || block.delta === undefined) return applyDelta(blockBuffer, block, undefined);
  const { pages } = block.delta;
  const record = recordOf(fetched.records, part);
  const { fileNumber, blockNumber } = block;
  const place = { ...block.delta, fileNumber, blockNumber, plainBytes: deltaBytes(pages) };
  return applyDelta(blockBuffer, block, {
    pages,
    bytes: decodeMacroBlock(record, place, deltaBuffer, part.key, fetched.ciphers.get(part.key)),
  });
}

/**
 * The newest position of the block's pages, 0 where it has none. A wrong checksum counts as when the pages were read from
 * the database: one that was changed since the start is mended by the log.
 */
function checkPages(
  context: MakeContext,
  file: SyntheticFile | undefined,
  block: SyntheticBlock,
  plain: Buffer,
): Lsn {
  if (file?.hasPages !== true) return toLsn(0n);
  const { start, stop, pageChecksums } = context;
  const firstPage = block.blockNumber * PAGES_PER_MACROBLOCK;
  const facts = checkExtent(plain, firstBlockOf(file.path) + firstPage, pageChecksums);
  const bad = facts.suspects.find(({ pageLsn }) => pageLsn < start || pageLsn > stop);
  if (bad !== undefined)
    throw pageCheckFailed(`page ${firstPage + bad.pageNo} of ${file.path} fails its check`);
  if (facts.newestPageLsn > stop)
    throw new HoldfastError(
      'DATA_CORRUPT',
      `a page of ${file.path} has position ${formatLsn(facts.newestPageLsn)}, behind the end of the backup at ${formatLsn(stop)}`,
    );
  return facts.newestPageLsn;
}

export function pageCheckFailed(what: string): HoldfastError {
  return new HoldfastError('SYNTHETIC_BACKUP_REFUSED', `no synthetic full can be made: ${what}`, {
    hint: 'Mend the page in the database; ALTER SYSTEM BACKUP INCREMENTAL DATABASE; reads its block again.',
  });
}
