/** Durations and sizes as people write them: `100ms`, `1s`, `7d`, `16GB`, `1G`. */
import { HoldfastError } from './errors.ts';

const DURATION_MS: Readonly<Record<string, number>> = {
  us: 0.001,
  ms: 1,
  s: 1000,
  min: 60_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};
const SIZE_BYTES: Readonly<Record<string, number>> = {
  b: 1,
  k: 2 ** 10,
  kb: 2 ** 10,
  m: 2 ** 20,
  mb: 2 ** 20,
  g: 2 ** 30,
  gb: 2 ** 30,
  t: 2 ** 40,
  tb: 2 ** 40,
};

/** Milliseconds of `1s`, `100ms`, `2h`, `7d`. Throws INVALID_ARGUMENT; a bare number has no unit and is refused, except 0. */
export function parseDurationMs(text: string): number {
  const value = parseWithUnit(text, DURATION_MS);
  if (value === undefined) {
    throw new HoldfastError('INVALID_ARGUMENT', `not a duration: "${text}"`, {
      hint: 'Write a number and a unit: us, ms, s, min, h or d.',
    });
  }
  return value;
}

/** Bytes of `16GB`, `512M`, `4096`. Throws INVALID_ARGUMENT. */
export function parseSizeBytes(text: string): number {
  const value = /^\d+$/.test(text.trim()) ? Number(text) : parseWithUnit(text, SIZE_BYTES);
  if (value === undefined || !Number.isSafeInteger(Math.round(value))) {
    throw new HoldfastError('INVALID_ARGUMENT', `not a size: "${text}"`, {
      hint: 'Write bytes, or a number and a unit: kB, MB, GB or TB.',
    });
  }
  return Math.round(value);
}

/** `1.50GB`, three significant digits, binary units. */
export function formatSize(sizeBytes: number | bigint): string {
  let value = Number(sizeBytes);
  const units = ['B', 'KB', 'MB', 'GB', 'TB', 'PB'];
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(2)}${units[unit]}`;
}

function parseWithUnit(text: string, units: Readonly<Record<string, number>>): number | undefined {
  if (text.trim() === '0') return 0;
  const match = /^(\d+(?:\.\d+)?)\s*([a-zA-Z]+)$/.exec(text.trim());
  const factor = match?.[2] === undefined ? undefined : units[match[2].toLowerCase()];
  return match?.[1] === undefined || factor === undefined ? undefined : Number(match[1]) * factor;
}
