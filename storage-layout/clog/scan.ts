/**
 * What a log file without an index holds: read record by record up to the first that is not whole and right. A torn tail is
 * thereby cut off; what is behind the cut is told, so that damage in the middle of a file does not look like its end.
 */
import { isError } from '../../foundation/errors.ts';
import { type Lsn, type Timeline, toLsn, toTimeline } from '../../foundation/lsn.ts';
import { LogFileInfoSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../media/medium.ts';
import { decodeFileHeader, RECORD } from '../records/framing.ts';
import { corrupt, type RecordSource, unknown } from '../records/header.ts';
import { decodeMessage } from '../records/messages.ts';
import { type PlacedRecord, readRecords } from '../records/record-file.ts';
import { recordName } from '../records/types.ts';
import { decodeLogBlockHeader, decodeLogCheckpointHeader } from './block.ts';
import { type LogBlockPlace, type LogCheckpointPoint, type LogFileFacts, unbrokenOf } from './index.ts';

/** Where reading stopped before the end of the file, and why. */
export type IgnoredTail = { readonly offset: number; readonly reason: string };
export type ScannedLogFile = {
  /** Undefined when not even the file's description is whole: then it holds no log. */
  readonly facts: LogFileFacts | undefined;
  readonly ignored: IgnoredTail | undefined;
};

/**
 * Reads the whole file, or what ends within its first `limitBytes`, and hands out the log of every whole block. Damage ends it and is no error; FORMAT_UNKNOWN and the
 * medium's errors are thrown.
 */
export async function scanLogFile(
  medium: Medium,
  key: string,
  signal?: AbortSignal,
  limitBytes = Number.POSITIVE_INFINITY,
  onBlock: (begin: Lsn, data: Buffer) => void = () => undefined,
): Promise<ScannedLogFile> {
  const scan = new Scan({ file: key });
  try {
    for await (const record of readRecords(medium, key, signal)) {
      if (record.offset + record.header.headerBytes + record.header.codedBytes > limitBytes) {
        const reason = `${key}: what is behind offset ${scan.position} was never made durable`;
        return { facts: scan.facts(), ignored: { offset: scan.position, reason } };
      }
      scan.next(record);
      if (record.type === RECORD.logBlock) onBlock(scan.blockBegin, record.payload);
    }
  } catch (error) {
    if (!isError(error, 'DATA_CORRUPT')) throw error;
    return { facts: scan.facts(), ignored: { offset: scan.position, reason: error.message } };
  }
  return { facts: scan.facts(), ignored: undefined };
}

class Scan {
  /** End of the last record that counts. */
  position = 0;
  readonly #source: RecordSource;
  readonly #blocks: LogBlockPlace[] = [];
  #file: Omit<LogFileFacts, 'end' | 'acceptedBytes' | 'blocks'> | undefined;
  #end: Lsn = toLsn(0n);
  #firstCommitUs: bigint | undefined;
  #lastCommitUs: bigint | undefined;
  #checkpoint: LogCheckpointPoint | undefined;

  constructor(source: RecordSource) {
    this.#source = source;
  }

  next(record: PlacedRecord): void {
    if (record.offset === 0) this.#checkHeader(record);
    else if (this.#file === undefined) this.#describe(record);
    else if (record.type === RECORD.logBlock) this.#addBlock(record, this.#file);
    else if (record.type === RECORD.logCheckpoint) this.#addCheckpoint(record, this.#file);
    else if (record.type === RECORD.fileHeader || record.type === RECORD.logFile)
      // No version writes these twice: the first append was repeated, after it had come through.
      throw corrupt(this.#source, record.offset, 'the beginning of the log file stands there once more');
    else throw unknown(this.#source, record.offset, `a ${recordName(record.type)} record in a log file`);
    this.position = record.offset + record.header.headerBytes + record.header.codedBytes;
  }

  /** Of the block that came last. */
  get blockBegin(): Lsn {
    return this.#blocks.at(-1)?.begin ?? this.#end;
  }

  facts(): LogFileFacts | undefined {
    if (this.#file === undefined) return undefined;
    return {
      ...this.#file,
      end: this.#end,
      acceptedBytes: this.position,
      blocks: this.#blocks,
      firstCommitUs: this.#firstCommitUs,
      lastCommitUs: this.#lastCommitUs,
      checkpoint: this.#checkpoint,
    };
  }

  #checkHeader(record: PlacedRecord): void {
    const { contents } = decodeFileHeader(record, this.#source);
    if (contents !== RECORD.logBlock)
      throw unknown(this.#source, 0, `a ${recordName(contents)} file where a log file should be`);
  }

  #describe(record: PlacedRecord): void {
    if (record.type !== RECORD.logFile)
      throw corrupt(this.#source, record.offset, 'the log file does not say what it holds');
    const info = decodeMessage(LogFileInfoSchema, record.payload, record.offset, this.#source);
    if (info.timeline === 0) throw corrupt(this.#source, record.offset, 'a log file of timeline 0');
    this.#end = toLsn(info.begin);
    this.#file = {
      fileId: info.fileId,
      epoch: info.epoch,
      timeline: toTimeline(info.timeline),
      begin: this.#end,
      unbroken: unbrokenOf(info),
      systemIdentifier: info.systemIdentifier,
      segmentSizeBytes: info.segmentSizeBytes,
    };
  }

  #addBlock(record: PlacedRecord, file: { readonly timeline: Timeline; readonly epoch: bigint }): void {
    const block = decodeLogBlockHeader(record.extension, record.offset, this.#source);
    if (block.begin !== this.#end || block.timeline !== file.timeline || block.epoch !== file.epoch)
      throw corrupt(this.#source, record.offset, 'the log block does not follow the one before it');
    this.#blocks.push({
      begin: block.begin,
      offset: record.offset,
      storedBytes: record.header.headerBytes + record.header.codedBytes,
      plainBytes: record.header.plainBytes,
    });
    this.#end = toLsn(block.begin + BigInt(record.header.plainBytes));
    this.#firstCommitUs ??= block.firstCommitUs;
    if (block.lastCommitUs === undefined) return;
    if (this.#lastCommitUs === undefined || block.lastCommitUs > this.#lastCommitUs)
      this.#lastCommitUs = block.lastCommitUs;
    this.#noteCheckpoint({ lsn: this.#end, timeUs: block.lastCommitUs });
  }

  #addCheckpoint(record: PlacedRecord, file: { readonly epoch: bigint }): void {
    const point = decodeLogCheckpointHeader(record.extension, record.offset, this.#source);
    if (point.epoch !== file.epoch || point.lsn > this.#end)
      throw corrupt(this.#source, record.offset, 'the log checkpoint does not belong to this file');
    this.#noteCheckpoint({ lsn: point.lsn, timeUs: point.timeUs });
  }

  #noteCheckpoint(point: LogCheckpointPoint): void {
    if (this.#checkpoint === undefined || point.timeUs >= this.#checkpoint.timeUs) this.#checkpoint = point;
  }
}
