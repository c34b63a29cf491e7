/**
 * Instants as people write them, in microseconds since 1970-01-01 UTC: `2026-11-21 14:05:30.123456+01`, with a `T` or a
 * blank, the seconds and their fraction optional, the zone `Z`, `UTC`, `+hh`, `+hhmm` or `+hh:mm`; without a zone the
 * host's own.
 */
import { HoldfastError } from './errors.ts';

const PATTERN =
  /^(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:\.(\d{1,6})\d*)?)?)?\s*(Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?$/i;

/** Throws INVALID_ARGUMENT when the text is no instant. */
export function parseInstantUs(text: string): bigint {
  const match = PATTERN.exec(text.trim());
  const ms = match === null ? Number.NaN : millisecondsOf(match);
  if (match === null || Number.isNaN(ms)) {
    throw new HoldfastError('INVALID_ARGUMENT', `not a time: "${text}"`, {
      hint: 'Write 2026-11-21 14:05:30.123456+01, or without a zone for the time of this host.',
    });
  }
  return BigInt(ms) * 1000n + BigInt((match[7] ?? '').padEnd(6, '0'));
}

/** To the second, in milliseconds; NaN for a date that no calendar has. */
function millisecondsOf(match: RegExpExecArray): number {
  const [year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0] = match
    .slice(1, 7)
    .map((part) => Number(part ?? 0));
  const utc = Date.UTC(year, month - 1, day, hour, minute, second);
  const rolled = new Date(utc);
  const isReal =
    rolled.getUTCMonth() === month - 1 &&
    rolled.getUTCDate() === day &&
    hour < 24 &&
    minute < 60 &&
    second < 60;
  if (!isReal) return Number.NaN;
  const zone = match[8];
  if (zone === undefined) return new Date(year, month - 1, day, hour, minute, second).getTime();
  if (/^[a-z]/i.test(zone)) return utc;
  const sign = zone.startsWith('-') ? -1 : 1;
  const digits = zone.slice(1).replace(':', '').padEnd(4, '0');
  return utc - sign * (Number(digits.slice(0, 2)) * 60 + Number(digits.slice(2))) * 60_000;
}
