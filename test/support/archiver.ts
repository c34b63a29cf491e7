/** Archivers for tests: a destination with its mount_file, an archive task run in this process or in one that can be killed. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { create, fromJson, type JsonValue } from '@bufbuild/protobuf';
import { runArchiveTask } from '../../agent/archive/archive-task.ts';
import type { TaskContext } from '../../agent/task-context.ts';
import { connectInstance } from '../../engine/postgres/engine.ts';
import { type Clock, systemClock } from '../../foundation/clock.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { silentLogger } from '../../foundation/log.ts';
import { type Lsn, segmentName, segmentStart, type Timeline, toLsn } from '../../foundation/lsn.ts';
import {
  type ArchiveProgress,
  ArchiveProgressSchema,
  type ArchiveResult,
  ArchiveTaskSchema,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { MountFileSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { writeOnce } from '../../storage-layout/records/info-file.ts';
import { tree } from '../../storage-layout/tree.ts';
import { LogArchive } from './log-archive.ts';
import type { TestServer } from './postgres.ts';

export const ARCHIVE_ROOT = { clusterName: 'hf', clusterId: 1n };
export const ARCHIVE_ROUND = { tenantId: 1001n, round: 1n };
export const ARCHIVE_GROUP = 'p0';
export const ARCHIVE_SLOT = 'holdfast_test';

export type ArchiverOptions = {
  readonly port: number;
  readonly destination: string;
  readonly epoch: number;
  readonly fresh: boolean;
  readonly checkpointIntervalMs?: number;
  readonly compression?: string;
  /** Default ARCHIVE_ROUND's. */
  readonly round?: bigint;
};

/** What only an archiver in this process can be given. */
export type ArchiverHooks = {
  readonly openMedium?: TaskContext['openMedium'];
  readonly clock?: Clock;
  readonly onProgress?: (progress: ArchiveProgress) => void;
};

export async function writeMountFile(destination: string): Promise<void> {
  await using medium = await openMedium(`file://${destination}`);
  const mount = create(MountFileSchema, { ...ARCHIVE_ROUND, deploymentUuid: 'test' });
  await writeOnce(medium, tree.mountFile(ARCHIVE_ROOT, ARCHIVE_ROUND), MountFileSchema, mount);
}

export async function openArchive(destination: string): Promise<LogArchive> {
  const medium = await openMedium(`file://${destination}`);
  return await LogArchive.open(medium, ARCHIVE_ROOT, ARCHIVE_ROUND, ARCHIVE_GROUP);
}

export type RunningArchiver = {
  /** The newest progress. */
  readonly progress: () => ArchiveProgress | undefined;
  readonly result: Promise<ArchiveResult>;
  flush(lsn: Lsn, seal?: boolean): void;
  drain(reason?: 'CANCELLED' | 'SHUTTING_DOWN'): void;
  abort(): void;
};

/** Runs the task in this process. */
export function startArchiver(options: ArchiverOptions, hooks: ArchiverHooks = {}): RunningArchiver {
  let progress: ArchiveProgress | undefined;
  const listeners: ((lsn: Lsn, seal: boolean) => void)[] = [];
  const drain = new AbortController();
  const abort = new AbortController();
  const config = {
    name: 'a',
    tenant: 't',
    partitionGroup: ARCHIVE_GROUP,
    restoredTenantId: undefined,
    host: '127.0.0.1',
    port: options.port,
    user: 'postgres',
    database: 'postgres',
    password: undefined,
    dataDirectory: undefined,
  };
  const context: TaskContext = {
    logger: silentLogger(),
    clock: hooks.clock ?? systemClock,
    instance: (_name, signal) => connectInstance(config, signal),
    instanceConfig: () => config,
    stateDirectory: options.destination,
    restore: undefined,
    server: { serverId: 1n, ip: '127.0.0.1', port: 2889 },
    ...(hooks.openMedium === undefined ? {} : { openMedium: hooks.openMedium }),
    control: {
      drain: drain.signal,
      onLimits: () => undefined,
      onFlushLog: (listener) => {
        listeners.push(listener);
      },
    },
  };
  const task = create(ArchiveTaskSchema, {
    destination: { uri: `file://${options.destination}`, ...ARCHIVE_ROOT },
    ...ARCHIVE_ROUND,
    round: options.round ?? ARCHIVE_ROUND.round,
    partitionGroup: ARCHIVE_GROUP,
    instance: 'a',
    epoch: BigInt(options.epoch),
    slotName: ARCHIVE_SLOT,
    fresh: options.fresh,
    checkpointIntervalMs: options.checkpointIntervalMs ?? 100,
    compression: options.compression ?? 'zstd:1',
  });
  const result = runArchiveTask(
    context,
    task,
    (reported) => {
      progress = reported;
      hooks.onProgress?.(reported);
    },
    abort.signal,
  );
  result.catch(() => undefined); // the test awaits it, perhaps later
  return {
    progress: () => progress,
    result,
    flush: (lsn, seal = false) => {
      for (const listener of listeners) listener(lsn, seal);
    },
    drain: (reason = 'CANCELLED') => drain.abort(new HoldfastError(reason, 'the test drains')),
    abort: () => abort.abort(new HoldfastError('CANCELLED', 'the test aborts')),
  };
}

export type ArchiverProcess = {
  readonly child: ChildProcess;
  readonly progress: () => ArchiveProgress | undefined;
  kill(): Promise<void>;
};

/** Runs the task in a process of its own, which can be killed at any moment. */
export function forkArchiver(options: ArchiverOptions): ArchiverProcess {
  let progress: ArchiveProgress | undefined;
  const child = fork(join(import.meta.dirname, 'archiver-process.ts'), [JSON.stringify(options)], {
    execPath: join(import.meta.dirname, '..', '..', 'node_modules', 'node', 'bin', 'node'),
    execArgv: ['--disable-warning=ExperimentalWarning'],
  });
  child.on('message', (message) => {
    progress = fromJson(ArchiveProgressSchema, message as JsonValue); // our own child sends nothing else
  });
  return {
    child,
    progress: () => progress,
    async kill() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const exited = once(child, 'exit');
      child.kill('SIGKILL');
      await exited;
    },
  };
}

/** What is in the server's pg_wal for [begin, end) of the timeline. */
export async function readServerLog(
  server: TestServer,
  timeline: Timeline,
  begin: Lsn,
  end: Lsn,
  segmentSizeBytes: number,
): Promise<Buffer> {
  const parts: Buffer[] = [];
  for (let at: bigint = begin; at < end; ) {
    const start = segmentStart(at, segmentSizeBytes);
    const until = start + BigInt(segmentSizeBytes) < end ? start + BigInt(segmentSizeBytes) : end;
    const name = segmentName(timeline, toLsn(at), segmentSizeBytes);
    await using file = await open(join(server.dataDirectory, 'pg_wal', name));
    const part = Buffer.alloc(Number(until - at));
    await file.read(part, 0, part.length, Number(at - start));
    parts.push(part);
    at = until;
  }
  return Buffer.concat(parts);
}
