/**
 * How fast a server may be copied, from how it feels: a pure controller, stepped once per sample.
 *
 *   load = the greater of (commit latency / its limit) and (I/O wait / its limit), the median of the last three samples
 *
 *   load > 1        slower: the pace is divided by the load, at most halved
 *   0.8 ≤ load ≤ 1  the pace stays
 *   load < 0.8      faster, by a tenth
 *
 * So it backs off within seconds and comes back within half a minute; one slow commit alone changes nothing. It never stops:
 * a backup that waits for a quiet hour on a server that has none would never end. A sample that tells nothing changes
 * nothing; from the fifth in a row on it is faster again: what cannot be measured holds no copy at its slowest.
 */

/** 0: no limit. */
export type LoadLimits = { readonly commitLatencyMs: number; readonly ioWaitPercent: number };

/** Undefined: not known. */
export type LoadSample = {
  readonly commitLatencyMs: number | undefined;
  /** The share of the time in which something on the node waited for I/O. */
  readonly ioWaitPercent: number | undefined;
};

export type LoadState = {
  /** The share of the time in which the copy may work. */
  readonly pace: number;
  /** The last loads, oldest first. */
  readonly loads: readonly number[];
  /** How many samples in a row told nothing. */
  readonly silentSamples: number;
};

export const FULL_PACE: LoadState = { pace: 1, loads: [], silentSamples: 0 };

const SLOWEST = 0.02;
const QUIET = 0.8;
const MOST_SLOWER = 0.5;
const FASTER = 1.1;
const LOADS_KEPT = 3;
const SILENT_SAMPLES = 5;

export function stepLoad(state: LoadState, sample: LoadSample, limits: LoadLimits): LoadState {
  if (limits.commitLatencyMs === 0 && limits.ioWaitPercent === 0) return FULL_PACE;
  const load = loadOf(sample, limits);
  if (load === undefined) return stepSilently(state);
  const loads = [...state.loads, load].slice(-LOADS_KEPT);
  const median = loads.toSorted((a, b) => a - b)[Math.floor((loads.length - 1) / 2)] ?? 0;
  return { pace: nextPace(state.pace, median), loads, silentSamples: 0 };
}

function stepSilently({ pace, loads, silentSamples }: LoadState): LoadState {
  if (silentSamples + 1 < SILENT_SAMPLES) return { pace, loads, silentSamples: silentSamples + 1 };
  return { pace: nextPace(pace, 0), loads: [], silentSamples: SILENT_SAMPLES };
}

function loadOf(sample: LoadSample, limits: LoadLimits): number | undefined {
  const loads = [
    shareOf(sample.commitLatencyMs, limits.commitLatencyMs),
    shareOf(sample.ioWaitPercent, limits.ioWaitPercent),
  ].filter((load) => load !== undefined);
  return loads.length === 0 ? undefined : Math.max(...loads);
}

function shareOf(value: number | undefined, limit: number): number | undefined {
  return value === undefined || limit === 0 ? undefined : value / limit;
}

function nextPace(pace: number, load: number): number {
  if (load > 1) return Math.max(SLOWEST, pace * Math.max(MOST_SLOWER, 1 / load));
  return load < QUIET ? Math.min(1, pace * FASTER) : pace;
}
