/** A record is a common header (header.ts), the type's own header fields, and its data, coded as the header says. */
import { randomBytes } from 'node:crypto';
import { crc32c } from '../crc32c.ts';
import { BlockCompressor, BlockDecompressor, type Compression } from '../macroblock/compress.ts';
import {
  corrupt,
  decodeHeader,
  encodeHeader,
  HEADER_BYTES,
  type RecordHeader,
  type RecordSource,
  unknown,
} from './header.ts';
import { RECORD, type RecordType, recordName } from './types.ts';

export { RECORD, type RecordType } from './types.ts';

export type NewRecord = {
  readonly type: RecordType;
  readonly payload: Uint8Array;
  /** Default none. */
  readonly compression?: Compression;
  /** The type's own header fields. */
  readonly extension?: Uint8Array;
};

export type DecodedRecord = {
  readonly type: RecordType;
  readonly header: RecordHeader;
  /** The type's own header fields; empty for most types. */
  readonly extension: Buffer;
  /** A view of the buffer when the data is not compressed. */
  readonly payload: Buffer;
  /** The offset behind the record. */
  readonly next: number;
};

const FILE_HEADER_BYTES = 24;
const FILE_END_BYTES = 16;
const FORMAT_VERSION = 1;

/** The whole record as bytes. */
export function encodeRecord(record: NewRecord): Buffer {
  const { data, codec } = compressorFor(record.compression ?? 'none').compress(record.payload);
  const extension = record.extension ?? NOTHING;
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + extension.length + data.length);
  const dataOffset = encodeHeader(
    bytes,
    0,
    {
      type: record.type,
      compression: codec,
      plainBytes: record.payload.length,
      codedBytes: data.length,
      codedCrc32c: crc32c(data),
    },
    extension,
  );
  bytes.set(data, dataOffset);
  return bytes;
}

/**
 * Reads and checks the record at `offset`; compressed data goes `into` that buffer when it is given and long enough. Throws DATA_CORRUPT (cut short, bad checksum, wrong length) or FORMAT_UNKNOWN
 * (newer version, unknown type or coding), naming the file and the position.
 */
export function decodeRecord(
  buffer: Buffer,
  offset: number,
  source: RecordSource,
  into?: Buffer,
): DecodedRecord {
  const header = decodeHeader(buffer, offset, source);
  const dataOffset = offset + header.headerBytes;
  const next = dataOffset + header.codedBytes;
  if (next > buffer.length) {
    throw corrupt(
      source,
      offset,
      `the record's data of ${header.codedBytes} bytes is cut to ${buffer.length - dataOffset}`,
    );
  }
  const coded = buffer.subarray(dataOffset, next);
  return {
    type: header.type,
    header,
    extension: buffer.subarray(offset + HEADER_BYTES, dataOffset),
    payload: decodeData(
      coded,
      header,
      offset,
      source,
      into !== undefined && into.length >= header.plainBytes ? into : undefined,
    ),
    next,
  };
}

/** Checks and decompresses a record's data, into `into` when given (at least `header.plainBytes` long) and it is compressed. */
export function decodeData(
  coded: Buffer,
  header: RecordHeader,
  offset: number,
  source: RecordSource,
  into?: Buffer,
): Buffer {
  if (crc32c(coded) !== header.codedCrc32c)
    throw corrupt(source, offset, 'the data of the record has a wrong checksum');
  if (header.compression === 'none') return coded;
  const plain = into?.subarray(0, header.plainBytes) ?? Buffer.allocUnsafe(header.plainBytes);
  if (!decompressor.decompress(coded, plain))
    throw corrupt(source, offset, 'the data of the record cannot be decompressed');
  return plain;
}

/** The first record of every file of several records: `contents` is the type that the file is about. */
export type FileHeader = { readonly contents: RecordType; readonly fileId: Uint8Array };

/** `fileId`: 16 random bytes. */
export function encodeFileHeader(contents: RecordType, fileId: Uint8Array = randomBytes(16)): Buffer {
  const payload = Buffer.alloc(FILE_HEADER_BYTES);
  payload.writeUInt16LE(contents, 0);
  payload.writeUInt16LE(FORMAT_VERSION, 2);
  payload.set(fileId, 8);
  return encodeRecord({ type: RECORD.fileHeader, payload });
}

/** Reads a file's first record. Throws DATA_CORRUPT when it is none, FORMAT_UNKNOWN for a newer file. */
export function decodeFileHeader(record: DecodedRecord, source: RecordSource): FileHeader {
  if (record.type !== RECORD.fileHeader || record.payload.length !== FILE_HEADER_BYTES)
    throw corrupt(source, 0, 'the file does not begin with a file header');
  const version = record.payload.readUInt16LE(2);
  if (version !== FORMAT_VERSION) throw unknown(source, 0, `file version ${version}`);
  const contents = record.payload.readUInt16LE(0);
  if (recordName(contents) === undefined) throw unknown(source, 0, `a file of record type ${contents}`);
  return { contents: contents as RecordType, fileId: record.payload.subarray(8, 24) }; // recordName knows it
}

/** The last record of a file that was written to its end: how many records and bytes stand before it. */
export type FileEnd = { readonly recordCount: number; readonly sizeBytes: number };

/** Encodes the end mark. */
export function encodeFileEnd(end: FileEnd): Buffer {
  const payload = Buffer.alloc(FILE_END_BYTES);
  payload.writeBigUInt64LE(BigInt(end.recordCount), 0);
  payload.writeBigUInt64LE(BigInt(end.sizeBytes), 8);
  return encodeRecord({ type: RECORD.fileEnd, payload });
}

/** Reads an end mark's payload. Throws DATA_CORRUPT when its length is wrong. */
export function decodeFileEnd(record: DecodedRecord, offset: number, source: RecordSource): FileEnd {
  if (record.payload.length !== FILE_END_BYTES) throw corrupt(source, offset, 'the end mark is malformed');
  return {
    recordCount: Number(record.payload.readBigUInt64LE(0)),
    sizeBytes: Number(record.payload.readBigUInt64LE(8)),
  };
}

const NOTHING = Buffer.alloc(0);
const decompressor = new BlockDecompressor();
const compressors = new Map<Compression, BlockCompressor>();

function compressorFor(compression: Compression): BlockCompressor {
  const known = compressors.get(compression);
  if (known !== undefined) return known;
  const made = new BlockCompressor(compression);
  compressors.set(compression, made);
  return made;
}
