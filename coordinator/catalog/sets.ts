/** Backup sets and restores as rows. */
import { formatLsn } from '../../foundation/lsn.ts';
import type { BackupInfo, PartitionGroupBackup } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Queryable } from './catalog.ts';
import { insertRow, updateRows } from './rows.ts';

export type BackupSet = {
  readonly tenant_id: bigint;
  readonly backup_set_id: bigint;
  readonly full_set_id: bigint;
  readonly backup_type: 'FULL' | 'INCREMENTAL' | 'SYNTHETIC';
  /** The set that an increment goes on from; 0: none. */
  readonly previous_set_id: bigint;
  /** Why an incremental or synthetic request became a full backup. */
  readonly full_reason: string;
  /** The set that a synthetic full is made of; 0: none. */
  readonly source_set_id: bigint;
  readonly source_full_set_id: bigint;
  /** Of a synthetic full: every page was read from the database at this time or later. */
  readonly pages_read_us: bigint;
  readonly tenant_name: string;
  readonly job_id: bigint;
  readonly state: 'DOING' | 'SUCCESS' | 'FAILED' | 'CANCELLED';
  readonly round: bigint;
  readonly epoch: bigint;
  /** Encrypted URI. */
  readonly destination: string;
  readonly display_destination: string;
  readonly description: string;
  readonly start_us: bigint;
  /** As the views name it. */
  readonly encryption_mode: string;
};

const COLUMNS = `tenant_id, backup_set_id, full_set_id, backup_type, previous_set_id, full_reason, source_set_id,
  source_full_set_id, pages_read_us, tenant_name, job_id, state, round, epoch, destination,
  display_destination, description, start_us, encryption_mode`;

/** What a synthetic full is made of. */
export type NewSetSource = {
  readonly setId: bigint;
  readonly fullSetId: bigint;
  readonly pagesReadUs: bigint;
};

export async function insertSet(
  tx: Queryable,
  set: {
    readonly tenantId: bigint;
    readonly setId: bigint;
    readonly fullSetId: bigint;
    readonly previousSetId: bigint;
    readonly fullReason: string;
    /** Of a synthetic full. */
    readonly source?: NewSetSource | undefined;
    readonly tenantName: string;
    readonly jobId: bigint;
    readonly round: bigint;
    readonly epoch: bigint;
    readonly destination: string;
    readonly displayDestination: string;
    readonly description: string;
    readonly plusArchivelog: boolean;
    /** Default NONE. */
    readonly encryptionMode?: string | undefined;
    readonly nowUs: bigint;
  },
): Promise<void> {
  await insertRow(
    tx,
    'backup_sets',
    {
      tenant_id: set.tenantId,
      backup_set_id: set.setId,
      full_set_id: set.fullSetId,
      previous_set_id: set.previousSetId,
      full_reason: set.fullReason,
      tenant_name: set.tenantName,
      job_id: set.jobId,
      backup_type: typeOf(set),
      source_set_id: set.source?.setId ?? 0n,
      source_full_set_id: set.source?.fullSetId ?? 0n,
      pages_read_us: set.source?.pagesReadUs ?? 0n,
      state: 'DOING',
      file_status: 'INCOMPLETE',
      round: set.round,
      epoch: set.epoch,
      destination: set.destination,
      display_destination: set.displayDestination,
      description: set.description,
      plus_archivelog: set.plusArchivelog,
      encryption_mode: set.encryptionMode,
      start_us: set.nowUs,
    },
    'backup_set_id',
  );
}

function typeOf(set: {
  readonly previousSetId: bigint;
  readonly source?: NewSetSource | undefined;
}): BackupSet['backup_type'] {
  if (set.source !== undefined) return 'SYNTHETIC';
  return set.previousSetId === 0n ? 'FULL' : 'INCREMENTAL';
}

export async function insertSetGroup(
  tx: Queryable,
  group: {
    readonly tenantId: bigint;
    readonly setId: bigint;
    readonly partitionGroup: string;
    readonly taskId: bigint;
  },
): Promise<void> {
  await insertRow(
    tx,
    'set_groups',
    {
      tenant_id: group.tenantId,
      backup_set_id: group.setId,
      partition_group: group.partitionGroup,
      task_id: group.taskId,
    },
    'backup_set_id',
  );
}

export async function findSetOfJob(db: Queryable, jobId: bigint): Promise<BackupSet | undefined> {
  const rows = await db.query<BackupSet>(`SELECT ${COLUMNS} FROM holdfast.backup_sets WHERE job_id = $1`, [
    jobId,
  ]);
  return rows[0];
}

export async function highestSet(db: Queryable, tenantId: bigint): Promise<bigint> {
  const rows = await db.query<{ id: bigint | null }>(
    'SELECT max(backup_set_id) AS id FROM holdfast.backup_sets WHERE tenant_id = $1',
    [tenantId],
  );
  return rows[0]?.id ?? 0n;
}

/** The set did not come to its end: its files are garbage for the next clean-up. */
export async function abandonSet(
  tx: Queryable,
  jobId: bigint,
  state: 'FAILED' | 'CANCELLED',
  comment: string,
  nowUs: bigint,
): Promise<void> {
  await updateRows(tx, 'backup_sets', { job_id: jobId, state: 'DOING' }, { state, comment, end_us: nowUs });
}

/** An increment that cannot be made was never a set: the job goes on with another one. */
export async function removeSet(tx: Queryable, set: BackupSet): Promise<void> {
  const key = [set.tenant_id, set.backup_set_id];
  await tx.query('DELETE FROM holdfast.set_groups WHERE tenant_id = $1 AND backup_set_id = $2', key);
  await tx.query('DELETE FROM holdfast.backup_sets WHERE tenant_id = $1 AND backup_set_id = $2', key);
}

/** Sets of the tenant that are shown as there, at this destination. */
export async function listAvailableSets(
  db: Queryable,
  tenantId: bigint,
  displayDestination: string,
): Promise<readonly BackupSet[]> {
  return await db.query<BackupSet>(
    `SELECT ${COLUMNS} FROM holdfast.backup_sets
     WHERE tenant_id = $1 AND display_destination = $2 AND file_status = 'AVAILABLE' ORDER BY backup_set_id`,
    [tenantId, displayDestination],
  );
}

/** The set's commit point is gone from its destination. */
export async function breakSet(tx: Queryable, set: BackupSet, comment: string): Promise<void> {
  await updateRows(
    tx,
    'backup_sets',
    { tenant_id: set.tenant_id, backup_set_id: set.backup_set_id },
    { file_status: 'BROKEN', comment },
  );
}

/** The set is published: its facts are those of backup_info. */
export async function completeSet(tx: Queryable, info: BackupInfo, comment: string): Promise<void> {
  const stops = info.partitionGroups.map((group) => group.stopUs);
  await updateRows(
    tx,
    'backup_sets',
    { tenant_id: info.tenantId, backup_set_id: info.backupSetId },
    {
      state: 'SUCCESS',
      file_status: 'AVAILABLE',
      end_us: info.endUs,
      restorable_from_us: stops.reduce((a, b) => (a > b ? a : b), 0n),
      comment,
    },
  );
  for (const group of info.partitionGroups) {
    await updateRows(
      tx,
      'set_groups',
      {
        tenant_id: info.tenantId,
        backup_set_id: info.backupSetId,
        partition_group: group.partitionGroup,
      },
      {
        timeline: group.start?.timeline ?? 0,
        start_lsn: formatLsn(group.start?.lsn ?? 0n),
        stop_lsn: formatLsn(group.stop?.lsn ?? 0n),
        stop_us: group.stopUs,
        macroblock_count: group.macroblockCount,
        file_count: group.fileCount,
        input_bytes: readFromDatabase(group),
        total_bytes: group.inputBytes,
        output_bytes: group.outputBytes,
        page_failures: group.pageFailures.length,
        server_version: group.serverVersion,
      },
    );
  }
}

function readFromDatabase({ sourceSetId, readBytes, inputBytes }: PartitionGroupBackup): bigint {
  // A version that knew no increments did not say what it read: everything.
  return readBytes === 0n && sourceSetId === 0n ? inputBytes : readBytes;
}

// ---- restores ---------------------------------------------------------------------------------------------------

export type NewRestore = {
  readonly jobId: bigint;
  readonly tenantId: bigint;
  readonly tenantName: string;
  readonly sourceTenantId: bigint;
  readonly sourceTenantName: string;
  readonly sourceClusterName: string;
  readonly sourceClusterId: bigint;
  readonly setId: bigint;
  readonly round: bigint;
  readonly displaySource: string;
  readonly target: string;
  readonly targetUs: bigint;
  readonly pool: string;
};

export async function insertRestore(tx: Queryable, restore: NewRestore): Promise<void> {
  await insertRow(
    tx,
    'restores',
    {
      job_id: restore.jobId,
      tenant_id: restore.tenantId,
      tenant_name: restore.tenantName,
      backup_tenant_id: restore.sourceTenantId,
      backup_tenant_name: restore.sourceTenantName,
      backup_cluster_name: restore.sourceClusterName,
      backup_cluster_id: restore.sourceClusterId,
      backup_set_id: restore.setId,
      round: restore.round,
      display_source: restore.displaySource,
      target: restore.target,
      target_us: restore.targetUs,
      pool: restore.pool,
    },
    'job_id',
  );
}

export async function recordRestoreResult(tx: Queryable, jobId: bigint, result: object): Promise<void> {
  await updateRows(tx, 'restores', { job_id: jobId }, { result: JSON.stringify(result) });
}
