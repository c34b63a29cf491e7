/**
 * The macroblock index of one backup: an entry (entry.ts) for every macroblock of the partition group, wherever it is stored,
 * in strictly ascending order of (file number, block number). A record file (records/record-file.ts) of chunks.
 */
import { assert } from '../../foundation/assert.ts';
import type { Medium } from '../media/medium.ts';
import { RECORD } from '../records/framing.ts';
import { corrupt, type RecordSource, unknown } from '../records/header.ts';
import { CHUNK_BYTES, type FileFacts, RecordFileWriter, readRecordFile } from '../records/record-file.ts';
import { recordName } from '../records/types.ts';
import {
  checkWholeEntries,
  compareEntries,
  decodeMacroBlockEntries,
  ENTRY_BYTES,
  encodeMacroBlockEntry,
  type MacroBlockEntry,
} from './entry.ts';

const ENTRIES_PER_CHUNK = CHUNK_BYTES / ENTRY_BYTES;

/**
 * Writes a whole index. The entries must come in strictly ascending (fileNumber, blockNumber) order. Throws FILE_EXISTS and
 * the medium's errors.
 */
export async function writeMacroBlockIndex(
  medium: Medium,
  key: string,
  entries: Iterable<MacroBlockEntry> | AsyncIterable<MacroBlockEntry>,
  signal?: AbortSignal,
): Promise<FileFacts & { readonly entryCount: number }> {
  await using writer = await RecordFileWriter.create(medium, key, RECORD.macroBlockIndex, signal, 'zstd:1');
  const chunk = Buffer.alloc(CHUNK_BYTES);
  let inChunk = 0;
  let entryCount = 0;
  let previous: MacroBlockEntry | undefined;
  const flush = async () => {
    signal?.throwIfAborted();
    await writer.append(RECORD.macroBlockIndex, chunk.subarray(0, inChunk * ENTRY_BYTES));
    inChunk = 0;
  };
  for await (const entry of entries) {
    assert(previous === undefined || compareEntries(previous, entry) < 0, 'index entries ascend');
    encodeMacroBlockEntry(chunk, inChunk * ENTRY_BYTES, entry);
    previous = entry;
    inChunk += 1;
    entryCount += 1;
    if (inChunk === ENTRIES_PER_CHUNK) await flush();
  }
  if (inChunk > 0) await flush();
  return { ...(await writer.close()), entryCount };
}

/**
 * The entries of an index in order, a chunk (at most 1 MiB) at a time. Throws DATA_CORRUPT (damage, disorder, no end mark),
 * FORMAT_UNKNOWN, FILE_NOT_FOUND.
 */
export async function* readMacroBlockIndex(
  medium: Medium,
  key: string,
  signal?: AbortSignal,
): AsyncIterable<readonly MacroBlockEntry[]> {
  let previous: MacroBlockEntry | undefined;
  for await (const { payload, recordOffset, source } of readIndexChunks(medium, key, signal)) {
    const entries = decodeMacroBlockEntries(payload, recordOffset, source);
    for (const entry of entries) {
      if (previous !== undefined && compareEntries(previous, entry) >= 0)
        throw corrupt(source, recordOffset, 'the entries of the index are out of order');
      previous = entry;
    }
    yield entries;
  }
}

/** A whole number of encoded entries, and where they stand. */
export type IndexChunk = {
  readonly payload: Buffer;
  readonly recordOffset: number;
  readonly source: RecordSource;
};

/** The chunks of an index, their entries not decoded: for entry-stream.ts. Throws as `readMacroBlockIndex`. */
export async function* readIndexChunks(
  medium: Medium,
  key: string,
  signal?: AbortSignal,
): AsyncGenerator<IndexChunk, void, undefined> {
  const source = { file: key };
  for await (const record of readRecordFile(medium, key, RECORD.macroBlockIndex, signal)) {
    const { type, payload, offset: recordOffset } = record;
    if (type !== RECORD.macroBlockIndex)
      throw unknown(source, recordOffset, `a ${recordName(type)} record in a macroblock index`);
    checkWholeEntries(payload, recordOffset, source);
    yield { payload, recordOffset, source };
  }
}
