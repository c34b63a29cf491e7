/**
 * On which timeline an archive goes on, and from where. Pure.
 *
 * The server's timeline and its history give the lineage: which timelines it descends from, and where each was left. The
 * archive is followed along it from the round's start; the first byte that it lacks is the next to archive. That lies on
 * an older timeline when its primary had not shipped all before the fork: the new primary has those bytes too. What was
 * archived of a timeline behind the point where the lineage left it stays as it is, and is not continued.
 */
import type { LogPoint } from '../../engine/engine.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn, type Lsn, type Timeline } from '../../foundation/lsn.ts';
import type { LogRange } from '../../storage-layout/clog/ranges.ts';

export type Lineage = {
  /** The server's. */
  readonly timeline: Timeline;
  /** Oldest first, and where each was left. */
  readonly ancestors: readonly { readonly timeline: Timeline; readonly end: Lsn }[];
};

export type Continuation = {
  /** Where the round's log begins. */
  readonly start: LogPoint;
  readonly from: LogPoint;
  /** Where the lineage leaves `from.timeline`; undefined: it is the server's own timeline. */
  readonly until: Lsn | undefined;
  /** The archived range that is continued; undefined: a timeline of which nothing is archived yet. */
  readonly range: LogRange | undefined;
  /** The server is on a timeline of which the archive knows nothing: another archiver had another server. */
  readonly crossesFork: boolean;
};

/**
 * `ranges`: what is archived, in order of (timeline, begin); at least one. Throws LOG_ARCHIVE_LEADER_CHANGED when the
 * archive is on a newer timeline already, LOG_CONFLICT when the server does not descend from it, LOG_GAP when what is
 * archived has a hole.
 */
export function planContinuation(ranges: readonly LogRange[], lineage: Lineage): Continuation {
  const [first] = ranges;
  const newest = ranges.at(-1);
  if (first === undefined || newest === undefined) throw new Error('bug: nothing is archived');
  if (newest.timeline > lineage.timeline) throw hasLeft(newest.timeline, lineage.timeline);
  const steps = [...lineage.ancestors, { timeline: lineage.timeline, end: undefined }];
  const begin = steps.findIndex((step) => step.timeline === first.timeline);
  const firstEnd = steps[begin]?.end;
  if (begin < 0 || (firstEnd !== undefined && firstEnd < first.begin))
    throw notDescended(first, lineage.timeline);
  const start = { timeline: first.timeline, lsn: first.begin };
  const crossesFork = newest.timeline < lineage.timeline;
  let at = first.begin;
  for (const { timeline, end: until } of steps.slice(begin)) {
    if (until !== undefined && until <= at) continue;
    const range = ranges.find((each) => each.timeline === timeline && each.begin <= at && at <= each.end);
    const covered = range?.end ?? at;
    if (until !== undefined && covered >= until) {
      at = until;
      continue;
    }
    refuseHole(ranges, timeline, covered, until);
    if (timeline < newest.timeline) throw goesBack(timeline, covered, newest.timeline);
    return { start, from: { timeline, lsn: covered }, until, range, crossesFork };
  }
  throw new Error('bug: a lineage ends on the timeline of its server');
}

/** Log behind the end of what is continued: it could not be told from what follows. */
function refuseHole(ranges: readonly LogRange[], timeline: Timeline, end: Lsn, until: Lsn | undefined): void {
  const behind = ranges.find(
    (range) =>
      range.timeline === timeline && range.begin > end && (until === undefined || range.begin < until),
  );
  if (behind === undefined) return;
  throw new HoldfastError(
    'LOG_GAP',
    `the archived log ends at ${formatLsn(end)} of timeline ${timeline} and goes on at ${formatLsn(behind.begin)}`,
    { hint: 'The round cannot be continued: begin a new one and take a full backup.' },
  );
}

function hasLeft(archived: Timeline, server: Timeline): HoldfastError {
  return new HoldfastError(
    'LOG_ARCHIVE_LEADER_CHANGED',
    `the log is archived on timeline ${archived}, which this server, on timeline ${server}, does not have`,
    {
      hint: 'The primary on the newer timeline is the one to archive. If it is lost for good: NOARCHIVELOG, then ARCHIVELOG.',
    },
  );
}

function notDescended(first: LogRange, timeline: Timeline): HoldfastError {
  return new HoldfastError(
    'LOG_CONFLICT',
    `timeline ${timeline} does not descend from what is archived, which begins at ${formatLsn(first.begin)} of timeline ${first.timeline}`,
    { hint: 'The server is a copy of an earlier state: start a new round and take a full backup.' },
  );
}

function goesBack(timeline: Timeline, lsn: Lsn, newest: Timeline): HoldfastError {
  return new HoldfastError(
    'LOG_GAP',
    `the server descends from timeline ${timeline} behind ${formatLsn(lsn)}, which was not archived before timeline ${newest} was`,
    { hint: 'Start a new round and take a full backup.' },
  );
}
