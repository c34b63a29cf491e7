/** What a backup's copy is given, and what comes out of it. */
import type { DataListing, Instance, InstanceIdentity, LogPoint } from '../../engine/engine.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn, type Lsn } from '../../foundation/lsn.ts';
import type { BackupTask } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import type { FileFacts } from '../../storage-layout/records/record-file.ts';
import type { TaskContext } from '../task-context.ts';
import type { Threads } from '../threads.ts';
import type { Counters } from './counters.ts';
import type { FailedPage, Gathered } from './gather.ts';
import type { NamedFiles } from './named-files.ts';
import type { ProgressReporter } from './progress.ts';
import type { Redo } from './resume/redo.ts';
import type { ResumePoint } from './resume/resume.ts';
import type { BackupTarget } from './target.ts';
import type { SharedLimits } from './throttle.ts';
import type { WorkerSettings } from './worker-protocol.ts';

/** A backup that has begun: its window is open and its files are listed. */
export type BegunBackup = {
  readonly context: TaskContext;
  readonly instance: Instance;
  readonly identity: InstanceIdentity;
  readonly medium: Medium;
  readonly target: BackupTarget;
  readonly task: BackupTask;
  readonly start: LogPoint;
  readonly listing: DataListing;
  readonly workerCount: number;
  readonly counters: Counters;
  readonly limits: SharedLimits;
  readonly progress: ProgressReporter;
  readonly redo: Redo;
  /** For the copy; one or more have started already. */
  readonly threads: Threads;
  /** Undefined when nothing is taken over from an earlier attempt. */
  readonly resume: ResumePoint | undefined;
};

export type IndexedCopy = Gathered & {
  readonly failures: readonly FailedPage[];
  readonly newestPageLsn: Lsn;
  /** Of the macro_block files. */
  readonly storedBytes: number;
  readonly nextFileNumber: number;
  /** All macroblock files that the index names. */
  readonly named: NamedFiles;
  readonly index: { readonly key: string; readonly facts: FileFacts };
};

export function workerSettings(backup: BegunBackup): WorkerSettings {
  const { target, task, identity, counters, limits, workerCount } = backup;
  return {
    destinationUri: target.uri,
    keys: target.keys,
    root: target.root,
    setKey: target.setKey,
    group: target.group,
    compression: target.compression,
    pageChecksums: task.pageCheck && identity.pageChecksumVersion !== 0,
    limits: limits.shared,
    workerCount,
    counters: counters.shared,
  };
}

/** Correctness 3: a page from behind the stop position means that these files are not what the server said they are. */
export function checkNewestPage(newest: Lsn, stop: Lsn): void {
  if (newest <= stop) return;
  throw new HoldfastError(
    'BACKUP_FAILED',
    `a page has position ${formatLsn(newest)}, behind the end of the backup at ${formatLsn(stop)}`,
    { hint: 'Is the data directory that of this server? Are its pages damaged (pg_amcheck)?' },
  );
}
