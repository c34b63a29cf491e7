/** The reader's raw messages as typed values, for clients that do not speak PostgreSQL's protocol. */
import { create } from '@bufbuild/protobuf';
import type { ErrorCode } from '../../foundation/errors.ts';
import { type ErrorDetail, ErrorDetailSchema } from '../../proto/gen/holdfast/v1/admin_pb.ts';
import type { SqlNotice, SqlValue } from './results.ts';
import { BodyReader, type Frame } from './wire/frames.ts';

export type TypedColumn = { readonly name: string; readonly typeOid: number };

export function decodeRowDescription({ bytes }: Frame): readonly TypedColumn[] {
  const body = new BodyReader(bytes);
  return Array.from({ length: body.int16() }, () => {
    const name = body.string();
    body.take(6); // table and attribute
    const typeOid = body.int32() >>> 0;
    body.take(8); // size, modifier, format
    return { name, typeOid };
  });
}

/** Values in the text format; types that have no value of their own here stay text. */
export function decodeDataRow({ bytes }: Frame, columns: readonly TypedColumn[]): readonly SqlValue[] {
  const body = new BodyReader(bytes);
  return Array.from({ length: body.int16() }, (_, i) => {
    const sizeBytes = body.int32();
    return sizeBytes < 0 ? null : parseText(body.take(sizeBytes).toString(), columns[i]?.typeOid);
  });
}

function parseText(text: string, typeOid: number | undefined): SqlValue {
  switch (typeOid) {
    case 16:
      return text === 't';
    case 20:
    case 21:
    case 23:
    case 26:
      return BigInt(text);
    case 700:
    case 701:
      return Number(text);
    case 1184:
      return parseTimestamp(text);
    default:
      return text;
  }
}

/** ISO style with a numeric zone; anything else (another DateStyle, `infinity`, BC) stays text. */
function parseTimestamp(text: string): SqlValue {
  const [, date, time, fraction = '', zone] =
    /^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?([+-]\d\d(?::\d\d)?)$/.exec(text) ?? [];
  if (date === undefined || time === undefined || zone === undefined) return text;
  const ms = Date.parse(`${date}T${time}${zone.length === 3 ? `${zone}:00` : zone}`);
  return { timestampUs: BigInt(ms) * 1000n + BigInt(fraction.padEnd(6, '0')) };
}

export function decodeTag({ bytes }: Frame): string {
  return new BodyReader(bytes).string();
}

export function decodeNotice(frame: Frame): SqlNotice {
  const { severity, message, detail, hint } = decodeReport(frame);
  return {
    severity: severity === 'WARNING' || severity === 'INFO' ? severity : 'NOTICE',
    message,
    ...(detail === '' ? {} : { detail }),
    ...(hint === '' ? {} : { hint }),
  };
}

/** The reader's error with its own SQLSTATE, under the code of ours that is nearest. */
export function decodeError(frame: Frame): ErrorDetail {
  const { sqlState, message, detail, hint, position } = decodeReport(frame);
  const code = CODES[sqlState] ?? CODES[sqlState.slice(0, 2)] ?? 'INVALID_ARGUMENT';
  return create(ErrorDetailSchema, { code, sqlState, message, detail, hint, position });
}

/** By SQLSTATE, else by its class. */
const CODES: Readonly<Record<string, ErrorCode>> = {
  '42601': 'SYNTAX_ERROR',
  '42501': 'PRIVILEGE',
  '57014': 'QUERY_CANCELLED',
  '53300': 'TOO_MANY_SESSIONS',
  '25': 'TRANSACTION_STATE',
  '57': 'SERVER_UNREACHABLE',
  XX: 'INTERNAL',
};

type Report = {
  readonly severity: string;
  readonly sqlState: string;
  readonly message: string;
  readonly detail: string;
  readonly hint: string;
  readonly position: number;
};

function decodeReport({ bytes }: Frame): Report {
  const body = new BodyReader(bytes);
  const fields = new Map<string, string>();
  for (let code = body.letter(); code !== '\0'; code = body.letter()) fields.set(code, body.string());
  const field = (code: string) => fields.get(code) ?? '';
  return {
    severity: fields.get('V') ?? field('S'),
    sqlState: field('C'),
    message: field('M'),
    detail: field('D'),
    hint: field('H'),
    position: Number(field('P') === '' ? 0 : field('P')),
  };
}
