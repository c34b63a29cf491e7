/** The log that a fake agent archives: real files with bytes that are no log. */
import { create } from '@bufbuild/protobuf';
import { type Lsn, toTimeline } from '../../foundation/lsn.ts';
import {
  type ArchiveProgress,
  ArchiveProgressSchema,
  type ArchiveTask,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import type { ChangeMapParts } from '../../storage-layout/clog/change-map.ts';
import { writeLogIndex } from '../../storage-layout/clog/index.ts';
import { LogFileWriter } from '../../storage-layout/clog/writer.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { LOG_BEGIN } from './fake-heartbeat.ts';

export const SEGMENT_BYTES = 16 * 2 ** 20;
const NO_CHANGES: ChangeMapParts = {
  forks: [],
  droppedRelations: [],
  createdDatabases: [],
  droppedDatabases: [],
  unknownSpecial: undefined,
  walLevelMinimal: false,
};

export type FakeArchiveOptions = {
  readonly task: ArchiveTask;
  readonly systemIdentifier: bigint;
  /** Whether files are sealed when that is asked for, with a change map in which nothing was changed. */
  readonly seals: boolean;
  /** Of the same round and partition group, which has ended: where this one goes on. */
  readonly before: FakeArchive | undefined;
};

export class FakeArchive {
  readonly task: ArchiveTask;
  checkpointUs: bigint;
  readonly #options: FakeArchiveOptions;
  readonly #medium: Medium;
  #fileId: bigint;
  #writer: LogFileWriter;

  static async begin(options: FakeArchiveOptions): Promise<FakeArchive> {
    const { task, seals, before } = options;
    const medium = await openMedium(task.destination?.uri ?? '');
    const goesOn = seals && before !== undefined;
    const fileId = goesOn ? before.#fileId + 1n : task.epoch;
    const writer = await createFile(medium, options, fileId, goesOn ? before.end : LOG_BEGIN);
    return new FakeArchive(options, medium, fileId, writer);
  }

  private constructor(options: FakeArchiveOptions, medium: Medium, fileId: bigint, writer: LogFileWriter) {
    this.task = options.task;
    this.checkpointUs = BigInt(Date.now()) * 1000n;
    this.#options = options;
    this.#medium = medium;
    this.#fileId = fileId;
    this.#writer = writer;
  }

  /** End of what is archived. */
  get end(): Lsn {
    return this.#writer.end;
  }

  /** Archives up to `lsn`; seals what is there when it was asked to, and begins another file. */
  async flush(lsn: Lsn, seal: boolean): Promise<void> {
    const { end } = this.#writer;
    if (end < lsn) {
      const data = Buffer.alloc(Number(lsn - end), 7);
      await this.#writer.appendBlock({ begin: end, data: [data] });
    }
    if (!seal || !this.#options.seals || this.#begin >= lsn) return;
    await this.#seal();
    this.#fileId += 1n;
    this.#writer = await createFile(this.#medium, this.#options, this.#fileId, this.end);
  }

  /** Nothing is written any more. */
  async stop(): Promise<void> {
    if (this.#options.seals && this.#begin < this.end) await this.#seal();
    await this.#writer[Symbol.asyncDispose]();
    await this.#medium[Symbol.asyncDispose]();
  }

  progress(): ArchiveProgress {
    return create(ArchiveProgressSchema, {
      state: 'DOING',
      start: { timeline: 1, lsn: LOG_BEGIN },
      durable: { timeline: 1, lsn: this.end },
      checkpointUs: this.checkpointUs,
      serverLsn: this.end,
      serverUs: this.checkpointUs,
      inputBytes: BigInt(this.#writer.logBytes),
      outputBytes: BigInt(this.#writer.logBytes),
      systemIdentifier: this.#options.systemIdentifier,
      segmentSizeBytes: SEGMENT_BYTES,
      postgresMajor: 17,
      startUs: 1_000_000n,
    });
  }

  get #begin(): Lsn {
    return this.#writer.facts().begin;
  }

  async #seal(): Promise<void> {
    const { task } = this.#options;
    await this.#writer.close();
    const findings = { checkpoints: [], restorePoints: [], changeMap: NO_CHANGES };
    const index = { ...this.#writer.facts(), ...findings };
    await writeLogIndex(this.#medium, rootOf(task), roundOf(task), task.partitionGroup, index);
  }
}

async function createFile(
  medium: Medium,
  { task, systemIdentifier }: FakeArchiveOptions,
  fileId: bigint,
  begin: Lsn,
): Promise<LogFileWriter> {
  return await LogFileWriter.create(medium, rootOf(task), roundOf(task), task.partitionGroup, {
    fileId,
    epoch: task.epoch,
    timeline: toTimeline(1),
    begin,
    segmentSizeBytes: SEGMENT_BYTES,
    systemIdentifier,
    compression: 'none',
  });
}

function rootOf({ destination }: ArchiveTask) {
  return { clusterName: destination?.clusterName ?? '', clusterId: destination?.clusterId ?? 0n };
}

function roundOf({ tenantId, round }: ArchiveTask) {
  return { tenantId, round };
}
