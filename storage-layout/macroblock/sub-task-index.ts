/**
 * What one sub task of a backup has made durable: written once, beside its macroblock file and after it, so that another
 * attempt of the same set can take the blocks over. A record file: subTaskIndex, fileList chunks (numbers and paths only),
 * macroBlockIndex chunks. It names what may be taken over at all, blocks of relations' main forks whose pages are not
 * suspect; one of an attempt that took blocks over (`takenOver`) names those, and has no macroblock file of its own.
 * Nothing needs it once the set is published.
 */
import { create } from '@bufbuild/protobuf';
import {
  BackupFileSchema,
  FileListSchema,
  type SubTaskIndexInfo,
  SubTaskIndexInfoSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../media/medium.ts';
import { RECORD } from '../records/framing.ts';
import { unknown } from '../records/header.ts';
import { decodeMessage } from '../records/messages.ts';
import { CHUNK_BYTES, type PlacedRecord, RecordFileWriter, readRecordFile } from '../records/record-file.ts';
import { recordName } from '../records/types.ts';
import {
  checkWholeEntries,
  decodeMacroBlockEntry,
  ENTRY_BYTES,
  encodeMacroBlockEntry,
  type MacroBlockEntry,
} from './entry.ts';
import type { IndexChunk } from './index.ts';

const FILES_PER_RECORD = 2000;

/** A data file whose blocks are named. */
export type NamedFile = { readonly fileNumber: number; readonly path: string };

/** Writes one durably; `entries` in the order of an index. Throws FILE_EXISTS and the medium's errors. */
export async function writeSubTaskIndex(
  medium: Medium,
  key: string,
  info: SubTaskIndexInfo,
  files: Iterable<NamedFile>,
  entries: Iterable<MacroBlockEntry> | AsyncIterable<MacroBlockEntry>,
  signal?: AbortSignal,
): Promise<void> {
  await using writer = await RecordFileWriter.create(medium, key, RECORD.subTaskIndex, signal, 'zstd:1');
  await writer.appendMessage(SubTaskIndexInfoSchema, info);
  let list: NamedFile[] = [];
  const flushFiles = async () => {
    const named = list.map(({ fileNumber, path }) => create(BackupFileSchema, { fileNumber, path }));
    await writer.appendMessage(FileListSchema, create(FileListSchema, { files: named }));
    list = [];
  };
  for (const file of files) {
    list.push(file);
    if (list.length === FILES_PER_RECORD) await flushFiles();
  }
  if (list.length > 0) await flushFiles();
  let chunk = Buffer.alloc(16 * ENTRY_BYTES);
  let bytes = 0;
  for await (const entry of entries) {
    if (bytes === chunk.length) chunk = grown(chunk);
    encodeMacroBlockEntry(chunk, bytes, entry);
    bytes += ENTRY_BYTES;
    if (bytes < CHUNK_BYTES) continue;
    await writer.append(RECORD.macroBlockIndex, chunk.subarray(0, bytes));
    bytes = 0;
  }
  if (bytes > 0) await writer.append(RECORD.macroBlockIndex, chunk.subarray(0, bytes));
  await writer.close();
}

/** Most are small: a buffer of a whole chunk would cost more than their content. */
function grown(chunk: Buffer<ArrayBuffer>): Buffer<ArrayBuffer> {
  const larger = Buffer.alloc(Math.min(chunk.length * 4, CHUNK_BYTES));
  larger.set(chunk);
  return larger;
}

/** What one says but for its entries, and where they begin and end. */
export type SubTaskIndexHead = {
  readonly key: string;
  readonly info: SubTaskIndexInfo;
  readonly files: readonly NamedFile[];
  /** Undefined without entries. */
  readonly first: BlockId | undefined;
  readonly last: BlockId | undefined;
};
export type BlockId = { readonly fileNumber: number; readonly blockNumber: number };

/** Reads all of it once. Throws DATA_CORRUPT (damage, or not written to its end), FORMAT_UNKNOWN, FILE_NOT_FOUND. */
export async function readSubTaskIndexHead(
  medium: Medium,
  key: string,
  signal?: AbortSignal,
): Promise<SubTaskIndexHead> {
  const source = { file: key };
  let info: SubTaskIndexInfo | undefined;
  const files: NamedFile[] = [];
  let first: BlockId | undefined;
  let last: BlockId | undefined;
  for await (const record of readRecordFile(medium, key, RECORD.subTaskIndex, signal)) {
    const { type, payload, offset } = record;
    if (type === RECORD.subTaskIndex) info = decodeMessage(SubTaskIndexInfoSchema, payload, offset, source);
    else if (type === RECORD.fileList) {
      const list = decodeMessage(FileListSchema, payload, offset, source);
      for (const { fileNumber, path } of list.files) files.push({ fileNumber, path });
    } else {
      const chunk = chunkOf(record, key);
      if (chunk.payload.length === 0) continue;
      first ??= blockAt(chunk, 0);
      last = blockAt(chunk, chunk.payload.length - ENTRY_BYTES);
    }
  }
  if (info === undefined) throw unknown(source, 0, 'an index of a sub task that does not say of which');
  return { key, info, files, first, last };
}

/** The chunks of its entries, not decoded: for entry-stream.ts. Throws as `readSubTaskIndexHead`. */
export async function* readSubTaskIndexChunks(
  medium: Medium,
  key: string,
  signal?: AbortSignal,
): AsyncGenerator<IndexChunk, void, undefined> {
  for await (const record of readRecordFile(medium, key, RECORD.subTaskIndex, signal))
    if (record.type !== RECORD.subTaskIndex && record.type !== RECORD.fileList) yield chunkOf(record, key);
}

function chunkOf({ type, payload, offset: recordOffset }: PlacedRecord, key: string): IndexChunk {
  const source = { file: key };
  if (type !== RECORD.macroBlockIndex)
    throw unknown(source, recordOffset, `a ${recordName(type)} record in an index of a sub task`);
  checkWholeEntries(payload, recordOffset, source);
  return { payload, recordOffset, source };
}

function blockAt({ payload, recordOffset, source }: IndexChunk, offset: number): BlockId {
  const { fileNumber, blockNumber } = decodeMacroBlockEntry(payload, offset, recordOffset, source);
  return { fileNumber, blockNumber };
}
