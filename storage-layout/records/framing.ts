/** A record is a common header (header.ts), the type's own header fields, and its data, coded as the header says. */
import { randomBytes } from 'node:crypto';
import { HoldfastError } from '../../foundation/errors.ts';
import { crc32c } from '../crc32c.ts';
import { type Seal, TAG_BYTES } from '../encryption/cipher.ts';
import { BlockCompressor, BlockDecompressor, type Compression } from '../macroblock/compress.ts';
import {
  type CompressionName,
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
  /** Undefined: the record is written plain. */
  readonly seal?: Seal | undefined;
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
/** With the id of the data key. */
const ENCRYPTED_FILE_HEADER_BYTES = 40;
/** Of the buffer for decrypted data: enough for nearly every macroblock. */
const KEPT_BYTES = 2 ** 20;
const FILE_END_BYTES = 16;
const FORMAT_VERSION = 1;

/** The whole record as bytes. */
export function encodeRecord(record: NewRecord): Buffer {
  const { data, codec } = compressorFor(record.compression ?? 'none').compress(record.payload);
  const { type, seal, extension = NOTHING } = record;
  const coded = { type, compression: codec, plainBytes: record.payload.length, data, extension, seal };
  const bytes = Buffer.allocUnsafe(recordBytes(coded));
  putRecord(bytes, 0, coded);
  return bytes;
}

/** A record whose data is compressed already. */
export type CompressedRecord = {
  readonly type: RecordType;
  readonly compression: CompressionName;
  readonly plainBytes: number;
  readonly data: Uint8Array;
  readonly extension: Uint8Array;
  readonly seal: Seal | undefined;
};

/** Length of the whole record. */
export function recordBytes(record: Pick<CompressedRecord, 'data' | 'extension' | 'seal'>): number {
  return HEADER_BYTES + record.extension.length + codedBytes(record);
}

/** Writes the record at `offset`, where there is room for it. Returns the checksum of its data after coding. */
export function putRecord(into: Buffer, offset: number, record: CompressedRecord): number {
  const { type, compression, plainBytes, data, extension, seal } = record;
  const fields = { type, compression, plainBytes, codedBytes: codedBytes(record), ordinal: seal?.ordinal };
  const dataOffset = offset + HEADER_BYTES + extension.length;
  if (seal === undefined) into.set(data, dataOffset);
  else {
    encodeHeader(into, offset, { ...fields, codedCrc32c: 0 }, extension);
    seal.cipher.seal(into.subarray(offset, dataOffset), seal.ordinal, data, into, dataOffset);
  }
  const codedCrc32c = crc32c(into.subarray(dataOffset, dataOffset + fields.codedBytes));
  encodeHeader(into, offset, { ...fields, codedCrc32c }, extension);
  return codedCrc32c;
}

/** The header of a record that is plain, for a writer that has its data elsewhere. */
export function encodeRecordHeader(record: CompressedRecord & { readonly seal: undefined }): Buffer {
  const { type, compression, plainBytes, data, extension } = record;
  const header = Buffer.allocUnsafe(HEADER_BYTES + extension.length);
  const fields = { type, compression, plainBytes, codedBytes: data.length, codedCrc32c: crc32c(data) };
  encodeHeader(header, 0, fields, extension);
  return header;
}

function codedBytes({ data, seal }: Pick<CompressedRecord, 'data' | 'seal'>): number {
  return data.length + (seal === undefined ? 0 : TAG_BYTES);
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

/**
 * Checks, decrypts and decompresses a record's data, into `into` when given (at least `header.plainBytes` long) and the
 * data is coded. Throws DATA_CORRUPT; BACKUP_INVALID_PASSWORD when it is encrypted and the source has no cipher.
 */
export function decodeData(
  coded: Buffer,
  header: RecordHeader,
  offset: number,
  source: RecordSource,
  into?: Buffer,
): Buffer {
  if (crc32c(coded) !== header.codedCrc32c)
    throw corrupt(source, offset, 'the data of the record has a wrong checksum');
  const data = decrypt(coded, header, offset, source, into);
  if (header.compression === 'none') return data;
  const plain = into?.subarray(0, header.plainBytes) ?? Buffer.allocUnsafe(header.plainBytes);
  if (!decompressor.decompress(data, plain))
    throw corrupt(source, offset, 'the data of the record cannot be decompressed');
  return plain;
}

/** The data as it was before encryption: `coded` itself when it is plain. Compressed data is valid until the next call. */
function decrypt(
  coded: Buffer,
  header: RecordHeader,
  offset: number,
  source: RecordSource,
  into: Buffer | undefined,
): Buffer {
  const { cipher } = source;
  if (header.encryption === 'plain') {
    if (cipher !== undefined && header.type !== RECORD.fileHeader)
      throw corrupt(source, offset, 'a plain record in an encrypted file');
    return coded;
  }
  if (cipher === undefined)
    throw new HoldfastError(
      'BACKUP_INVALID_PASSWORD',
      `${source.file} is encrypted, and its key is not known`,
    );
  const sizeBytes = coded.length - TAG_BYTES;
  const data =
    header.compression === 'none' ? (into ?? Buffer.allocUnsafe(sizeBytes)) : decryptedBuffer(sizeBytes);
  if (!cipher.open(header.bytes, header.ordinal, coded, data))
    throw corrupt(source, offset, 'the record is not the one that was encrypted for this place');
  return data.subarray(0, sizeBytes);
}

let decrypted = Buffer.alloc(0);

/** A buffer that is kept from record to record. */
function decryptedBuffer(sizeBytes: number): Buffer {
  if (decrypted.length < sizeBytes) decrypted = Buffer.allocUnsafeSlow(Math.max(sizeBytes, KEPT_BYTES));
  return decrypted;
}

/**
 * The first record of every file of several records: `contents` is the type that the file is about. `keyId`: the data key
 * under which all other records of the file are encrypted; undefined: they are plain.
 */
export type FileHeader = {
  readonly contents: RecordType;
  readonly fileId: Uint8Array;
  readonly keyId?: Uint8Array;
};

/** `fileId`: 16 random bytes. */
export function encodeFileHeader(
  contents: RecordType,
  fileId: Uint8Array = randomBytes(16),
  keyId?: Uint8Array,
): Buffer {
  const payload = Buffer.alloc(keyId === undefined ? FILE_HEADER_BYTES : ENCRYPTED_FILE_HEADER_BYTES);
  payload.writeUInt16LE(contents, 0);
  payload.writeUInt16LE(FORMAT_VERSION, 2);
  payload.set(fileId, 8);
  if (keyId !== undefined) payload.set(keyId, FILE_HEADER_BYTES);
  return encodeRecord({ type: RECORD.fileHeader, payload });
}

/** Reads a file's first record. Throws DATA_CORRUPT when it is none, FORMAT_UNKNOWN for a newer file. */
export function decodeFileHeader(record: DecodedRecord, source: RecordSource): FileHeader {
  const { payload } = record;
  const isEncrypted = payload.length === ENCRYPTED_FILE_HEADER_BYTES;
  if (record.type !== RECORD.fileHeader || (payload.length !== FILE_HEADER_BYTES && !isEncrypted))
    throw corrupt(source, 0, 'the file does not begin with a file header');
  const version = payload.readUInt16LE(2);
  if (version !== FORMAT_VERSION) throw unknown(source, 0, `file version ${version}`);
  const contents = payload.readUInt16LE(0);
  if (recordName(contents) === undefined) throw unknown(source, 0, `a file of record type ${contents}`);
  return {
    contents: contents as RecordType, // recordName knows it
    fileId: payload.subarray(8, 24),
    ...(isEncrypted ? { keyId: payload.subarray(FILE_HEADER_BYTES) } : {}),
  };
}

/** The last record of a file that was written to its end: how many records and bytes stand before it. */
export type FileEnd = { readonly recordCount: number; readonly sizeBytes: number };

/** Encodes the end mark. */
export function encodeFileEnd(end: FileEnd, seal?: Seal): Buffer {
  const payload = Buffer.alloc(FILE_END_BYTES);
  payload.writeBigUInt64LE(BigInt(end.recordCount), 0);
  payload.writeBigUInt64LE(BigInt(end.sizeBytes), 8);
  return encodeRecord({ type: RECORD.fileEnd, payload, seal });
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
