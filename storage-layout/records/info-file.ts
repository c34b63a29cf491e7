/**
 * Files of one record: write-once files (the truth) and summaries (rebuilt from them at any time). The record type follows
 * from the message.
 */
import type { DescMessage, MessageShape } from '@bufbuild/protobuf';
import { isError } from '../../foundation/errors.ts';
import type { Compression } from '../macroblock/compress.ts';
import type { Medium } from '../media/medium.ts';
import { decodeRecord, encodeRecord } from './framing.ts';
import { corrupt } from './header.ts';
import { decodeMessage, encodeMessage, recordTypeOf } from './messages.ts';
import { type RecordType, recordName } from './types.ts';

const COMPRESSION: Compression = 'zstd:3';
/** Smaller payloads stay readable in a hex dump. */
const COMPRESS_FROM_BYTES = 4096;

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
  await medium.createExclusive(key, encodeInfo(schema, message), signal);
}

/** Puts a summary in place of the one before, in one act. */
export async function replaceSummary<Desc extends DescMessage>(
  medium: Medium,
  key: string,
  schema: Desc,
  message: MessageShape<Desc>,
  signal?: AbortSignal,
): Promise<void> {
  await medium.replace(key, encodeInfo(schema, message), signal);
}

/** Writes a file that never changes and whose payload is no message (a timeline's history). Throws FILE_EXISTS. */
export async function writeBytesOnce(
  medium: Medium,
  key: string,
  type: RecordType,
  payload: Uint8Array,
  signal?: AbortSignal,
): Promise<void> {
  await medium.createExclusive(key, encodeRecord({ type, payload }), signal);
}

/** Reads the payload of a file of one record. Throws FILE_NOT_FOUND, DATA_CORRUPT (another type, too), FORMAT_UNKNOWN. */
export async function readBytes(
  medium: Medium,
  key: string,
  type: RecordType,
  signal?: AbortSignal,
): Promise<Buffer> {
  const bytes = await medium.read(key, signal);
  const source = { file: key };
  const record = decodeRecord(bytes, 0, source);
  if (record.type !== type)
    throw corrupt(source, 0, `a ${recordName(record.type)} record where a ${recordName(type)} should be`);
  if (record.next !== bytes.length) throw corrupt(source, record.next, 'bytes behind the only record');
  return record.payload;
}

function encodeInfo<Desc extends DescMessage>(schema: Desc, message: MessageShape<Desc>): Buffer {
  const payload = encodeMessage(schema, message);
  const compression = payload.length < COMPRESS_FROM_BYTES ? 'none' : COMPRESSION;
  return encodeRecord({ type: recordTypeOf(schema), payload, compression });
}
