/**
 * The log that a recovery replays, as segments. A path is the lineage from the backup to the target: ranges that
 * follow each other without a hole, one per timeline, oldest first. As PostgreSQL does (XLogFileReadAnyTLI), a segment
 * is looked for on the newest timeline that begins in it or before it: where a timeline forks in the middle of a
 * segment, the new timeline's file holds the parent's bytes before the fork.
 */
import { assert } from '../../foundation/assert.ts';
import {
  type Lsn,
  parseSegmentName,
  segmentName,
  segmentStart,
  type Timeline,
  toLsn,
} from '../../foundation/lsn.ts';
import type { LogRange } from '../../storage-layout/clog/ranges.ts';

/** What a feeder reads from; LogLookup is one. */
export interface LogReader {
  read(
    timeline: Timeline,
    begin: Lsn,
    end: Lsn,
    signal: AbortSignal,
  ): AsyncIterable<{ readonly begin: Lsn; readonly data: Uint8Array }>;
}

export type Segment = { readonly name: string; readonly timeline: Timeline; readonly begin: Lsn };

/** The segments that recovery asks for one after the other, oldest first. Throws a bug when the ranges have a hole. */
export function* pathSegments(path: readonly LogRange[], segmentSizeBytes: number): Generator<Segment> {
  for (const [index, range] of path.entries()) {
    const next = path[index + 1];
    assert(next === undefined || next.begin === range.end, 'a log path has no holes');
    const until = next === undefined ? range.end : segmentStart(next.begin, segmentSizeBytes);
    for (let begin = segmentStart(range.begin, segmentSizeBytes); begin < until; ) {
      yield { name: segmentName(range.timeline, begin, segmentSizeBytes), timeline: range.timeline, begin };
      begin = toLsn(begin + BigInt(segmentSizeBytes));
    }
  }
}

/**
 * The pieces of the path that make up the file `name`, in order; empty when no byte of it is on the path: then there
 * is no such file.
 */
export function segmentPieces(
  path: readonly LogRange[],
  name: string,
  segmentSizeBytes: number,
): readonly LogRange[] {
  const segment = parseSegmentName(name, segmentSizeBytes);
  const last = path.findIndex((range) => range.timeline === segment?.timeline);
  if (segment === undefined || last < 0) return [];
  const segmentEnd = toLsn(segment.begin + BigInt(segmentSizeBytes));
  if ((path[last]?.begin ?? segmentEnd) >= segmentEnd) return [];
  return path.slice(0, last + 1).flatMap((range) => {
    const begin = range.begin > segment.begin ? range.begin : segment.begin;
    const end = range.end < segmentEnd ? range.end : segmentEnd;
    return begin < end ? [{ timeline: range.timeline, begin, end }] : [];
  });
}
