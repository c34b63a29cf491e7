/** The bytes of one log file (log-file.ts), every block checked. */
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn, type Lsn, toLsn } from '../../foundation/lsn.ts';
import type { FileCipher } from '../encryption/cipher.ts';
import { readFileCipher } from '../encryption/key-ring.ts';
import { planReads } from '../macroblock/reader.ts';
import type { Medium } from '../media/medium.ts';
import { decodeRecord, RECORD } from '../records/framing.ts';
import { decodeLogBlockHeader } from './block.ts';
import type { LogBlockPlace } from './index.ts';
import type { LogFile } from './log-file.ts';
import { REPAIR_HINT } from './repair-hint.ts';

const READ_BYTES = 8 * 2 ** 20;
/** Checkpoint records between two blocks are read along. */
const READ_GAP_BYTES = 64 * 1024;

export type LogChunkRead = { readonly begin: Lsn; readonly data: Buffer };

/** The memory that log is read into: fresh buffers would cost more than decompressing into them. */
export class LogBuffers {
  #stored = Buffer.alloc(0);
  #plain = Buffer.alloc(0);

  /** For bytes as they are stored; what it held is over. */
  stored(sizeBytes: number): Buffer {
    if (this.#stored.length < sizeBytes) this.#stored = Buffer.allocUnsafeSlow(sizeBytes);
    return this.#stored;
  }

  /** For a decompressed block. This one is used again for the next. */
  plain(sizeBytes: number): Buffer | Promise<Buffer> {
    if (this.#plain.length < sizeBytes) this.#plain = Buffer.allocUnsafeSlow(sizeBytes);
    return this.#plain;
  }
}

/**
 * The bytes [begin, end) that the file holds of its log, every block checked. A chunk is valid until the next one is asked
 * for; one that was stored compressed lies in the buffer that `buffers` gave for it. Throws DATA_CORRUPT,
 * LOG_INDEX_INVALID.
 */
export async function* readLogFile(
  medium: Medium,
  file: LogFile,
  begin: Lsn,
  end: Lsn,
  signal: AbortSignal | undefined,
  buffers = new LogBuffers(),
): AsyncGenerator<LogChunkRead, void, undefined> {
  const wanted = file.blocks.filter(
    (block) => block.begin < end && block.begin + BigInt(block.plainBytes) > begin,
  );
  const cipher = wanted.length === 0 ? undefined : await readFileCipher(medium, file.key, signal);
  const ranges = planReads(wanted, READ_GAP_BYTES, READ_BYTES);
  const stored = buffers.stored(largest(ranges, (range) => range.end - range.begin));
  for (const range of ranges) {
    const bytes = await medium.readRange(file.key, range.begin, range.end, stored, signal);
    for (const block of range.entries) {
      const plain = await buffers.plain(block.plainBytes);
      const data = decodeBlock(bytes, block, file, range.begin, cipher, plain);
      const from = begin > block.begin ? Number(begin - block.begin) : 0;
      const until = Math.min(data.length, Number(end - block.begin));
      yield { begin: toLsn(block.begin + BigInt(from)), data: data.subarray(from, until) };
    }
  }
}

function largest<T>(all: readonly T[], sizeOf: (each: T) => number): number {
  return all.reduce((most, each) => Math.max(most, sizeOf(each)), 0);
}

function decodeBlock(
  bytes: Buffer,
  block: LogBlockPlace,
  file: LogFile,
  base: number,
  cipher: FileCipher | undefined,
  into: Buffer,
): Buffer {
  const source = { file: file.key, base, cipher };
  const offset = block.offset - base;
  const record = decodeRecord(bytes, offset, source, into);
  if (record.type !== RECORD.logBlock) throw disagrees(file, block, 'there is none');
  const header = decodeLogBlockHeader(record.extension, offset, source);
  if (
    header.begin !== block.begin ||
    header.timeline !== file.timeline ||
    header.epoch !== file.epoch ||
    record.payload.length !== block.plainBytes ||
    record.next - offset !== block.storedBytes
  )
    throw disagrees(file, block, 'another one is there');
  return record.payload;
}

function disagrees(file: LogFile, block: LogBlockPlace, what: string): HoldfastError {
  return new HoldfastError(
    'LOG_INDEX_INVALID',
    `the index of ${file.key} has a log block of ${formatLsn(block.begin)} at offset ${block.offset}, but ${what}`,
    { hint: REPAIR_HINT },
  );
}
