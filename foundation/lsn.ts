/**
 * Positions in a log. An `Lsn` is a byte position in one partition group's WAL, unsigned 64 bit, held as a bigint.
 * Text form: two hexadecimal halves, `16/B374D848` (PostgreSQL 14 to 18) or `16/0B374D848` padded (19): both are read.
 */
import { HoldfastError } from './errors.ts';

declare const lsnBrand: unique symbol;
declare const timelineBrand: unique symbol;
export type Lsn = bigint & { readonly [lsnBrand]: true };
/** A timeline id, 1 to 2^32 - 1. */
export type Timeline = number & { readonly [timelineBrand]: true };

/** Makes an LSN of a number already known to be one (read from a file or a wire format). Throws a RangeError outside 0 .. 2^64-1. */
export function toLsn(value: bigint): Lsn {
  if (value < 0n || value > 0xffff_ffff_ffff_ffffn) throw new RangeError(`LSN out of range: ${value}`);
  return value as Lsn; // the brand is made here and in parseLsn only
}

/** Reads `X/X`. Throws INVALID_ARGUMENT when the text is not an LSN. */
export function parseLsn(text: string): Lsn {
  const match = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(text.trim());
  if (match === null || match[1] === undefined || match[2] === undefined) {
    throw new HoldfastError('INVALID_ARGUMENT', `not a log position: "${text}"`, {
      hint: 'Write it as X/X, for example 0/3000148.',
    });
  }
  return toLsn((BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`));
}

/** `16/B374D848` */
export function formatLsn(lsn: bigint): string {
  return `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffff_ffffn).toString(16).toUpperCase()}`;
}

/** Makes a timeline of a number already known to be one. Throws a RangeError outside 1 .. 2^32-1. */
export function toTimeline(value: number): Timeline {
  if (!Number.isInteger(value) || value < 1 || value > 0xffff_ffff)
    throw new RangeError(`timeline out of range: ${value}`);
  return value as Timeline; // the brand is made here only
}

/** The first LSN of the segment that holds `lsn`. `segmentSizeBytes` is a power of two. */
export function segmentStart(lsn: bigint, segmentSizeBytes: number): Lsn {
  return toLsn(lsn - (lsn % BigInt(segmentSizeBytes)));
}

/** The WAL segment's 24-digit file name, for the segment that holds `lsn`. */
export function segmentName(timeline: Timeline, lsn: bigint, segmentSizeBytes: number): string {
  const segmentNo = lsn / BigInt(segmentSizeBytes);
  const perLog = 0x1_0000_0000n / BigInt(segmentSizeBytes);
  const hex = (value: bigint) => value.toString(16).toUpperCase().padStart(8, '0');
  return hex(BigInt(timeline)) + hex(segmentNo / perLog) + hex(segmentNo % perLog);
}

/** The inverse of `segmentName`; undefined when `name` is no segment's name. */
export function parseSegmentName(
  name: string,
  segmentSizeBytes: number,
): { readonly timeline: Timeline; readonly begin: Lsn } | undefined {
  if (!/^[0-9A-F]{24}$/.test(name)) return undefined;
  const timeline = Number.parseInt(name.slice(0, 8), 16);
  if (timeline === 0) return undefined;
  const perLog = 0x1_0000_0000n / BigInt(segmentSizeBytes);
  const segmentNo = BigInt(`0x${name.slice(8, 16)}`) * perLog + BigInt(`0x${name.slice(16)}`);
  return { timeline: toTimeline(timeline), begin: toLsn(segmentNo * BigInt(segmentSizeBytes)) };
}
