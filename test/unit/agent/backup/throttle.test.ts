import { expect, test } from 'vitest';
import { Throttle } from '../../../../agent/backup/throttle.ts';
import { type Clock, systemClock } from '../../../../foundation/clock.ts';

const signal = new AbortController().signal;

test('writes are held to the rate, and a pause is not saved up', async () => {
  const clock = fakeClock();
  const throttle = new Throttle(1000, clock);
  for (let n = 0; n < 5; n += 1) await throttle.spend(100, signal);
  expect(clock.monotonicMs()).toBe(500);
  await clock.sleep(60_000, signal);
  for (let n = 0; n < 5; n += 1) await throttle.spend(100, signal);
  expect(clock.monotonicMs()).toBe(61_000);
});

test('without a rate nothing waits', async () => {
  const clock = fakeClock();
  await new Throttle(0, clock).spend(1e12, signal);
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
