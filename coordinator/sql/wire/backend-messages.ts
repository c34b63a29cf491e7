/** Encodes what a PostgreSQL server says. Field layouts: PostgreSQL's documentation, "Message Formats". */
import { formatError, type HoldfastError } from '../../../foundation/errors.ts';
import { type ResultColumn, type ResultType, type SqlNotice, type SqlValue, TYPE_OIDS } from '../results.ts';
import { frame } from './frames.ts';

/** `I` idle, `T` in a transaction, `E` in a failed one. */
export type TransactionStatus = 'I' | 'T' | 'E';

const TYPE_SIZES: Readonly<Record<number, number>> = { 16: 1, 20: 8, 23: 4, 701: 8, 1184: 8 };
export const PROTOCOL_3_0 = 196_608;
const EMPTY = Buffer.alloc(0);

export const parseComplete = (): Buffer => frame('1', EMPTY);
export const bindComplete = (): Buffer => frame('2', EMPTY);
export const closeComplete = (): Buffer => frame('3', EMPTY);
export const noData = (): Buffer => frame('n', EMPTY);
export const emptyQueryResponse = (): Buffer => frame('I', EMPTY);
export const portalSuspended = (): Buffer => frame('s', EMPTY);
export const parameterDescription = (): Buffer => frame('t', int16(0));
export const authenticationOk = (): Buffer => frame('R', int32(0));
export const authenticationSasl = (mechanism: string): Buffer =>
  frame('R', Buffer.concat([int32(10), cstring(mechanism), Buffer.from([0])]));
export const authenticationSaslContinue = (data: string): Buffer =>
  frame('R', Buffer.concat([int32(11), Buffer.from(data)]));
export const authenticationSaslFinal = (data: string): Buffer =>
  frame('R', Buffer.concat([int32(12), Buffer.from(data)]));
export const parameterStatus = (name: string, value: string): Buffer =>
  frame('S', Buffer.concat([cstring(name), cstring(value)]));
export const backendKeyData = (processId: number, secret: number): Buffer =>
  frame('K', Buffer.concat([int32(processId), int32(secret)]));
export const readyForQuery = (status: TransactionStatus): Buffer => frame('Z', Buffer.from(status));
export const commandComplete = (tag: string): Buffer => frame('C', cstring(tag));

/** Newest minor version of the protocol, and the options of the start-up packet that are not known. */
export function negotiateProtocolVersion(options: readonly string[]): Buffer {
  return frame('v', Buffer.concat([int32(PROTOCOL_3_0), int32(options.length), ...options.map(cstring)]));
}

/** 0 text, 1 binary. */
export type ValueFormat = 0 | 1;

/** `formats`: one for all columns, or one for each, or none (all text), as in Bind. */
export function formatOf(formats: readonly ValueFormat[], column: number): ValueFormat {
  return (formats.length === 1 ? formats[0] : formats[column]) ?? 0;
}

export function rowDescription(
  columns: readonly ResultColumn[],
  formats: readonly ValueFormat[] = [],
): Buffer {
  const described = columns.map(({ name, type }, i) => {
    const oid = TYPE_OIDS[type];
    const place = Buffer.concat([int32(0), int16(0)]); // no table, no attribute
    const typed = [int32(oid), int16(TYPE_SIZES[oid] ?? -1), int32(-1), int16(formatOf(formats, i))];
    return Buffer.concat([cstring(name), place, ...typed]);
  });
  return frame('T', Buffer.concat([int16(columns.length), ...described]));
}

export function dataRow(
  values: readonly SqlValue[],
  columns: readonly ResultColumn[] = [],
  formats: readonly ValueFormat[] = [],
): Buffer {
  const encoded = values.map((value, i) => {
    const type = columns[i]?.type;
    const binary = type !== undefined && formatOf(formats, i) === 1;
    const bytes = binary ? encodeBinary(value, type) : encodeText(value);
    return bytes === null ? int32(-1) : Buffer.concat([int32(bytes.length), bytes]);
  });
  return frame('D', Buffer.concat([int16(values.length), ...encoded]));
}

function encodeText(value: SqlValue): Buffer | null {
  const text = formatValue(value);
  return text === null ? null : Buffer.from(text);
}

/** PostgreSQL's epoch, 2000-01-01, in microseconds since 1970. */
const POSTGRES_EPOCH_US = 946_684_800_000_000n;

/** The send functions' formats. */
function encodeBinary(value: SqlValue, type: ResultType): Buffer | null {
  if (value === null) return null;
  if (typeof value === 'object') return int64(value.timestampUs - POSTGRES_EPOCH_US);
  switch (type) {
    case 'bool':
      return Buffer.from([value === true ? 1 : 0]);
    case 'int4':
      return int32(Number(value));
    case 'int8':
      return int64(BigInt(value));
    case 'float8': {
      const bytes = Buffer.allocUnsafe(8);
      bytes.writeDoubleBE(Number(value));
      return bytes;
    }
    default:
      return Buffer.from(String(value));
  }
}

/** PostgreSQL's text form; null: NULL. */
export function formatValue(value: SqlValue): string | null {
  if (value === null) return null;
  if (typeof value === 'boolean') return value ? 't' : 'f';
  if (typeof value === 'object') return formatTimestamp(value.timestampUs);
  return String(value);
}

/** `2026-11-21 01:05:32.123456+00` */
export function formatTimestamp(timestampUs: bigint): string {
  const ms = BigInt.asIntN(64, timestampUs) / 1000n - (timestampUs % 1000n < 0n ? 1n : 0n);
  const us = timestampUs - ms * 1000n;
  const iso = new Date(Number(ms)).toISOString();
  const fraction = `${iso.slice(20, 23)}${String(us).padStart(3, '0')}`.replace(/0+$/, '');
  return `${iso.slice(0, 19).replace('T', ' ')}${fraction === '' ? '' : `.${fraction}`}+00`;
}

export function errorResponse(error: HoldfastError, severity: 'ERROR' | 'FATAL' = 'ERROR'): Buffer {
  return reportFrame('E', {
    S: severity,
    V: severity,
    C: error.facts.sqlState,
    M: formatError(error),
    D: error.detail,
    H: error.hint,
    P: error.position === undefined ? undefined : String(error.position),
  });
}

export function noticeResponse(notice: SqlNotice): Buffer {
  return reportFrame('N', {
    S: notice.severity,
    V: notice.severity,
    C: notice.severity === 'WARNING' ? '01000' : '00000',
    M: notice.message,
    D: notice.detail,
    H: notice.hint,
  });
}

function reportFrame(type: 'E' | 'N', values: Readonly<Record<string, string | undefined>>): Buffer {
  const parts = Object.entries(values).map(([code, text]) =>
    text === undefined || text === '' ? EMPTY : Buffer.concat([Buffer.from(code), cstring(text)]),
  );
  return frame(type, Buffer.concat([...parts, Buffer.from([0])]));
}

/** Ends with a zero byte, so it cannot hold one. */
function cstring(text: string): Buffer {
  return Buffer.from(`${text.replaceAll('\0', '�')}\0`);
}

function int16(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(2);
  bytes.writeInt16BE(value);
  return bytes;
}

function int64(value: bigint): Buffer {
  const bytes = Buffer.allocUnsafe(8);
  bytes.writeBigInt64BE(BigInt.asIntN(64, value));
  return bytes;
}

function int32(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeInt32BE(value | 0);
  return bytes;
}
