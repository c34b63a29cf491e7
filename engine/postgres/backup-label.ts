/**
 * The two texts that the stop function gives. They are stored byte for byte; what is read here is read from a copy.
 *
 * backup_label:    START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
 *                  CHECKPOINT LOCATION: 0/2000080
 *                  BACKUP METHOD: streamed
 *                  BACKUP FROM: primary
 *                  START TIME: 2026-01-02 03:04:05 UTC
 *                  LABEL: holdfast
 *                  START TIMELINE: 1
 * tablespace_map:  <oid> <path>, with newline, carriage return and backslash in the path escaped by a backslash.
 */
import { HoldfastError } from '../../foundation/errors.ts';
import { type Lsn, parseLsn, type Timeline, toTimeline } from '../../foundation/lsn.ts';

export type BackupLabel = {
  readonly startLsn: Lsn;
  readonly startSegment: string;
  readonly checkpointLsn: Lsn;
  readonly startTimeline: Timeline;
  readonly fromStandby: boolean;
  readonly startTime: string;
  readonly label: string;
  /** True when the label names a base: a server refuses to start with it. */
  readonly incremental: boolean;
};

/** Throws DATA_CORRUPT naming the line that is missing or wrong. */
export function parseBackupLabel(bytes: Uint8Array): BackupLabel {
  const fields = labelFields(bytes);
  const start = /^(\S+) \(file ([0-9A-F]{24})\)$/.exec(field(fields, 'START WAL LOCATION'));
  if (start?.[1] === undefined || start[2] === undefined) throw badLabel('START WAL LOCATION');
  const timeline = Number(field(fields, 'START TIMELINE'));
  if (!Number.isInteger(timeline) || timeline < 1) throw badLabel('START TIMELINE');
  return {
    startLsn: labelLsn(start[1], 'START WAL LOCATION'),
    startSegment: start[2],
    checkpointLsn: labelLsn(field(fields, 'CHECKPOINT LOCATION'), 'CHECKPOINT LOCATION'),
    startTimeline: toTimeline(timeline),
    fromStandby: field(fields, 'BACKUP FROM') === 'standby',
    startTime: field(fields, 'START TIME'),
    label: field(fields, 'LABEL'),
    incremental: fields.has('INCREMENTAL FROM LSN'),
  };
}

export type TablespaceMapEntry = { readonly oid: number; readonly path: string };

/** Empty bytes give an empty list. Throws DATA_CORRUPT naming the line. */
export function parseTablespaceMap(bytes: Uint8Array): readonly TablespaceMapEntry[] {
  return tablespaceMapLines(Buffer.from(bytes).toString('utf8')).map((line, index) => {
    const match = /^(\d+) ([^]+)$/.exec(line);
    if (match?.[1] === undefined || match[2] === undefined) {
      throw new HoldfastError('DATA_CORRUPT', `tablespace_map: line ${index + 1} is not "<oid> <path>"`);
    }
    return { oid: Number(match[1]), path: match[2] };
  });
}

/** Lines with their escapes resolved; an unescaped newline or carriage return ends one (xlogrecovery.c, read_tablespace_map). */
function tablespaceMapLines(text: string): readonly string[] {
  const lines: string[] = [];
  let line = '';
  let escaped = false;
  for (const character of text) {
    if (escaped) {
      line += character;
      escaped = false;
    } else if (character === '\\') {
      escaped = true;
    } else if (character === '\n' || character === '\r') {
      if (line !== '') lines.push(line);
      line = '';
    } else {
      line += character;
    }
  }
  if (escaped || line !== '')
    throw new HoldfastError('DATA_CORRUPT', 'tablespace_map: the last line has no end');
  return lines;
}

function labelFields(bytes: Uint8Array): ReadonlyMap<string, string> {
  const fields = new Map<string, string>();
  for (const line of Buffer.from(bytes).toString('utf8').split('\n')) {
    const colon = line.indexOf(': ');
    if (colon > 0) fields.set(line.slice(0, colon), line.slice(colon + 2));
  }
  return fields;
}

function field(fields: ReadonlyMap<string, string>, name: string): string {
  const value = fields.get(name);
  if (value === undefined) throw badLabel(name);
  return value;
}

function labelLsn(text: string, name: string): Lsn {
  try {
    return parseLsn(text);
  } catch (cause) {
    throw badLabel(name, cause);
  }
}

function badLabel(name: string, cause?: unknown): HoldfastError {
  return new HoldfastError('DATA_CORRUPT', `backup_label: "${name}" is missing or unreadable`, { cause });
}
