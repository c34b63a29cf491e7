/**
 * One partition group's part of a backup set, read and checked in every way:
 *
 *   META   the commit point; the files that it holds the SHA-256 of; the meta index against the meta file; label
 *   DATA   file list and block index against each other; every block (check-block.ts), by worker threads, an increment's
 *          with those that earlier sets of the same full backup hold; each file's checksum out of its blocks', where all
 *          of them are stored whole; the frames of the macroblock files
 *   LOG    the log from the set's start to its stop (check-log.ts)
 *
 * What a damaged file leads to is not believed: without its index, the macroblock files are read record by record.
 * Memory is bounded: index and file list are streams in step, and a fixed number of blocks is in flight.
 */
import { availableParallelism } from 'node:os';
import { checkBackupLabel } from '../../engine/postgres/restore/backup-label.ts';
import { toLsn } from '../../foundation/lsn.ts';
import {
  type BackupFile,
  type BackupMeta,
  FileKind,
  type PartitionGroupBackup,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { rangeBytes, windowOf } from '../../storage-layout/clog/set-window.ts';
import { combineCrc32c } from '../../storage-layout/crc32c.ts';
import { setKeyPlace } from '../../storage-layout/encryption/key-records.ts';
import type { DataKey } from '../../storage-layout/encryption/key-ring.ts';
import { isStoredWhole } from '../../storage-layout/macroblock/delta.ts';
import type { MacroBlockEntry, MacroBlockPlace } from '../../storage-layout/macroblock/entry.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import type { SetKey, TreeRoot } from '../../storage-layout/tree.ts';
import { JobPool } from '../job-pool.ts';
import { isControlFile, readBackupMeta, readFileBlocks, type SourceSet } from '../restore/backup-set.ts';
import { Threads } from '../threads.ts';
import { checkAllRecords, checkFrame } from './check-frames.ts';
import {
  type CheckedBlock,
  type CheckedFile,
  type CheckJob,
  type CheckWorkerMessage,
  JOB_BLOCKS,
  JOB_BYTES,
} from './check-job.ts';
import { checkKeyRecord } from './check-keys.ts';
import {
  checkCommitPoint,
  checkDescribedFiles,
  checkMetaIndex,
  checkSideFiles,
  type Published,
} from './check-meta.ts';
import { type Findings, tolerate } from './findings.ts';
import type { ValidationReporter } from './progress.ts';

const WORKER_FILE = new URL('check-worker.ts', import.meta.url);
const MAX_WORKERS = 16;

export type SetSubject = {
  /** May hold credentials: never logged. */
  readonly uri: string;
  readonly keys?: readonly DataKey[] | undefined;
  readonly medium: Medium;
  readonly root: TreeRoot;
  readonly key: SetKey;
  readonly partitionGroup: string;
  /** Worker threads; undefined: one per core. */
  readonly concurrency: number | undefined;
};

export type CheckedSet = {
  readonly published: Published | undefined;
  /** Names by oid, as far as the backup tells them. */
  readonly databases: ReadonlyMap<number, string>;
};

/** Everything but the log. Throws the medium's errors; damage goes to `findings`. */
export async function checkSet(
  subject: SetSubject,
  findings: Findings,
  reporter: ValidationReporter,
  signal: AbortSignal,
): Promise<CheckedSet> {
  const { medium, root, key, partitionGroup } = subject;
  await using threads = new Threads(WORKER_FILE, workerCount(subject));
  reporter.set({ phase: 'META' });
  const published = await checkCommitPoint(medium, root, key, partitionGroup, findings, signal);
  if (published === undefined) return { published, databases: new Map() };
  const { backup, encryptionMode } = published;
  if (!(await checkKeyRecord(setKeyPlace(medium, root, key), encryptionMode, findings, signal)))
    return { published, databases: new Map() };
  if (published.isFirst) await checkSideFiles(medium, root, key, findings, signal);
  reporter.set({
    bytesTotal: backup.inputBytes,
    blocksTotal: backup.macroblockCount,
    logBytesTotal: rangeBytes(windowOf(backup)),
  });
  const whole = await checkDescribedFiles(medium, root, key, backup, findings, signal);
  const metaKey = whole.get('metaFile');
  const metaIndexKey = whole.get('metaIndexFile');
  const indexKey = whole.get('macroBlockIndex');
  if (metaKey !== undefined && metaIndexKey !== undefined)
    await checkMetaIndex(medium, metaKey, metaIndexKey, findings, signal);
  const meta = await readMeta(subject, backup, metaKey, findings, signal);
  const databases = new Map(meta?.databases.map(({ oid, name }) => [oid, name]));
  reporter.set({ phase: 'DATA', findingCount: findings.count });
  if (metaKey === undefined || indexKey === undefined) {
    await checkAllRecords(medium, root, key, partitionGroup, findings, signal);
    return { published, databases };
  }
  const source = { medium, root, key, backup, metaKey, indexKey };
  await checkData(subject, source, threads, findings, reporter, signal);
  return { published, databases };
}

async function readMeta(
  { medium }: SetSubject,
  backup: PartitionGroupBackup,
  metaKey: string | undefined,
  findings: Findings,
  signal: AbortSignal,
): Promise<BackupMeta | undefined> {
  if (metaKey === undefined) return undefined;
  return await tolerate(findings, metaKey, async () => {
    const meta = await readBackupMeta({ medium, metaKey }, signal);
    checkBackupLabel(meta.backupLabel, toLsn(backup.start?.lsn ?? 0n));
    return meta;
  });
}

type Source = Pick<SourceSet, 'medium' | 'root' | 'key' | 'backup' | 'metaKey' | 'indexKey'>;

async function checkData(
  subject: SetSubject,
  source: Source,
  threads: Threads,
  findings: Findings,
  reporter: ValidationReporter,
  signal: AbortSignal,
): Promise<void> {
  const { medium, root, key, partitionGroup } = subject;
  const files = new Map<string, { readonly setId: bigint; readonly subTaskId: number }>();
  await using pool = openPool(subject, source.backup, threads, findings, reporter);
  await tolerate(findings, source.indexKey, async () => {
    const batch = new CheckBatch();
    const sums = new FileSums(source, findings);
    for await (const { file, blocks } of readFileBlocks(source, signal)) {
      sums.add(file, blocks);
      for (const { setId, subTaskId } of blocks.flatMap(placesOf))
        files.set(`${setId}.${subTaskId}`, { setId, subTaskId });
      for (const block of blocks) {
        if (batch.isFullWith(block)) await pool.submit(batch.take(), signal);
        batch.add(file, block);
      }
    }
    sums.finish();
    await pool.submit(batch.take(), signal);
  });
  await pool.drain(signal);
  for (const { setId, subTaskId } of files.values())
    await checkFrame(medium, root, { ...key, setId }, partitionGroup, subTaskId, findings, signal);
}

function placesOf(block: MacroBlockEntry): readonly MacroBlockPlace[] {
  return block.delta === undefined ? [block] : [block, block.delta];
}

function workerCount({ concurrency }: SetSubject): number {
  return Math.min(Math.max(concurrency ?? availableParallelism(), 1), MAX_WORKERS);
}

function openPool(
  subject: SetSubject,
  backup: PartitionGroupBackup,
  threads: Threads,
  findings: Findings,
  reporter: ValidationReporter,
): JobPool<CheckJob, CheckWorkerMessage> {
  const { uri, keys, root, key, partitionGroup } = subject;
  const data = {
    uri,
    keys,
    ...root,
    tenantId: key.tenantId,
    fullSetId: key.fullSetId,
    partitionGroup,
    pageChecksums: backup.pageChecksumVersion !== 0,
    start: toLsn(backup.start?.lsn ?? 0n),
    stop: toLsn(backup.stop?.lsn ?? 0n),
  };
  return new JobPool(threads, workerCount(subject), data, ({ bytes, blocks, findings: found }) => {
    for (const { whole, path, ...finding } of found) {
      if (whole) findings.addWhole(finding, { path });
      else findings.add(finding, { path });
    }
    const { bytesDone, blocksDone } = reporter.step;
    reporter.set({
      bytesDone: bytesDone + BigInt(bytes),
      blocksDone: blocksDone + BigInt(blocks),
      findingCount: findings.count,
    });
  });
}

const PAGED: ReadonlySet<FileKind> = new Set([
  FileKind.RELATION_MAIN,
  FileKind.RELATION_FSM,
  FileKind.RELATION_VM,
  FileKind.RELATION_INIT,
]);

/** Gathers blocks until they are a job. */
class CheckBatch {
  #files: CheckedFile[] = [];
  #blocks: CheckedBlock[] = [];
  #bytes = 0;

  isFullWith(block: MacroBlockEntry): boolean {
    return (
      this.#blocks.length > 0 &&
      (this.#bytes + block.plainBytes > JOB_BYTES || this.#blocks.length === JOB_BLOCKS)
    );
  }

  add(file: BackupFile, block: MacroBlockEntry): void {
    if (this.#files.at(-1)?.path !== file.path)
      this.#files.push({ path: file.path, hasPages: PAGED.has(file.kind) });
    this.#blocks.push({ ...block, file: this.#files.length - 1 });
    this.#bytes += block.plainBytes;
  }

  take(): CheckJob {
    const job = { files: this.#files, blocks: this.#blocks };
    this.#files = [];
    this.#blocks = [];
    this.#bytes = 0;
    return job;
  }
}

/** What the index says of each file, and of all of them, against the file list and the commit point. */
class FileSums {
  readonly #source: Source;
  readonly #findings: Findings;
  #file: BackupFile | undefined;
  /** Undefined: not all of the file's blocks are stored whole. */
  #crc32c: number | undefined = 0;
  #files = 0n;
  #blocks = 0n;
  #bytes = 0n;
  #hasControlFile = false;

  constructor(source: Source, findings: Findings) {
    this.#source = source;
    this.#findings = findings;
  }

  /** A file may come in several parts. */
  add(file: BackupFile, blocks: readonly MacroBlockEntry[]): void {
    if (this.#file?.fileNumber !== file.fileNumber) this.#begin(file);
    for (const block of blocks) {
      this.#crc32c =
        this.#crc32c === undefined || !isStoredWhole(block)
          ? undefined
          : combineCrc32c(this.#crc32c, block.crc32c, block.plainBytes);
      this.#blocks += 1n;
      this.#bytes += BigInt(block.plainBytes);
    }
  }

  finish(): void {
    this.#end();
    const { backup, metaKey } = this.#source;
    const counts = `${this.#files} files, ${this.#blocks} macroblocks and ${this.#bytes} bytes`;
    const wanted = `${backup.fileCount} files, ${backup.macroblockCount} macroblocks and ${backup.inputBytes} bytes`;
    if (counts !== wanted) this.#found(`${metaKey} lists ${counts}, the backup is of ${wanted}`);
    if (!this.#hasControlFile) this.#found(`${metaKey} lists no control file`);
  }

  #begin(file: BackupFile): void {
    this.#end();
    this.#file = file;
    this.#crc32c = 0;
    this.#files += 1n;
    if (isControlFile(file)) this.#hasControlFile = true;
  }

  #end(): void {
    if (this.#file === undefined) return;
    const wanted = this.#file.withoutCrc32c ? undefined : this.#file.crc32c;
    if (wanted === this.#crc32c) return;
    const { indexKey, metaKey } = this.#source;
    this.#findings.add(
      {
        code: 'DATA_CORRUPT',
        key: metaKey,
        offset: undefined,
        message: `${metaKey} has another checksum of ${this.#file.path} than its macroblocks in ${indexKey}`,
      },
      { path: this.#file.path },
    );
  }

  #found(message: string): void {
    const { metaKey: key } = this.#source;
    this.#findings.add({ code: 'DATA_CORRUPT', key, offset: undefined, message });
  }
}
