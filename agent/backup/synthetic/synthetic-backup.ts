/**
 * A synthetic full of one partition group: a full set's part made of another set's at the destination. The source's index
 * is read three times as a stream: to see which macroblock files are mostly live, to hand out the work, and to write the new
 * index. Entries of what was written anew wait in an unnamed file. Nothing in memory grows with the number of blocks.
 */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { assert, defined } from '../../../foundation/assert.ts';
import { HoldfastError } from '../../../foundation/errors.ts';
import { type Lsn, toLsn } from '../../../foundation/lsn.ts';
import {
  type BackupProgress,
  type BackupResult,
  BackupResultSchema,
  type BackupTask,
} from '../../../proto/gen/holdfast/v1/agent_pb.ts';
import {
  type BackupFile,
  BackupFileSchema,
  FileDigestSchema,
  FileKind,
  PartitionGroupBackupSchema,
} from '../../../proto/gen/holdfast/v1/records_pb.ts';
import { combineCrc32c } from '../../../storage-layout/crc32c.ts';
import { opensAt } from '../../../storage-layout/encryption/key-ring.ts';
import type { MacroBlockEntry } from '../../../storage-layout/macroblock/entry.ts';
import { EntryStream } from '../../../storage-layout/macroblock/entry-stream.ts';
import { writeMacroBlockIndex } from '../../../storage-layout/macroblock/index.ts';
import type { Medium } from '../../../storage-layout/media/medium.ts';
import { openMedium } from '../../../storage-layout/media/open.ts';
import { withDataKeys } from '../../../storage-layout/media/with-keys.ts';
import type { FileFacts } from '../../../storage-layout/records/record-file.ts';
import { tree } from '../../../storage-layout/tree.ts';
import { JobPool } from '../../job-pool.ts';
import {
  openSourceSet,
  readBackupMeta,
  readDirectories,
  readFileBlocks,
  readFiles,
  type SourceSet,
} from '../../restore/backup-set.ts';
import type { TaskContext } from '../../task-context.ts';
import { Threads } from '../../threads.ts';
import { Counters } from '../counters.ts';
import { EntrySpill } from '../increment/entry-spill.ts';
import { netLimitsOf } from '../limits.ts';
import { type DescribedFile, writeMetaRecords } from '../meta-files.ts';
import { ProgressReporter } from '../progress.ts';
import { type BackupTarget, targetOf } from '../target.ts';
import type { SharedLimits } from '../throttle.ts';
import { pageCheckFailed } from './make-blocks.ts';
import { FileCopies, isMostlyLive, LiveBytes, TaskSize, taskBytes } from './plan.ts';
import type {
  SyntheticBlock,
  SyntheticFile,
  SyntheticJob,
  SyntheticWorkerData,
  SyntheticWorkerMessage,
} from './synthetic-job.ts';

const WORKER_FILE = new URL('synthetic-worker.ts', import.meta.url);
const MAX_AUTOMATIC_WORKERS = 4;

type Making = {
  readonly context: TaskContext;
  readonly task: BackupTask;
  readonly target: BackupTarget;
  readonly medium: Medium;
  readonly source: SourceSet;
  readonly copies: FileCopies;
  /** The data keys of the copies. */
  readonly keyIds: ReadonlySet<string>;
  readonly counters: Counters;
  readonly limits: SharedLimits;
  readonly workerCount: number;
};

/**
 * Makes the partition group's part of the set. Throws SYNTHETIC_BACKUP_REFUSED (a page of the source failed its check),
 * INVALID_BACKUP_SET_ID, BACKUP_FILE_NOT_EXIST, DATA_CORRUPT (the source is not what it should be), FILE_EXISTS (sub task
 * ids used before), DESTINATION_IO, DESTINATION_FULL, or the signal's reason.
 */
export async function runSyntheticBackup(
  context: TaskContext,
  task: BackupTask,
  report: (progress: BackupProgress) => void,
  signal: AbortSignal,
): Promise<BackupResult> {
  const target = targetOf(task);
  const opened = await (context.openMedium ?? openMedium)(target.uri, signal);
  await using medium = withDataKeys(opened, target.keys);
  const progress = new ProgressReporter(report);
  const { tenantId } = target.setKey;
  const key = { tenantId, fullSetId: task.sourceFullSetId, setId: task.sourceSetId };
  const source = await openSourceSet(medium, target.root, key, target.group, signal);
  const { copies, keyIds } = await planCopies(source, target, task.firstSubTaskId, signal);
  const counters = new Counters();
  const workerCount =
    task.concurrency === 0 ? Math.min(availableParallelism(), MAX_AUTOMATIC_WORKERS) : task.concurrency;
  const limits = netLimitsOf(context, task);
  const making = { context, task, target, medium, source, copies, keyIds, counters, limits, workerCount };
  const { inputBytes, fileCount, macroblockCount } = source.backup;
  const totals = {
    bytes: Number(inputBytes),
    files: Number(fileCount),
    macroblocks: Number(macroblockCount),
  };
  using spill = new EntrySpill(join(context.stateDirectory, 'increments'));
  let storedBytes: number;
  {
    using _ticking = progress.tick('COPY', totals, counters);
    storedBytes = await makeAll(making, spill, signal);
  }
  progress.send('STOP', totals, counters);
  const index = new IndexOfWholes(making, spill);
  const described = await describe(making, index, signal);
  context.logger.info(
    { backupSetId: String(task.backupSetId), sourceSetId: String(task.sourceSetId), storedBytes },
    'synthetic full made',
  );
  return create(BackupResultSchema, { backup: summarize(making, index, described, storedBytes) });
}

/**
 * Which macroblock files are copied whole; none whose data key the new set does not have. Throws SYNTHETIC_BACKUP_REFUSED,
 * BACKUP_FILE_NOT_EXIST.
 */
async function planCopies(
  source: SourceSet,
  target: BackupTarget,
  firstSubTaskId: number,
  signal: AbortSignal,
): Promise<{ readonly copies: FileCopies; readonly keyIds: ReadonlySet<string> }> {
  const live = new LiveBytes();
  for await (const { file, blocks } of readFileBlocks(source, signal))
    for (const block of blocks) {
      if (block.pageCheckFailed)
        throw pageCheckFailed(`a page of ${file.path} failed its check in backup set ${source.key.setId}`);
      live.add(block);
    }
  const sized = [];
  const keyIds = new Set<string>();
  for (const file of live.files()) {
    const { root, key, backup, medium } = source;
    const path = tree.macroBlock(root, { ...key, setId: file.setId }, backup.partitionGroup, file.subTaskId);
    const stored = await medium.stat(path, signal);
    if (stored === undefined)
      throw new HoldfastError('BACKUP_FILE_NOT_EXIST', `${path}: the file is missing`);
    const copy = tree.macroBlock(root, target.setKey, backup.partitionGroup, firstSubTaskId);
    const candidate = { ...file, sizeBytes: stored.sizeBytes };
    if (!isMostlyLive(candidate)) continue;
    const { opens, keyId } = await opensAt(medium, path, copy, signal);
    if (!opens) continue;
    sized.push(candidate);
    if (keyId !== undefined) keyIds.add(keyId);
  }
  return { copies: new FileCopies(sized, firstSubTaskId), keyIds };
}

/** Does all work on worker threads; returns the bytes that were stored. */
async function makeAll(making: Making, spill: EntrySpill, signal: AbortSignal): Promise<number> {
  let storedBytes = 0;
  const keep = (made: Exclude<SyntheticWorkerMessage, { readonly kind: 'failed' }>) => {
    storedBytes += made.storedBytes;
    if (made.entries.length > 0) spill.add(made);
  };
  await using pool = new JobPool<SyntheticJob, SyntheticWorkerMessage>(
    new Threads(WORKER_FILE),
    making.workerCount,
    workerSettings(making),
    keep,
  );
  for (const copy of making.copies.all) await pool.submit({ kind: 'copy', copy }, signal);
  await pool.drain(signal); // blocks are checked in the copies
  for await (const job of blockJobs(making, signal)) await pool.submit(job, signal);
  await pool.drain(signal);
  return storedBytes;
}

function workerSettings({ target, source, counters, limits, workerCount }: Making): SyntheticWorkerData {
  const { backup } = source;
  return {
    destinationUri: target.uri,
    keys: target.keys,
    root: target.root,
    group: target.group,
    source: source.key,
    target: target.setKey,
    compression: target.compression,
    pageChecksums: backup.pageChecksumVersion !== 0,
    start: toLsn(defined(backup.start, "a backup's start").lsn),
    stop: toLsn(defined(backup.stop, "a backup's stop").lsn),
    limits: limits.shared,
    workerCount,
    counters: counters.shared,
  };
}

/** All blocks of the source, in the order of its index. */
async function* blockJobs(making: Making, signal: AbortSignal): AsyncGenerator<SyntheticJob> {
  const { source, copies, task, counters } = making;
  const wantedBytes = taskBytes(Number(source.backup.inputBytes), making.workerCount);
  let subTaskId = task.firstSubTaskId + copies.all.length;
  let files: SyntheticFile[] = [];
  let blocks: SyntheticBlock[] = [];
  let size = new TaskSize(wantedBytes);
  for await (const { file, blocks: ofFile } of readFileBlocks(source, signal)) {
    for (const block of ofFile) {
      if (size.isFull) {
        yield { kind: 'blocks', subTaskId, files, blocks };
        subTaskId += 1;
        files = [];
        blocks = [];
        size = new TaskSize(wantedBytes);
      }
      if (files.at(-1)?.path !== file.path) files.push({ path: file.path, hasPages: hasPages(file) });
      const copy = copies.of(block);
      blocks.push({ ...block, file: files.length - 1, copiedTo: copy?.subTaskId });
      size.add(block.plainBytes, copy === undefined);
    }
    counters.add(
      'files',
      ofFile.at(-1)?.blockNumber === file.macroblockCount - 1 || ofFile.length === 0 ? 1 : 0,
    );
  }
  if (blocks.length > 0) yield { kind: 'blocks', subTaskId, files, blocks };
}

function hasPages({ kind }: BackupFile): boolean {
  return (
    kind === FileKind.RELATION_MAIN ||
    kind === FileKind.RELATION_FSM ||
    kind === FileKind.RELATION_VM ||
    kind === FileKind.RELATION_INIT
  );
}

/** The new index as a stream, and what is known when all of it was taken. */
class IndexOfWholes {
  /** Of each file, out of its blocks'. */
  readonly fileCrcs = new Map<number, number>();
  newestPageLsn: Lsn = toLsn(0n);
  readonly #making: Making;
  readonly #rewritten: EntryStream;

  constructor(making: Making, spill: EntrySpill) {
    this.#making = making;
    this.#rewritten = new EntryStream(spill.chunks());
  }

  async *entries(signal: AbortSignal): AsyncGenerator<MacroBlockEntry, void, undefined> {
    for await (const { file, blocks } of readFileBlocks(this.#making.source, signal)) {
      let crc = this.fileCrcs.get(file.fileNumber) ?? 0;
      for (const block of blocks) {
        const entry = await this.#entryOf(block);
        crc = combineCrc32c(crc, entry.crc32c, entry.plainBytes);
        if (entry.newestPageLsn > this.newestPageLsn) this.newestPageLsn = entry.newestPageLsn;
        yield entry;
      }
      this.fileCrcs.set(file.fileNumber, crc);
    }
  }

  async #entryOf(block: MacroBlockEntry): Promise<MacroBlockEntry> {
    const { copies, target } = this.#making;
    const copy = copies.of(block);
    if (copy !== undefined) return { ...block, setId: target.setKey.setId, subTaskId: copy.subTaskId };
    const { fileNumber, blockNumber, plainBytes } = block;
    const own = await this.#rewritten.find(fileNumber, blockNumber);
    assert(own?.plainBytes === plainBytes, `macroblock ${blockNumber} of file ${fileNumber} was made`);
    return own;
  }
}

/** Writes index and meta files. */
async function describe(
  making: Making,
  index: IndexOfWholes,
  signal: AbortSignal,
): Promise<readonly DescribedFile[]> {
  const { medium, target, task, source } = making;
  const { root, setKey, group } = target;
  const key = tree.macroBlockIndex(root, setKey, group, task.retry);
  const facts: FileFacts = await writeMacroBlockIndex(medium, key, index.entries(signal), signal);
  const records = {
    meta: await readBackupMeta(source, signal),
    files: filesOf(source, index.fileCrcs, signal),
    directories: readDirectories(source, signal),
  };
  const meta = await writeMetaRecords(medium, root, setKey, task.metaTaskId, records, signal);
  return [...meta, { key, facts }];
}

/** The source's files, each with its checksum: all blocks were read whole. */
async function* filesOf(
  source: SourceSet,
  crcs: ReadonlyMap<number, number>,
  signal: AbortSignal,
): AsyncGenerator<BackupFile> {
  for await (const { $typeName: _, $unknown: __, ...file } of readFiles(source, signal))
    yield create(BackupFileSchema, {
      ...file,
      crc32c: crcs.get(file.fileNumber) ?? 0,
      withoutCrc32c: false,
    });
}

function summarize(
  { task, target, source, keyIds }: Making,
  { newestPageLsn }: IndexOfWholes,
  described: readonly DescribedFile[],
  storedBytes: number,
) {
  const { $typeName: _, $unknown: __, ...backup } = source.backup;
  const prefix = `${tree.backupSetDirectory(target.root, target.setKey.tenantId, target.setKey.fullSetId)}/`;
  const describedBytes = described.reduce((sum, { facts }) => sum + facts.sizeBytes, 0n);
  return create(PartitionGroupBackupSchema, {
    ...backup,
    newestPageLsn,
    outputBytes: BigInt(storedBytes) + describedBytes,
    readBytes: 0n,
    previousSetId: 0n,
    sourceSetId: task.sourceSetId,
    carriedKeyIds: [...keyIds].map((id) => Buffer.from(id, 'hex')),
    taskId: task.metaTaskId,
    files: described.map(({ key, facts: { sizeBytes, sha256 } }) =>
      create(FileDigestSchema, { path: key.slice(prefix.length), sizeBytes, sha256 }),
    ),
    pageFailures: [],
  });
}
