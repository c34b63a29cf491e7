/** Reading macroblocks back: which ranges of a file to fetch, and the bytes of one block, checked in every way. */
import { crc32c } from '../crc32c.ts';
import type { FileCipher } from '../encryption/cipher.ts';
import { decodeData, RECORD } from '../records/framing.ts';
import { corrupt, decodeHeader, HEADER_BYTES } from '../records/header.ts';
import { recordName } from '../records/types.ts';
import { encodeBlockName, type MacroBlockName, type MacroBlockPlace } from './entry.ts';

/**
 * Decodes the record that `stored` is into `into` (at least `entry.plainBytes` long), and returns that part of it. Checks
 * the header, the lengths and both checksums against the entry, and of an encrypted file, which `cipher` opens, that the
 * record is that block's. Throws DATA_CORRUPT naming `file` and the offset.
 */
export function decodeMacroBlock(
  stored: Uint8Array,
  entry: MacroBlockPlace & MacroBlockName & { readonly plainBytes: number },
  into: Buffer,
  file: string,
  cipher?: FileCipher,
): Buffer {
  const source = { file, base: entry.offset, cipher };
  if (stored.length !== entry.storedBytes)
    throw corrupt(source, 0, `${stored.length} bytes where the index says ${entry.storedBytes}`);
  const bytes = Buffer.from(stored.buffer, stored.byteOffset, stored.length);
  const header = decodeHeader(bytes, 0, source);
  if (header.type !== RECORD.macroBlock)
    throw corrupt(source, 0, `a ${recordName(header.type)} record where a macroblock should be`);
  if (header.headerBytes + header.codedBytes !== stored.length || header.plainBytes !== entry.plainBytes)
    throw corrupt(source, 0, 'the lengths of the macroblock are not those of its index entry');
  if (header.encryption !== 'plain' && !header.bytes.subarray(HEADER_BYTES).equals(encodeBlockName(entry)))
    throw corrupt(source, 0, 'the macroblock is another one than that of its index entry');
  const plain = decodeData(bytes.subarray(header.headerBytes), header, 0, source, into);
  if (crc32c(plain) !== entry.crc32c)
    throw corrupt(source, 0, 'the macroblock is not the one of its index entry: another checksum');
  if (plain.buffer !== into.buffer || plain.byteOffset !== into.byteOffset) into.set(plain);
  return into.subarray(0, header.plainBytes);
}

/** A range of one file to fetch at once, and the entries in it. */
export type PlannedRead<Entry> = {
  readonly begin: number;
  readonly end: number;
  readonly entries: readonly Entry[];
};

/**
 * Joins neighbours of one file into ranges: `entries` sorted by offset, gaps of at most `maxGap` bytes read along, ranges of
 * at most `maxBytes` (one entry may be longer). Pure.
 */
export function planReads<Entry extends { readonly offset: number; readonly storedBytes: number }>(
  entries: readonly Entry[],
  maxGap: number,
  maxBytes: number,
): readonly PlannedRead<Entry>[] {
  const reads: { begin: number; end: number; entries: Entry[] }[] = [];
  for (const entry of entries) {
    const last = reads.at(-1);
    const end = entry.offset + entry.storedBytes;
    if (last !== undefined && entry.offset - last.end <= maxGap && end - last.begin <= maxBytes) {
      last.end = Math.max(last.end, end);
      last.entries.push(entry);
    } else reads.push({ begin: entry.offset, end, entries: [entry] });
  }
  return reads;
}
