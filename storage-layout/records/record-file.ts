/**
 * Files of many records, written once from front to end: a file header, the records, an end mark. A file without its end
 * mark is not whole. Payloads are kept at or below 1 MiB by whoever writes them, so that a reader needs little memory.
 */
import { createHash, type Hash } from 'node:crypto';
import type { DescMessage, MessageShape } from '@bufbuild/protobuf';
import { type FileCipher, type Seal, sealOf } from '../encryption/cipher.ts';
import { beginFile, cipherOf } from '../encryption/key-ring.ts';
import type { Compression } from '../macroblock/compress.ts';
import type { Medium, StoredFileWriter } from '../media/medium.ts';
import {
  type DecodedRecord,
  decodeFileEnd,
  decodeFileHeader,
  decodeRecord,
  encodeFileEnd,
  encodeRecord,
  RECORD,
  type RecordType,
} from './framing.ts';
import { corrupt, decodeHeader, HEADER_BYTES, type RecordSource } from './header.ts';
import { encodeMessage, recordTypeOf } from './messages.ts';
import { recordName } from './types.ts';

/** What a list's payload may reach before its next chunk begins. */
export const CHUNK_BYTES = 2 ** 20;
const READ_BYTES = 2 ** 20;
const COMPRESS_FROM_BYTES = 512;

/** A whole file's length and SHA-256, as `FileDigest` holds them. */
export type FileFacts = { readonly sizeBytes: bigint; readonly sha256: Uint8Array };
/** Where a record stands in its file, header included. */
export type RecordPlace = { readonly offset: number; readonly length: number };

/** Writes such a file. Disposing without `close` abandons it. */
export class RecordFileWriter implements AsyncDisposable {
  readonly #file: StoredFileWriter;
  readonly #compression: Compression;
  readonly #cipher: FileCipher | undefined;
  readonly #sha256: Hash = createHash('sha256');
  #sizeBytes = 0;
  #recordCount = 0;

  private constructor(file: StoredFileWriter, compression: Compression, cipher: FileCipher | undefined) {
    this.#file = file;
    this.#compression = compression;
    this.#cipher = cipher;
  }

  /** `contents`: the record type that the file is about. Throws FILE_EXISTS. */
  static async create(
    medium: Medium,
    key: string,
    contents: RecordType,
    signal?: AbortSignal,
    compression: Compression = 'zstd:3',
  ): Promise<RecordFileWriter> {
    const { header, cipher } = await beginFile(medium, key, contents, signal);
    const writer = new RecordFileWriter(await medium.createFile(key, signal), compression, cipher);
    try {
      await writer.#write(header);
    } catch (error) {
      await writer[Symbol.asyncDispose]();
      throw error;
    }
    return writer;
  }

  /** Appends one record. */
  async append(type: RecordType, payload: Uint8Array): Promise<RecordPlace> {
    const compression = payload.length < COMPRESS_FROM_BYTES ? 'none' : this.#compression;
    return await this.#write(encodeRecord({ type, payload, compression, seal: this.#seal() }));
  }

  /** Appends one message as a record of its type. */
  async appendMessage<Desc extends DescMessage>(
    schema: Desc,
    message: MessageShape<Desc>,
  ): Promise<RecordPlace> {
    return await this.append(recordTypeOf(schema), encodeMessage(schema, message));
  }

  /** Writes the end mark and makes the file durable. */
  async close(): Promise<FileFacts> {
    const end = { recordCount: this.#recordCount, sizeBytes: this.#sizeBytes };
    await this.#write(encodeFileEnd(end, this.#seal()));
    await this.#file.close();
    return { sizeBytes: BigInt(this.#sizeBytes), sha256: this.#sha256.digest() };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file[Symbol.asyncDispose]();
  }

  /** Of the next record. */
  #seal(): Seal | undefined {
    return sealOf(this.#cipher, this.#recordCount);
  }

  async #write(record: Buffer): Promise<RecordPlace> {
    const place = { offset: this.#sizeBytes, length: record.length };
    this.#sha256.update(record);
    await this.#file.write([record]);
    this.#sizeBytes += record.length;
    this.#recordCount += 1;
    return place;
  }
}

/** A record and where it stands. */
export type PlacedRecord = DecodedRecord & { readonly offset: number };

/**
 * Every record between the file header and the end mark, in order, holding about 1 MiB at a time. Throws DATA_CORRUPT when
 * the file is about something else, is damaged, or has no end mark; FORMAT_UNKNOWN; FILE_NOT_FOUND.
 */
export async function* readRecordFile(
  medium: Medium,
  key: string,
  contents: RecordType,
  signal?: AbortSignal,
): AsyncIterable<PlacedRecord> {
  const order = new RecordOrder(contents, { file: key });
  for await (const record of readRecords(medium, key, signal)) {
    if (order.next(record)) yield record;
  }
  order.finish();
}

/**
 * Every record of any file of this format, file header and end mark included, up to the end of the file. `readBytes`: how
 * much is fetched at a time; a reader of the first records only wants less. Of an encrypted file the medium's keys open the
 * records, and each must be the next: throws BACKUP_INVALID_PASSWORD when they do not have its key.
 */
export async function* readRecords(
  medium: Medium,
  key: string,
  signal?: AbortSignal,
  readBytes: number = READ_BYTES,
): AsyncIterable<PlacedRecord> {
  let base = 0; // position in the file of window[0]
  let window: Buffer = Buffer.alloc(0);
  let atEnd = false;
  let cipher: FileCipher | undefined;
  let ordinal = 0;
  const grow = async (needBytes: number) => {
    while (window.length < needBytes && !atEnd) {
      const begin = base + window.length;
      const length = Math.max(readBytes, needBytes - window.length);
      const more = await medium.readRange(key, begin, begin + length, undefined, signal);
      atEnd = more.length < length;
      window = window.length === 0 ? more : Buffer.concat([window, more]);
    }
  };
  for (;;) {
    const source = { file: key, base, cipher };
    await grow(HEADER_BYTES);
    if (window.length === 0) return;
    await grow(window.length < HEADER_BYTES ? HEADER_BYTES : window.readUInt16LE(10));
    const header = decodeHeader(window, 0, source);
    await grow(header.headerBytes + header.codedBytes);
    if (cipher !== undefined && header.ordinal !== ordinal)
      throw corrupt(source, 0, `record ${header.ordinal} of the file where record ${ordinal} should be`);
    const record = decodeRecord(window, 0, source);
    yield { ...record, offset: base };
    if (record.type === RECORD.fileHeader && base === 0)
      cipher = await cipherOf(medium, record, source, signal);
    ordinal += 1;
    base += record.next;
    window = window.subarray(record.next);
  }
}

/** Checks that records come as they must: file header, anything, end mark, nothing. */
export class RecordOrder {
  readonly #contents: RecordType;
  readonly #source: RecordSource;
  #recordCount = 0;
  #isEnded = false;

  constructor(contents: RecordType, source: RecordSource) {
    this.#contents = contents;
    this.#source = source;
  }

  /** True when the record belongs to the content. */
  next(record: PlacedRecord): boolean {
    if (this.#isEnded) throw corrupt(this.#source, record.offset, 'a record behind the end mark');
    if (this.#recordCount === 0) this.#checkContents(record);
    else if (record.type === RECORD.fileEnd) this.#checkEnd(record);
    this.#recordCount += 1;
    return this.#recordCount > 1 && !this.#isEnded;
  }

  /** The file ends here. */
  finish(): void {
    if (!this.#isEnded)
      throw corrupt(this.#source, 0, 'the file has no end mark: it was not written to its end');
  }

  #checkContents(record: PlacedRecord): void {
    const { contents } = decodeFileHeader(record, this.#source);
    if (contents !== this.#contents) {
      const wanted = recordName(this.#contents);
      throw corrupt(this.#source, 0, `a ${recordName(contents)} file where a ${wanted} file should be`);
    }
  }

  #checkEnd(record: PlacedRecord): void {
    const end = decodeFileEnd(record, record.offset, this.#source);
    if (end.recordCount !== this.#recordCount || end.sizeBytes !== record.offset)
      throw corrupt(this.#source, record.offset, 'the end mark counts other records than the file holds');
    this.#isEnded = true;
  }
}
