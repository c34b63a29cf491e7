/**
 * backup_label, as the stop function gives it. It is stored byte for byte; what is read here is read from a copy.
 *
 *   START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
 *   CHECKPOINT LOCATION: 0/2000080
 *   BACKUP METHOD: streamed
 *   BACKUP FROM: primary
 *   START TIME: 2026-01-02 03:04:05 UTC
 *   LABEL: holdfast
 *   START TIMELINE: 1
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
