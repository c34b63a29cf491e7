/**
 * The common header of every record, little-endian:
 *
 *   offset size
 *        0    4  magic "HLDF"
 *        4    2  header version, 1
 *        6    2  record type (types.ts)
 *        8    1  compression: 0 none, 1 zstd (one whole frame)
 *        9    1  encryption: 0 plain, 1 aes-256-gcm
 *       10    2  header length, 32 or more: the type's own fields (the extension) follow the common ones
 *       12    4  CRC-32C of the header, extension included, with these four bytes as zero
 *       16    4  data length before coding
 *       20    4  data length after coding: so many bytes follow the header
 *       24    4  CRC-32C of the data after coding
 *       28    4  the record's ordinal in its file, from 0; zero while encryption is plain
 *
 * Magic, header version, header length and header checksum keep their places in every later version.
 */
import { HoldfastError } from '../../foundation/errors.ts';
import { crc32c } from '../crc32c.ts';
import { type FileCipher, TAG_BYTES } from '../encryption/cipher.ts';
import { type RecordType, recordName } from './types.ts';

export const HEADER_BYTES = 32;
export const HEADER_VERSION = 1;
/** No record's data is longer, before or after coding: a damaged length must not allocate the world. */
export const DATA_LIMIT_BYTES = 64 * 2 ** 20;
const MAGIC = 0x46_44_4c_48; // "HLDF"
const HEADER_LIMIT_BYTES = 4096;

/** How data is coded, by the number in the header. */
export const COMPRESSION = { none: 0, zstd: 1 } as const;
export type CompressionName = keyof typeof COMPRESSION;
const COMPRESSION_NAMES: readonly CompressionName[] = ['none', 'zstd'];
const ENCRYPTION = { plain: 0, 'aes-256-gcm': 1 } as const;
type EncryptionName = keyof typeof ENCRYPTION;
const ENCRYPTION_NAMES: readonly EncryptionName[] = ['plain', 'aes-256-gcm'];

export type RecordHeader = {
  readonly type: RecordType;
  readonly compression: CompressionName;
  /** The common fields and the extension. */
  readonly headerBytes: number;
  /** Data length before coding. */
  readonly plainBytes: number;
  /** Data length after coding. */
  readonly codedBytes: number;
  readonly codedCrc32c: number;
  readonly encryption: EncryptionName;
  /** Of an encrypted record: which one it is in its file. */
  readonly ordinal: number;
  /** The header itself. */
  readonly bytes: Buffer;
};

/**
 * Where bytes came from, for messages: `base` is the position in the file of offset 0 of the buffer. `cipher`: what opens
 * the records of an encrypted file; with it, only the file header may be plain.
 */
export type RecordSource = {
  readonly file: string;
  readonly base?: number;
  readonly cipher?: FileCipher | undefined;
};

export type HeaderFields = Omit<RecordHeader, 'headerBytes' | 'encryption' | 'ordinal' | 'bytes'> & {
  /** Undefined: the record is plain. */
  readonly ordinal?: number | undefined;
};

/** Writes a header at `offset`, its extension behind it. Returns the offset behind the header. */
export function encodeHeader(
  into: Buffer,
  offset: number,
  fields: HeaderFields,
  extension: Uint8Array = NOTHING,
): number {
  const headerBytes = HEADER_BYTES + extension.length;
  into.writeUInt32LE(MAGIC, offset);
  into.writeUInt16LE(HEADER_VERSION, offset + 4);
  into.writeUInt16LE(fields.type, offset + 6);
  into.writeUInt8(COMPRESSION[fields.compression], offset + 8);
  into.writeUInt8(fields.ordinal === undefined ? ENCRYPTION.plain : ENCRYPTION['aes-256-gcm'], offset + 9);
  into.writeUInt16LE(headerBytes, offset + 10);
  into.writeUInt32LE(0, offset + 12);
  into.writeUInt32LE(fields.plainBytes, offset + 16);
  into.writeUInt32LE(fields.codedBytes, offset + 20);
  into.writeUInt32LE(fields.codedCrc32c, offset + 24);
  into.writeUInt32LE(fields.ordinal ?? 0, offset + 28);
  into.set(extension, offset + HEADER_BYTES);
  into.writeUInt32LE(crc32c(into.subarray(offset, offset + headerBytes)), offset + 12);
  return offset + headerBytes;
}

/**
 * Reads and checks the header at `offset`; the data behind it need not be there. Throws DATA_CORRUPT (cut short, no
 * header, bad checksum, impossible lengths) or FORMAT_UNKNOWN (newer version, unknown type, unknown coding).
 */
export function decodeHeader(buffer: Buffer, offset: number, source: RecordSource): RecordHeader {
  const headerBytes = checkedHeaderBytes(buffer, offset, source);
  const version = buffer.readUInt16LE(offset + 4);
  if (version !== HEADER_VERSION) throw unknown(source, offset, `header version ${version}`);
  const typeNumber = buffer.readUInt16LE(offset + 6);
  if (recordName(typeNumber) === undefined) throw unknown(source, offset, `record type ${typeNumber}`);
  const compression = COMPRESSION_NAMES[buffer.readUInt8(offset + 8)];
  if (compression === undefined) throw unknown(source, offset, `compression ${buffer.readUInt8(offset + 8)}`);
  const encryption = ENCRYPTION_NAMES[buffer.readUInt8(offset + 9)];
  if (encryption === undefined) throw unknown(source, offset, `encryption ${buffer.readUInt8(offset + 9)}`);
  const plainBytes = buffer.readUInt32LE(offset + 16);
  const codedBytes = buffer.readUInt32LE(offset + 20);
  if (plainBytes > DATA_LIMIT_BYTES || codedBytes > DATA_LIMIT_BYTES)
    throw corrupt(source, offset, `a record of ${plainBytes} bytes (${codedBytes} stored) is too long`);
  const tagBytes = encryption === 'plain' ? 0 : TAG_BYTES;
  if (codedBytes < tagBytes || (compression === 'none' && plainBytes + tagBytes !== codedBytes))
    throw corrupt(source, offset, 'lengths before and after coding differ without compression');
  return {
    type: typeNumber as RecordType, // recordName knows it
    compression,
    headerBytes,
    plainBytes,
    codedBytes,
    codedCrc32c: buffer.readUInt32LE(offset + 24),
    encryption,
    ordinal: buffer.readUInt32LE(offset + 28),
    bytes: buffer.subarray(offset, offset + headerBytes),
  };
}

/** The header's length in bytes, after its magic and checksum have been found right. */
function checkedHeaderBytes(buffer: Buffer, offset: number, source: RecordSource): number {
  if (buffer.length - offset < HEADER_BYTES)
    throw corrupt(source, offset, `only ${buffer.length - offset} bytes where a record header should be`);
  if (buffer.readUInt32LE(offset) !== MAGIC) throw corrupt(source, offset, 'no record header');
  const headerBytes = buffer.readUInt16LE(offset + 10);
  if (headerBytes < HEADER_BYTES || headerBytes > HEADER_LIMIT_BYTES)
    throw corrupt(source, offset, `a record header of ${headerBytes} bytes`);
  if (buffer.length - offset < headerBytes) throw corrupt(source, offset, 'the record header is cut short');
  let crc = crc32c(buffer.subarray(offset, offset + 12));
  crc = crc32c(ZERO, crc);
  crc = crc32c(buffer.subarray(offset + 16, offset + headerBytes), crc);
  if (crc !== buffer.readUInt32LE(offset + 12))
    throw corrupt(source, offset, 'the record header has a wrong checksum');
  return headerBytes;
}

/** DATA_CORRUPT, naming the file and the position in it. */
export function corrupt(source: RecordSource, offset: number, reason: string): HoldfastError {
  return new HoldfastError('DATA_CORRUPT', `${source.file} at offset ${at(source, offset)}: ${reason}`);
}

/** FORMAT_UNKNOWN, naming the file and the position in it. */
export function unknown(source: RecordSource, offset: number, what: string): HoldfastError {
  return new HoldfastError(
    'FORMAT_UNKNOWN',
    `${source.file} at offset ${at(source, offset)}: ${what} is not known to this version`,
    { hint: 'Read it with a newer Holdfast.' },
  );
}

function at(source: RecordSource, offset: number): number {
  return (source.base ?? 0) + offset;
}

const ZERO = Buffer.alloc(4);
const NOTHING = Buffer.alloc(0);
