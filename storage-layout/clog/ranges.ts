/**
 * Which file gives which byte of the log. Pure. Files are taken in the order of their names (file id, epoch); a byte that an
 * earlier file holds is taken from it, and the later file's copy becomes an overlap that must be compared.
 */
import { type Lsn, type Timeline, toLsn } from '../../foundation/lsn.ts';

/** The log bytes [begin, end) of `timeline` that `file` gives. */
export type LogPiece<File> = {
  readonly timeline: Timeline;
  readonly begin: Lsn;
  readonly end: Lsn;
  readonly file: File;
};
/** The same bytes in two files. */
export type LogOverlap<File> = LogPiece<File> & { readonly other: File };
export type LogRange = { readonly timeline: Timeline; readonly begin: Lsn; readonly end: Lsn };

/** Pieces in order of (timeline, begin), without overlaps, and the overlaps that were left out. */
export function planPieces<File extends LogRange>(
  files: readonly File[],
): { readonly pieces: readonly LogPiece<File>[]; readonly overlaps: readonly LogOverlap<File>[] } {
  const byTimeline = new Map<Timeline, LogPiece<File>[]>();
  const overlaps: LogOverlap<File>[] = [];
  for (const file of files) {
    const pieces = byTimeline.get(file.timeline) ?? [];
    byTimeline.set(file.timeline, pieces);
    const last = pieces.at(-1);
    if (last === undefined || last.end <= file.begin) pieces.push({ ...rangeOf(file), file });
    else overlaps.push(...insert(pieces, file));
  }
  const timelines = [...byTimeline.keys()].sort((a, b) => a - b);
  return { pieces: timelines.flatMap((timeline) => byTimeline.get(timeline) ?? []), overlaps };
}

/** Adds to `pieces`, which are of one timeline and in order, what of `file` they lack. Returns what they have already. */
function insert<File extends LogRange>(pieces: LogPiece<File>[], file: File): LogOverlap<File>[] {
  const { timeline } = file;
  const overlaps: LogOverlap<File>[] = [];
  let begin = file.begin;
  for (const piece of pieces.filter((known) => known.begin < file.end && known.end > file.begin)) {
    if (begin < piece.begin) pieces.push({ timeline, begin, end: piece.begin, file });
    const from = begin > piece.begin ? begin : piece.begin;
    const until = piece.end < file.end ? piece.end : file.end;
    overlaps.push({ timeline, begin: from, end: until, file: piece.file, other: file });
    begin = until;
  }
  if (begin < file.end) pieces.push({ timeline, begin, end: file.end, file });
  pieces.sort((a, b) => Number(a.begin - b.begin));
  return overlaps;
}

function rangeOf(range: LogRange): LogRange {
  return { timeline: range.timeline, begin: range.begin, end: range.end };
}

/** Neighbouring pieces joined: the unbroken ranges, in order of (timeline, begin). */
export function joinPieces(pieces: readonly LogRange[]): readonly LogRange[] {
  const ranges: { timeline: Timeline; begin: Lsn; end: Lsn }[] = [];
  for (const piece of pieces) {
    const last = ranges.at(-1);
    if (last !== undefined && last.timeline === piece.timeline && last.end === piece.begin)
      last.end = piece.end;
    else ranges.push({ ...rangeOf(piece) });
  }
  return ranges;
}

/** What of [begin, end) the ranges of `timeline` do not hold, in order. */
export function findGaps(
  ranges: readonly LogRange[],
  timeline: Timeline,
  begin: Lsn,
  end: Lsn,
): readonly LogRange[] {
  const gaps: LogRange[] = [];
  let at: bigint = begin;
  for (const range of ranges) {
    if (range.timeline !== timeline || range.end <= at || range.begin >= end) continue;
    if (range.begin > at) gaps.push({ timeline, begin: toLsn(at), end: range.begin });
    at = range.end;
  }
  if (at < end) gaps.push({ timeline, begin: toLsn(at), end });
  return gaps;
}
