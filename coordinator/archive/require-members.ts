/** What a backup of a tenant needs of its round: the log of every partition group that the tenant has now. */
import { HoldfastError } from '../../foundation/errors.ts';
import type { Queryable } from '../catalog/catalog.ts';
import { findTask } from '../catalog/jobs.ts';
import { listRoundMembers } from '../catalog/members.ts';
import { listRoundGroups, type RoundGroup } from '../catalog/rounds.ts';
import { listGroups, type PartitionGroup } from '../catalog/tenants.ts';

type Tenant = { readonly tenant_id: bigint; readonly tenant_name: string };

/**
 * The tenant's groups. Throws BACKUP_CAN_NOT_START, saying what is waited for, when one of them has joined the running
 * round and its log has no start there yet.
 */
export async function requireMembers(
  db: Queryable,
  tenant: Tenant,
  round: bigint,
): Promise<readonly PartitionGroup[]> {
  const groups = await listGroups(db, tenant.tenant_id);
  const members = await listRoundMembers(db, { tenant_id: tenant.tenant_id, round });
  const begun = new Set(
    members.filter((member) => member.left_us === 0n && member.begun).map((member) => member.partition_group),
  );
  const missing = groups.filter((group) => !begun.has(group.partition_group));
  if (missing.length === 0 && groups.length > 0) return groups;
  const names = missing.map((group) => group.partition_group).join(', ');
  const rows = await listRoundGroups(db, tenant.tenant_id, round);
  const waits: string[] = [];
  for (const { partition_group: name } of missing) {
    const row = rows.find((each) => each.partition_group === name && each.left_us === 0n);
    waits.push(`${name} waits for ${await whatItWaitsFor(db, row)}.`);
  }
  throw new HoldfastError(
    'BACKUP_CAN_NOT_START',
    groups.length === 0
      ? `tenant "${tenant.tenant_name}" has no partition group: no agent declares one`
      : `partition group ${names} of tenant "${tenant.tenant_name}" has joined round ${round}, and its log is not archived yet`,
    {
      ...(waits.length === 0 ? {} : { detail: waits.join('\n') }),
      hint: "Wait until CDB_OB_BACKUP_ARCHIVELOG_PROGRESS shows it DOING, or take it out of the agent's configuration.",
    },
  );
}

async function whatItWaitsFor(db: Queryable, row: RoundGroup | undefined): Promise<string> {
  if (row === undefined) return 'its record at the destination';
  const task = await findTask(db, row.task_id);
  if (row.last_error !== '') return `its archiver, which failed: ${row.last_error}`;
  if (task?.state === 'PENDING')
    return task.error_message === '' ? 'a leader of the partition group' : task.error_message;
  return row.waiting_for === '' ? 'its start' : row.waiting_for;
}
