/**
 * The log files of one archiver, one after the other: created when there is something to write, sealed when full. One
 * owner appends, one append at a time. After any error the sequence must not be used again: what the destination holds
 * then is only known by reading it.
 */
import type { Clock } from '../../foundation/clock.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { type Lsn, type Timeline, toLsn } from '../../foundation/lsn.ts';
import { type LogCheckpointPoint, type LogUnbroken, writeLogIndex } from '../../storage-layout/clog/index.ts';
import type { AbandonedLogFile } from '../../storage-layout/clog/log-file.ts';
import { LogFileWriter } from '../../storage-layout/clog/writer.ts';
import type { Compression } from '../../storage-layout/macroblock/compress.ts';
import { tree } from '../../storage-layout/tree.ts';
import { checkMountFile } from '../mount-file.ts';
import { commitTimes, FindingsCollector } from './findings.ts';
import type { LogBlock } from './log-buffer.ts';
import type { LogPlace } from './place.ts';
import { mustSeal } from './policy.ts';

export type FileSequenceOptions = {
  readonly place: LogPlace;
  readonly epoch: bigint;
  readonly timeline: Timeline;
  readonly systemIdentifier: bigint;
  readonly segmentSizeBytes: number;
  readonly compression: Compression;
  readonly clock: Clock;
  /** The greatest file id that is taken. */
  readonly lastFileId: bigint;
  /** End of what is at the destination. */
  readonly end: Lsn;
  /** What the files may promise of those before them (storage-layout's LogFileFacts). */
  readonly unbroken: LogUnbroken;
  readonly maxCommitUs: bigint | undefined;
};

type OpenFile = {
  readonly begin: Lsn;
  readonly writer: LogFileWriter;
  readonly collector: FindingsCollector;
  /** Monotonic: a clock that is set back must not keep the file open. */
  readonly createdMs: number;
};

export class LogFileSequence implements AsyncDisposable {
  readonly #options: FileSequenceOptions;
  #file: OpenFile | undefined;
  #fileId: bigint;
  #durable: Lsn;
  #maxCommitUs: bigint | undefined;
  #unfinishedRecordBegin: Lsn | undefined;
  #sealedBytes = 0;
  #abandoned: AbandonedLogFile | undefined;

  constructor(options: FileSequenceOptions) {
    this.#options = options;
    this.#fileId = options.lastFileId;
    this.#durable = options.end;
    this.#maxCommitUs = options.maxCommitUs;
  }

  /** Every byte before it is at the destination. */
  get durable(): Lsn {
    return this.#durable;
  }

  /** The file that was begun last. */
  get fileId(): bigint {
    return this.#fileId;
  }

  /** The file that is open, or was when the sequence failed, as far as it is durable; undefined when all are sealed. */
  get abandoned(): AbandonedLogFile | undefined {
    return this.#abandoned;
  }

  /** Bytes written to the destination by this sequence. */
  get outputBytes(): number {
    return this.#sealedBytes + (this.#file?.writer.sizeBytes ?? 0);
  }

  /** Durable when it resolves. Seals the open file first when the block has no room in it. */
  async append(block: LogBlock, signal: AbortSignal): Promise<void> {
    const file = await this.#fileFor(block.data.length, signal);
    const events = block.pieces.flatMap((piece) => piece.events);
    await file.writer.appendBlock({
      begin: block.begin,
      data: [block.data],
      ...commitTimes(events),
    });
    file.collector.add(events);
    for (const piece of block.pieces) file.collector.addTouches(piece.touches);
    this.#unfinishedRecordBegin = block.pieces.at(-1)?.unfinishedRecordBegin;
    this.#durable = block.end;
    this.#noteDurable(file);
  }

  /** Records that all that was acknowledged before `timeUs` lies before `lsn`. Durable when it resolves. */
  async appendCheckpoint(point: LogCheckpointPoint, signal: AbortSignal): Promise<void> {
    const file = await this.#fileFor(0, signal);
    await file.writer.appendCheckpoint({
      ...point,
      lsn: toLsn(point.lsn < this.#durable ? point.lsn : this.#durable),
    });
    this.#noteDurable(file);
  }

  /**
   * Looks whether the medium is still there, and on it what was written: a file that is held open takes bytes also when
   * its name is gone. Throws BACKUP_MOUNT_FILE_NOT_VALID, FILE_NOT_FOUND.
   */
  async checkMedium(signal: AbortSignal): Promise<void> {
    const { place, epoch } = this.#options;
    await checkMountFile(place, signal);
    if (this.#file === undefined) return;
    const key = tree.logData(place.root, place.round, place.group, this.#fileId, epoch);
    const stored = await place.medium.stat(key, signal);
    if (stored !== undefined && stored.sizeBytes >= this.#file.writer.sizeBytes) return;
    throw new HoldfastError('FILE_NOT_FOUND', `${key} is gone from ${place.medium.displayUri}, or cut`);
  }

  /** Seals the open file if it holds the byte before `lsn` and all up to there is durable. */
  async sealUpTo(lsn: Lsn, signal: AbortSignal): Promise<void> {
    if (this.#file !== undefined && this.#file.begin < lsn && lsn <= this.#durable) await this.seal(signal);
  }

  /** Ends the open file, if there is one, and writes its index. */
  async seal(signal: AbortSignal): Promise<void> {
    const file = this.#file;
    if (file === undefined) return;
    const { medium, root, round, group } = this.#options.place;
    const findings = file.collector.findings(this.#unfinishedRecordBegin);
    await file.writer.close();
    await writeLogIndex(medium, root, round, group, { ...file.writer.facts(), ...findings }, signal);
    this.#maxCommitUs = findings.maxCommitUs;
    this.#sealedBytes += file.writer.sizeBytes;
    this.#file = undefined;
    this.#abandoned = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const file = this.#file;
    this.#file = undefined;
    // All that counts is durable already; a failed close must not hide why the sequence ends.
    await file?.writer.close().catch(() => undefined);
  }

  async #fileFor(nextBytes: number, signal: AbortSignal): Promise<OpenFile> {
    if (this.#file !== undefined && this.#isFull(this.#file, nextBytes)) await this.seal(signal);
    this.#file ??= await this.#create(signal);
    return this.#file;
  }

  #isFull({ writer, createdMs }: OpenFile, nextBytes: number): boolean {
    // An idle file takes checkpoint records until log comes: sealing it would only begin another empty one.
    if (nextBytes === 0) return false;
    const ageMs = this.#options.clock.monotonicMs() - createdMs;
    return mustSeal({ logBytes: writer.logBytes, flushes: writer.flushes, ageMs }, nextBytes);
  }

  async #create(signal: AbortSignal): Promise<OpenFile> {
    const { place, epoch, timeline, unbroken, systemIdentifier, segmentSizeBytes, compression, clock } =
      this.#options;
    await checkMountFile(place, signal);
    const createdMs = clock.monotonicMs();
    const writer = await LogFileWriter.create(
      place.medium,
      place.root,
      place.round,
      place.group,
      {
        fileId: this.#fileId + 1n,
        epoch,
        timeline,
        begin: this.#durable,
        unbroken,
        segmentSizeBytes,
        systemIdentifier,
        compression,
      },
      signal,
    );
    this.#fileId += 1n;
    const file = {
      begin: this.#durable,
      writer,
      collector: new FindingsCollector(this.#maxCommitUs),
      createdMs,
    };
    this.#noteDurable(file);
    return file;
  }

  #noteDurable({ writer }: OpenFile): void {
    this.#abandoned = { fileId: this.#fileId, epoch: this.#options.epoch, durableBytes: writer.sizeBytes };
  }
}
