/**
 * Which unbroken stretches of log the files of a lane hold, found from as few of them as possible.
 *
 * 1. From the names: where an id is missing a file is lost, and a file without an index is asked itself.
 * 2. Between two such places every file has an index. The last one promises since when the log of its timeline is unbroken
 *    in the files before it (LogFileFacts.unbroken); the file that begins there is found by a binary search. What lies
 *    before it, of an older timeline or behind a hole, is told in the same way by the file before.
 * 3. A file without a promise, or whose promise is of other files than those that the names tell (promise.ts), tells nothing
 *    of the files of other archivers; those of its own follow each other.
 *
 * A file that has lost its tail, or whose index was lost and made anew shorter, is not seen from here but when it is
 * opened: who restores opens every file first.
 */
import type { Lsn, Timeline } from '../../foundation/lsn.ts';
import type { Lane } from './lanes.ts';
import type { LogFile } from './log-file.ts';
import type { OpenedFiles } from './opened-files.ts';
import { isPromiseOf } from './promise.ts';

/** The files from the `first` to the `last` of the lane hold [begin, end) of one timeline without a break. */
export type Run = {
  readonly timeline: Timeline;
  readonly begin: Lsn;
  readonly end: Lsn;
  readonly lane: Lane;
  readonly first: number;
  readonly last: number;
};

/** A file and where it is in the lane. */
export type Found = { readonly file: LogFile; readonly at: number };

/** The runs of the lane, in its order. */
export async function findRuns(
  files: OpenedFiles,
  lane: Lane,
  signal: AbortSignal | undefined,
): Promise<readonly Run[]> {
  const runs: Run[] = [];
  for (let first = 0; first < lane.length; ) {
    let last = first;
    while (isFollowed(files, lane, last)) last += 1;
    for (const run of await runsOfStretch(files, lane, first, last, signal)) join(files, runs, run);
    first = last + 1;
  }
  return runs;
}

/**
 * The first place in [begin, end) of the lane for which `holds` is false: it is true for all before that one. Files that
 * hold no log, or do not say what they are, say nothing here: their neighbours do.
 */
export async function search(
  files: OpenedFiles,
  lane: Lane,
  range: { readonly begin: number; readonly end: number },
  holds: (file: LogFile, at: number) => boolean | Promise<boolean>,
  signal: AbortSignal | undefined,
): Promise<number> {
  let low = range.begin;
  let high = range.end;
  while (low < high) {
    const middle = (low + high) >> 1;
    const found = await lastWithLog(files, lane, low, middle, signal);
    if (found === undefined || (await holds(found.file, found.at))) low = middle + 1;
    else high = found.at;
  }
  return low;
}

/** The last file of [first, last] that holds log. */
export async function lastWithLog(
  files: OpenedFiles,
  lane: Lane,
  first: number,
  last: number,
  signal: AbortSignal | undefined,
): Promise<Found | undefined> {
  for (let at = last; at >= first; at -= 1) {
    const file = await files.at(lane[at] ?? -1, signal);
    if (file !== undefined && file.end > file.begin) return { file, at };
  }
  return undefined;
}

/** The first file of [first, last] that holds log. */
export async function firstWithLog(
  files: OpenedFiles,
  lane: Lane,
  first: number,
  last: number,
  signal: AbortSignal | undefined,
): Promise<Found | undefined> {
  for (let at = first; at <= last; at += 1) {
    const file = await files.at(lane[at] ?? -1, signal);
    if (file !== undefined && file.end > file.begin) return { file, at };
  }
  return undefined;
}

/** Whether the next id of the lane is there, and both files have indexes. */
function isFollowed(files: OpenedFiles, lane: Lane, at: number): boolean {
  const place = lane[at];
  const next = lane[at + 1];
  if (place === undefined || next === undefined) return false;
  return files.isIndexed(place) && files.isIndexed(next) && idsBetween(files, lane, at, at + 1) === 1;
}

function idsBetween(files: OpenedFiles, lane: Lane, at: number, later: number): number {
  const idOf = (index: number) => files.names[lane[index] ?? -1]?.fileId ?? 0n;
  return Number(idOf(later) - idOf(at));
}

/** Of files whose ids have no hole and that all have indexes, or of one file without. */
async function runsOfStretch(
  files: OpenedFiles,
  lane: Lane,
  first: number,
  last: number,
  signal: AbortSignal | undefined,
): Promise<readonly Run[]> {
  const runs: Run[] = [];
  for (let high = last; high >= first; ) {
    const tail = await lastWithLog(files, lane, first, high, signal);
    if (tail === undefined) break;
    const head = (await headOf(files, lane, first, tail, signal)) ?? tail;
    const { timeline, end } = tail.file;
    runs.push({ timeline, begin: head.file.begin, end, lane, first: head.at, last: tail.at });
    high = head.at - 1;
  }
  return runs.toReversed();
}

/** The first file of the run that ends with `tail`, not before `first`. */
async function headOf(
  files: OpenedFiles,
  lane: Lane,
  first: number,
  tail: Found,
  signal: AbortSignal | undefined,
): Promise<Found | undefined> {
  const { unbroken } = tail.file;
  if (unbroken !== undefined) {
    const head = await firstSince(
      files,
      lane,
      { begin: first, end: tail.at },
      tail.file,
      unbroken.since,
      signal,
    );
    const places = { head: head?.at ?? tail.at, tail: tail.at };
    if (head !== undefined && isPromiseOf(tail.file, head.file, files.names, lane, places)) return head;
  }
  let begin = tail.at;
  while (begin > first && files.names[lane[begin - 1] ?? -1]?.epoch === tail.file.epoch) begin -= 1;
  return await firstSince(files, lane, { begin, end: tail.at }, tail.file, undefined, signal);
}

/** The first file with log in [begin, end] of the lane that is of `tail`'s timeline, and begins at or behind `since`. */
async function firstSince(
  files: OpenedFiles,
  lane: Lane,
  range: { readonly begin: number; readonly end: number },
  { timeline }: LogFile,
  since: Lsn | undefined,
  signal: AbortSignal | undefined,
): Promise<Found | undefined> {
  const isBefore = (file: LogFile) =>
    file.timeline < timeline || (since !== undefined && file.timeline === timeline && file.begin < since);
  const oldest = await firstWithLog(files, lane, range.begin, range.end, signal);
  if (oldest === undefined || !isBefore(oldest.file)) return oldest;
  const at = await search(files, lane, { begin: oldest.at + 1, end: range.end }, isBefore, signal);
  return await firstWithLog(files, lane, at, range.end, signal);
}

/** Adds the run, to the one before when it goes on where that ends and no file is missing between them. */
function join(files: OpenedFiles, runs: Run[], run: Run): void {
  const before = runs.at(-1);
  const follows =
    before !== undefined &&
    before.timeline === run.timeline &&
    before.end === run.begin &&
    idsBetween(files, run.lane, before.last, run.first) === run.first - before.last;
  if (follows) runs[runs.length - 1] = { ...before, end: run.end, last: run.last };
  else runs.push(run);
}
