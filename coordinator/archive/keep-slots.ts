/**
 * Slots in step: every standby of a group whose log is archived holds a slot of the leader's name that keeps the log from
 * the archived position on. After a promotion the archiver finds there what the old leader had not shipped.
 */
import { create } from '@bufbuild/protobuf';
import { parseLsn } from '../../foundation/lsn.ts';
import { KeepSlotsSchema, type KeptSlot, KeptSlotSchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { findLastRound, listRoundGroups } from '../catalog/rounds.ts';
import type { Tenant } from '../catalog/tenants.ts';
import type { CoordinatorContext } from '../context.ts';
import { slotName } from '../jobs/dispatch.ts';
import { type Candidates, membersOf } from '../jobs/placement.ts';
import { isRunning } from './round-states.ts';

const INTERVAL_MS = 5000;

export class SlotKeeping {
  #lastMs = Number.NEGATIVE_INFINITY;

  /** Tells the agents now and then; what one misses, the next time says again. */
  async tell(context: CoordinatorContext, tenants: readonly Tenant[], candidates: Candidates): Promise<void> {
    const nowMs = context.clock.monotonicMs();
    if (nowMs - this.#lastMs < INTERVAL_MS) return;
    this.#lastMs = nowMs;
    const orders = new Map<bigint, KeptSlot[]>();
    for (const tenant of tenants.filter(({ status }) => status === 'NORMAL')) {
      const round = await findLastRound(context.catalog, tenant.tenant_id);
      // After a hole the next round may begin at any moment: the slots stay as they are.
      if (round === undefined || round.state === 'INTERRUPTED') continue;
      for (const group of await listRoundGroups(context.catalog, tenant.tenant_id, round.round)) {
        if (isRunning(round.state) && group.checkpoint_lsn === null) continue;
        const lsn = isRunning(round.state) ? parseLsn(group.checkpoint_lsn ?? '0/0') : 0n;
        const name = slotName(context, tenant.tenant_id, group.partition_group);
        for (const member of membersOf(tenant.tenant_id, group.partition_group, candidates)) {
          if (member.role !== 'STANDBY') continue;
          const kept = create(KeptSlotSchema, { instance: member.instance, slotName: name, lsn });
          orders.set(member.server_id, [...(orders.get(member.server_id) ?? []), kept]);
        }
      }
    }
    for (const [serverId, slots] of orders)
      context.hub.session(serverId)?.send({ case: 'keepSlots', value: create(KeepSlotsSchema, { slots }) });
  }
}
