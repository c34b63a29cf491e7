/**
 * Ends of transactions (PostgreSQL: access/xact.h, ParseCommitRecord and ParseAbortRecord). Main data, unaligned:
 *
 *   time i64 (microseconds since 2000-01-01), then, if info has HAS_INFO: xinfo u32, then by the bits of xinfo
 *   in this order:
 *     0x001 database      database u32, tablespace u32
 *     0x002 subxacts      count u32, xid u32 each
 *     0x004 relations     count u32, (tablespace, database, relation) u32 each: files that go
 *     0x100 statistics    count u32, 12 bytes each, from 18 on 16
 *     0x008 invalidations count u32, 16 bytes each (commits only)
 *     0x010 two-phase     xid u32 of the prepared transaction; with 0x080 its gid, a C string
 *     0x020 origin        lsn u64, time i64
 */
import type { RelationId } from '../../../storage-layout/clog/change-map.ts';
import type { WalVersion } from './page.ts';

/** `info & 0x70` of the transaction manager's records */
export const TRANSACTION_INFO = {
  commit: 0x00,
  prepare: 0x10,
  abort: 0x20,
  commitPrepared: 0x30,
  abortPrepared: 0x40,
} as const;

const OPERATION_MASK = 0x70;
const HAS_INFO = 0x80;
const XINFO = {
  database: 0x1,
  subtransactions: 0x2,
  relations: 0x4,
  invalidations: 0x8,
  twoPhase: 0x10,
  origin: 0x20,
  gid: 0x80,
  statistics: 0x100,
} as const;

/** Microseconds between 1970-01-01 and 2000-01-01. */
const POSTGRES_EPOCH_US = 946_684_800_000_000n;

export type TransactionEnd = {
  readonly kind: 'commit' | 'abort';
  /** Of a prepared transaction: its own, not the one in the record's header. */
  readonly xid: number;
  readonly prepared: boolean;
  readonly timeUs: bigint;
  readonly subxids: readonly number[];
  /** Relations whose files (all forks) are removed. */
  readonly droppedRelations: readonly RelationId[];
};

/** Where main data lies: [begin, end) of `view`. */
export type DataSpan = { readonly view: DataView; readonly begin: number; readonly end: number };

/** True when a record of the transaction manager ends a transaction. */
export function endsTransaction(info: number): boolean {
  const operation = info & OPERATION_MASK;
  return (
    operation === TRANSACTION_INFO.commit ||
    operation === TRANSACTION_INFO.abort ||
    operation === TRANSACTION_INFO.commitPrepared ||
    operation === TRANSACTION_INFO.abortPrepared
  );
}

/** Microseconds since 1970 of a TimestampTz in the log. */
export function readTimeUs(view: DataView, offset: number): bigint {
  return view.getBigInt64(offset, true) + POSTGRES_EPOCH_US;
}

/**
 * Decodes a record for which `endsTransaction` holds; `headerXid` is the record header's. `version` undefined: not
 * known (the log was entered inside a page); then the layout that fits to the last byte is taken. Undefined when the
 * data does not fit.
 */
export function decodeTransactionEnd(
  info: number,
  headerXid: number,
  data: DataSpan,
  version: WalVersion | undefined,
): TransactionEnd | undefined {
  const statisticBytes = version === undefined ? [12, 16] : [version >= 18 ? 16 : 12];
  for (const bytes of statisticBytes) {
    const found = decodeWith(info, headerXid, data, bytes);
    if (found !== undefined) return found;
  }
  return undefined;
}

function decodeWith(
  info: number,
  headerXid: number,
  data: DataSpan,
  statisticBytes: number,
): TransactionEnd | undefined {
  const operation = info & OPERATION_MASK;
  const kind =
    operation === TRANSACTION_INFO.commit || operation === TRANSACTION_INFO.commitPrepared
      ? 'commit'
      : 'abort';
  const prepared =
    operation === TRANSACTION_INFO.commitPrepared || operation === TRANSACTION_INFO.abortPrepared;
  const reader = new SpanReader(data);
  const timeAt = reader.skip(8);
  const xinfo = (info & HAS_INFO) === 0 ? 0 : reader.u32();
  const has = (bit: number) => (xinfo & bit) !== 0;
  if (has(XINFO.database)) reader.skip(8);
  const subxids = has(XINFO.subtransactions) ? reader.list(4, (at) => data.view.getUint32(at, true)) : [];
  const droppedRelations = has(XINFO.relations) ? reader.list(12, (at) => readRelationId(data.view, at)) : [];
  if (has(XINFO.statistics)) reader.skip(reader.u32() * statisticBytes);
  if (has(XINFO.invalidations)) reader.skip(reader.u32() * 16);
  const xid = has(XINFO.twoPhase) ? reader.u32() : headerXid;
  if (has(XINFO.twoPhase) && has(XINFO.gid)) reader.skipText();
  if (has(XINFO.origin)) reader.skip(16);
  if (!reader.exhausted) return undefined;
  return { kind, xid, prepared, timeUs: readTimeUs(data.view, timeAt), subxids, droppedRelations };
}

/** Tablespace, database, relation at `offset`. */
export function readRelationId(view: DataView, offset: number): RelationId {
  return {
    tablespace: view.getUint32(offset, true),
    database: view.getUint32(offset + 4, true),
    relation: view.getUint32(offset + 8, true),
  };
}

/** Reads on through a span; past its end it reads zeros and is never `exhausted`. */
class SpanReader {
  readonly #span: DataSpan;
  #at: number;

  constructor(span: DataSpan) {
    this.#span = span;
    this.#at = span.begin;
  }

  /** True when everything was read, and no more. */
  get exhausted(): boolean {
    return this.#at === this.#span.end;
  }

  /** Where the skipped bytes begin. */
  skip(lengthBytes: number): number {
    const begin = this.#at;
    this.#at += lengthBytes;
    return begin;
  }

  u32(): number {
    const at = this.skip(4);
    return this.#at <= this.#span.end ? this.#span.view.getUint32(at, true) : 0;
  }

  list<Item>(itemBytes: number, read: (at: number) => Item): Item[] {
    const count = this.u32();
    const begin = this.skip(count * itemBytes);
    if (this.#at > this.#span.end) return [];
    return Array.from({ length: count }, (_, index) => read(begin + index * itemBytes));
  }

  skipText(): void {
    while (this.#at < this.#span.end && this.#span.view.getUint8(this.#at) !== 0) this.#at += 1;
    this.#at += 1;
  }
}
