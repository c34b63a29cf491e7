/** Whose log and backups stand under a tenant's id at the destination. */
import { HoldfastError } from '../../foundation/errors.ts';
import { RoundBeginSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { readInfoIfThere } from '../../storage-layout/records/info-file.ts';
import { type TreeRoot, tree } from '../../storage-layout/tree.ts';
import { roundIds } from './claims.ts';

/**
 * Throws INVALID_BACKUP_DEST when the tenant's id is another tenant's at the destination: a catalog that has lost its last
 * minutes may give an id again, and a restore must never find two tenants under one.
 */
export async function checkTenant(
  medium: Medium,
  root: TreeRoot,
  tenant: { readonly tenantId: bigint; readonly name: string },
  signal: AbortSignal,
): Promise<void> {
  const { tenantId, name } = tenant;
  const rounds = [...(await roundIds(medium, root, tenantId, signal))].sort((a, b) => (a > b ? -1 : 1));
  for (const round of rounds) {
    const key = tree.roundBegin(root, { tenantId, round });
    const begin = await readInfoIfThere(medium, key, RoundBeginSchema, signal);
    if (begin === undefined) continue;
    if (begin.tenantName === name) return;
    throw new HoldfastError(
      'INVALID_BACKUP_DEST',
      `${medium.displayUri} holds the log of tenant "${begin.tenantName}" under id ${tenantId}, which is tenant "${name}" here`,
      {
        detail: `${key} names it. The catalog has given the id twice: it was lost or set back.`,
        hint: 'Archive to another destination.',
      },
    );
  }
}
