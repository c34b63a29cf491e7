/**
 * Files of one record: write-once files (the truth) and summaries (rebuilt from them at any time). The record type follows
 * from the message. Those of sealed types are encrypted where files of several records are: a fileHeader stands before the
 * record then. The others tell, without a key, which backups and rounds there are.
 */
import type { DescMessage, MessageShape } from '@bufbuild/protobuf';
import { isError } from '../../foundation/errors.ts';
import { sealOf } from '../encryption/cipher.ts';
import { beginFile, cipherOf } from '../encryption/key-ring.ts';
import type { Compression } from '../macroblock/compress.ts';
import type { Medium } from '../media/medium.ts';
import { decodeRecord, encodeRecord } from './framing.ts';
import { corrupt } from './header.ts';
import { decodeMessage, encodeMessage, recordTypeOf } from './messages.ts';
import { RECORD, type RecordType, recordName } from './types.ts';

const COMPRESSION: Compression = 'zstd:3';
/** Smaller payloads stay readable in a hex dump. */
const COMPRESS_FROM_BYTES = 4096;
/** A history names restore points; a diagnosis, settings. */
const SEALED: ReadonlySet<RecordType> = new Set([RECORD.timelineHistory, RECORD.tenantDiagnoseInfo]);

/** Reads a file that must be there. Throws FILE_NOT_FOUND, DATA_CORRUPT, FORMAT_UNKNOWN, or the medium's errors. */
export async function readInfo<Desc extends DescMessage>(
  medium: Medium,
  key: string,
  schema: Desc,
  signal?: AbortSignal,
): Promise<MessageShape<Desc>> {
  const payload = await readBytes(medium, key, recordTypeOf(schema), signal);
  return decodeMessage(schema, payload, 0, { file: key });
}

/** Like `readInfo`, but undefined when there is no such file. */
export async function readInfoIfThere<Desc extends DescMessage>(
  medium: Medium,
  key: string,
  schema: Desc,
  signal?: AbortSignal,
): Promise<MessageShape<Desc> | undefined> {
  try {
    return await readInfo(medium, key, schema, signal);
  } catch (error) {
    if (isError(error, 'FILE_NOT_FOUND')) return undefined;
    throw error;
  }
}

/** Writes a file that never changes, durably. Throws FILE_EXISTS when it is there. */
export async function writeOnce<Desc extends DescMessage>(
  medium: Medium,
  key: string,
  schema: Desc,
  message: MessageShape<Desc>,
  signal?: AbortSignal,
): Promise<void> {
  await medium.createExclusive(key, await encodeInfo(medium, key, schema, message, signal), signal);
}

/** Puts a summary in place of the one before, in one act. */
export async function replaceSummary<Desc extends DescMessage>(
  medium: Medium,
  key: string,
  schema: Desc,
  message: MessageShape<Desc>,
  signal?: AbortSignal,
): Promise<void> {
  await medium.replace(key, await encodeInfo(medium, key, schema, message, signal), signal);
}

/** Writes a file that never changes and whose payload is no message (a timeline's history). Throws FILE_EXISTS. */
export async function writeBytesOnce(
  medium: Medium,
  key: string,
  type: RecordType,
  payload: Uint8Array,
  signal?: AbortSignal,
): Promise<void> {
  await medium.createExclusive(key, await encodeFile(medium, key, type, payload, signal), signal);
}

/**
 * Reads the payload of a file of one record. Throws FILE_NOT_FOUND, DATA_CORRUPT (another type, too), FORMAT_UNKNOWN;
 * BACKUP_INVALID_PASSWORD when it is encrypted and its key is not known.
 */
export async function readBytes(
  medium: Medium,
  key: string,
  type: RecordType,
  signal?: AbortSignal,
): Promise<Buffer> {
  const bytes = await medium.read(key, signal);
  const first = decodeRecord(bytes, 0, { file: key });
  const isSealed = first.type === RECORD.fileHeader && SEALED.has(type);
  if (!isSealed && SEALED.has(type) && ((await medium.keys?.keysFor(key, signal)) ?? []).length > 0)
    throw corrupt({ file: key }, 0, 'a plain file where files are encrypted');
  const cipher = isSealed ? await cipherOf(medium, first, { file: key }, signal) : undefined;
  const source = { file: key, cipher };
  const record = isSealed ? decodeRecord(bytes, first.next, source) : first;
  if (record.type !== type)
    throw corrupt(source, 0, `a ${recordName(record.type)} record where a ${recordName(type)} should be`);
  if (record.next !== bytes.length) throw corrupt(source, record.next, 'bytes behind the only record');
  return record.payload;
}

async function encodeInfo<Desc extends DescMessage>(
  medium: Medium,
  key: string,
  schema: Desc,
  message: MessageShape<Desc>,
  signal: AbortSignal | undefined,
): Promise<Buffer> {
  return await encodeFile(medium, key, recordTypeOf(schema), encodeMessage(schema, message), signal);
}

async function encodeFile(
  medium: Medium,
  key: string,
  type: RecordType,
  payload: Uint8Array,
  signal: AbortSignal | undefined,
): Promise<Buffer> {
  const compression = payload.length < COMPRESS_FROM_BYTES ? 'none' : COMPRESSION;
  if (!SEALED.has(type)) return encodeRecord({ type, payload, compression });
  const { header, cipher } = await beginFile(medium, key, type, signal);
  if (cipher === undefined) return encodeRecord({ type, payload, compression });
  return Buffer.concat([header, encodeRecord({ type, payload, compression, seal: sealOf(cipher, 1) })]);
}
