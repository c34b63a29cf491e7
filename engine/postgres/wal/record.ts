/**
 * A WAL record's header (PostgreSQL: access/xlogrecord.h), and the view of a record that the parser hands out.
 *
 *   offset  bytes  field
 *        0      4  total length, header included
 *        4      4  transaction id, 0 for none
 *        8      8  position of the record before
 *       16      1  info: high four bits are the resource manager's, 0x01 special, 0x02 consistency check
 *       17      1  resource manager
 *       18      2  padding
 *       20      4  CRC-32C
 */
import { type Lsn, toLsn } from '../../../foundation/lsn.ts';
import type { WalVersion } from './page.ts';

export const RECORD_HEADER_BYTES = 24;
/** MaxAllocSize: no reader of PostgreSQL takes a longer record. */
export const MAX_RECORD_BYTES = 0x3fff_ffff;

/** XLR_SPECIAL_REL_UPDATE: the record changes relation files beyond its block references. */
export const INFO_SPECIAL = 0x01;
/** The bits of `info` that belong to the resource manager. */
export const INFO_RMGR_MASK = 0xf0;

export const RMGR = {
  xlog: 0,
  transaction: 1,
  storage: 2,
  database: 4,
  tablespace: 5,
} as const;

const RMGR_NAMES: readonly string[] = [
  'XLOG',
  'Transaction',
  'Storage',
  'CLOG',
  'Database',
  'Tablespace',
  'MultiXact',
  'RelMap',
  'Standby',
  'Heap2',
  'Heap',
  'Btree',
  'Hash',
  'Gin',
  'Gist',
  'Sequence',
  'SPGist',
  'BRIN',
  'CommitTs',
  'ReplicationOrigin',
  'Generic',
  'LogicalMessage',
];

export const FIRST_CUSTOM_RMGR = 128;

/** PostgreSQL's own name, or `custom128` for an extension's. */
export function rmgrName(rmgr: number): string {
  return RMGR_NAMES[rmgr] ?? `custom${rmgr}`;
}

export function isRmgr(rmgr: number): boolean {
  return rmgr < RMGR_NAMES.length || rmgr >= FIRST_CUSTOM_RMGR;
}

/** rmgr XLOG, `info & INFO_RMGR_MASK` */
export const XLOG_INFO = {
  checkpointShutdown: 0x00,
  checkpointOnline: 0x10,
  switch: 0x40,
  parameterChange: 0x60,
  restorePoint: 0x70,
  endOfRecovery: 0x90,
  overwriteContrecord: 0xd0,
} as const;

/**
 * One whole record where it lies. The parser owns the one instance and moves it from record to record: it is good
 * only during the call that gets it. `beginOffset` and `endOffset` count from `base`, so that nothing on the way
 * needs a bigint; the getters make them.
 */
export class RecordView {
  bytes: Uint8Array = new Uint8Array(0);
  view: DataView = new DataView(this.bytes.buffer);
  /** Of the header in `bytes`. */
  offset = 0;
  /** Total length, header included, padding not. */
  lengthBytes = 0;
  base = 0n;
  beginOffset = 0;
  /** Where the next record may start: aligned to 8; after a switch the next segment. */
  endOffset = 0;
  /** Undefined while no page header has been seen (the log was entered inside a page). */
  version: WalVersion | undefined = undefined;

  get begin(): Lsn {
    return toLsn(this.base + BigInt(this.beginOffset));
  }

  get end(): Lsn {
    return toLsn(this.base + BigInt(this.endOffset));
  }

  get previous(): Lsn {
    return toLsn(this.view.getBigUint64(this.offset + 8, true));
  }

  get xid(): number {
    return this.view.getUint32(this.offset + 4, true);
  }

  get info(): number {
    return this.view.getUint8(this.offset + 16);
  }

  get rmgr(): number {
    return this.view.getUint8(this.offset + 17);
  }
}

/** Takes one whole record; false stops the parser. */
export type RecordSink = (record: RecordView) => boolean;
