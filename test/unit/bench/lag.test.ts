import { expect, test } from 'vitest';
import { lagsOf, type Sample } from '../../../bench/lag.ts';

const sample = (askedMs: number, endBytes: number, durableBytes: number | null): Sample => ({
  askedMs,
  answeredMs: askedMs + 1,
  endBytes,
  durableBytes,
});

test('a lag is the time until a later answer shows the end of log durable, the warm-up left out', () => {
  const samples = [
    sample(0, 10, null),
    sample(2000, 20, 10),
    sample(2020, 30, 10),
    sample(2040, 30, 20),
    sample(2060, 30, 30),
    sample(2080, 40, 30),
    sample(2100, 40, 40),
  ];
  expect(lagsOf(samples, 5)).toEqual([41, 41, 21, 1]);
  expect(lagsOf(samples, 6)).toEqual([41, 41, 21, 1, 21]);
});

test('log that never became durable is no figure', () => {
  expect(() => lagsOf([sample(0, 10, 5), sample(2000, 20, 15)], 2)).toThrow(/not archived to its end/);
});
