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
 * along the lineage of the newest archived timeline, up to its end or to the first hole. What a fork left behind is
 * reached only by naming its timeline. Returns undefined when the log does not cover the baseline up to its stop.
 */
export function findLogPath(
  log: GroupLog,
  baseline: BaselineLog,
  timeline: Timeline | undefined,
): LogPath | undefined {
  if (timeline !== undefined) return pathTo(log, baseline, timeline, 'whole');
  const newest = newestTimeline(log, baseline.timeline);
  return newest === undefined ? undefined : pathTo(log, baseline, newest, 'toFirstHole');
}

/**
 * Where the lineage of the newest archived timeline left the one of a position before reaching it, or that it never was
 * on that one: what is there belongs to another history. Undefined: the position lies on the lineage.
 */
export function findFork(
  log: Pick<GroupLog, 'coverage' | 'histories'>,
  position: { readonly timeline: Timeline; readonly lsn: Lsn },
): { readonly newest: Timeline; readonly end: Lsn | undefined } | undefined {
  const newest = newestTimeline(log, position.timeline);
  if (newest === undefined || newest === position.timeline) return undefined;
  const end = parseHistory(log.histories.get(newest) ?? NOTHING).find(
    (ancestor) => ancestor.timeline === position.timeline,
  )?.end;
  return end !== undefined && end >= position.lsn ? undefined : { newest, end };
}

function newestTimeline(log: Pick<GroupLog, 'coverage' | 'histories'>, own: Timeline): Timeline | undefined {
  return [...new Set(log.coverage.map((range) => range.timeline))]
    .sort((a, b) => b - a)
    .find((candidate) => candidate === own || log.histories.has(candidate));
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

function pathTo(
  log: GroupLog,
  baseline: BaselineLog,
  target: Timeline,
  extent: 'whole' | 'toFirstHole',
): LogPath | undefined {
  const lineage = [
    ...parseHistory(log.histories.get(target) ?? NOTHING),
    { timeline: target, end: undefined },
  ];
  const first = lineage.findIndex((ancestor) => ancestor.timeline === baseline.timeline);
  const left = lineage[first]?.end;
  // A baseline that goes on behind the fork belongs to what the fork left behind.
  if (first < 0 || (left !== undefined && left < baseline.stop)) return undefined;
  const ranges: LogRange[] = [];
  let begin = segmentStart(baseline.start, log.segmentSizeBytes);
  let checkpointUs: bigint | undefined;
  for (const { timeline, end: until } of lineage.slice(first)) {
    // A timeline that was left where it began has no log of its own.
    if (until !== undefined && until <= begin) continue;
    const covered = coverageAt(log, timeline, begin);
    if (covered === undefined && extent === 'toFirstHole') break;
    if (covered === undefined) return undefined;
    const end = until === undefined || covered.end < until ? covered.end : until;
    ranges.push({ timeline, begin, end });
    // What lies behind the fork has times of its own.
    if (covered.end === end) checkpointUs = covered.checkpointUs ?? checkpointUs;
    begin = end;
    if (until === undefined || end === until) continue;
    if (extent === 'whole') return undefined;
    break;
  }
  const last = ranges.at(-1);
  if (last === undefined || last.end < baseline.stop) return undefined;
  return { ranges, timeline: last.timeline, end: last.end, checkpointUs };
}

function coverageAt(log: GroupLog, timeline: Timeline, lsn: Lsn): Coverage | undefined {
  return log.coverage.find((range) => range.timeline === timeline && range.begin <= lsn && lsn < range.end);
}

const NOTHING = new Uint8Array(0);
