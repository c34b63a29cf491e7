/**
 * A round: one unbroken run of log archiving of one tenant. OceanBase's states and transitions.
 *
 *   STOP ──begin──► BEGINNING ──allStarted──► DOING
 *   BEGINNING, DOING ──stop──► STOPPING ──ended──► STOP          (STOPPING ──interrupt──► STOPPING)
 *   BEGINNING, DOING ──interrupt──► INTERRUPTED ──acknowledge──► STOP
 *
 * Round invariants (docs/states.md):
 * R1. A round id is claimed by its mount_file at the destination before the catalog has the round.
 * R2. DOING only when every partition group has reported its start and round_begin is at the destination.
 * R3. A hole ends the round: from INTERRUPTED it never becomes DOING again; the next round has a new id.
 * R4. At most one round of a tenant is BEGINNING, DOING or STOPPING.
 * R5. A round's checkpoint never goes back, and its start never changes once it is DOING.
 * R6. Stopping needs no destination: round_end is then owed, and paid when the destination is back.
 * R7 to R9, of groups that join or leave while it runs: round-members.ts.
 */
import type { TransitionTable } from '../jobs/state-machine.ts';

export type RoundStateName = 'STOP' | 'BEGINNING' | 'DOING' | 'STOPPING' | 'INTERRUPTED';
export type RoundEvent = 'begin' | 'allStarted' | 'stop' | 'ended' | 'interrupt' | 'acknowledge';

export const ROUND_TRANSITIONS: TransitionTable<RoundStateName, RoundEvent> = {
  STOP: { begin: 'BEGINNING' },
  BEGINNING: { allStarted: 'DOING', stop: 'STOPPING', interrupt: 'INTERRUPTED' },
  DOING: { stop: 'STOPPING', interrupt: 'INTERRUPTED' },
  STOPPING: { ended: 'STOP', interrupt: 'STOPPING' },
  INTERRUPTED: { acknowledge: 'STOP' },
};

/** True while agents work for the round. */
export function isRunning(state: RoundStateName): boolean {
  return state === 'BEGINNING' || state === 'DOING' || state === 'STOPPING';
}
