/**
 * Single files as a server's own archive would hold them: whole segments and timeline histories, bit for bit. A segment
 * in which a timeline forks holds the parent's bytes before the fork, as the server's does. A segment of which a part
 * is not archived yet is not there: a standby must not take zeros for log.
 */
import { HoldfastError, isError } from '../../foundation/errors.ts';
import { type Lsn, parseSegmentName, type Timeline, toLsn, toTimeline } from '../../foundation/lsn.ts';
import type { LogLookup } from '../../storage-layout/clog/lookup.ts';
import type { LogRange } from '../../storage-layout/clog/ranges.ts';
import { parseHistory } from '../../storage-layout/plan/lineage.ts';
import { RECORD } from '../../storage-layout/records/framing.ts';
import { readBytes } from '../../storage-layout/records/info-file.ts';
import { tree } from '../../storage-layout/tree.ts';
import type { LogPlace } from '../archive/place.ts';
import { readSegment } from './log-feeder.ts';

/** The timeline of `0000000A.history`; undefined for other names. */
export function historyTimeline(name: string): Timeline | undefined {
  const match = /^([0-9A-F]{8})\.history$/.exec(name);
  const timeline = Number.parseInt(match?.[1] ?? '0', 16);
  return timeline === 0 ? undefined : toTimeline(timeline);
}

/** A timeline's history, undefined when it is not archived. */
export async function readHistory(
  place: LogPlace,
  timeline: Timeline,
  signal: AbortSignal,
): Promise<Buffer | undefined> {
  try {
    const key = tree.history(place.root, place.round, place.group, timeline);
    return await readBytes(place.medium, key, RECORD.timelineHistory, signal);
  } catch (error) {
    if (isError(error, 'FILE_NOT_FOUND')) return undefined;
    throw error;
  }
}

/**
 * The segment of that name; undefined when not all of it is archived. Throws INVALID_ARGUMENT for a name that is none,
 * and what reading throws.
 */
export async function readArchivedSegment(
  place: LogPlace,
  log: LogLookup,
  name: string,
  segmentSizeBytes: number,
  signal: AbortSignal,
): Promise<Buffer | undefined> {
  const segment = parseSegmentName(name, segmentSizeBytes);
  if (segment === undefined)
    throw new HoldfastError('INVALID_ARGUMENT', `not the name of a log segment: "${name}"`, {
      hint: 'A segment is named like 000000010000000000000003, a history like 00000002.history.',
    });
  const end = toLsn(segment.begin + BigInt(segmentSizeBytes));
  // Most names that are not there are behind the end: one search tells.
  if ((await log.fileAt(segment.timeline, toLsn(end - 1n), signal)) === undefined) return undefined;
  const path = await pathOf(place, log, segment.timeline, segment.begin, end, signal);
  try {
    return await readSegment({ reader: log, path, segmentSizeBytes }, name, signal);
  } catch (error) {
    if (isError(error, 'LOG_GAP')) return undefined;
    throw error;
  }
}

/** The timeline's own bytes where it has them from the segment's first on; else its ancestors' before each fork. */
async function pathOf(
  place: LogPlace,
  log: LogLookup,
  timeline: Timeline,
  begin: Lsn,
  end: Lsn,
  signal: AbortSignal,
): Promise<readonly LogRange[]> {
  const own = { timeline, begin, end };
  if ((await log.fileAt(timeline, begin, signal)) !== undefined) return [own];
  const history = await readHistory(place, timeline, signal);
  const path: LogRange[] = [];
  let from = toLsn(0n);
  for (const ancestor of parseHistory(history ?? new Uint8Array(0))) {
    path.push({ timeline: ancestor.timeline, begin: from, end: ancestor.end });
    from = ancestor.end;
  }
  return [...path, { timeline, begin: from, end }];
}
