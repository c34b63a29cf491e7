/** Runs the agent's backup task inside a test, without an agent, and reads back what it wrote. */
import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { runBackupTask } from '../../agent/backup/run-backup-task.ts';
import type { DeclaredInstance, TaskContext } from '../../agent/task-context.ts';
import { connectInstance } from '../../engine/postgres/engine.ts';
import { systemClock } from '../../foundation/clock.ts';
import { silentLogger } from '../../foundation/log.ts';
import {
  type BackupProgress,
  type BackupTask,
  BackupTaskSchema,
  DestinationSchema,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import {
  type BackupDirectory,
  type BackupFile,
  type BackupMeta,
  BackupMetaSchema,
  DirectoryListSchema,
  FileListSchema,
  type PartitionGroupBackup,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { MACROBLOCK_BYTES, type MacroBlockEntry } from '../../storage-layout/macroblock/entry.ts';
import { readMacroBlockIndex } from '../../storage-layout/macroblock/index.ts';
import { decodeMacroBlock } from '../../storage-layout/macroblock/reader.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { RECORD } from '../../storage-layout/records/framing.ts';
import { decodeMessage } from '../../storage-layout/records/messages.ts';
import { readRecordFile } from '../../storage-layout/records/record-file.ts';
import { type SetKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';

export const ROOT: TreeRoot = { clusterName: 'test', clusterId: 1n };
export const GROUP = 'main';
const INSTANCE = 'test';

export type BackupInput = {
  readonly port: number;
  readonly destination: string;
  readonly setId?: bigint;
  readonly task?: Partial<Omit<BackupTask, '$typeName' | '$unknown'>>;
  readonly report?: (progress: BackupProgress) => void;
  readonly signal?: AbortSignal;
  /** The parent thread's medium; workers open their own. */
  readonly openMedium?: TaskContext['openMedium'];
};

/** A full backup of the server at `port` into the directory `destination`, which is made if it is not there. */
export async function backUp(input: BackupInput): Promise<PartitionGroupBackup> {
  await mkdir(input.destination, { recursive: true });
  const setId = input.setId ?? 1n;
  const task = create(BackupTaskSchema, {
    destination: create(DestinationSchema, { uri: `file://${input.destination}`, ...ROOT }),
    tenantId: 1n,
    backupSetId: setId,
    fullSetId: setId,
    partitionGroup: GROUP,
    instance: INSTANCE,
    firstSubTaskId: 1,
    metaTaskId: 1,
    compression: 'zstd:1',
    pageCheck: true,
    ...input.task,
  });
  const { backup } = await runBackupTask(
    taskContext(input.port, input.openMedium),
    task,
    input.report ?? (() => undefined),
    input.signal ?? new AbortController().signal,
  );
  if (backup === undefined) throw new Error('a backup task without a result');
  return backup;
}

export function taskContext(port: number, open?: TaskContext['openMedium']): TaskContext {
  const config: DeclaredInstance = {
    name: INSTANCE,
    host: '127.0.0.1',
    port,
    user: 'postgres',
    database: 'postgres',
    password: undefined,
    dataDirectory: undefined,
    tenant: 'test',
    partitionGroup: GROUP,
    restoredTenantId: undefined,
  };
  return {
    logger: silentLogger(),
    clock: systemClock,
    instance: (_, signal) => connectInstance(config, signal),
    instanceConfig: () => config,
    stateDirectory: join(tmpdir(), 'holdfast-test-state'),
    restore: undefined,
    server: { serverId: 1n, ip: '127.0.0.1', port: 0 },
    ...(open === undefined ? {} : { openMedium: open }),
    control: { drain: new AbortController().signal, onFlushLog: () => undefined, onLimits: () => undefined },
  };
}

export type ReadBackup = {
  readonly meta: BackupMeta;
  readonly files: readonly BackupFile[];
  readonly directories: readonly BackupDirectory[];
  readonly entries: readonly MacroBlockEntry[];
  /** A stored file's bytes, every block decoded and checked. */
  contents(file: BackupFile): Promise<Buffer>;
};

/** Reads a backup's own files; the digests of the result are checked. */
export async function readBackup(destination: string, backup: PartitionGroupBackup): Promise<ReadBackup> {
  const medium = await openMedium(`file://${destination}`);
  const key: SetKey = { tenantId: 1n, fullSetId: 1n, setId: 1n };
  await checkDigests(medium, backup);
  const files: BackupFile[] = [];
  const directories: BackupDirectory[] = [];
  let meta: BackupMeta | undefined;
  const metaKey = tree.metaFile(ROOT, key, backup.taskId);
  for await (const { type, payload, offset } of readRecordFile(medium, metaKey, RECORD.backupMeta)) {
    const source = { file: metaKey };
    if (type === RECORD.backupMeta) meta = decodeMessage(BackupMetaSchema, payload, offset, source);
    else if (type === RECORD.fileList)
      files.push(...decodeMessage(FileListSchema, payload, offset, source).files);
    else directories.push(...decodeMessage(DirectoryListSchema, payload, offset, source).directories);
  }
  const entries: MacroBlockEntry[] = [];
  for await (const chunk of readMacroBlockIndex(medium, tree.macroBlockIndex(ROOT, key, GROUP, 0)))
    entries.push(...chunk);
  if (meta === undefined) throw new Error('a meta file without its first record');
  const byFile = Map.groupBy(entries, (entry) => entry.fileNumber);
  return {
    meta,
    files,
    directories,
    entries,
    async contents(file) {
      const blocks = byFile.get(file.fileNumber) ?? [];
      const parts = blocks.map(async (entry) => {
        const stored = await readStored(medium, key, entry);
        return decodeMacroBlock(stored.bytes, entry, Buffer.alloc(MACROBLOCK_BYTES), stored.key);
      });
      return Buffer.concat(await Promise.all(parts));
    },
  };
}

async function readStored(medium: Medium, setKey: SetKey, entry: MacroBlockEntry) {
  const key = tree.macroBlock(ROOT, setKey, GROUP, entry.subTaskId);
  return { key, bytes: await medium.readRange(key, entry.offset, entry.offset + entry.storedBytes) };
}

async function checkDigests(medium: Medium, backup: PartitionGroupBackup): Promise<void> {
  for (const { path, sizeBytes, sha256 } of backup.files) {
    const bytes = await medium.read(`${tree.backupSetDirectory(ROOT, 1n, 1n)}/${path}`);
    const found = createHash('sha256').update(bytes).digest();
    if (BigInt(bytes.length) !== sizeBytes || !found.equals(sha256))
      throw new Error(`wrong digest of ${path}`);
  }
}
