/**
 * Records that a person or a target may name, as events (engine.ts LogEvent). Layouts (PostgreSQL: access/xlog_internal.h,
 * catalog/pg_control.h, commands/tablespace.h), the same from 14 to 18 as far as they are read here:
 *
 *   checkpoint         redo u64 @0, timeline u32 @8, previous timeline u32 @12, …, wal_level i32 @20 (17+), time i64 @64 in SECONDS
 *   restore point      time i64 @0, name char[64] @8
 *   end of recovery    time i64 @0, timeline u32 @8, previous timeline u32 @12, wal_level i32 @16 (17+)
 *   parameter change   wal_level i32 @20
 *   tablespace create  tablespace u32 @0, location C string @4
 */

import { toLsn, toTimeline } from '../../../foundation/lsn.ts';
import type { LogEvent } from '../../engine.ts';
import type { RecordDecoder } from './blocks.ts';
import { unreadable } from './page.ts';
import { INFO_RMGR_MASK, type RecordView, RMGR, XLOG_INFO } from './record.ts';
import { decodeTransactionEnd, endsTransaction, readTimeUs, type TransactionEnd } from './transaction.ts';

const CHECKPOINT_BYTES = 88;
const TABLESPACE_CREATE = 0x00;

/** Whether `eventOf` may find an event in the record: all that is asked of most records. */
export function mayHoldEvent(record: RecordView): boolean {
  const rmgr = record.rmgr;
  return rmgr <= RMGR.tablespace && (rmgr <= RMGR.transaction || rmgr === RMGR.tablespace);
}

/** The record's event; undefined when it is none. Decodes the record with `decoder`. Throws WAL_UNREADABLE. */
export function eventOf(record: RecordView, decoder: RecordDecoder): LogEvent | undefined {
  switch (record.rmgr) {
    case RMGR.transaction:
      return transactionEvent(record, decoder);
    case RMGR.xlog:
      return xlogEvent(record, decoder);
    case RMGR.tablespace:
      return tablespaceEvent(record, decoder);
    default:
      return undefined;
  }
}

/** The end of a transaction that the record is; undefined when it is none. Throws WAL_UNREADABLE. */
export function transactionEndOf(record: RecordView, decoder: RecordDecoder): TransactionEnd | undefined {
  if (record.rmgr !== RMGR.transaction || !endsTransaction(record.info)) return undefined;
  const view = mainData(record, decoder, 8);
  const begin = decoder.mainOffset;
  const span = { view, begin, end: begin + decoder.mainBytes };
  const ended = decodeTransactionEnd(record.info, record.xid, span, record.version);
  if (ended === undefined)
    throw unreadable(record.begin, record.version, 'a commit or abort record cannot be decoded');
  return ended;
}

function transactionEvent(record: RecordView, decoder: RecordDecoder): LogEvent | undefined {
  const ended = transactionEndOf(record, decoder);
  if (ended === undefined) return undefined;
  const { kind, xid, timeUs, subxids } = ended;
  const event = { kind, begin: record.begin, end: record.end, xid, timeUs };
  return subxids.length === 0 ? event : { ...event, subxids };
}

function xlogEvent(record: RecordView, decoder: RecordDecoder): LogEvent | undefined {
  const place = { begin: record.begin, end: record.end };
  const info = record.info & INFO_RMGR_MASK;
  switch (info) {
    case XLOG_INFO.checkpointShutdown:
    case XLOG_INFO.checkpointOnline: {
      const view = mainData(record, decoder, CHECKPOINT_BYTES);
      return {
        kind: 'checkpoint',
        ...place,
        redo: toLsn(view.getBigUint64(decoder.mainOffset, true)),
        timeUs: view.getBigInt64(decoder.mainOffset + 64, true) * 1_000_000n, // a pg_time_t
        shutdown: info === XLOG_INFO.checkpointShutdown,
      };
    }
    case XLOG_INFO.switch:
      return { kind: 'switch', ...place };
    case XLOG_INFO.parameterChange: {
      const view = mainData(record, decoder, 24);
      return { kind: 'walLevel', ...place, walLevel: view.getInt32(decoder.mainOffset + 20, true) };
    }
    case XLOG_INFO.restorePoint: {
      const view = mainData(record, decoder, 72);
      const at = decoder.mainOffset;
      return {
        kind: 'restorePoint',
        ...place,
        name: readText(record.bytes, at + 8, at + 72),
        timeUs: readTimeUs(view, at),
      };
    }
    case XLOG_INFO.endOfRecovery: {
      const view = mainData(record, decoder, 16);
      return {
        kind: 'endOfRecovery',
        ...place,
        timeline: toTimeline(view.getUint32(decoder.mainOffset + 8, true)),
        previousTimeline: toTimeline(view.getUint32(decoder.mainOffset + 12, true)),
        timeUs: readTimeUs(view, decoder.mainOffset),
      };
    }
    default:
      return undefined;
  }
}

function tablespaceEvent(record: RecordView, decoder: RecordDecoder): LogEvent | undefined {
  if ((record.info & INFO_RMGR_MASK) !== TABLESPACE_CREATE) return undefined;
  const view = mainData(record, decoder, 5);
  const at = decoder.mainOffset;
  return {
    kind: 'createTablespace',
    begin: record.begin,
    end: record.end,
    oid: view.getUint32(at, true),
    location: readText(record.bytes, at + 4, at + decoder.mainBytes),
  };
}

/** The view in which the record's main data lies at `decoder.mainOffset`, at least `leastBytes` long. */
export function mainData(record: RecordView, decoder: RecordDecoder, leastBytes: number): DataView {
  decoder.decode(record);
  if (decoder.mainBytes < leastBytes)
    throw unreadable(
      record.begin,
      record.version,
      `main data of ${decoder.mainBytes} bytes in a record of resource manager ${record.rmgr}, info ${record.info.toString(16)}`,
    );
  return record.view;
}

/** UTF-8 up to the first NUL or `end`. */
function readText(bytes: Uint8Array, begin: number, end: number): string {
  const nul = bytes.indexOf(0, begin);
  const textEnd = nul === -1 || nul > end ? end : nul;
  return Buffer.from(bytes.buffer, bytes.byteOffset + begin, textEnd - begin).toString('utf8');
}
