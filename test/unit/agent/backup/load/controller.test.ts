import { describe, expect, test } from 'vitest';
import {
  FULL_PACE,
  type LoadLimits,
  type LoadSample,
  type LoadState,
  stepLoad,
} from '../../../../../agent/backup/load/controller.ts';
import { parsePressure } from '../../../../../agent/backup/load/io-wait.ts';
import { createRandom } from '../../../../support/random.ts';

const LATENCY: LoadLimits = { commitLatencyMs: 20, ioWaitPercent: 0 };
const BOTH: LoadLimits = { commitLatencyMs: 20, ioWaitPercent: 40 };

const commits = (commitLatencyMs: number | undefined): LoadSample => ({
  commitLatencyMs,
  ioWaitPercent: undefined,
});

/** A server: what it feels at a pace of the copy. Steps `count` times; returns the state and what it felt last. */
function simulate(
  from: LoadState,
  count: number,
  limits: LoadLimits,
  feels: (pace: number, second: number) => LoadSample,
): { readonly state: LoadState; readonly last: LoadSample; readonly paces: readonly number[] } {
  let state = from;
  let last = feels(state.pace, 0);
  const paces: number[] = [];
  for (let second = 0; second < count; second += 1) {
    last = feels(state.pace, second);
    state = stepLoad(state, last, limits);
    paces.push(state.pace);
  }
  return { state, last, paces };
}

describe('the pace of a copy', () => {
  test('is full on a server that does not feel it', () => {
    expect(simulate(FULL_PACE, 60, BOTH, () => ({ commitLatencyMs: 3, ioWaitPercent: 10 })).state.pace).toBe(
      1,
    );
  });

  test('is full without a limit, whatever the server feels', () => {
    const slow = stepLoad(FULL_PACE, commits(100), LATENCY);
    expect(slow.pace).toBeLessThan(1);
    const none = { commitLatencyMs: 0, ioWaitPercent: 0 };
    expect(stepLoad(slow, commits(10_000), none)).toEqual(FULL_PACE);
  });

  test('falls until commits are below the limit, and stays near where they are', () => {
    // 2 ms without a copy, 82 ms under one at full pace: the limit is met at a pace of 0.225.
    const feels = (pace: number) => commits(2 + 80 * pace);
    const { paces, last } = simulate(FULL_PACE, 120, LATENCY, feels);
    expect(paces[4]).toBeLessThan(0.5);
    expect(last.commitLatencyMs).toBeLessThan(25);
    for (const pace of paces.slice(30)) {
      expect(pace).toBeGreaterThan(0.1);
      expect(pace).toBeLessThan(0.35);
    }
  });

  test('falls when I/O wait alone rises', () => {
    const feels = (pace: number) => ({ commitLatencyMs: 1, ioWaitPercent: 20 + 75 * pace });
    const { last } = simulate(FULL_PACE, 60, BOTH, feels);
    expect(last.ioWaitPercent).toBeLessThan(45);
  });

  test('comes back within half a minute when the load has gone', () => {
    const { state } = simulate(FULL_PACE, 60, LATENCY, (pace) => commits(2 + 80 * pace));
    const { paces } = simulate(state, 40, LATENCY, () => commits(2));
    expect(paces.findIndex((pace) => pace === 1)).toBeLessThan(30);
  });

  test('never falls to nothing, though the server is slow without the copy too', () => {
    const { state } = simulate(FULL_PACE, 600, LATENCY, () => commits(500));
    expect(state.pace).toBe(0.02);
  });

  test('is not moved by one slow commit among quick ones', () => {
    const { paces } = simulate(FULL_PACE, 60, LATENCY, (_pace, second) =>
      commits(second % 10 === 5 ? 900 : 3),
    );
    expect(Math.min(...paces)).toBe(1);
  });

  test('stays where it is while nothing is known, for a few samples', () => {
    const { state } = simulate(FULL_PACE, 10, LATENCY, () => commits(40));
    const silent = simulate(state, 4, LATENCY, () => commits(undefined));
    expect(new Set(silent.paces)).toEqual(new Set([state.pace]));
    const heard = stepLoad(silent.state, commits(18), LATENCY);
    expect(heard.silentSamples).toBe(0);
  });

  test('comes back when nothing can be measured any more, also by limits that were changed', () => {
    const { state } = simulate(FULL_PACE, 60, LATENCY, () => commits(500));
    const ioWait: LoadLimits = { commitLatencyMs: 0, ioWaitPercent: 40 };
    for (const limits of [LATENCY, ioWait, BOTH])
      expect(simulate(state, 60, limits, () => commits(undefined)).state.pace).toBe(1);
    expect(simulate(state, 60, ioWait, () => commits(500)).state.pace).toBe(1);
  });

  test('is always between its bounds', () => {
    const random = createRandom('paces');
    let state = FULL_PACE;
    for (let step = 0; step < 5000; step += 1) {
      const sample = {
        commitLatencyMs: random.next() < 0.1 ? undefined : random.next() * 100,
        ioWaitPercent: random.next() < 0.1 ? undefined : random.next() * 100,
      };
      state = stepLoad(state, sample, BOTH);
      expect(state.pace).toBeGreaterThanOrEqual(0.02);
      expect(state.pace).toBeLessThanOrEqual(1);
      expect(state.loads.length).toBeLessThanOrEqual(3);
    }
  });
});

test('the time waited for I/O is read as Linux writes it', () => {
  const text =
    'some avg10=1.78 avg60=2.04 avg300=3.00 total=835044633\nfull avg10=1.11 avg60=1.00 avg300=0.90 total=107956287\n';
  expect(parsePressure(text)).toBe(835_044_633n);
  expect(parsePressure('')).toBeUndefined();
});
