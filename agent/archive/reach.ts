/**
 * Whether an archiver can work at its destination: what becomes an event, so it changes once per outage and not once per
 * attempt. Pure but for what it is told.
 *
 *   unknown, reached ──a call fails, or takes STALLED_MS, or opening takes OPENING_STALLED_MS──► away
 *   unknown, away    ──a session has streamed for SETTLED_MS───────────────────────────────────► reached
 */

import { type ArchiveProgress, DestinationReach } from '../../proto/gen/holdfast/v1/agent_pb.ts';

/** A call that takes longer has met a destination that hangs. */
export const STALLED_MS = 10_000;
/** To find the end of an archive takes many calls. */
export const OPENING_STALLED_MS = 60_000;
/** Behind a look at the medium: a session that fails sooner has not mended anything. */
export const SETTLED_MS = 6000;

export type Reach =
  | { readonly kind: 'unknown' }
  | { readonly kind: 'reached' }
  /** Microseconds since 1970, of this node's clock. */
  | { readonly kind: 'away'; readonly sinceUs: bigint };

const REACH: Readonly<Record<Reach['kind'], DestinationReach>> = {
  unknown: DestinationReach.UNSPECIFIED,
  reached: DestinationReach.REACHED,
  away: DestinationReach.AWAY,
};

/** As the progress says it. */
export function describeReach(reach: Reach): Pick<ArchiveProgress, 'destination' | 'destinationAwayUs'> {
  return {
    destination: REACH[reach.kind],
    destinationAwayUs: reach.kind === 'away' ? reach.sinceUs : 0n,
  };
}

export type ReachInput = {
  /** How long the call to the destination that is under way has taken; 0: none is. */
  readonly callMs: number;
  /** How long the archive has been opened for; 0: it is open, or not being opened. */
  readonly openingMs: number;
  /** How long the session has streamed; 0: it does not. */
  readonly streamedMs: number;
  readonly nowUs: bigint;
};

/** What a look now and then makes of it. */
export function lookAtReach(reach: Reach, input: ReachInput): Reach {
  if (input.callMs >= STALLED_MS) return goAway(reach, input.nowUs - toUs(input.callMs));
  if (input.openingMs >= OPENING_STALLED_MS) return goAway(reach, input.nowUs - toUs(input.openingMs));
  return input.streamedMs >= SETTLED_MS ? { kind: 'reached' } : reach;
}

/** A call to the destination failed. */
export function failReach(reach: Reach, nowUs: bigint): Reach {
  return goAway(reach, nowUs);
}

function goAway(reach: Reach, sinceUs: bigint): Reach {
  return reach.kind === 'away' ? reach : { kind: 'away', sinceUs };
}

function toUs(ms: number): bigint {
  return BigInt(Math.round(ms)) * 1000n;
}
