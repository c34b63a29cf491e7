/**
 * Lays a backup set's baseline down, in an order that a crash at any moment survives: directories and links, the files'
 * blocks, backup_label and backup_manifest, all made durable; the control file last of all (`layControlFile`), so that
 * until then no server starts on the directory.
 */

import { chmod, chown, mkdir, symlink, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { checkBackupLabel } from '../../engine/postgres/restore/backup-label.ts';
import { formatManifest, type ManifestFile } from '../../engine/postgres/restore/manifest.ts';
import type { TablespaceTarget } from '../../engine/postgres/restore/tablespaces.ts';
import type { ServerUser } from '../../engine/postgres/server-process.ts';
import { defined } from '../../foundation/assert.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { toLsn, toTimeline } from '../../foundation/lsn.ts';
import { type BackupFile, type BackupMeta, FileKind } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { crc32c } from '../../storage-layout/crc32c.ts';
import type { DataKey } from '../../storage-layout/encryption/key-ring.ts';
import { MACROBLOCK_BYTES } from '../../storage-layout/macroblock/entry.ts';
import type { Threads } from '../threads.ts';
import {
  type FileBlocks,
  isControlFile,
  readDirectories,
  readFileBlocks,
  readFiles,
  type SourceSet,
} from './backup-set.ts';
import {
  type BlockJob,
  type BlockSource,
  JOB_BYTES,
  JOB_ITEMS,
  type StoredBlock,
  type TargetFile,
} from './block-job.ts';
import { BlockLayer } from './block-layer.ts';
import { BlockPool, blockThreads } from './block-pool.ts';
import { type BlockSink, ComparingSink, compareThreads } from './block-sink.ts';
import { syncPath } from './durability.ts';

export type BaselinePlace = {
  readonly dataDirectory: string;
  /** Where configuration files that stood outside the source's data directory go. */
  readonly externalDirectory: string;
  readonly tablespaces: readonly TablespaceTarget[];
  /** What stands in the directory already stays where it is right. */
  readonly delta: boolean;
  readonly user: ServerUser | undefined;
  /** Worker threads; undefined: one per core. */
  readonly concurrency: number | undefined;
  /** May hold credentials: never logged. */
  readonly uri: string;
  readonly keys?: readonly DataKey[] | undefined;
};

export type BaselineProgress = {
  readonly bytesDone: bigint;
  readonly blocksDone: bigint;
  /** Of those, what was there already. */
  readonly bytesKept: bigint;
  readonly blocksKept: bigint;
};

const MAX_WORKERS = 16;

/** The threads of a baseline; the first are started at once. */
export class BaselineThreads implements AsyncDisposable {
  readonly blocks: Threads;
  readonly compare: Threads;

  constructor({ delta, concurrency }: Pick<BaselinePlace, 'delta' | 'concurrency'>) {
    const expected = workerCount({ concurrency });
    this.blocks = blockThreads(delta ? 0 : expected);
    this.compare = compareThreads(delta ? expected : 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.blocks[Symbol.asyncDispose]();
    await this.compare[Symbol.asyncDispose]();
  }
}

/** Makes the directories and the links of the tablespaces; their targets are there already, empty. */
export async function layDirectories(
  source: SourceSet,
  place: BaselinePlace,
  signal: AbortSignal,
): Promise<void> {
  const linked = new Set(place.tablespaces.map((tablespace) => `pg_tblspc/${tablespace.oid}`));
  await makeDirectory(join(place.dataDirectory, 'pg_tblspc'), 0o700, place.user);
  for (const tablespace of place.tablespaces) {
    const link = join(place.dataDirectory, 'pg_tblspc', String(tablespace.oid));
    if (!place.delta) await symlink(tablespace.directory, link); // else they are set already (delta.ts)
  }
  for await (const directory of readDirectories(source, signal)) {
    if (linked.has(directory.path)) continue;
    await makeDirectory(join(place.dataDirectory, directory.path), directory.mode & 0o777, place.user);
  }
  for (const path of REQUIRED_DIRECTORIES)
    await makeDirectory(join(place.dataDirectory, path), 0o700, place.user);
}

/** A server wants these even when a backup did not list them. */
export const REQUIRED_DIRECTORIES = ['global', 'pg_wal', 'pg_wal/archive_status', 'pg_tblspc'] as const;

/**
 * Writes every file but the control file. Returns the control file's part of the list, for `layControlFile`. Throws
 * DATA_CORRUPT naming file and offset of the first block that is not what was backed up.
 */
export async function layFiles(
  source: SourceSet,
  place: BaselinePlace,
  threads: BaselineThreads,
  report: (progress: BaselineProgress) => void,
  signal: AbortSignal,
): Promise<FileBlocks> {
  const progress = { bytesDone: 0n, blocksDone: 0n, bytesKept: 0n, blocksKept: 0n };
  const count = (bytes: number, blocks: number) => {
    progress.bytesDone += BigInt(bytes);
    progress.blocksDone += BigInt(blocks);
    report({ ...progress });
  };
  await using pool = openSink(source, place, threads, count, (bytes, blocks) => {
    progress.bytesKept += BigInt(bytes);
    progress.blocksKept += BigInt(blocks);
    count(bytes, blocks);
  });
  let control: FileBlocks | undefined;
  const batch = new JobBatch();
  for await (const part of readFileBlocks(source, signal)) {
    if (isControlFile(part.file)) {
      control = part;
      continue;
    }
    if (batch.isFullWith(part)) await pool.submit(batch.take(), signal);
    batch.add(targetFile(place, part.file), part);
  }
  await pool.submit(batch.take(), signal);
  await pool.drain(signal);
  if (control === undefined)
    throw new HoldfastError('DATA_CORRUPT', `${source.metaKey} lists no control file`);
  return control;
}

/** The last step: with the control file the directory becomes a database. All else must be durable before. */
export async function layControlFile(
  source: SourceSet,
  place: BaselinePlace,
  control: FileBlocks,
  signal: AbortSignal,
): Promise<void> {
  const file = targetFile(place, control.file);
  const batch = new JobBatch();
  batch.add(file, control);
  signal.throwIfAborted();
  const { written } = await new BlockLayer(blockSource(source, place), source.medium).lay(batch.take());
  await written;
  await syncPath(file.path);
  await syncPath(dirname(file.path));
}

/** backup_label as the stop function gave it, and a backup_manifest that pg_verifybackup believes. */
export async function layLabelAndManifest(
  source: SourceSet,
  meta: BackupMeta,
  place: BaselinePlace,
  signal: AbortSignal,
): Promise<void> {
  const { start, stop } = source.backup;
  const begin = toLsn(defined(start, "a backup's start").lsn);
  checkBackupLabel(meta.backupLabel, begin);
  await writeOwned(join(place.dataDirectory, 'backup_label'), meta.backupLabel, place.user);
  const manifest = formatManifest(
    {
      major: meta.postgresMajor,
      systemIdentifier: source.backup.systemIdentifier,
      timeline: toTimeline(defined(start, "a backup's start").timeline),
      start: begin,
      stop: toLsn(defined(stop, "a backup's stop").lsn),
    },
    manifestFiles(source, meta, signal),
  );
  const path = join(place.dataDirectory, 'backup_manifest');
  await writeFile(path, manifest, { mode: 0o600, signal });
  if (place.user !== undefined) await chown(path, place.user.uid, place.user.gid);
}

/** Writes a file of the restored directory with the server's owner. */
export async function writeOwned(
  path: string,
  data: Uint8Array | string,
  user: ServerUser | undefined,
): Promise<void> {
  await writeFile(path, data, { mode: 0o600 });
  if (user !== undefined) await chown(path, user.uid, user.gid);
}

async function* manifestFiles(
  source: SourceSet,
  meta: BackupMeta,
  signal: AbortSignal,
): AsyncGenerator<ManifestFile> {
  yield {
    path: 'backup_label',
    sizeBytes: BigInt(meta.backupLabel.length),
    modifiedUs: source.backup.stopUs,
    crc32c: crc32c(meta.backupLabel),
  };
  for await (const file of readFiles(source, signal)) {
    if (file.kind === FileKind.EXTERNAL) continue;
    yield {
      path: file.path,
      sizeBytes: file.sizeBytes,
      modifiedUs: file.modifiedUs,
      crc32c: file.withoutCrc32c ? undefined : file.crc32c,
    };
  }
}

function openSink(
  source: SourceSet,
  place: BaselinePlace,
  threads: BaselineThreads,
  onDone: (bytes: number, blocks: number) => void,
  onKept: (bytes: number, blocks: number) => void,
): BlockSink {
  const pool = openPool(source, place, threads.blocks, onDone);
  return place.delta ? new ComparingSink(pool, threads.compare, workerCount(place), onKept) : pool;
}

function workerCount({ concurrency }: Pick<BaselinePlace, 'concurrency'>): number {
  return Math.min(Math.max(concurrency ?? availableParallelism(), 1), MAX_WORKERS);
}

function openPool(
  source: SourceSet,
  place: BaselinePlace,
  threads: Threads,
  onDone: (bytes: number, blocks: number) => void,
): BlockPool {
  return new BlockPool(
    threads,
    workerCount(place),
    { ...blockSource(source, place), uri: place.uri, keys: place.keys },
    onDone,
  );
}

function blockSource(source: SourceSet, place: BaselinePlace): BlockSource {
  return {
    clusterName: source.root.clusterName,
    clusterId: source.root.clusterId,
    tenantId: source.key.tenantId,
    fullSetId: source.key.fullSetId,
    partitionGroup: source.backup.partitionGroup,
    owner: place.user,
  };
}

function targetFile(place: BaselinePlace, file: BackupFile): TargetFile {
  const external = file.kind === FileKind.EXTERNAL;
  return {
    path: external
      ? join(place.externalDirectory, String(file.fileNumber))
      : join(place.dataDirectory, file.path),
    sizeBytes: Number(file.sizeBytes),
    mode: external ? 0o600 : file.mode & 0o777 & ~0o022,
  };
}

function hasPages({ kind }: BackupFile): boolean {
  return (
    kind === FileKind.RELATION_MAIN ||
    kind === FileKind.RELATION_FSM ||
    kind === FileKind.RELATION_VM ||
    kind === FileKind.RELATION_INIT
  );
}

/** Gathers files and blocks until they are a job. */
class JobBatch {
  #files: TargetFile[] = [];
  #blocks: StoredBlock[] = [];
  #bytes = 0;

  isFullWith(part: FileBlocks): boolean {
    const bytes = part.blocks.reduce((sum, block) => sum + block.plainBytes, 0);
    return (
      this.#files.length > 0 &&
      (this.#bytes + bytes > JOB_BYTES ||
        this.#files.length + this.#blocks.length + part.blocks.length > JOB_ITEMS)
    );
  }

  add(file: TargetFile, part: FileBlocks): void {
    const index =
      this.#files.at(-1)?.path === file.path ? this.#files.length - 1 : this.#files.push(file) - 1;
    for (const block of part.blocks) {
      this.#bytes += block.plainBytes;
      this.#blocks.push({
        file: index,
        position: block.blockNumber * MACROBLOCK_BYTES,
        fileNumber: block.fileNumber,
        blockNumber: block.blockNumber,
        setId: block.setId,
        subTaskId: block.subTaskId,
        offset: block.offset,
        storedBytes: block.storedBytes,
        plainBytes: block.plainBytes,
        crc32c: block.crc32c,
        compression: block.compression,
        ...(block.wholeBytes === undefined ? {} : { wholeBytes: block.wholeBytes }),
        ...(block.delta === undefined ? {} : { delta: block.delta }),
        newestPageLsn: hasPages(part.file) ? block.newestPageLsn : undefined,
      });
    }
  }

  take(): BlockJob {
    const job = { files: this.#files, blocks: this.#blocks };
    this.#files = [];
    this.#blocks = [];
    this.#bytes = 0;
    return job;
  }
}

async function makeDirectory(path: string, mode: number, user: ServerUser | undefined): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o700 });
  await chmod(path, mode);
  if (user !== undefined) await chown(path, user.uid, user.gid);
}
