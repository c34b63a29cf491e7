/**
 * What servers keep for slots, judged anew while a round runs: their settings come with the heartbeats, the tenant's wish
 * from its parameters. What is wrong is shown with the member and told by an event, once per change; it never ends a round.
 */

import { findLastRound } from '../catalog/rounds.ts';
import { type InstanceRow, setAdvice } from '../catalog/servers.ts';
import type { Tenant } from '../catalog/tenants.ts';
import { type CoordinatorContext, write } from '../context.ts';
import { judgeRetention, type Retention, readRetention } from '../jobs/check-job.ts';
import { type Candidates } from '../jobs/placement.ts';
import { isRunning } from './round-states.ts';

const INTERVAL_MS = 2000;

export class RetentionWatch {
  #lastMs = Number.NEGATIVE_INFINITY;

  async look(context: CoordinatorContext, tenants: readonly Tenant[], candidates: Candidates): Promise<void> {
    const nowMs = context.clock.monotonicMs();
    if (nowMs - this.#lastMs < INTERVAL_MS) return;
    this.#lastMs = nowMs;
    for (const tenant of tenants.filter(({ status }) => status === 'NORMAL')) {
      const round = await findLastRound(context.catalog, tenant.tenant_id);
      const archived = round !== undefined && isRunning(round.state);
      const retention = await readRetention(context, tenant.tenant_id);
      for (const member of candidates.instances.filter((row) => row.tenant_id === tenant.tenant_id))
        await record(context, tenant, member, archived ? adviceFor(member, retention) : '', archived);
    }
  }
}

async function record(
  context: CoordinatorContext,
  tenant: Tenant,
  member: InstanceRow,
  advice: string,
  archived: boolean,
): Promise<void> {
  if (advice === member.advice) return;
  await write(context, async (tx) => {
    if (!(await setAdvice(tx, member, advice)) || !archived) return;
    await tx.event({
      module: 'archive',
      event: advice === '' ? 'retention_mended' : 'retention_wrong',
      severity: advice === '' ? 'INFO' : 'WARNING',
      tenantId: tenant.tenant_id,
      tenantName: tenant.tenant_name,
      message:
        advice === ''
          ? `instance "${member.instance}" of partition group ${member.partition_group} keeps its log as backup_log_archive_option wants it`
          : `partition group ${member.partition_group}: ${advice}`,
      facts: {
        partition_group: member.partition_group,
        server_id: member.server_id,
        instance: member.instance,
        max_slot_wal_keep_size: member.max_slot_wal_keep_size,
        idle_replication_slot_timeout: member.idle_slot_timeout,
      },
    });
  });
}

/** What to change on the member, and why; empty: nothing, or its settings are not known. Pure. */
export function adviceFor(
  member: Pick<InstanceRow, 'instance' | 'role' | 'max_slot_wal_keep_size' | 'idle_slot_timeout'>,
  retention: Retention,
): string {
  if (member.max_slot_wal_keep_size === '') return '';
  const items = [
    { name: 'max_slot_wal_keep_size', found: member.max_slot_wal_keep_size, wanted: '', fix: '' },
    {
      name: 'idle_replication_slot_timeout',
      found: member.idle_slot_timeout,
      wanted: '0 (backup_log_archive_option is MANDATORY)',
      fix: "On the server: ALTER SYSTEM SET idle_replication_slot_timeout = '0'; SELECT pg_reload_conf();",
    },
  ];
  const wrong = items
    .map((item) => judgeRetention({ ...item, passed: true }, retention))
    .filter(({ passed }) => !passed);
  if (wrong.length === 0) return '';
  const role = member.role === 'PRIMARY' ? 'leader' : member.role === 'STANDBY' ? 'follower' : 'member';
  const facts = wrong.map(({ name, found, wanted }) => `${name} is ${found}, wanted ${wanted}`);
  return `instance "${member.instance}" (${role}): ${facts.join('; ')}. ${wrong.map(({ fix }) => fix).join(' ')}`;
}
