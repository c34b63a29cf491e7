/**
 * An archiver whose agent is lost says nothing more, and its server goes on writing. What that server keeps of its log is
 * known, and how much it has written since can be told: by another member of the group that has its log, else from the
 * rate so far. When that passes what is kept, log may be lost already; the hole itself is named when an agent has the
 * instance again.
 */
import { parseLsn } from '../../foundation/lsn.ts';
import { formatSize, parseSizeBytes } from '../../foundation/units.ts';
import { formatInstant } from '../../storage-layout/plan/windows.ts';
import { listLiveRounds, listRoundGroups, markOverdue, type RoundGroup } from '../catalog/rounds.ts';
import type { InstanceRow } from '../catalog/servers.ts';
import { type CoordinatorContext, write } from '../context.ts';
import type { Candidates } from '../jobs/placement.ts';

const INTERVAL_MS = 2000;

type Facts = Pick<
  RoundGroup,
  | 'instance'
  | 'server_id'
  | 'checkpoint_lsn'
  | 'start_us'
  | 'updated_us'
  | 'backlog_bytes'
  | 'earlier_input_bytes'
  | 'input_bytes'
  | 'slot_retained_bytes'
  | 'wal_free_bytes'
>;

export type Overdue = {
  /** At least, or about, so much log is not archived. */
  readonly backlogBytes: bigint;
  readonly isEstimate: boolean;
  readonly limitBytes: bigint;
  /** `keeps`: the server gives log up beyond it. `disk`: it keeps all, and its disk has no more room. */
  readonly limit: 'keeps' | 'disk';
};

export class OverdueWatch {
  #lastMs = Number.NEGATIVE_INFINITY;

  async look(context: CoordinatorContext, candidates: Candidates): Promise<void> {
    const nowMs = context.clock.monotonicMs();
    if (nowMs - this.#lastMs < INTERVAL_MS) return;
    this.#lastMs = nowMs;
    const lost = new Set(
      candidates.servers.filter(({ status }) => status === 'INACTIVE').map((server) => server.server_id),
    );
    if (lost.size === 0) return;
    for (const round of await listLiveRounds(context.catalog))
      for (const group of await listRoundGroups(context.catalog, round.tenant_id, round.round))
        if (lost.has(group.server_id) && !group.overdue) await this.#tell(context, group, candidates);
  }

  async #tell(context: CoordinatorContext, group: RoundGroup, candidates: Candidates): Promise<void> {
    const members = candidates.instances.filter(
      (row) =>
        row.tenant_id === group.tenant_id &&
        row.partition_group === group.partition_group &&
        row.system_identifier === group.system_identifier,
    );
    const overdue = judgeOverdue(group, members, context.clock.nowUs());
    if (overdue === undefined) return;
    const amount = `${overdue.isEstimate ? 'about' : 'at least'} ${formatSize(overdue.backlogBytes)}`;
    const fate =
      overdue.limit === 'keeps'
        ? `keeps ${formatSize(overdue.limitBytes)} (max_slot_wal_keep_size) at most: log may be lost`
        : `keeps all of it, and its disk had room for ${formatSize(overdue.limitBytes)}: the disk may be full`;
    await write(context, async (tx) => {
      if (!(await markOverdue(tx, group))) return;
      await tx.event({
        module: 'archive',
        event: overdue.limit === 'keeps' ? 'log_may_be_lost' : 'log_disk_may_be_full',
        severity: 'ERROR',
        tenantId: group.tenant_id,
        message: `partition group ${group.partition_group}: the agent of server ${group.server_id} is lost, and nothing is archived since ${formatInstant(group.checkpoint_us)}. Instance "${group.instance}" has written ${amount} since, and ${fate}. Start the agent.`,
        facts: {
          round: group.round,
          partition_group: group.partition_group,
          server_id: group.server_id,
          instance: group.instance,
          backlog_bytes: overdue.backlogBytes,
          limit_bytes: overdue.limitBytes,
          checkpoint_us: group.checkpoint_us,
        },
      });
    });
  }
}

/** Undefined: what is not archived is within what the server keeps, or nothing is known of either. Pure. */
export function judgeOverdue(
  group: Facts,
  members: readonly Pick<InstanceRow, 'server_id' | 'instance' | 'lsn' | 'max_slot_wal_keep_size'>[],
  nowUs: bigint,
): Overdue | undefined {
  if (group.checkpoint_lsn === null) return undefined;
  const limit = limitOf(group, members);
  if (limit === undefined) return undefined;
  const archived: bigint = parseLsn(group.checkpoint_lsn);
  const known = members.reduce((most, { lsn }) => {
    const behind = lsn === null ? 0n : parseLsn(lsn) - archived;
    return behind > most ? behind : most;
  }, group.backlog_bytes);
  if (known > limit.limitBytes) return { ...limit, backlogBytes: known, isEstimate: false };
  const estimated = group.backlog_bytes + writtenSince(group, nowUs);
  return estimated > limit.limitBytes ? { ...limit, backlogBytes: estimated, isEstimate: true } : undefined;
}

function limitOf(
  group: Facts,
  members: readonly Pick<InstanceRow, 'server_id' | 'instance' | 'max_slot_wal_keep_size'>[],
): Pick<Overdue, 'limit' | 'limitBytes'> | undefined {
  const archived = members.find(
    (row) => row.server_id === group.server_id && row.instance === group.instance,
  );
  const keeps = archived?.max_slot_wal_keep_size ?? '';
  if (keeps === '') return undefined;
  if (keeps !== '-1') return { limit: 'keeps', limitBytes: BigInt(parseSizeBytes(keeps)) };
  if (group.wal_free_bytes === 0n) return undefined;
  return { limit: 'disk', limitBytes: group.wal_free_bytes + group.slot_retained_bytes };
}

/** By the round's rate so far. */
function writtenSince(group: Facts, nowUs: bigint): bigint {
  const archivedUs = group.updated_us - group.start_us;
  const silentUs = nowUs - group.updated_us;
  if (group.start_us === 0n || archivedUs <= 0n || silentUs <= 0n) return 0n;
  return ((group.earlier_input_bytes + group.input_bytes) * silentUs) / archivedUs;
}
