/**
 * One partition group's archived log, of a whole round or of one range in it: every file that holds some of it
 * (check-log-file.ts), in order of timeline and position; the records in it (wal-follower.ts); that none is missing
 * (log-gaps.ts); and that what two files hold is the same. What was right not long ago need not be read again.
 */
import { formatLsn, type Lsn, type Timeline, toLsn, toTimeline } from '../../foundation/lsn.ts';
import type { RoundGroupStart } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { readLogIndex } from '../../storage-layout/clog/index.ts';
import {
  dataKey,
  type FileName,
  fileLabel,
  findNames,
  openScanned,
} from '../../storage-layout/clog/log-file.ts';
import { LogLookup } from '../../storage-layout/clog/lookup.ts';
import { joinPieces, type LogRange, planPieces } from '../../storage-layout/clog/ranges.ts';
import { rangeBytes } from '../../storage-layout/clog/set-window.ts';
import { parseHistory } from '../../storage-layout/plan/lineage.ts';
import { RECORD } from '../../storage-layout/records/framing.ts';
import { readBytes } from '../../storage-layout/records/info-file.ts';
import { tree } from '../../storage-layout/tree.ts';
import type { LogPlace } from '../archive/place.ts';
import { checkLogFile } from './check-log-file.ts';
import { type Findings, findingOf, missing, tolerate } from './findings.ts';
import { type Ancestor, findLogGaps, isChecked } from './log-gaps.ts';
import type { ValidationReporter } from './progress.ts';
import type { LogStart } from './read-round.ts';
import { WalFollower } from './wal-follower.ts';

const OPEN_CONCURRENCY = 8;

export type LogSubject = {
  readonly place: LogPlace;
  /** Where the group's log begins in the round. */
  readonly start: RoundGroupStart;
  /** Where it begins anew, after the group had left; what lies between is nobody's. */
  readonly laterStarts: readonly LogStart[];
  /** Undefined: all of it. */
  readonly range: LogRange | undefined;
  /** Not read again. */
  readonly checked: readonly LogRange[];
  /** What was archived up to there must be there; undefined: not known. */
  readonly until: { readonly timeline: Timeline; readonly lsn: Lsn } | undefined;
  /** Nobody writes to it any more: every file has its index. */
  readonly isEnded: boolean;
};

export type CheckedLogs = {
  /** The log that was read and is right, joined. */
  readonly right: readonly LogRange[];
  readonly bytes: bigint;
};

/** A log file's range, without its blocks: there may be very many files. */
type Head = FileName & LogRange & { readonly isLast: boolean };

/** Throws the medium's errors; damage goes to `findings`. */
export async function checkLog(
  subject: LogSubject,
  findings: Findings,
  reporter: ValidationReporter,
  signal: AbortSignal,
): Promise<CheckedLogs> {
  const { place, start, range, checked } = subject;
  reporter.set({ phase: 'LOG' });
  const histories = await readHistories(place, findings, signal);
  const heads = await readHeads(subject, findings, signal);
  const present = heads.filter((head) => range === undefined || overlaps(head, range));
  const wanted = present.filter(
    (head) => !isChecked(head, checked) && !findings.hasWhole(dataKey(place, head)),
  );
  const bytesOf = (head: Head) => rangeBytes(clip(head, range));
  const total = wanted.reduce((sum, head) => sum + bytesOf(head), 0n);
  // Of a set's window it was said before its data were read.
  if (range === undefined) reporter.set({ logBytesTotal: total });
  reportGaps(subject, heads, histories, findings);
  await reportConflicts(subject, present, findings, signal);
  const right: LogRange[] = [];
  let current = '';
  const follower = new WalFollower(
    {
      segmentSizeBytes: start.segmentSizeBytes,
      systemIdentifier: start.systemIdentifier,
      major: start.postgresMajor,
      forks: forksOf(histories),
    },
    ({ code, message }) =>
      findings.add({ code, key: current, offset: undefined, message: `${current}: ${message}` }),
  );
  for (const head of wanted) {
    signal.throwIfAborted();
    current = dataKey(place, head);
    const onBlock = (begin: Lsn, data: Buffer) => follower.push(head.timeline, begin, data);
    right.push(...(await checkLogFile(place, head, onBlock, findings, signal)));
    const { logBytesDone, logBytesTotal } = reporter.step;
    const done = logBytesDone + bytesOf(head);
    // What two files of a window hold counts once.
    reporter.set({ logBytesDone: done < logBytesTotal ? done : logBytesTotal, findingCount: findings.count });
  }
  return { right: joinPieces(planPieces(right.toSorted(comparePlaces)).pieces), bytes: total };
}

/** The files by (timeline, begin). One whose index is damaged is placed by what it says itself. */
async function readHeads(
  subject: LogSubject,
  findings: Findings,
  signal: AbortSignal,
): Promise<readonly Head[]> {
  const { place, range, isEnded } = subject;
  const { medium, root, round, group } = place;
  const indexed = new Set(await medium.listNames(tree.logIndexDirectory(root, round, group), signal));
  const all = await findNames(place, signal);
  const last = all.at(-1);
  const names = range === undefined ? all : await narrow(place, range, all, signal);
  const open = async (name: FileName): Promise<Head[]> => {
    const found = await readHead(place, name, indexed, findings, signal);
    return found === undefined ? [] : [{ ...name, ...found, isLast: !isEnded && isSame(name, last) }];
  };
  const heads: Head[] = [];
  for (let first = 0; first < names.length; first += OPEN_CONCURRENCY)
    heads.push(...(await Promise.all(names.slice(first, first + OPEN_CONCURRENCY).map(open))).flat());
  const listed = new Set(all.map(fileLabel));
  const lost = await findLost(
    place,
    [...indexed].filter((label) => !listed.has(label)),
    range,
    findings,
    signal,
  );
  return [...heads, ...lost].sort(comparePlaces);
}

function isSame(name: FileName, other: FileName | undefined): boolean {
  return other !== undefined && fileLabel(name) === fileLabel(other);
}

/** The names that hold some of the range, when the indexes on the way to them can be read; else all. */
async function narrow(
  place: LogPlace,
  range: LogRange,
  all: readonly FileName[],
  signal: AbortSignal,
): Promise<readonly FileName[]> {
  const { medium, root, round, group } = place;
  try {
    const names: FileName[] = [];
    const lookup = await LogLookup.open(medium, root, round, group, signal);
    for await (const { fileId, epoch } of lookup.filesBetween(
      range.timeline,
      range.begin,
      range.end,
      undefined,
      signal,
    ))
      names.push({ fileId, epoch });
    return names;
  } catch (error) {
    if (findingOf(error, '') === undefined) throw error;
    return all;
  }
}

async function readHead(
  place: LogPlace,
  name: FileName,
  indexed: ReadonlySet<string>,
  findings: Findings,
  signal: AbortSignal,
): Promise<LogRange | undefined> {
  const { medium, root, round, group } = place;
  try {
    if (indexed.has(fileLabel(name)))
      return rangeOf(await readLogIndex(medium, root, round, group, name, signal));
  } catch (error) {
    if (findingOf(error, '') === undefined) throw error; // told when the file is compared with its index
  }
  const key = dataKey(place, name);
  return await tolerate(findings, key, async () => {
    const file = await openScanned(place, name, signal);
    return file === undefined ? undefined : rangeOf(file);
  });
}

/** Files that are gone though their index is there: said, and taken for there when gaps are looked for. */
async function findLost(
  place: LogPlace,
  labels: readonly string[],
  range: LogRange | undefined,
  findings: Findings,
  signal: AbortSignal,
): Promise<readonly Head[]> {
  const { medium, root, round, group } = place;
  const lost: Head[] = [];
  for (const label of labels) {
    const match = /^([1-9][0-9]*)\.([1-9][0-9]*)$/.exec(label);
    if (match?.[1] === undefined || match[2] === undefined) continue;
    const name = { fileId: BigInt(match[1]), epoch: BigInt(match[2]) };
    const key = dataKey(place, name);
    if ((await medium.stat(key, signal)) !== undefined) continue; // a listing may lag behind
    const indexKey = tree.logIndex(root, round, group, name.fileId, name.epoch);
    const index = await tolerate(findings, indexKey, () =>
      readLogIndex(medium, root, round, group, name, signal),
    );
    if (index === undefined || (range !== undefined && !overlaps(index, range))) continue;
    findings.addWhole({ ...missing(key), range: rangeOf(index) });
    lost.push({ ...name, ...rangeOf(index), isLast: false });
  }
  return lost;
}

/** Two files that hold the same positions must hold the same bytes. */
async function reportConflicts(
  { place }: LogSubject,
  heads: readonly Head[],
  findings: Findings,
  signal: AbortSignal,
): Promise<void> {
  if (planPieces(heads).overlaps.length === 0) return;
  const { medium, root, round, group } = place;
  try {
    await (await LogLookup.open(medium, root, round, group, signal)).coverage(signal);
  } catch (error) {
    const finding = findingOf(error, tree.logDataDirectory(root, round, group));
    if (finding === undefined) throw error;
    if (finding.code === 'LOG_CONFLICT') findings.add(finding); // all else is told file by file
  }
}

function reportGaps(
  { place, start, laterStarts, range, until }: LogSubject,
  heads: readonly Head[],
  histories: ReadonlyMap<Timeline, readonly Ancestor[]>,
  findings: Findings,
): void {
  const begin = start.start;
  if (begin === undefined) return;
  const from =
    range === undefined
      ? { timeline: toTimeline(begin.timeline), lsn: toLsn(begin.lsn) }
      : { timeline: range.timeline, lsn: range.begin };
  const end = range === undefined ? until : { timeline: range.timeline, lsn: range.end };
  const border = end === undefined ? [] : [{ ...end, begin: end.lsn, end: toLsn(end.lsn + 1n) }];
  // Up to the border nothing may be missing; what lies behind it is not looked for.
  const files = [...heads.map((head) => clip(head, range)), ...border];
  for (const gap of findLogGaps(files, [from, ...laterStarts], histories)) {
    const { root, round, group } = place;
    const key = tree.logDataDirectory(root, round, group);
    const names = `${formatLsn(gap.begin)} to ${formatLsn(gap.end)} of timeline ${gap.timeline}`;
    const message = `the log of partition group ${group} in round ${round.round} lacks ${names}`;
    findings.add({ code: 'LOG_GAP', key, offset: undefined, message, range: gap });
  }
}

/** What of the file lies in the range; nothing: an empty range. */
function clip(head: Head, range: LogRange | undefined): LogRange {
  if (range === undefined) return rangeOf(head);
  if (!overlaps(head, range)) return { ...rangeOf(head), end: head.begin };
  return {
    ...rangeOf(head),
    begin: head.begin > range.begin ? head.begin : range.begin,
    end: head.end < range.end ? head.end : range.end,
  };
}

async function readHistories(
  { medium, root, round, group }: LogPlace,
  findings: Findings,
  signal: AbortSignal,
): Promise<ReadonlyMap<Timeline, readonly Ancestor[]>> {
  const histories = new Map<Timeline, readonly Ancestor[]>();
  const directory = tree.historyDirectory(root, round, group);
  for (const name of await medium.listNames(directory, signal)) {
    const digits = /^([1-9][0-9]{0,9})\.history$/.exec(name)?.[1];
    if (digits === undefined) continue;
    const timeline = toTimeline(Number(digits));
    const key = tree.history(root, round, group, timeline);
    const bytes = await tolerate(findings, key, () => readBytes(medium, key, RECORD.timelineHistory, signal));
    if (bytes !== undefined) histories.set(timeline, parseHistory(bytes));
  }
  return histories;
}

function forksOf(histories: ReadonlyMap<Timeline, readonly Ancestor[]>): ReadonlyMap<Timeline, Lsn> {
  return new Map(
    [...histories].flatMap(([timeline, ancestors]) => {
      const fork = ancestors.at(-1)?.end;
      return fork === undefined ? [] : [[timeline, fork] as const];
    }),
  );
}

function overlaps(a: LogRange, b: LogRange): boolean {
  return a.timeline === b.timeline && a.begin < b.end && a.end > b.begin;
}

function comparePlaces(a: LogRange, b: LogRange): number {
  return a.timeline - b.timeline || (a.begin < b.begin ? -1 : a.begin > b.begin ? 1 : 0);
}

function rangeOf({ timeline, begin, end }: LogRange): LogRange {
  return { timeline, begin, end };
}
