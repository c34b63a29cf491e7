/** An index file as it stands at the destination, whole or not, for comparing it with its log file. */
import { isError } from '../../foundation/errors.ts';
import {
  type LogFileFacts,
  type LogFileIndex,
  readChangePayloads,
  readLogIndex,
} from '../../storage-layout/clog/index.ts';
import type { FileName } from '../../storage-layout/clog/log-file.ts';
import { tree } from '../../storage-layout/tree.ts';
import type { LogPlace } from './place.ts';

export type Stored =
  | { readonly kind: 'read'; readonly index: LogFileIndex; readonly payloads: readonly Buffer[] }
  | { readonly kind: 'damaged'; readonly reason: string }
  | { readonly kind: 'missing' };

/** Reads all of the index, the change map included. Throws the medium's errors. */
export async function readStored(place: LogPlace, name: FileName, signal: AbortSignal): Promise<Stored> {
  const { medium, root, round, group } = place;
  try {
    const index = await readLogIndex(medium, root, round, group, name, signal);
    const key = tree.logIndex(root, round, group, name.fileId, name.epoch);
    return { kind: 'read', index, payloads: await readChangePayloads(medium, key, signal) };
  } catch (error) {
    if (isError(error, 'FILE_NOT_FOUND')) return { kind: 'missing' };
    if (isError(error, 'DATA_CORRUPT', 'FORMAT_UNKNOWN')) return { kind: 'damaged', reason: error.message };
    throw error;
  }
}

/** What the blocks of a log file say, without what only a reader of the log's records knows. */
export function factsOf(index: LogFileFacts): LogFileFacts {
  const { fileId, epoch, timeline, begin, end, systemIdentifier, segmentSizeBytes, acceptedBytes, blocks } =
    index;
  return { fileId, epoch, timeline, begin, end, systemIdentifier, segmentSizeBytes, acceptedBytes, blocks };
}
