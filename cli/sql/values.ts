/** Typed values of a result as text, and as JSON. */
import type { Value } from '../../proto/gen/holdfast/v1/admin_pb.ts';

/** As psql shows it; null: NULL. */
export function formatCell(value: Value): string | null {
  const { kind } = value;
  switch (kind.case) {
    case undefined:
    case 'nullValue':
      return null;
    case 'boolean':
      return kind.value ? 't' : 'f';
    case 'timestampUs':
      return formatTimestamp(kind.value);
    default:
      return String(kind.value);
  }
}

/** Text for JSON: integers beyond 2^53 keep all digits, JSON columns are embedded as they are. */
export function formatJson(value: Value): string {
  const { kind } = value;
  switch (kind.case) {
    case undefined:
    case 'nullValue':
      return 'null';
    case 'integer':
      return String(kind.value);
    case 'json':
      return kind.value;
    case 'number':
      return Number.isFinite(kind.value) ? String(kind.value) : JSON.stringify(String(kind.value));
    case 'timestampUs':
      return JSON.stringify(formatTimestamp(kind.value).replace(' ', 'T').replace('+00', 'Z'));
    default:
      return JSON.stringify(kind.value);
  }
}

/** Numbers stand at the right. */
export function isNumeric(typeOid: number): boolean {
  return [20, 21, 23, 26, 700, 701, 1700].includes(typeOid);
}

/** `2026-11-21 01:05:32.123456+00` */
export function formatTimestamp(timestampUs: bigint): string {
  const us = ((timestampUs % 1000n) + 1000n) % 1000n;
  const iso = new Date(Number((timestampUs - us) / 1000n)).toISOString();
  const fraction = `${iso.slice(20, 23)}${String(us).padStart(3, '0')}`.replace(/0+$/, '');
  return `${iso.slice(0, 19).replace('T', ' ')}${fraction === '' ? '' : `.${fraction}`}+00`;
}
