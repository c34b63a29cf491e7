/**
 * A backup of one partition group, full or an increment, from the server's start function to the files at the destination:
 *
 *   START  open the backup window, then list the files; find what an earlier attempt has left
 *   COPY   an increment waits for the change maps; workers copy macroblocks; the control file last
 *   STOP   close the window, judge suspect pages, write the index and the meta files
 *
 * Nothing here makes a backup set exist: the coordinator publishes it once the log up to the stop position is durable.
 * Whatever fails, the window is given up (the server aborts the backup) and the workers have ended when this returns.
 */
import { availableParallelism } from 'node:os';
import { create } from '@bufbuild/protobuf';
import type { BackupWindow, DataListing, InstanceIdentity } from '../../engine/engine.ts';
import { PAGE_BYTES } from '../../engine/postgres/pages.ts';
import { SEGMENT_PAGES } from '../../engine/postgres/relation-files.ts';
import { parseTablespaceMap } from '../../engine/postgres/restore/tablespaces.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn } from '../../foundation/lsn.ts';
import {
  type BackupProgress,
  type BackupResult,
  BackupResultSchema,
  type BackupTask,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import type { PartitionGroupBackup } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { withDataKeys } from '../../storage-layout/media/with-keys.ts';
import { checkMountFile } from '../mount-file.ts';
import type { TaskContext } from '../task-context.ts';
import { BackupCopy, checkComparable } from './backup-copy.ts';
import type { BegunBackup } from './copy.ts';
import { Counters } from './counters.ts';
import { keptPaths } from './gather.ts';
import { openSetBefore, type SetBefore } from './increment/set-before.ts';
import { limitCopy } from './limits.ts';
import { writeMetaFiles } from './meta-files.ts';
import { blockCount } from './plan.ts';
import { type BackupTotals, ProgressReporter } from './progress.ts';
import { metaTaskId, Redo } from './resume/redo.ts';
import { openResumePoint } from './resume/resume.ts';
import { type Copied, describeBackup, summarizeBackup } from './summary.ts';
import { runSyntheticBackup } from './synthetic/synthetic-backup.ts';
import { type BackupTarget, targetOf } from './target.ts';
import { copyThreads } from './worker-pool.ts';

/** Each worker needs some 45 MB and copies 350 MB/s or more: more of them only when somebody asks. */
const MAX_AUTOMATIC_WORKERS = 4;

/**
 * Copies the instance to the destination, or makes a synthetic full of a set that is there. Throws NOT_SUPPORTED (standby,
 * unusual page or segment size), BACKUP_FAILED, SERVER_UNREACHABLE, BACKUP_MOUNT_FILE_NOT_VALID, DESTINATION_IO, DESTINATION_FULL, FILE_EXISTS (sub task ids used before), FULL_BACKUP_NEEDED (an
 * increment cannot be made: the message is the reason; nothing was copied), or the signal's reason.
 */
export async function runBackupTask(
  context: TaskContext,
  task: BackupTask,
  report: (progress: BackupProgress) => void,
  signal: AbortSignal,
): Promise<BackupResult> {
  if (task.sourceSetId !== 0n) return await runSyntheticBackup(context, task, report, signal);
  const target = targetOf(task);
  const workerCount = task.concurrency === 0 ? automaticWorkers() : task.concurrency;
  // An increment may find that one is enough.
  await using threads = copyThreads(task.previousSetId === 0n ? workerCount : 1);
  const opened = await (context.openMedium ?? openMedium)(target.uri, signal);
  await using medium = withDataKeys(opened, target.keys);
  if (target.round !== undefined)
    await checkMountFile({ medium, root: target.root, round: target.round }, signal);
  await using instance = await context.instance(task.instance, signal);
  const [identity, before] = await Promise.all([
    instance.identify(signal),
    setBefore(task, target, medium, signal),
  ]);
  checkIdentity(identity);
  if (before !== undefined) checkComparable(before, identity);
  const progress = new ProgressReporter(report);
  await using window = await instance.beginBackup(`holdfast backup set ${task.backupSetId}`, signal);
  const scope = scopeOf(window, signal);
  const { start } = window.started;
  progress.begin(start);
  const facts = await instance.facts(scope);
  const listing = await instance.listFiles(scope);
  const counters = new Counters();
  await using limited = limitCopy(context, task);
  const redo = redoOf(context, task, progress);
  const parts = {
    context,
    instance,
    identity,
    medium,
    target,
    task,
    start,
    listing,
    workerCount,
    counters,
    limits: limited.limits,
    progress,
    redo,
    threads,
  };
  using resume = await openResumePoint(parts, scope);
  const begun: BegunBackup = { ...parts, resume };
  using copy = new BackupCopy(begun, before);
  const totals = totalsOf(listing);
  {
    using _ticking = progress.tick('COPY', totals, counters);
    await copy.copy(scope);
  }
  progress.send('STOP', totals, counters);
  const stopped = await window.stop(scope);
  const indexed = await copy.writeIndex(stopped, signal);
  await redo.untilDone(0, () => indexed.named.checkAreThere(medium, target, signal), signal);
  const backup = await describe({ begun, window, stopped, facts, indexed }, signal);
  context.logger.info(
    {
      backupSetId: String(task.backupSetId),
      bytes: String(backup.inputBytes),
      readBytes: String(backup.readBytes),
      stop: formatLsn(stopped.stop.lsn),
    },
    'backup copied',
  );
  return create(BackupResultSchema, { backup });
}

function redoOf(context: TaskContext, task: BackupTask, progress: ProgressReporter): Redo {
  const { firstSubTaskId, subTaskIdCount, destinationWaitMs: limitMs } = task;
  return new Redo({
    clock: context.clock,
    logger: context.logger,
    firstSubTaskId,
    subTaskIdCount,
    limitMs,
    onWaiting: (error) => progress.waitFor(error === undefined ? '' : `${error.code}: ${error.message}`),
  });
}

/** What an increment goes on from; undefined for a full backup. */
async function setBefore(
  task: BackupTask,
  target: BackupTarget,
  medium: Medium,
  signal: AbortSignal,
): Promise<SetBefore | undefined> {
  if (task.previousSetId === 0n) return undefined;
  return await openSetBefore(medium, target, task.previousSetId, signal);
}

/** Writes what describes the backup. */
async function describe(copied: Copied, signal: AbortSignal): Promise<PartitionGroupBackup> {
  const { medium, target, task, listing, redo } = copied.begun;
  const isKept = keptPaths(listing, parseTablespaceMap(copied.stopped.tablespaceMap));
  const content = {
    meta: await describeBackup(copied),
    files: copied.indexed.files,
    directories: listing.directories.filter(isKept),
  };
  const write = async (_: number, tries: number) => {
    const taskId = metaTaskId(task.metaTaskId, tries);
    return {
      taskId,
      meta: await writeMetaFiles(medium, target.root, target.setKey, taskId, content, signal),
    };
  };
  const { taskId, meta } = await redo.untilDone(0, write, signal);
  return summarizeBackup(copied, taskId, [...meta, copied.indexed.index]);
}

function totalsOf({ files }: DataListing): BackupTotals {
  return {
    bytes: files.reduce((sum, file) => sum + file.sizeBytes, 0),
    files: files.length,
    macroblocks: files.reduce((sum, file) => sum + blockCount(file.sizeBytes), 0),
  };
}

function checkIdentity(identity: InstanceIdentity): void {
  if (identity.blockSizeBytes !== PAGE_BYTES)
    throw new HoldfastError('NOT_SUPPORTED', `the server's pages have ${identity.blockSizeBytes} bytes`, {
      hint: `Holdfast backs up servers with pages of ${PAGE_BYTES} bytes, PostgreSQL's default.`,
    });
  if (identity.relationSegmentPages !== SEGMENT_PAGES)
    throw new HoldfastError(
      'NOT_SUPPORTED',
      `the server's relations are split into files of ${identity.relationSegmentPages} pages`,
      {
        hint: `Holdfast backs up servers whose relations are split into files of ${SEGMENT_PAGES} pages, PostgreSQL's default.`,
      },
    );
}

function automaticWorkers(): number {
  return Math.min(availableParallelism(), MAX_AUTOMATIC_WORKERS);
}

/** `signal`, aborted also when the session that holds the backup open is lost. */
function scopeOf(window: BackupWindow, signal: AbortSignal): AbortSignal {
  const lost = new AbortController();
  window.lost.catch((error: unknown) => lost.abort(error));
  return AbortSignal.any([signal, lost.signal]);
}
