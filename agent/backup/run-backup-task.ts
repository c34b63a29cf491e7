/**
 * A full backup of one partition group, from the server's start function to the files at the destination:
 *
 *   START  open the backup window, then list the files
 *   COPY   workers copy macroblocks; the control file last
 *   STOP   close the window, judge suspect pages, write the index and the meta files
 *
 * Nothing here makes a backup set exist: the coordinator publishes it once the log up to the stop position is durable.
 * Whatever fails, the window is given up (the server aborts the backup) and the workers have ended when this returns.
 */
import { availableParallelism } from 'node:os';
import { create } from '@bufbuild/protobuf';
import type { BackupWindow, Instance, InstanceIdentity } from '../../engine/engine.ts';
import { PAGE_BYTES } from '../../engine/postgres/pages.ts';
import { parseTablespaceMap } from '../../engine/postgres/restore/tablespaces.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn, type Lsn, toLsn } from '../../foundation/lsn.ts';
import {
  type BackupProgress,
  type BackupResult,
  BackupResultSchema,
  type BackupTask,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import type { PartitionGroupBackup } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { type MacroBlockEntry, writeMacroBlockIndex } from '../../storage-layout/macroblock/index.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { tree } from '../../storage-layout/tree.ts';
import type { TaskContext } from '../task-context.ts';
import { copyControlFile } from './control-file-copy.ts';
import { Counters } from './counters.ts';
import { gatherEntries, gatherFiles, gatherSuspects, judgeSuspects, keptPaths } from './gather.ts';
import { writeMetaFiles } from './meta-files.ts';
import { type BackupPlan, planBackup } from './plan.ts';
import { ProgressReporter } from './progress.ts';
import { type Copied, describeBackup, summarizeBackup } from './summary.ts';
import { type BackupTarget, targetOf } from './target.ts';
import { runSubTasks } from './worker-pool.ts';
import type { SubTaskCopy } from './worker-protocol.ts';

/** Each worker needs some 45 MB and copies 350 MB/s or more: more of them only when somebody asks. */
const MAX_AUTOMATIC_WORKERS = 4;

/**
 * Copies the instance to the destination. Throws NOT_SUPPORTED (standby, unusual page size), BACKUP_FAILED,
 * SERVER_UNREACHABLE, DESTINATION_IO, DESTINATION_FULL, FILE_EXISTS (sub task ids used before), or the signal's reason.
 */
export async function runBackupTask(
  context: TaskContext,
  task: BackupTask,
  report: (progress: BackupProgress) => void,
  signal: AbortSignal,
): Promise<BackupResult> {
  const target = targetOf(task);
  await using medium = await (context.openMedium ?? openMedium)(target.uri, signal);
  await using instance = await context.instance(task.instance, signal);
  const identity = await instance.identify(signal);
  checkIdentity(identity);
  const progress = new ProgressReporter(report);
  await using window = await instance.beginBackup(`holdfast backup set ${task.backupSetId}`, signal);
  const scope = scopeOf(window, signal);
  const facts = await instance.facts(scope);
  const listing = await instance.listFiles(scope);
  const workerCount = task.concurrency === 0 ? automaticWorkers() : task.concurrency;
  const plan = planBackup(listing.files, { workerCount, firstSubTaskId: task.firstSubTaskId });
  const counters = new Counters();
  const copies = await copyAll(
    { instance, identity, medium, target, task, plan, workerCount, counters },
    progress,
    scope,
  );
  progress.send('STOP', plan, counters);
  const stopped = await window.stop(scope);
  const backup = await finish(
    { identity, facts, listing, medium, target, task, window, stopped, plan, copies },
    signal,
  );
  context.logger.info(
    {
      backupSetId: String(task.backupSetId),
      bytes: String(backup.inputBytes),
      stop: formatLsn(stopped.stop.lsn),
    },
    'backup copied',
  );
  return create(BackupResultSchema, { backup });
}

function checkIdentity(identity: InstanceIdentity): void {
  if (identity.blockSizeBytes === PAGE_BYTES) return;
  throw new HoldfastError('NOT_SUPPORTED', `the server's pages have ${identity.blockSizeBytes} bytes`, {
    hint: `Holdfast backs up servers with pages of ${PAGE_BYTES} bytes, PostgreSQL's default.`,
  });
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

type Copying = {
  readonly instance: Instance;
  readonly identity: InstanceIdentity;
  readonly medium: Medium;
  readonly target: BackupTarget;
  readonly task: BackupTask;
  readonly plan: BackupPlan;
  readonly workerCount: number;
  readonly counters: Counters;
};

/** Every macroblock, the control file's last. */
async function copyAll(
  copying: Copying,
  progress: ProgressReporter,
  signal: AbortSignal,
): Promise<readonly SubTaskCopy[]> {
  const { instance, identity, medium, target, task, plan, workerCount, counters } = copying;
  const settings = {
    destinationUri: target.uri,
    root: target.root,
    setKey: target.setKey,
    group: target.group,
    compression: target.compression,
    pageChecksums: task.pageCheck && identity.pageChecksumVersion !== 0,
    limitBytesPerSecond: Number(task.netLimitBytesPerSecond) / workerCount,
    counters: counters.shared,
  };
  using _ticking = progress.tick('COPY', plan, counters);
  const copies = await runSubTasks(plan.subTasks, settings, workerCount, signal);
  const control = plan.files.find((file) => file.kind === 'control');
  if (control === undefined)
    throw new HoldfastError('BACKUP_FAILED', 'the data directory has no control file');
  const bytes = await instance.readControlFile(signal);
  const copy = await copyControlFile(
    { medium, ...target },
    plan.controlSubTaskId,
    control.fileNumber,
    bytes,
    signal,
  );
  return [...copies, copy];
}

/** Judges what was copied and writes what describes it. */
async function finish(copied: Copied, signal: AbortSignal): Promise<PartitionGroupBackup> {
  const { medium, target, task, plan, listing, copies, window, stopped } = copied;
  const isKept = keptPaths(listing, parseTablespaceMap(stopped.tablespaceMap));
  const gathered = gatherFiles(plan.files.filter(isKept), copies);
  const failures = judgeSuspects(
    gatherSuspects(gathered, copies),
    window.started.start.lsn,
    stopped.stop.lsn,
  );
  const newest = newestPageLsn(gatherEntries(gathered, copies, []));
  checkNewestPage(newest, stopped.stop.lsn);
  const indexKey = tree.macroBlockIndex(target.root, target.setKey, target.group, task.retry);
  const index = await writeMacroBlockIndex(
    medium,
    indexKey,
    gatherEntries(gathered, copies, failures),
    signal,
  );
  const meta = await writeMetaFiles(
    medium,
    target.root,
    target.setKey,
    task.metaTaskId,
    {
      meta: await describeBackup(copied),
      files: gathered.files,
      directories: listing.directories.filter(isKept),
    },
    signal,
  );
  return summarizeBackup(copied, gathered, failures, newest, [...meta, { key: indexKey, facts: index }]);
}

function newestPageLsn(entries: Iterable<MacroBlockEntry>): Lsn {
  let newest = 0n;
  for (const entry of entries) if (entry.newestPageLsn > newest) newest = entry.newestPageLsn;
  return toLsn(newest);
}

/** Correctness 3: a page from behind the stop position means that these files are not what the server said they are. */
function checkNewestPage(newest: Lsn, stop: Lsn): void {
  if (newest <= stop) return;
  throw new HoldfastError(
    'BACKUP_FAILED',
    `a page has position ${formatLsn(newest)}, behind the end of the backup at ${formatLsn(stop)}`,
    { hint: 'Is the data directory that of this server? Are its pages damaged (pg_amcheck)?' },
  );
}
