import { describe, expect, test } from 'vitest';
import {
  failReach,
  lookAtReach,
  OPENING_STALLED_MS,
  type Reach,
  SETTLED_MS,
  STALLED_MS,
} from '../../../../agent/archive/reach.ts';

const quiet = { callMs: 0, openingMs: 0, streamedMs: 0, nowUs: 100_000_000n };
const AWAY: Reach = { kind: 'away', sinceUs: 5n };

describe('the reach of a destination', () => {
  test('an outage begins with the first failure, and later ones do not move it', () => {
    const away = failReach({ kind: 'reached' }, 7n);
    expect(away).toEqual({ kind: 'away', sinceUs: 7n });
    expect(failReach(away, 9n)).toEqual(away);
    expect(failReach({ kind: 'unknown' }, 7n)).toEqual(away);
  });
  test('a call that hangs is an outage since it began', () => {
    expect(lookAtReach({ kind: 'reached' }, { ...quiet, callMs: STALLED_MS - 1 })).toEqual({
      kind: 'reached',
    });
    expect(lookAtReach({ kind: 'reached' }, { ...quiet, callMs: STALLED_MS })).toEqual({
      kind: 'away',
      sinceUs: quiet.nowUs - BigInt(STALLED_MS) * 1000n,
    });
    // Also in a session that has streamed for long.
    const hanging = { ...quiet, callMs: STALLED_MS, streamedMs: 60_000 };
    expect(lookAtReach({ kind: 'reached' }, hanging).kind).toBe('away');
  });
  test('opening may take many calls, but not for ever', () => {
    const opening = { ...quiet, openingMs: OPENING_STALLED_MS - 1 };
    expect(lookAtReach({ kind: 'unknown' }, opening)).toEqual({ kind: 'unknown' });
    expect(lookAtReach({ kind: 'unknown' }, { ...opening, openingMs: OPENING_STALLED_MS }).kind).toBe('away');
  });
  test('it is over when a session has streamed for a while, not with every attempt that begins', () => {
    expect(lookAtReach(AWAY, quiet)).toEqual(AWAY);
    expect(lookAtReach(AWAY, { ...quiet, streamedMs: SETTLED_MS - 1 })).toEqual(AWAY);
    expect(lookAtReach(AWAY, { ...quiet, streamedMs: SETTLED_MS })).toEqual({ kind: 'reached' });
    expect(lookAtReach({ kind: 'unknown' }, quiet)).toEqual({ kind: 'unknown' });
  });
});
