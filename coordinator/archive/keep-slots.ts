/**
 * Slots in step: every standby of a group whose log is archived holds a slot of the leader's name that keeps the log from
 * the archived position on. After a promotion the archiver finds there what the old leader had not shipped. Where nobody
 * will archive what a slot keeps, it is dropped, on every member.
 *
 *   newest round               standbys' slots             the leader's slot
 *   -------------------------  --------------------------  ----------------------------------
 *   running                    at the archived position    the archiver's
 *   INTERRUPTED, another one   as they are                 reserves log where the hole ends
 *     follows by itself
 *   INTERRUPTED, else; STOP    dropped                     dropped by the archiver, else here
 *   of a dropped tenant        dropped, and owed till then dropped, and owed till then
 */
import { create } from '@bufbuild/protobuf';
import { parseLsn } from '../../foundation/lsn.ts';
import { KeepSlotsSchema, type KeptSlot, KeptSlotSchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { listOwedSlots } from '../catalog/owed-slots.ts';
import { findLastRound, listRoundGroups } from '../catalog/rounds.ts';
import type { InstanceRow } from '../catalog/servers.ts';
import type { Tenant } from '../catalog/tenants.ts';
import type { CoordinatorContext } from '../context.ts';
import { slotName } from '../jobs/dispatch.ts';
import { type Candidates, membersOf } from '../jobs/placement.ts';
import { isFollowed } from './next-round.ts';
import { isRunning } from './round-states.ts';

const INTERVAL_MS = 5000;
const DROP = 0n;

export class SlotKeeping {
  #lastMs = Number.NEGATIVE_INFINITY;

  /** Tells the agents now and then; what one misses, the next time says again. */
  async tell(context: CoordinatorContext, tenants: readonly Tenant[], candidates: Candidates): Promise<void> {
    const nowMs = context.clock.monotonicMs();
    if (nowMs - this.#lastMs < INTERVAL_MS) return;
    this.#lastMs = nowMs;
    const orders = new Map<bigint, KeptSlot[]>();
    const add = (serverId: bigint, instance: string, name: string, lsn: bigint) => {
      const kept = create(KeptSlotSchema, { instance, slotName: name, lsn });
      orders.set(serverId, [...(orders.get(serverId) ?? []), kept]);
    };
    for (const tenant of tenants.filter(({ status }) => status === 'NORMAL')) {
      const round = await findLastRound(context.catalog, tenant.tenant_id);
      // After a hole the next round may begin at any moment: the slots stay as they are.
      if (round === undefined || (await isFollowed(context, round))) continue;
      for (const group of await listRoundGroups(context.catalog, tenant.tenant_id, round.round)) {
        const running = isRunning(round.state);
        if (running && group.checkpoint_lsn === null) continue;
        const lsn = running ? parseLsn(group.checkpoint_lsn ?? '0/0') : DROP;
        const name = slotName(context, tenant.tenant_id, group.partition_group);
        for (const member of membersOf(tenant.tenant_id, group.partition_group, candidates))
          if (isTold(member, running)) add(member.server_id, member.instance, name, lsn);
      }
    }
    for (const owed of await listOwedSlots(context.catalog))
      add(owed.server_id, owed.instance, owed.slot_name, DROP);
    for (const [serverId, slots] of orders)
      context.hub.session(serverId)?.send({ case: 'keepSlots', value: create(KeepSlotsSchema, { slots }) });
  }
}

/** Of a running round the leader's slot is its archiver's alone. */
function isTold({ role }: InstanceRow, running: boolean): boolean {
  return role === 'STANDBY' || (role === 'PRIMARY' && !running);
}
