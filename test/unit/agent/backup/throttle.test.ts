import { expect, test } from 'vitest';
import { SharedLimits, Throttle } from '../../../../agent/backup/throttle.ts';
import { type Clock, systemClock } from '../../../../foundation/clock.ts';

const signal = new AbortController().signal;

test('writes are held to the rate, and a pause is not saved up', async () => {
  const clock = fakeClock();
  const throttle = new Throttle({ bytesPerSecond: 1000, pace: 1 }, clock);
  for (let n = 0; n < 5; n += 1) await throttle.spend(100, signal);
  expect(clock.monotonicMs()).toBe(500);
  await clock.sleep(60_000, signal);
  for (let n = 0; n < 5; n += 1) await throttle.spend(100, signal);
  expect(clock.monotonicMs()).toBe(61_000);
});

test('without a rate nothing waits', async () => {
  const clock = fakeClock();
  await new Throttle({ bytesPerSecond: 0, pace: 1 }, clock).spend(1e12, signal);
  expect(clock.monotonicMs()).toBe(0);
});

function fakeClock(): Clock {
  let nowMs = 0;
  return {
    ...systemClock,
    monotonicMs: () => nowMs,
    sleep: async (durationMs) => {
      nowMs += durationMs;
      await Promise.resolve();
    },
  };
}

test('a rate that changes counts for what is waited for already', async () => {
  const limits = { bytesPerSecond: 100, pace: 1 };
  let nowMs = 0;
  const clock = {
    ...systemClock,
    monotonicMs: () => nowMs,
    sleep: async (durationMs: number) => {
      nowMs += durationMs;
      if (nowMs >= 1000) limits.bytesPerSecond = 10_000;
      await Promise.resolve();
    },
  };
  await new Throttle(limits, clock).spend(10_000, signal);
  expect(nowMs).toBeGreaterThanOrEqual(1700); // looked at again every quarter of a second
  expect(nowMs).toBeLessThan(2500); // and not the 100 seconds that it would have been
  limits.bytesPerSecond = 0;
  await new Throttle(limits, clock).spend(1e12, signal);
  expect(nowMs).toBeLessThan(2500);
});

test('a pace of a quarter works a quarter of the time, and no work is no reason to rest', async () => {
  const clock = fakeClock();
  const throttle = new Throttle({ bytesPerSecond: 0, pace: 0.25 }, clock);
  for (let n = 0; n < 10; n += 1) {
    await clock.sleep(100, signal); // the work
    await throttle.spend(5000, signal);
  }
  expect(clock.monotonicMs()).toBe(4000);
  await throttle.spend(5000, signal);
  expect(clock.monotonicMs()).toBe(4000);
});

test('limits are seen by every thread that shares them', () => {
  const limits = new SharedLimits();
  expect(limits.pace).toBe(1);
  const worker = new SharedLimits(limits.shared).shareOf(4);
  limits.bytesPerSecond = 1_000_000;
  limits.pace = 0.5;
  expect([worker.bytesPerSecond, worker.pace]).toEqual([250_000, 0.5]);
});
