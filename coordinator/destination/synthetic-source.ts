/** Of which set a synthetic full is made. */
import { HoldfastError } from '../../foundation/errors.ts';
import type { BackupInfo } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import type { TreeRoot } from '../../storage-layout/tree.ts';
import { pagesReadAt } from './full-age.ts';
import { readUsableSets } from './increment-base.ts';

/** `pagesReadUs`: when the last backup that read every page began. */
export type SyntheticSource = { readonly set: BackupInfo; readonly pagesReadUs: bigint };

/**
 * The newest of the tenant's sets. Throws SYNTHETIC_BACKUP_REFUSED when there is none, when a page of it failed its check,
 * or when its full set is gone. Pure.
 */
export function chooseSource(tenantName: string, sets: readonly BackupInfo[]): SyntheticSource {
  const set = sets.reduce<BackupInfo | undefined>(
    (best, each) => (best === undefined || each.backupSetId > best.backupSetId ? each : best),
    undefined,
  );
  const hint = 'ALTER SYSTEM BACKUP DATABASE;';
  if (set === undefined)
    throw refused(`tenant "${tenantName}" has no complete backup set to make one of`, { hint });
  const failed = set.partitionGroups.find(({ pageFailures }) => pageFailures.length > 0);
  const [page] = failed?.pageFailures ?? [];
  if (failed !== undefined && page !== undefined)
    throw refused(
      `block ${page.block} of ${page.path} in partition group ${failed.partitionGroup} failed its page check in backup set ${set.backupSetId}`,
      {
        detail: `${failed.pageFailures.length} of its pages failed; the first: ${page.reason}.`,
        hint: 'Mend the page in the database, then ALTER SYSTEM BACKUP INCREMENTAL DATABASE; which reads its block again.',
      },
    );
  const pagesReadUs = pagesReadAt(sets, set);
  if (pagesReadUs === undefined)
    throw refused(`full set ${set.fullSetId} of backup set ${set.backupSetId} is gone`, { hint });
  return { set, pagesReadUs };
}

/** The same from what the destination has: sets that are marked for deletion do not count. */
export async function findSource(
  medium: Medium,
  root: TreeRoot,
  tenant: { readonly tenant_id: bigint; readonly tenant_name: string },
  signal: AbortSignal,
): Promise<SyntheticSource> {
  return chooseSource(tenant.tenant_name, await readUsableSets(medium, root, tenant.tenant_id, signal));
}

function refused(why: string, more: { readonly detail?: string; readonly hint: string }): HoldfastError {
  return new HoldfastError('SYNTHETIC_BACKUP_REFUSED', `no synthetic full can be made: ${why}`, more);
}
