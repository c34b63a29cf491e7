/**
 * An entry of a macroblock index: where one macroblock is stored, and what of it is known. 128 bytes, little-endian:
 *
 *   offset size
 *        0    4  file number
 *        4    4  block number: offset in the file / 2 MiB
 *        8    4  plain length, 1 to 2 MiB
 *       12    4  flags: bit 0 the page check failed; bit 1 there is a delta
 *       16    8  newest page LSN, 0 when no page holds one
 *       24   32  place of the whole block
 *       56   32  place of the delta, zero without one
 *       88   32  bitmap of the delta's pages: bit n % 8 of byte n / 8 is page n of the block
 *      120    4  plain length of the whole block as it is stored, zero when it is that of the entry
 *      124    4  zero
 *
 * A place:
 *
 *        0    8  backup set id      ┐ names macro_block_<set_id>.<sub_task_id>
 *        8    4  sub task id        ┘
 *       12    4  stored length: the whole record, header included
 *       16    8  offset of the record in the file
 *       24    4  CRC-32C of the plain bytes
 *       28    4  compression: 0 none, 1 zstd
 */
import { assert } from '../../foundation/assert.ts';
import { type Lsn, toLsn } from '../../foundation/lsn.ts';
import { COMPRESSION, type CompressionName, corrupt, type RecordSource, unknown } from '../records/header.ts';
import { endOfPages, PAGE_BYTES, PAGE_MAP_BYTES } from './page-map.ts';

export const MACROBLOCK_BYTES = 2 * 1024 * 1024;
export const MAX_MACROBLOCKS_PER_FILE = 512;
export const ENTRY_BYTES = 128;
const WHOLE_PLACE = 24;
const DELTA_PLACE = 56;
const BITMAP = 88;
const WHOLE_BYTES = 120;
const FLAG_PAGE_CHECK_FAILED = 1;
const FLAG_DELTA = 2;

/** Which macroblock: in an encrypted file, each record says whose it is. */
export type MacroBlockName = {
  readonly fileNumber: number;
  /** Offset in the data file / MACROBLOCK_BYTES. */
  readonly blockNumber: number;
};

/** Where stored bytes are, and what they are. */
export type MacroBlockPlace = {
  readonly setId: bigint;
  readonly subTaskId: number;
  /** Position of the record in its file. */
  readonly offset: number;
  /** The whole record, header included: what one ranged read fetches. */
  readonly storedBytes: number;
  /** Of the plain bytes. */
  readonly crc32c: number;
  readonly compression: CompressionName;
};

/** One macroblock of a backup; the place is the whole block's. */
export type MacroBlockEntry = MacroBlockPlace &
  MacroBlockName & {
    readonly plainBytes: number;
    /** 0 when no page of the block holds an LSN. */
    readonly newestPageLsn: Lsn;
    readonly pageCheckFailed: boolean;
    /** Plain length of the whole block as it is stored, when the block has been cut or has grown since. */
    readonly wholeBytes?: number;
    /** The pages that were changed since the start of the backup that wrote the whole block, in 256 bits (page-map.ts). */
    readonly delta?: MacroBlockPlace & { readonly pages: Uint8Array };
  };

/** Order of the index: negative when `a` comes first. */
export function compareEntries(a: MacroBlockEntry, b: MacroBlockEntry): number {
  return a.fileNumber - b.fileNumber || a.blockNumber - b.blockNumber;
}

/** The header fields of an encrypted macroblock's record: file number (4), block number (4). */
export function encodeBlockName({ fileNumber, blockNumber }: MacroBlockName): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32LE(fileNumber, 0);
  bytes.writeUInt32LE(blockNumber, 4);
  return bytes;
}

/** Writes one entry's 128 bytes at `offset`. */
export function encodeMacroBlockEntry(into: Buffer, offset: number, entry: MacroBlockEntry): void {
  into.fill(0, offset, offset + ENTRY_BYTES);
  into.writeUInt32LE(entry.fileNumber, offset);
  into.writeUInt32LE(entry.blockNumber, offset + 4);
  into.writeUInt32LE(entry.plainBytes, offset + 8);
  const flags =
    (entry.pageCheckFailed ? FLAG_PAGE_CHECK_FAILED : 0) | (entry.delta === undefined ? 0 : FLAG_DELTA);
  into.writeUInt32LE(flags, offset + 12);
  into.writeBigUInt64LE(entry.newestPageLsn, offset + 16);
  encodePlace(into, offset + WHOLE_PLACE, entry);
  into.writeUInt32LE(entry.wholeBytes ?? 0, offset + WHOLE_BYTES);
  if (entry.delta === undefined) return;
  encodePlace(into, offset + DELTA_PLACE, entry.delta);
  assert(entry.delta.pages.length === PAGE_MAP_BYTES, 'a delta has a bitmap of 256 bits');
  into.set(entry.delta.pages, offset + BITMAP);
}

/** The entries of one chunk, which stands at `recordOffset` of the file. Throws DATA_CORRUPT, FORMAT_UNKNOWN. */
export function decodeMacroBlockEntries(
  payload: Buffer,
  recordOffset: number,
  source: RecordSource,
): MacroBlockEntry[] {
  checkWholeEntries(payload, recordOffset, source);
  const entries: MacroBlockEntry[] = [];
  for (let offset = 0; offset < payload.length; offset += ENTRY_BYTES)
    entries.push(decodeMacroBlockEntry(payload, offset, recordOffset, source));
  return entries;
}

export function checkWholeEntries(payload: Buffer, recordOffset: number, source: RecordSource): void {
  if (payload.length % ENTRY_BYTES === 0) return;
  throw corrupt(source, recordOffset, `${payload.length} bytes of index entries are no whole number of them`);
}

/** One entry, at `offset` of a chunk. */
export function decodeMacroBlockEntry(
  payload: Buffer,
  offset: number,
  recordOffset: number,
  source: RecordSource,
): MacroBlockEntry {
  const flags = payload.readUInt32LE(offset + 12);
  if (flags > (FLAG_PAGE_CHECK_FAILED | FLAG_DELTA))
    throw unknown(source, recordOffset, `an index entry with flags ${flags}`);
  const plainBytes = payload.readUInt32LE(offset + 8);
  const whole = decodePlace(payload, offset + WHOLE_PLACE, recordOffset, source);
  if (plainBytes > MACROBLOCK_BYTES)
    throw corrupt(source, recordOffset, `a macroblock of ${plainBytes} bytes`);
  const wholeBytes = payload.readUInt32LE(offset + WHOLE_BYTES);
  if (wholeBytes > MACROBLOCK_BYTES)
    throw corrupt(source, recordOffset, `a macroblock that is stored as ${wholeBytes} bytes`);
  const entry = {
    fileNumber: payload.readUInt32LE(offset),
    blockNumber: payload.readUInt32LE(offset + 4),
    plainBytes,
    newestPageLsn: toLsn(payload.readBigUInt64LE(offset + 16)),
    pageCheckFailed: (flags & FLAG_PAGE_CHECK_FAILED) !== 0,
    ...whole,
    ...(wholeBytes === 0 ? {} : { wholeBytes }),
  };
  if ((flags & FLAG_DELTA) === 0) return entry;
  const pages = Buffer.from(payload.subarray(offset + BITMAP, offset + BITMAP + PAGE_MAP_BYTES));
  if (!fitsBlock(pages, plainBytes))
    throw corrupt(source, recordOffset, `a delta that does not fit its block of ${plainBytes} bytes`);
  return {
    ...entry,
    delta: { ...decodePlace(payload, offset + DELTA_PLACE, recordOffset, source), pages },
  };
}

/** Whether there are pages, all of them within a block of so many bytes. */
function fitsBlock(pages: Uint8Array, plainBytes: number): boolean {
  const end = endOfPages(pages);
  return end > 0 && end * PAGE_BYTES <= plainBytes && plainBytes % PAGE_BYTES === 0;
}

function encodePlace(into: Buffer, offset: number, place: MacroBlockPlace): void {
  into.writeBigUInt64LE(place.setId, offset);
  into.writeUInt32LE(place.subTaskId, offset + 8);
  into.writeUInt32LE(place.storedBytes, offset + 12);
  into.writeBigUInt64LE(BigInt(place.offset), offset + 16);
  into.writeUInt32LE(place.crc32c, offset + 24);
  into.writeUInt32LE(COMPRESSION[place.compression], offset + 28);
}

function decodePlace(
  payload: Buffer,
  offset: number,
  recordOffset: number,
  source: RecordSource,
): MacroBlockPlace {
  const compression = payload.readUInt32LE(offset + 28);
  if (compression > COMPRESSION.zstd) throw unknown(source, recordOffset, `compression ${compression}`);
  const position = payload.readBigUInt64LE(offset + 16);
  if (position > BigInt(Number.MAX_SAFE_INTEGER))
    throw corrupt(source, recordOffset, `a macroblock at offset ${position}`);
  return {
    setId: payload.readBigUInt64LE(offset),
    subTaskId: payload.readUInt32LE(offset + 8),
    storedBytes: payload.readUInt32LE(offset + 12),
    offset: Number(position),
    crc32c: payload.readUInt32LE(offset + 24),
    compression: compression === COMPRESSION.zstd ? 'zstd' : 'none',
  };
}
