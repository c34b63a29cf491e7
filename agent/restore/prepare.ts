/**
 * What a restore must know before it writes anything: the set, whose meta files are those of its commit point; the log
 * that leads from it to the target; where recovery stops; where the tablespaces go. All refusals that can be made
 * beforehand are made here.
 */
import { checkBackupLabel } from '../../engine/postgres/restore/backup-label.ts';
import type { CopyPlace, RecoveryTarget } from '../../engine/postgres/restore/settings.ts';
import {
  parseTablespaceMap,
  planTablespaces,
  type TablespaceTarget,
} from '../../engine/postgres/restore/tablespaces.ts';
import type { ServerUser } from '../../engine/postgres/server-process.ts';
import { defined } from '../../foundation/assert.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn, type Timeline, toLsn, toTimeline } from '../../foundation/lsn.ts';
import type { BackupMeta } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { LogLookup } from '../../storage-layout/clog/lookup.ts';
import { verifyLog } from '../../storage-layout/clog/verify.ts';
import type { DataKey } from '../../storage-layout/encryption/key-ring.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { findLogPath, type GroupLog, type LogPath } from '../../storage-layout/plan/lineage.ts';
import { readGroupLog } from '../../storage-layout/plan/tenant-history.ts';
import type { SetKey, TreeRoot } from '../../storage-layout/tree.ts';
import { openSourceSet, readBackupMeta, type SourceSet } from './backup-set.ts';
import { type LogToRead, resolveTarget, type WantedTarget } from './log-target.ts';
import { resolveTarget as resolveDirectory } from './target-directory.ts';

export type RestoreRequest = {
  /** May hold credentials: never logged. */
  readonly uri: string;
  /** Of what is encrypted at the destination; default: nothing is. Never logged. */
  readonly keys?: readonly DataKey[] | undefined;
  readonly root: TreeRoot;
  readonly set: SetKey;
  readonly round: bigint;
  readonly partitionGroup: string;
  readonly target: WantedTarget;
  /** Undefined: the newest that descends from the set. */
  readonly timeline: Timeline | undefined;
  readonly dataDirectory: string;
  /** Original location → directory. */
  readonly tablespaceMap: ReadonlyMap<string, string>;
  /** Worker threads; undefined: one per core. */
  readonly concurrency: number | undefined;
  /** Who the server runs as; undefined: whoever we are. */
  readonly user: ServerUser | undefined;
  readonly unit: CopyPlace['unit'];
  /** A superuser of the restored database, for the check. */
  readonly checkUser: string;
  /** Over a directory that is there, of the same system and stopped: what is right in it stays. */
  readonly delta: boolean;
  /** False: the baseline and its log are laid down, ready to start, and that is all. */
  readonly start: boolean;
  /** Where PostgreSQL of that major version is. Throws when there is none. */
  binDirectory(major: number): Promise<string> | string;
  /** A free port of this host. */
  port(): Promise<number>;
};

/** What is known when nothing has been written yet. */
export type Prepared = {
  readonly request: RestoreRequest;
  readonly medium: Medium;
  readonly source: SourceSet;
  readonly meta: BackupMeta;
  readonly log: LogToRead;
  readonly groupLog: GroupLog & { readonly lookup: LogLookup };
  readonly path: LogPath;
  readonly target: RecoveryTarget;
  readonly tablespaces: readonly TablespaceTarget[];
  readonly binDirectory: string;
  readonly dataDirectory: string;
  readonly workDirectory: string;
};

/** Throws TARGET_NOT_RESTORABLE, INVALID_BACKUP_SET_ID, DATA_CORRUPT, INVALID_ARGUMENT, and what reading throws. */
export async function prepareRestore(
  request: RestoreRequest,
  medium: Medium,
  signal: AbortSignal,
): Promise<Prepared> {
  const { root, set, round, partitionGroup } = request;
  const source = await openSourceSet(medium, root, set, partitionGroup, signal);
  const { backup } = source;
  const start = defined(backup.start, "a backup's start");
  const stop = toLsn(defined(backup.stop, "a backup's stop").lsn);
  const meta = await readBackupMeta(source, signal);
  checkBackupLabel(meta.backupLabel, toLsn(start.lsn));
  const groupLog = await readGroupLog(
    medium,
    root,
    { tenantId: set.tenantId, round },
    { partitionGroup, segmentSizeBytes: backup.segmentSizeBytes },
    signal,
  );
  const baseline = { timeline: toTimeline(start.timeline), start: toLsn(start.lsn), stop };
  const path = findLogPath(groupLog, baseline, request.timeline);
  if (path === undefined) {
    throw new HoldfastError(
      'TARGET_NOT_RESTORABLE',
      `the archived log of round ${round} does not cover backup set ${set.setId} ` +
        `(${formatLsn(baseline.start)} to ${formatLsn(stop)}${request.timeline === undefined ? '' : `, then timeline ${request.timeline}`})`,
    );
  }
  const log: LogToRead = {
    lookup: groupLog.lookup,
    path: path.ranges,
    stop,
    segmentSizeBytes: backup.segmentSizeBytes,
    systemIdentifier: backup.systemIdentifier,
    major: backup.postgresMajor,
  };
  const target = await resolveTarget(log, request.target, signal);
  await verifyLogUpTo(log, target, signal);
  const dataDirectory = await resolveDirectory(request.dataDirectory);
  return {
    request,
    medium,
    source,
    meta,
    log,
    groupLog,
    path,
    target,
    tablespaces: await planLocations(meta, request, dataDirectory),
    binDirectory: request.start ? await request.binDirectory(meta.postgresMajor) : '',
    dataDirectory,
    workDirectory: `${dataDirectory}.holdfast`,
  };
}

/**
 * What is said to be covered rests on names and on what archivers saw: here every file that the recovery will read is
 * opened, before anything is made. Throws LOG_GAP.
 */
async function verifyLogUpTo(log: LogToRead, target: RecoveryTarget, signal: AbortSignal): Promise<void> {
  const last = target.kind === 'lsn' ? target.lsn : target.kind === 'immediate' ? log.stop : undefined;
  for (const { timeline, begin, end } of log.path) {
    const until = last !== undefined && last < end ? toLsn(last + 1n) : end;
    if (until > begin) await verifyLog(log.lookup, timeline, begin, until, signal);
  }
}

async function planLocations(
  meta: BackupMeta,
  request: RestoreRequest,
  dataDirectory: string,
): Promise<readonly TablespaceTarget[]> {
  const planned = planTablespaces(
    parseTablespaceMap(meta.tablespaceMap),
    request.tablespaceMap,
    dataDirectory,
  );
  return await Promise.all(
    planned.map(async (tablespace) => ({
      ...tablespace,
      directory: await resolveDirectory(tablespace.directory),
    })),
  );
}
