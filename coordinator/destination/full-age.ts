/** When every page of a set was last read from the database, and whether that is too long ago. Pure. */
import { parseDurationMs } from '../../foundation/units.ts';
import { type BackupInfo, BackupType } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { formatInstant } from '../../storage-layout/plan/windows.ts';

/** `maxAge`: the value of full_backup_max_age; 0 is no limit. */
export type AgeLimit = { readonly nowUs: bigint; readonly maxAge: string };

/** When the last backup began that read every page in the set; undefined: its full set is gone. */
export function pagesReadAt(sets: readonly BackupInfo[], set: BackupInfo): bigint | undefined {
  const full = sets.find((each) => each.backupSetId === set.fullSetId);
  return full?.type === BackupType.SYNTHETIC ? full.pagesReadUs : full?.startUs;
}

/** Why a real full backup is due; undefined: it is not. */
export function overdueReason(pagesReadUs: bigint, { nowUs, maxAge }: AgeLimit): string | undefined {
  const maxAgeMs = parseDurationMs(maxAge);
  if (maxAgeMs === 0 || nowUs - pagesReadUs <= BigInt(Math.round(maxAgeMs * 1000))) return undefined;
  return `the last backup that read every page began ${formatInstant(pagesReadUs)}, longer than full_backup_max_age (${maxAge}) ago`;
}
