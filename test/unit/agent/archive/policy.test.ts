import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  addPolled,
  advanceCheckpoint,
  backoffMs,
  decideFlush,
  FLUSH_MAX_BYTES,
  FLUSH_MIN_BYTES,
  mustSeal,
  NO_CHECKPOINT,
  nextThreshold,
  SEAL_AGE_MS,
  SEAL_FLUSHES,
  SEAL_FLUSHES_AGE_MS,
  SEAL_FLUSHES_MOST,
  SEAL_LOG_BYTES,
} from '../../../../agent/archive/policy.ts';
import { toLsn } from '../../../../foundation/lsn.ts';

const input = {
  bufferedBytes: 1000,
  oldestWaitedMs: 0,
  checkpointIntervalMs: 1000,
  thresholdBytes: FLUSH_MIN_BYTES,
  wanted: false,
  synchronous: false,
};

describe('decideFlush', () => {
  test('nothing buffered: waits for bytes, even when a flush is wanted', () => {
    expect(decideFlush({ ...input, bufferedBytes: 0, wanted: true, oldestWaitedMs: 9999 })).toEqual({
      kind: 'wait',
      ms: undefined,
    });
  });
  test('a little: waits until the interval has passed for the oldest byte', () => {
    expect(decideFlush({ ...input, oldestWaitedMs: 400 })).toEqual({ kind: 'wait', ms: 600 });
    expect(decideFlush({ ...input, oldestWaitedMs: 1000 })).toEqual({ kind: 'flush' });
  });
  test('enough, or wanted by someone: at once', () => {
    expect(decideFlush({ ...input, bufferedBytes: FLUSH_MIN_BYTES })).toEqual({ kind: 'flush' });
    expect(decideFlush({ ...input, wanted: true })).toEqual({ kind: 'flush' });
  });
  test('commits wait for it: at once, however little and young it is', () => {
    const one = { ...input, bufferedBytes: 1, checkpointIntervalMs: 3_600_000 };
    expect(decideFlush(one)).toEqual({ kind: 'wait', ms: 3_600_000 });
    expect(decideFlush({ ...one, synchronous: true })).toEqual({ kind: 'flush' });
    expect(decideFlush({ ...one, bufferedBytes: 0, synchronous: true })).toEqual({
      kind: 'wait',
      ms: undefined,
    });
  });
});

describe('nextThreshold', () => {
  test('doubles while as much gathers during a flush, halves when flushes are small, within 1 to 8 MiB', () => {
    expect(nextThreshold(FLUSH_MIN_BYTES, FLUSH_MIN_BYTES, FLUSH_MIN_BYTES)).toBe(2 * FLUSH_MIN_BYTES);
    expect(nextThreshold(FLUSH_MAX_BYTES, FLUSH_MAX_BYTES, FLUSH_MAX_BYTES)).toBe(FLUSH_MAX_BYTES);
    expect(nextThreshold(4 * FLUSH_MIN_BYTES, FLUSH_MIN_BYTES, 0)).toBe(2 * FLUSH_MIN_BYTES);
    expect(nextThreshold(FLUSH_MIN_BYTES, 10, 0)).toBe(FLUSH_MIN_BYTES);
    expect(nextThreshold(2 * FLUSH_MIN_BYTES, FLUSH_MIN_BYTES, FLUSH_MIN_BYTES)).toBe(2 * FLUSH_MIN_BYTES);
  });
});

describe('mustSeal', () => {
  const file = { logBytes: 1, flushes: 1, ageMs: 1 };
  test('a file with little in it stays open', () => {
    expect(mustSeal(file, 100)).toBe(false);
  });
  test('sealed before a block that would pass 64 MiB, at 256 flushes, at an hour', () => {
    expect(mustSeal({ ...file, logBytes: SEAL_LOG_BYTES - 100 }, 100)).toBe(false);
    expect(mustSeal({ ...file, logBytes: SEAL_LOG_BYTES - 100 }, 101)).toBe(true);
    expect(mustSeal({ ...file, flushes: SEAL_FLUSHES, ageMs: SEAL_FLUSHES_AGE_MS }, 1)).toBe(true);
    expect(mustSeal({ ...file, ageMs: SEAL_AGE_MS }, 1)).toBe(true);
  });
  test('a young file takes the flushes of many single commits, up to a bound', () => {
    expect(mustSeal({ ...file, flushes: SEAL_FLUSHES }, 1)).toBe(false);
    expect(mustSeal({ ...file, flushes: SEAL_FLUSHES_MOST }, 1)).toBe(true);
  });
  test('never without log in it: the next file would be as empty', () => {
    expect(mustSeal({ logBytes: 0, flushes: 9999, ageMs: SEAL_AGE_MS * 2 }, 1)).toBe(false);
  });
});

describe('the checkpoint time', () => {
  const polled = (lsn: number, clockUs: number) => ({ lsn: toLsn(BigInt(lsn)), clockUs: BigInt(clockUs) });
  test('moves to the clock of the newest polled position that is durable', () => {
    let checkpoint = addPolled(addPolled(NO_CHECKPOINT, polled(100, 10)), polled(200, 20));
    checkpoint = advanceCheckpoint(checkpoint, toLsn(99n));
    expect(checkpoint.timeUs).toBe(0n);
    checkpoint = advanceCheckpoint(checkpoint, toLsn(150n));
    expect(checkpoint).toMatchObject({ timeUs: 10n, lsn: 100n });
    checkpoint = advanceCheckpoint(checkpoint, toLsn(200n));
    expect(checkpoint).toMatchObject({ timeUs: 20n, lsn: 200n, candidates: [] });
  });
  test('does not go back with the server clock', () => {
    let checkpoint = advanceCheckpoint(addPolled(NO_CHECKPOINT, polled(100, 50)), toLsn(100n));
    checkpoint = advanceCheckpoint(addPolled(checkpoint, polled(120, 30)), toLsn(120n));
    expect(checkpoint.timeUs).toBe(50n);
  });
  test('never claims a time whose position is not durable, with bounded memory', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ step: fc.nat(50), durable: fc.nat(5000), poll: fc.boolean() }), {
          maxLength: 200,
        }),
        (events) => {
          let checkpoint = NO_CHECKPOINT;
          let lsn = 0;
          let durable = 0;
          const seen = new Map<bigint, bigint>();
          for (const [index, event] of events.entries()) {
            lsn += event.step;
            durable = Math.max(durable, Math.min(lsn, event.durable));
            if (event.poll) {
              const candidate = polled(lsn, index + 1);
              seen.set(candidate.clockUs, candidate.lsn);
              checkpoint = addPolled(checkpoint, candidate);
            }
            const before = checkpoint.timeUs;
            checkpoint = advanceCheckpoint(checkpoint, toLsn(BigInt(durable)));
            expect(checkpoint.timeUs).toBeGreaterThanOrEqual(before);
            expect(checkpoint.candidates.length).toBeLessThanOrEqual(32);
            if (checkpoint.timeUs > 0n)
              expect(seen.get(checkpoint.timeUs) ?? 0n).toBeLessThanOrEqual(BigInt(durable));
          }
        },
      ),
    );
  });
});

test('back-off doubles from 100 ms to 5 s', () => {
  expect([1, 2, 3, 7, 50].map(backoffMs)).toEqual([100, 200, 400, 5000, 5000]);
});
