/** Hand-made WAL: pages and records put together field by field, independent of the parser. */

import { crc32c } from '@node-rs/crc32';
import {
  LONG_HEADER_BYTES,
  PAGE_BYTES,
  PAGE_INFO,
  PAGE_MAGIC,
  SHORT_HEADER_BYTES,
  type WalVersion,
} from '../../../../engine/postgres/wal/page.ts';
import type { WalParserOptions } from '../../../../engine/postgres/wal/parser.ts';
import { toLsn, toTimeline } from '../../../../foundation/lsn.ts';

export const SEGMENT_BYTES = 4 * PAGE_BYTES;
export const SYSTEM = 0x0123_4567_89ab_cdefn;
export const BEGIN = 0x1_0000_0000n - BigInt(SEGMENT_BYTES); // so that positions pass the 32-bit border

export const VERSIONS: readonly WalVersion[] = [14, 15, 16, 17, 18];

export function optionsFrom(begin: bigint = BEGIN): WalParserOptions {
  return {
    segmentSizeBytes: SEGMENT_BYTES,
    timeline: toTimeline(1),
    systemIdentifier: SYSTEM,
    begin: toLsn(begin),
  };
}

export type BlockSpec = {
  readonly id: number;
  readonly fork?: number;
  /** [tablespace, database, relation]; undefined: the same as the block before. */
  readonly relation?: readonly [number, number, number];
  readonly block: number;
  readonly data?: Uint8Array;
  readonly image?: {
    readonly bytes: Uint8Array;
    readonly holeOffset: number;
    readonly info: number;
    readonly holeBytes?: number;
  };
};

export type RecordSpec = {
  readonly rmgr: number;
  readonly info?: number;
  readonly xid?: number;
  readonly blocks?: readonly BlockSpec[];
  readonly origin?: number;
  readonly topLevelXid?: number;
  readonly main?: Uint8Array;
};

export type Placed = { readonly begin: bigint; readonly end: bigint };

export function integers(...values: readonly (readonly [8 | 16 | 32 | 64, number | bigint])[]): Buffer {
  return Buffer.concat(
    values.map(([bits, value]) => {
      const buffer = Buffer.alloc(8);
      buffer.writeBigInt64LE(BigInt.asIntN(64, BigInt(value)));
      return buffer.subarray(0, bits / 8);
    }),
  );
}

/** Lays records down as a server would: aligned, over pages and segments. */
export class WalBuilder {
  readonly version: WalVersion;
  readonly begin: bigint;
  readonly placed: Placed[] = [];
  #bytes: Buffer[] = [];
  #length = 0;
  #previous = 0n;
  #overwriteNext = false;

  constructor(version: WalVersion = 17, begin: bigint = BEGIN) {
    this.version = version;
    this.begin = begin;
  }

  get position(): bigint {
    return this.begin + BigInt(this.#length);
  }

  bytes(): Buffer {
    return Buffer.concat(this.#bytes);
  }

  add(spec: RecordSpec): Placed {
    const body = encodeBody(spec);
    const padded = Math.ceil((24 + body.length) / 8) * 8;
    this.#headerIfAtPage(0);
    const begin = this.position;
    const header = integers(
      [32, 24 + body.length],
      [32, spec.xid ?? 0],
      [64, this.#previous],
      [8, spec.info ?? 0],
      [8, spec.rmgr],
      [16, 0],
    );
    const crc = crc32c(header, crc32c(body));
    this.#spread(Buffer.concat([header, integers([32, crc]), body], padded), 24 + body.length);
    this.#previous = begin;
    const placed = { begin, end: this.position };
    this.placed.push(placed);
    return placed;
  }

  /** XLOG_SWITCH, and zeros to the end of the segment. The end is the next segment. */
  switchSegment(): Placed {
    const { begin } = this.add({ rmgr: 0, info: 0x40 });
    this.#push(Buffer.alloc(Number(-this.position & BigInt(SEGMENT_BYTES - 1))));
    const placed = { begin, end: this.position };
    this.placed[this.placed.length - 1] = placed;
    return placed;
  }

  /** Begins a record that a crash cuts at the page's end; the next page says that its rest is void. */
  abandon(spec: RecordSpec): bigint {
    const { position } = this;
    const previous = this.#previous;
    const kept = this.#bytes.length;
    this.add(spec);
    this.placed.pop();
    const whole = Buffer.concat(this.#bytes.slice(kept));
    const room = PAGE_BYTES - Number(position % BigInt(PAGE_BYTES));
    this.#bytes = [...this.#bytes.slice(0, kept), whole.subarray(0, room)];
    this.#length = this.#bytes.reduce((sum, part) => sum + part.length, 0);
    this.#previous = previous;
    this.#overwriteNext = true;
    return position;
  }

  /** Fills up with records so that the next one begins `roomBytes` (a multiple of 8) before the end of the page. */
  fillUntil(roomBytes: number): void {
    const page = BigInt(PAGE_BYTES);
    for (let records = 0; records < 1000; records += 1) {
      this.#headerIfAtPage(0);
      const room = PAGE_BYTES - Number(this.position % page) - roomBytes;
      if (room === 0) return;
      const length = room >= 24 && room <= 280 ? room : 200;
      this.add({ rmgr: 10, main: Buffer.alloc(Math.max(0, length - 26), 0x61) });
      if (roomBytes === 0 && this.position % page === 0n) return;
    }
    throw new Error(`no records leave ${roomBytes} bytes of a page`);
  }

  #spread(data: Buffer, unpadded: number): void {
    let at = 0;
    while (at < data.length) {
      this.#headerIfAtPage(unpadded - at, at > 0);
      const room = PAGE_BYTES - Number(this.position % BigInt(PAGE_BYTES));
      this.#push(data.subarray(at, at + room));
      at += room;
    }
  }

  #headerIfAtPage(remaining: number, continues = false): void {
    if (this.position % BigInt(PAGE_BYTES) !== 0n) return;
    const long = this.position % BigInt(SEGMENT_BYTES) === 0n;
    const info =
      (continues ? PAGE_INFO.continues : 0) |
      (long ? PAGE_INFO.long : 0) |
      (this.#overwriteNext ? PAGE_INFO.overwritesContinuation : 0);
    this.#overwriteNext = false;
    const header = integers(
      [16, PAGE_MAGIC[this.version]],
      [16, info],
      [32, 1],
      [64, this.position],
      [32, continues ? remaining : 0],
      [32, 0],
    );
    const rest = long ? integers([64, SYSTEM], [32, SEGMENT_BYTES], [32, PAGE_BYTES]) : Buffer.alloc(0);
    this.#push(Buffer.concat([header, rest], long ? LONG_HEADER_BYTES : SHORT_HEADER_BYTES));
  }

  #push(part: Buffer): void {
    this.#bytes.push(part);
    this.#length += part.length;
  }
}

function encodeBody(spec: RecordSpec): Buffer {
  const headers: Buffer[] = [];
  const data: Uint8Array[] = [];
  for (const block of spec.blocks ?? []) {
    const { image } = block;
    const flags =
      (block.fork ?? 0) |
      (image === undefined ? 0 : 0x10) |
      (block.data === undefined ? 0 : 0x20) |
      (block.relation === undefined ? 0x80 : 0);
    headers.push(integers([8, block.id], [8, flags], [16, block.data?.length ?? 0]));
    if (image !== undefined) {
      headers.push(integers([16, image.bytes.length], [16, image.holeOffset], [8, image.info]));
      if (image.holeBytes !== undefined) headers.push(integers([16, image.holeBytes]));
      data.push(image.bytes);
    }
    if (block.relation !== undefined)
      headers.push(integers(...block.relation.map((oid) => [32, oid] as const)));
    headers.push(integers([32, block.block]));
    if (block.data !== undefined) data.push(block.data);
  }
  if (spec.origin !== undefined) headers.push(integers([8, 253], [16, spec.origin]));
  if (spec.topLevelXid !== undefined) headers.push(integers([8, 252], [32, spec.topLevelXid]));
  const { main } = spec;
  if (main !== undefined && main.length > 0) {
    headers.push(
      main.length < 256 ? integers([8, 255], [8, main.length]) : integers([8, 254], [32, main.length]),
    );
    data.push(main);
  }
  return Buffer.concat([...headers, ...data]);
}

const POSTGRES_EPOCH_US = 946_684_800_000_000n;

export type TransactionSpec = {
  readonly info: number;
  readonly xid: number;
  readonly timeUs: bigint;
  readonly subxids?: readonly number[];
  readonly dropped?: readonly (readonly [number, number, number])[];
  /** Bytes of statistics items, as long as the version's. */
  readonly statistics?: readonly Buffer[];
  readonly invalidations?: number;
  readonly twoPhaseXid?: number;
  readonly gid?: string;
  readonly origin?: boolean;
};

/** A record that ends a transaction; HAS_INFO and the special flag as the server sets them. */
export function transactionEnd(spec: TransactionSpec): RecordSpec {
  const words = (values: readonly number[]) => integers(...values.map((value) => [32, value] as const));
  const parts: [number, Buffer][] = [
    [0x1, spec.dropped === undefined ? Buffer.alloc(0) : words([5, 1663])],
    [0x2, spec.subxids === undefined ? Buffer.alloc(0) : words([spec.subxids.length, ...spec.subxids])],
    [
      0x4,
      spec.dropped === undefined ? Buffer.alloc(0) : words([spec.dropped.length, ...spec.dropped.flat()]),
    ],
    [
      0x100,
      spec.statistics === undefined
        ? Buffer.alloc(0)
        : Buffer.concat([words([spec.statistics.length]), ...spec.statistics]),
    ],
    [
      0x8,
      spec.invalidations === undefined
        ? Buffer.alloc(0)
        : Buffer.concat([words([spec.invalidations]), Buffer.alloc(16 * spec.invalidations, 7)]),
    ],
    [0x10, spec.twoPhaseXid === undefined ? Buffer.alloc(0) : words([spec.twoPhaseXid])],
    [0x80, spec.gid === undefined ? Buffer.alloc(0) : Buffer.from(`${spec.gid}\0`)],
    [0x20, spec.origin === true ? Buffer.alloc(16, 9) : Buffer.alloc(0)],
  ];
  const xinfo = parts.reduce((bits, [bit, part]) => (part.length > 0 ? bits | bit : bits), 0);
  const special = spec.dropped === undefined ? 0 : 0x01;
  return {
    rmgr: 1,
    info: spec.info | special | (xinfo === 0 ? 0 : 0x80),
    xid: spec.xid,
    main: Buffer.concat([
      integers([64, spec.timeUs - POSTGRES_EPOCH_US]),
      ...(xinfo === 0 ? [] : [integers([32, xinfo])]),
      ...parts.map(([, part]) => part),
    ]),
  };
}

/** Pieces of at most `pieceBytes`, as an archive or a stream gives them. */
export async function* piecesOf(begin: bigint, bytes: Uint8Array, pieceBytes = 1000) {
  for (let at = 0; at < bytes.length; at += pieceBytes)
    yield { begin: toLsn(begin + BigInt(at)), data: bytes.subarray(at, at + pieceBytes) };
}
