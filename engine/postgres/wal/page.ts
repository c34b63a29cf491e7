/**
 * WAL page headers (PostgreSQL: access/xlog_internal.h). All integers little-endian.
 *
 *   offset  bytes  field
 *        0      2  magic: decides the version, table below
 *        2      2  info: PAGE_INFO bits
 *        4      4  timeline
 *        8      8  address: position of this page
 *       16      4  remaining bytes of the record that the page before did not end (CONTINUES only)
 *       20      4  padding
 *  long header, first page of a segment:
 *       24      8  system identifier
 *       32      4  segment size, bytes
 *       36      4  WAL page size, bytes
 *
 * Invariants: a page is 8192 bytes; the long header is on a segment's first page and only there.
 */
import { HoldfastError } from '../../../foundation/errors.ts';
import { formatLsn } from '../../../foundation/lsn.ts';

export type WalVersion = 14 | 15 | 16 | 17 | 18;

export const PAGE_BYTES = 8192;
export const SHORT_HEADER_BYTES = 24;
export const LONG_HEADER_BYTES = 40;

export const PAGE_INFO = {
  /** The page begins with the rest of a record. */
  continues: 0x1,
  /** The header is the long one. */
  long: 0x2,
  backupRemovable: 0x4,
  /** The record that the page before left unfinished is void. */
  overwritesContinuation: 0x8,
} as const;

const KNOWN_INFO_BITS = 0xf;

export const PAGE_MAGIC: Readonly<Record<WalVersion, number>> = {
  14: 0xd10d,
  15: 0xd110,
  16: 0xd113,
  17: 0xd116,
  18: 0xd118,
};

/** The version that writes pages with `magic`; undefined when none of 14 to 18 does. */
export function versionOfMagic(magic: number): WalVersion | undefined {
  switch (magic) {
    case PAGE_MAGIC[14]:
      return 14;
    case PAGE_MAGIC[15]:
      return 15;
    case PAGE_MAGIC[16]:
      return 16;
    case PAGE_MAGIC[17]:
      return 17;
    case PAGE_MAGIC[18]:
      return 18;
    default:
      return undefined;
  }
}

/** What a page header must agree with. */
export type PageExpectation = {
  readonly address: bigint;
  readonly segmentSizeBytes: number;
  /** The newest timeline a page may be of: the first pages of a segment may still be of the ancestor's. */
  readonly timeline: number;
  /** The timeline of the page before; 0 when there is none. */
  readonly previousTimeline: number;
  /** The version of the page before; undefined when there is none. */
  readonly version: WalVersion | undefined;
  readonly systemIdentifier: bigint | undefined;
};

export type PageHeader = {
  readonly version: WalVersion;
  readonly info: number;
  readonly timeline: number;
  readonly remainingBytes: number;
  readonly headerBytes: number;
};

/**
 * Reads and checks the header at `offset` of `view`, which holds it whole (the long one on a segment's first page).
 * Throws WAL_UNREADABLE, or SYSTEM_IDENTIFIER_MISMATCH.
 */
export function readPageHeader(view: DataView, offset: number, expected: PageExpectation): PageHeader {
  const fail = (what: string, detail?: string) =>
    unreadable(expected.address, expected.version, what, detail);
  const magic = view.getUint16(offset, true);
  const version = versionOfMagic(magic);
  if (version === undefined) {
    if (magic === 0) throw fail('the page header is empty', 'The log ends before this page.');
    throw fail(
      `page magic ${magic.toString(16).toUpperCase().padStart(4, '0')} is of no known version`,
      'PostgreSQL 14 to 18 are known.',
    );
  }
  if (expected.version !== undefined && version !== expected.version)
    throw fail(`a page of version ${version} follows one of version ${expected.version}`);
  const info = view.getUint16(offset + 2, true);
  if ((info & ~KNOWN_INFO_BITS) !== 0) throw fail(`unknown page header bits ${info.toString(16)}`);
  const address = view.getBigUint64(offset + 8, true);
  if (address !== expected.address) {
    const recycled = address < expected.address;
    throw fail(
      `page address ${formatLsn(address)} is another page's`,
      recycled ? 'An old page of a recycled segment: the log ends before it.' : undefined,
    );
  }
  const segmentStart = address % BigInt(expected.segmentSizeBytes) === 0n;
  const long = (info & PAGE_INFO.long) !== 0;
  if (long !== segmentStart)
    throw fail(long ? 'long page header inside a segment' : 'short page header at the start of a segment');
  const timeline = view.getUint32(offset + 4, true);
  if (timeline === 0 || timeline > expected.timeline || timeline < expected.previousTimeline)
    throw fail(
      `page of timeline ${timeline} where timeline ${expected.timeline} is read`,
      expected.previousTimeline === 0 ? undefined : `The page before is of ${expected.previousTimeline}.`,
    );
  if (long) checkLongHeader(view, offset, expected);
  const remainingBytes = view.getUint32(offset + 16, true);
  if ((info & PAGE_INFO.continues) !== 0 && remainingBytes === 0)
    throw fail('continued record of no remaining bytes');
  return {
    version,
    info,
    timeline,
    remainingBytes: (info & PAGE_INFO.continues) === 0 ? 0 : remainingBytes,
    headerBytes: long ? LONG_HEADER_BYTES : SHORT_HEADER_BYTES,
  };
}

function checkLongHeader(view: DataView, offset: number, expected: PageExpectation): void {
  const systemIdentifier = view.getBigUint64(offset + 24, true);
  if (expected.systemIdentifier !== undefined && systemIdentifier !== expected.systemIdentifier)
    throw new HoldfastError(
      'SYSTEM_IDENTIFIER_MISMATCH',
      `log at ${formatLsn(expected.address)} is of system ${systemIdentifier}, not of ${expected.systemIdentifier}`,
    );
  const segmentSizeBytes = view.getUint32(offset + 32, true);
  if (segmentSizeBytes !== expected.segmentSizeBytes)
    throw unreadable(
      expected.address,
      expected.version,
      `segment size ${segmentSizeBytes} in the header, ${expected.segmentSizeBytes} expected`,
    );
  const pageBytes = view.getUint32(offset + 36, true);
  if (pageBytes !== PAGE_BYTES)
    throw unreadable(expected.address, expected.version, `WAL page size ${pageBytes} is not supported`);
}

/** WAL_UNREADABLE at `position`. */
export function unreadable(
  position: bigint,
  version: WalVersion | undefined,
  what: string,
  detail?: string,
): HoldfastError {
  const of = version === undefined ? '' : ` of PostgreSQL ${version}`;
  return new HoldfastError(
    'WAL_UNREADABLE',
    `log${of} at ${formatLsn(position)}: ${what}`,
    detail === undefined ? {} : { detail },
  );
}
