/**
 * What a round's log lacks: it must be whole from where the round began, along every timeline that was archived, from
 * where it left the one before. Pure.
 */
import type { Lsn, Timeline } from '../../foundation/lsn.ts';
import { findGaps, joinPieces, type LogRange, planPieces } from '../../storage-layout/clog/ranges.ts';

export type Ancestor = { readonly timeline: Timeline; readonly end: Lsn };

type Start = { readonly timeline: Timeline; readonly lsn: Lsn };

/**
 * `files`: what each file holds. `starts`: where the round's log begins, and where it begins anew after the partition group
 * had left. `histories`: the ancestors of each timeline, oldest first; a timeline without one is taken from its first
 * archived byte on.
 */
export function findLogGaps(
  files: readonly LogRange[],
  [start, ...laterStarts]: readonly [Start, ...Start[]],
  histories: ReadonlyMap<Timeline, readonly Ancestor[]>,
): readonly LogRange[] {
  const ranges = joinPieces(planPieces(files.filter((file) => file.end > file.begin)).pieces);
  const wanted = new Map<Timeline, { begin: Lsn; end: Lsn }>();
  for (const { timeline, end } of ranges) {
    const ancestors = histories.get(timeline) ?? [];
    const begin = beginOf(timeline, ancestors, ranges, start);
    if (begin !== undefined) widen(wanted, timeline, begin, end);
    // A fork leaves what was archived behind it; before it, nothing may be missing.
    for (const [index, ancestor] of ancestors.entries()) {
      const from = beginOf(ancestor.timeline, ancestors.slice(0, index), ranges, start);
      if (from !== undefined && ancestor.timeline >= start.timeline && from < ancestor.end)
        widen(wanted, ancestor.timeline, from, ancestor.end);
    }
  }
  return [...wanted]
    .sort(([a], [b]) => a - b)
    .flatMap(([timeline, { begin, end }]) => findGaps(ranges, timeline, begin, end))
    .map((gap) => laterStarts.reduce((rest, later) => cutAway(rest, later, ranges), gap))
    .filter((gap) => gap.begin < gap.end);
}

/**
 * What of the gap is none when the log begins anew at `later`: where the group left is not known, so all from the last
 * archived byte before it on is not missed.
 */
function cutAway(gap: LogRange, later: Start, ranges: readonly LogRange[]): LogRange {
  if (gap.timeline === later.timeline && gap.begin < later.lsn && later.lsn <= gap.end)
    return { ...gap, begin: later.lsn };
  const isLast = !ranges.some((range) => range.timeline === gap.timeline && range.begin >= gap.end);
  return gap.timeline < later.timeline && isLast ? { ...gap, begin: gap.end } : gap;
}

/** Where the timeline's log in this round must begin; undefined: it ended before the round began. */
function beginOf(
  timeline: Timeline,
  ancestors: readonly Ancestor[],
  ranges: readonly LogRange[],
  start: Start,
): Lsn | undefined {
  if (timeline === start.timeline) return start.lsn;
  if (timeline < start.timeline) return undefined;
  return ancestors.at(-1)?.end ?? ranges.find((range) => range.timeline === timeline)?.begin;
}

function widen(
  wanted: Map<Timeline, { begin: Lsn; end: Lsn }>,
  timeline: Timeline,
  begin: Lsn,
  end: Lsn,
): void {
  const known = wanted.get(timeline);
  wanted.set(timeline, {
    begin: known === undefined || begin < known.begin ? begin : known.begin,
    end: known === undefined || end > known.end ? end : known.end,
  });
}

/** True when `range` lies in one of `checked`. */
export function isChecked(range: LogRange, checked: readonly LogRange[]): boolean {
  return checked.some(
    (known) => known.timeline === range.timeline && known.begin <= range.begin && range.end <= known.end,
  );
}
