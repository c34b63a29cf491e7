/** The end of a backup at the destination: proof that the log is there, then the write-once files, backup_info last. */
import { create } from '@bufbuild/protobuf';
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn, segmentStart, toLsn, toTimeline } from '../../foundation/lsn.ts';
import { VERSION } from '../../foundation/version.ts';
import {
  type BackupInfo,
  BackupInfoSchema,
  BackupType,
  type PartitionGroupBackup,
  TenantDiagnoseInfoSchema,
  TenantLocalityInfoSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { LogLookup } from '../../storage-layout/clog/lookup.ts';
import { verifyLog } from '../../storage-layout/clog/verify.ts';
import { keepCarriedKeys, modeOfName, setKeyPlace } from '../../storage-layout/encryption/key-records.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { type RoundKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';
import { listParameterValues } from '../catalog/parameters.ts';
import type { BackupSet } from '../catalog/sets.ts';
import { type CoordinatorContext, write } from '../context.ts';
import { checkFilesAreThere } from './described-files.ts';
import { baseProblem } from './increment-base.ts';
import { writeOnceOrRead } from './write-once.ts';

/**
 * Throws LOG_GAP unless the destination itself holds every byte of the group's log from the segment of the backup's start
 * to its stop. Throws LOG_CONFLICT, DATA_CORRUPT and the medium's errors.
 */
export async function checkLogIsThere(
  medium: Medium,
  root: TreeRoot,
  key: RoundKey,
  backup: PartitionGroupBackup,
  signal: AbortSignal,
): Promise<void> {
  const { start, stop } = backup;
  if (start === undefined || stop === undefined)
    throw new HoldfastError(
      'BACKUP_FAILED',
      `partition group ${backup.partitionGroup} reported no positions`,
    );
  const lookup = await LogLookup.open(medium, root, key, backup.partitionGroup, signal);
  const begin = segmentStart(toLsn(start.lsn), backup.segmentSizeBytes);
  const timeline = toTimeline(stop.timeline);
  let gap: HoldfastError | undefined;
  try {
    await verifyLog(lookup, timeline, begin, toLsn(stop.lsn), signal);
    if (start.timeline === stop.timeline) return;
  } catch (error) {
    if (!(error instanceof HoldfastError) || error.code !== 'LOG_GAP') throw error;
    gap = error;
  }
  const found = (await lookup.coverage(signal)).map(
    (range) => `timeline ${range.timeline}: ${formatLsn(range.begin)} to ${formatLsn(range.end)}`,
  );
  throw new HoldfastError(
    'LOG_GAP',
    `round ${key.round} lacks log of partition group ${backup.partitionGroup} between ${formatLsn(begin)} (timeline ${start.timeline}) and ${formatLsn(stop.lsn)} (timeline ${stop.timeline})`,
    { cause: gap, detail: found.length === 0 ? 'It holds none.' : `It holds ${found.join('; ')}.` },
  );
}

/** An instance that a set was read from. */
export type SetReplica = {
  readonly partitionGroup: string;
  readonly serverId: bigint;
  readonly ip: string;
  readonly port: number;
  readonly instance: string;
  readonly role: string;
};

/**
 * Writes what describes the set, and last the write-once backup_info: THE COMMIT POINT. Returns the one that counts. Throws
 * BACKUP_FAILED when what the agents reported is not at the destination, BACKUP_IO_PROHIBITED when another coordinator
 * leads, and the medium's errors.
 */
export async function publishBackup(
  context: CoordinatorContext,
  medium: Medium,
  parts: {
    readonly set: BackupSet;
    readonly backups: readonly PartitionGroupBackup[];
    readonly replicas: readonly SetReplica[];
  },
  signal: AbortSignal,
): Promise<BackupInfo> {
  const { root } = context;
  const { set } = parts;
  const key = { tenantId: set.tenant_id, fullSetId: set.full_set_id, setId: set.backup_set_id };
  for (const backup of parts.backups) {
    checkGoesOnFrom(set, backup);
    await checkFilesAreThere(medium, root, key, backup, signal);
  }
  if (set.previous_set_id !== 0n) {
    const problem = await baseProblem(medium, root, { ...key, setId: set.previous_set_id }, signal);
    if (problem !== undefined) throw new HoldfastError('BACKUP_FAILED', problem);
  }
  if (set.source_set_id !== 0n && set.encryption_mode !== 'NONE') {
    const ids = parts.backups.flatMap(({ carriedKeyIds }) => carriedKeyIds);
    const used = new Set(ids.map((id) => Buffer.from(id).toString('hex')));
    await keepCarriedKeys(setKeyPlace(medium, root, key), used, context.clock.nowUs(), signal);
  }
  await writeOnceOrRead(
    medium,
    tree.localityInfo(root, key),
    TenantLocalityInfoSchema,
    create(TenantLocalityInfoSchema, {
      tenantId: set.tenant_id,
      tenantName: set.tenant_name,
      replicas: [...parts.replicas],
    }),
    signal,
  );
  const settings = await listParameterValues(context.catalog);
  await writeOnceOrRead(
    medium,
    tree.diagnoseInfo(root, key),
    TenantDiagnoseInfoSchema,
    create(TenantDiagnoseInfoSchema, {
      holdfastVersion: VERSION,
      settings: settings
        .filter((row) => row.tenant_id === 0n || row.tenant_id === set.tenant_id)
        .map((row) => ({ name: row.name, value: row.display })),
    }),
    signal,
  );
  const info = create(BackupInfoSchema, {
    tenantId: set.tenant_id,
    tenantName: set.tenant_name,
    backupSetId: set.backup_set_id,
    fullSetId: set.full_set_id,
    previousSetId: set.previous_set_id,
    type: BACKUP_TYPES[set.backup_type],
    sourceSetId: set.source_set_id,
    sourceFullSetId: set.source_full_set_id,
    pagesReadUs: set.pages_read_us,
    epoch: set.epoch,
    round: set.round,
    description: set.description,
    reason: set.full_reason,
    encryptionMode: modeOfName(set.encryption_mode),
    startUs: set.start_us,
    endUs: context.clock.nowUs(),
    clusterName: root.clusterName,
    clusterId: root.clusterId,
    partitionGroups: [...parts.backups],
    holdfastVersion: VERSION,
  });
  // The destination cannot refuse a leader that was replaced while it slept; this is as near to the write as can be.
  await write(context, () => Promise.resolve());
  return await writeOnceOrRead(medium, tree.backupInfo(root, key), BackupInfoSchema, info, signal);
}

const BACKUP_TYPES: Readonly<Record<BackupSet['backup_type'], BackupType>> = {
  FULL: BackupType.FULL,
  INCREMENTAL: BackupType.INCREMENTAL,
  SYNTHETIC: BackupType.SYNTHETIC,
};

/** What was copied as an increment, or made of another set, must be published as such, and of the same set. */
function checkGoesOnFrom(set: BackupSet, backup: PartitionGroupBackup): void {
  if (backup.sourceSetId !== set.source_set_id)
    throw new HoldfastError(
      'BACKUP_FAILED',
      `partition group ${backup.partitionGroup} was made of set ${backup.sourceSetId}, backup set ${set.backup_set_id} is one of set ${set.source_set_id}`,
    );
  if (backup.previousSetId === set.previous_set_id) return;
  throw new HoldfastError(
    'BACKUP_FAILED',
    `partition group ${backup.partitionGroup} was copied as an increment of set ${backup.previousSetId}, backup set ${set.backup_set_id} is one of set ${set.previous_set_id}`,
  );
}
