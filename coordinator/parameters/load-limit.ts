/** The values of backup_load_limit: `0`, a commit latency (`20ms`), a share of I/O wait (`40%`), or both (`20ms,40%`). */
import { HoldfastError } from '../../foundation/errors.ts';
import { parseDurationMs } from '../../foundation/units.ts';

/** 0: no limit. */
export type LoadLimit = { readonly commitLatencyMs: number; readonly ioWaitPercent: number };

const SHORTEST_MS = 0.1;
const LONGEST_MS = 60_000;
const LEAST_PERCENT = 1;

/** The value in its stored form; undefined when it is bad. */
export function parseLoadLimit(value: string): string | undefined {
  const limit = readLoadLimit(value);
  if (limit === undefined) return undefined;
  const text = value.toLowerCase().replaceAll(/\s/g, '');
  return limit.commitLatencyMs === 0 && limit.ioWaitPercent === 0 ? '0' : text;
}

/** Reads a value; undefined when it is bad. */
export function readLoadLimit(value: string): LoadLimit | undefined {
  if (value.trim() === '0') return { commitLatencyMs: 0, ioWaitPercent: 0 };
  let limit: LoadLimit = { commitLatencyMs: 0, ioWaitPercent: 0 };
  for (const part of value.split(',')) {
    const percent = /^\s*(\d+(?:\.\d+)?)\s*%\s*$/.exec(part)?.[1];
    if (percent === undefined) {
      const commitLatencyMs = readDuration(part);
      if (commitLatencyMs === undefined || limit.commitLatencyMs !== 0) return undefined;
      limit = { ...limit, commitLatencyMs };
    } else {
      const ioWaitPercent = Number(percent);
      if (ioWaitPercent < LEAST_PERCENT || ioWaitPercent > 100 || limit.ioWaitPercent !== 0) return undefined;
      limit = { ...limit, ioWaitPercent };
    }
  }
  return limit;
}

function readDuration(text: string): number | undefined {
  try {
    const ms = parseDurationMs(text);
    return ms < SHORTEST_MS || ms > LONGEST_MS ? undefined : ms;
  } catch (error) {
    if (error instanceof HoldfastError) return undefined; // the table's own message says more
    throw error;
  }
}
