/**
 * One log file being written: file header, a logFile record, then logBlock and logCheckpoint records as they come. Every
 * append is durable when it resolves. After a failed append nobody knows what the file holds behind `end`: it is not written
 * to again, and whoever goes on finds the end by reading (lookup.ts).
 */
import { assert } from '../../foundation/assert.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { type Lsn, type Timeline, toLsn } from '../../foundation/lsn.ts';
import { LogFileInfoSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { type FileCipher, type Seal, sealOf } from '../encryption/cipher.ts';
import { beginFile } from '../encryption/key-ring.ts';
import { BlockCompressor, type Compression } from '../macroblock/compress.ts';
import type { AppendableFile, Medium } from '../media/medium.ts';
import {
  type CompressedRecord,
  encodeRecord,
  encodeRecordHeader,
  putRecord,
  RECORD,
  recordBytes,
} from '../records/framing.ts';
import { encodeMessage } from '../records/messages.ts';
import { type RoundKey, type TreeRoot, tree } from '../tree.ts';
import { encodeLogBlockHeader, encodeLogCheckpointHeader } from './block.ts';
import {
  type LogBlockPlace,
  type LogCheckpointPoint,
  type LogFileFacts,
  type LogUnbroken,
  logFileInfo,
} from './index.ts';

export type LogFileOptions = {
  readonly fileId: bigint;
  readonly epoch: bigint;
  readonly timeline: Timeline;
  readonly begin: Lsn;
  /** As in LogFileFacts. */
  readonly unbroken?: LogUnbroken | undefined;
  readonly segmentSizeBytes: number;
  readonly systemIdentifier: bigint;
  readonly compression: Compression;
  /** When the file was begun, for the rule that seals it after an hour; default: now. */
  readonly createdMs?: number;
};

export type NewLogBlock = {
  /** Must be the writer's `end`. */
  readonly begin: Lsn;
  readonly data: readonly Uint8Array[];
  readonly firstCommitUs?: bigint | undefined;
  /** The greatest commit time in the block. */
  readonly lastCommitUs?: bigint | undefined;
};

export class LogFileWriter implements AsyncDisposable {
  readonly createdMs: number;
  readonly #file: AppendableFile;
  readonly #options: LogFileOptions;
  readonly #compressor: BlockCompressor;
  readonly #cipher: FileCipher | undefined;
  readonly #blocks: LogBlockPlace[] = [];
  #gathered: Buffer = Buffer.alloc(0);
  /** An encrypted record that is being written. */
  #record: Buffer = Buffer.alloc(0);
  /** Of all records, the file header's too. */
  #recordCount = 2;
  #end: Lsn;
  #flushes = 0;
  #firstCommitUs: bigint | undefined;
  #lastCommitUs: bigint | undefined;
  #checkpoint: LogCheckpointPoint | undefined;
  #isUsable = true;

  private constructor(file: AppendableFile, options: LogFileOptions, cipher: FileCipher | undefined) {
    this.#file = file;
    this.#cipher = cipher;
    this.#options = options;
    this.#compressor = new BlockCompressor(options.compression, 'log');
    this.#end = options.begin;
    this.createdMs = options.createdMs ?? Date.now();
  }

  /** Begins the file, durably. Throws FILE_EXISTS, or NOT_SUPPORTED on a medium without append. */
  static async create(
    medium: Medium,
    root: TreeRoot,
    round: RoundKey,
    group: string,
    options: LogFileOptions,
    signal?: AbortSignal,
  ): Promise<LogFileWriter> {
    if (!medium.capabilities.append) {
      throw new HoldfastError(
        'NOT_SUPPORTED',
        `${medium.displayUri} cannot append to a file: log archiving to it is not supported`,
      );
    }
    const key = tree.logData(root, round, group, options.fileId, options.epoch);
    const { header, cipher } = await beginFile(medium, key, RECORD.logBlock, signal);
    const file = await medium.createAppendable(key, signal);
    const payload = encodeMessage(LogFileInfoSchema, logFileInfo(round, group, options));
    try {
      await file.append([header, encodeRecord({ type: RECORD.logFile, payload, seal: sealOf(cipher, 1) })]);
    } catch (error) {
      await file[Symbol.asyncDispose]();
      throw error;
    }
    return new LogFileWriter(file, options, cipher);
  }

  /** End of the log in the file, exclusive. */
  get end(): Lsn {
    return this.#end;
  }

  /** Bytes of log in the file. */
  get logBytes(): number {
    return Number(this.#end - this.#options.begin);
  }

  /** Bytes of the file. */
  get sizeBytes(): number {
    return this.#file.sizeBytes;
  }

  /** Appends that were made durable. */
  get flushes(): number {
    return this.#flushes;
  }

  /** Appends the next bytes of the log; durable when it resolves. The buffers may be reused then. */
  async appendBlock(block: NewLogBlock): Promise<void> {
    assert(block.begin === this.#end, 'a log block begins where the file ends');
    const plain = this.#gather(block.data);
    assert(plain.length > 0, 'a log block has bytes');
    const { data, codec } = this.#compressor.compress(plain);
    const extension = encodeLogBlockHeader({
      timeline: this.#options.timeline,
      begin: block.begin,
      epoch: this.#options.epoch,
      firstCommitUs: block.firstCommitUs,
      lastCommitUs: block.lastCommitUs,
    });
    const record = {
      type: RECORD.logBlock,
      compression: codec,
      plainBytes: plain.length,
      data,
      extension,
      seal: this.#seal(),
    };
    const place = {
      begin: block.begin,
      offset: this.#file.sizeBytes,
      storedBytes: recordBytes(record),
      plainBytes: plain.length,
    };
    const { seal } = record;
    if (seal === undefined) await this.#append([encodeRecordHeader({ ...record, seal }), data]);
    else await this.#append([this.#put(record, place.storedBytes)]);
    this.#blocks.push(place);
    this.#end = toLsn(this.#end + BigInt(place.plainBytes));
    this.#firstCommitUs ??= block.firstCommitUs;
    if (block.lastCommitUs === undefined) return;
    this.#lastCommitUs = later(this.#lastCommitUs, block.lastCommitUs);
    this.#noteCheckpoint({ lsn: this.#end, timeUs: block.lastCommitUs });
  }

  /** Records that all that was acknowledged before `timeUs` lies before `lsn`, which is at most `end`. No log bytes. */
  async appendCheckpoint(point: LogCheckpointPoint): Promise<void> {
    assert(point.lsn <= this.#end, 'a log checkpoint lies in the log that is there');
    const extension = encodeLogCheckpointHeader({
      timeline: this.#options.timeline,
      epoch: this.#options.epoch,
      ...point,
    });
    const payload = Buffer.alloc(0);
    await this.#append([
      encodeRecord({ type: RECORD.logCheckpoint, payload, extension, seal: this.#seal() }),
    ]);
    this.#noteCheckpoint(point);
  }

  /** What an index of the file as it is now says, but for what only a reader of its records knows. */
  facts(): LogFileFacts {
    const { fileId, epoch, timeline, begin, unbroken, systemIdentifier, segmentSizeBytes } = this.#options;
    return {
      fileId,
      epoch,
      timeline,
      begin,
      end: this.#end,
      unbroken,
      systemIdentifier,
      segmentSizeBytes,
      acceptedBytes: this.#file.sizeBytes,
      blocks: [...this.#blocks],
      firstCommitUs: this.#firstCommitUs,
      lastCommitUs: this.#lastCommitUs,
      checkpoint: this.#checkpoint,
    };
  }

  /** Ends writing. All that was appended is durable already; the index file is the caller's to write. */
  async close(): Promise<void> {
    if (!this.#isUsable) return;
    this.#isUsable = false;
    await this.#file[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Of the next record. */
  #seal(): Seal | undefined {
    return sealOf(this.#cipher, this.#recordCount);
  }

  /** An encrypted record, in a buffer that is kept. */
  #put(record: CompressedRecord, storedBytes: number): Uint8Array {
    if (this.#record.length < storedBytes) this.#record = Buffer.allocUnsafeSlow(storedBytes);
    putRecord(this.#record, 0, record);
    return this.#record.subarray(0, storedBytes);
  }

  /** Appends one record. No ordinal is used twice: after a failure nothing more is written. */
  async #append(record: readonly Uint8Array[]): Promise<void> {
    assert(this.#isUsable, 'a log file is not written to after a failure or its end');
    try {
      await this.#file.append(record);
    } catch (error) {
      await this.close().catch(() => undefined); // the first error is the one to show
      throw error;
    }
    this.#flushes += 1;
    this.#recordCount += 1;
  }

  #noteCheckpoint(point: LogCheckpointPoint): void {
    if (this.#checkpoint === undefined || point.timeUs >= this.#checkpoint.timeUs)
      this.#checkpoint = { lsn: point.lsn, timeUs: point.timeUs };
  }

  /** The chunks as one, in a buffer that is kept. */
  #gather(chunks: readonly Uint8Array[]): Uint8Array {
    const [only] = chunks;
    if (only !== undefined && chunks.length === 1) return only;
    const sizeBytes = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
    if (this.#gathered.length < sizeBytes) this.#gathered = Buffer.allocUnsafeSlow(sizeBytes);
    let position = 0;
    for (const chunk of chunks) {
      this.#gathered.set(chunk, position);
      position += chunk.length;
    }
    return this.#gathered.subarray(0, sizeBytes);
  }
}

function later(a: bigint | undefined, b: bigint): bigint {
  return a === undefined || b > a ? b : a;
}
