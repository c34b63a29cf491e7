/**
 * Which archived log leads from a backup to a point: one range per timeline, oldest first, each beginning where the one
 * before ends. A timeline's history file says from which timelines it descends and where each of them was left; a
 * history's lines are `<timeline> <LSN> <reason>`, `#` begins a comment.
 */

import { type Lsn, parseLsn, segmentStart, type Timeline, toTimeline } from '../../foundation/lsn.ts';
import type { LogRange } from '../clog/ranges.ts';

/** An unbroken archived range [begin, end) of one timeline. */
export type Coverage = {
  readonly timeline: Timeline;
  readonly begin: Lsn;
  readonly end: Lsn;
  /** Everything acknowledged before this server time lies before `end`. Microseconds; undefined: no such time is known. */
  readonly checkpointUs: bigint | undefined;
};

/** One partition group's archived log in one round. */
export type GroupLog = {
  readonly partitionGroup: string;
  readonly segmentSizeBytes: number;
  readonly coverage: readonly Coverage[];
  readonly histories: ReadonlyMap<Timeline, Uint8Array>;
};

/** What a baseline needs of the log: from its start, at least up to its stop. */
export type BaselineLog = { readonly timeline: Timeline; readonly start: Lsn; readonly stop: Lsn };

export type LogPath = {
  readonly ranges: readonly LogRange[];
  /** The last range's timeline and end. */
  readonly timeline: Timeline;
  readonly end: Lsn;
  readonly checkpointUs: bigint | undefined;
};

/**
 * The path from the baseline's start (its segment's first byte) to the end of the archived log on `timeline`; undefined:
 * on the newest timeline that descends from the baseline and is archived without a hole up to the baseline's stop.
 * Returns undefined when there is none.
 */
export function findLogPath(
  log: GroupLog,
  baseline: BaselineLog,
  timeline: Timeline | undefined,
): LogPath | undefined {
  const candidates =
    timeline === undefined
      ? [...new Set(log.coverage.map((range) => range.timeline))].sort((a, b) => b - a)
      : [timeline];
  for (const candidate of candidates) {
    const path = pathTo(log, baseline, candidate);
    if (path !== undefined) return path;
  }
  return undefined;
}

/** The ancestors in a history file, oldest first, and where each was left. Lines that are none are passed over. */
export function parseHistory(
  history: Uint8Array,
): readonly { readonly timeline: Timeline; readonly end: Lsn }[] {
  return Buffer.from(history)
    .toString('latin1')
    .split('\n')
    .flatMap((line) => {
      const match = /^\s*([1-9][0-9]{0,9})\s+([0-9A-Fa-f]{1,8}\/[0-9A-Fa-f]{1,8})(?:\s|$)/.exec(line);
      if (match?.[1] === undefined || match[2] === undefined) return [];
      return [{ timeline: toTimeline(Number(match[1])), end: parseLsn(match[2]) }];
    });
}

function pathTo(log: GroupLog, baseline: BaselineLog, target: Timeline): LogPath | undefined {
  const ancestors = target === baseline.timeline ? [] : parseHistory(log.histories.get(target) ?? NOTHING);
  const first = ancestors.findIndex((ancestor) => ancestor.timeline === baseline.timeline);
  if (target !== baseline.timeline && first < 0) return undefined;
  const ranges: LogRange[] = [];
  let begin = segmentStart(baseline.start, log.segmentSizeBytes);
  for (const ancestor of target === baseline.timeline ? [] : ancestors.slice(first)) {
    const covered = coverageAt(log, ancestor.timeline, begin);
    if (covered === undefined || covered.end < ancestor.end || ancestor.end < begin) return undefined;
    if (begin < ancestor.end) ranges.push({ timeline: ancestor.timeline, begin, end: ancestor.end });
    begin = ancestor.end;
  }
  const firstRange = ranges[0];
  if (firstRange !== undefined && firstRange.end < baseline.stop) return undefined;
  const last = coverageAt(log, target, begin);
  if (last === undefined || last.end < baseline.stop) return undefined;
  ranges.push({ timeline: target, begin, end: last.end });
  return { ranges, timeline: target, end: last.end, checkpointUs: last.checkpointUs };
}

function coverageAt(log: GroupLog, timeline: Timeline, lsn: Lsn): Coverage | undefined {
  return log.coverage.find((range) => range.timeline === timeline && range.begin <= lsn && lsn < range.end);
}

const NOTHING = new Uint8Array(0);
