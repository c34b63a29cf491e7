/**
 * How an archiver begins, whether it is the first, was restarted, or takes over from another: it asks the destination
 * alone. The inspector is led through the archived bytes, so that the record that was unfinished at the end is known when
 * it ends.
 *
 * Predecessors' files without an index are sealed with what of them counts; nothing is cut. That is a step of its own, for
 * when the server's slot is held: a predecessor that still lives and holds the slot may append and have it acknowledged,
 * and an index that was written too early would leave those bytes out for ever.
 */
import type { LogInspector, LogInspectorOptions, LogPoint } from '../../engine/engine.ts';
import { defined } from '../../foundation/assert.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { type Lsn, segmentStart, type Timeline, toLsn } from '../../foundation/lsn.ts';
import type { LogCheckpointPoint, LogUnbroken, NewFindings } from '../../storage-layout/clog/index.ts';
import type { AbandonedLogFile, LogFile } from '../../storage-layout/clog/log-file.ts';
import { LogLookup } from '../../storage-layout/clog/lookup.ts';
import type { LogRange } from '../../storage-layout/clog/ranges.ts';
import { sealPredecessor } from '../../storage-layout/clog/seal.ts';
import { type Lineage, planContinuation } from './continuation.ts';
import { FindingsCollector } from './findings.ts';
import type { LogPlace } from './place.ts';

export type MakeInspector = (options: LogInspectorOptions) => LogInspector;

export type LogSoFar = {
  /** Where the round's log begins. */
  readonly start: LogPoint;
  /** Where it goes on. */
  readonly timeline: Timeline;
  readonly end: Lsn;
  /** Where the lineage leaves the timeline; undefined: it is the server's own. */
  readonly until: Lsn | undefined;
  readonly systemIdentifier: bigint;
  readonly segmentSizeBytes: number;
  readonly maxCommitUs: bigint | undefined;
  /** The newest on the timeline that its files know. */
  readonly checkpoint: LogCheckpointPoint | undefined;
  /** Stands at `end`. */
  readonly inspector: LogInspector;
};

/** What the archived log is continued with. */
export type Server = { readonly lineage: Lineage; readonly major: number; readonly systemIdentifier: bigint };

/** Sealing needs the slot; throws FILE_EXISTS (try again) when the log has grown since it was read. */
export type Seal = (signal: AbortSignal) => Promise<void>;

export type Takeover = {
  /** The greatest file id of any file, 0 without files. */
  readonly lastFileId: bigint;
  /** The greatest epoch of any file, 0 without files. */
  readonly lastEpoch: bigint;
  /** Undefined: nothing is archived yet. */
  readonly log: LogSoFar | undefined;
  readonly seal: Seal;
  /** What an archiver's next files may promise of those before them, of which the first begins at `from`; after sealing. */
  readonly promise: (from: LogPoint, epoch: bigint, signal: AbortSignal) => Promise<LogUnbroken>;
};

/**
 * Reads only. `abandoned`: files that this archiver itself failed to write, and how much of them counts. `server`:
 * undefined where there is one timeline only. Throws LOG_GAP when the archived log has a hole, LOG_CONFLICT,
 * SYSTEM_IDENTIFIER_MISMATCH, LOG_ARCHIVE_LEADER_CHANGED, DATA_CORRUPT, WAL_UNREADABLE, and the medium's errors.
 */
export async function takeOver(
  place: LogPlace,
  makeInspector: MakeInspector,
  signal: AbortSignal,
  abandoned: readonly AbandonedLogFile[] = [],
  server?: Server,
): Promise<Takeover> {
  const { medium, root, round, group } = place;
  const lookup = await LogLookup.open(medium, root, round, group, signal, abandoned);
  const { lastFileId, lastEpoch } = lookup;
  const promise: Takeover['promise'] = async (from, epoch, it) =>
    await lookup.promiseBehind(from.timeline, from.lsn, epoch, it);
  const ranges = await lookup.coverage(signal);
  const newest = ranges.at(-1);
  if (newest === undefined) {
    const unsealed = await lookup.unsealed(signal);
    const noLog = unsealed.map((file) => ({ file, findings: emptyFindings(file) }));
    return { lastFileId, lastEpoch, log: undefined, promise, seal: (it) => sealAll(lookup, noLog, true, it) };
  }
  const last = await lastFileOf(lookup, newest, signal);
  const { systemIdentifier, segmentSizeBytes } = last;
  if (server !== undefined && server.systemIdentifier !== systemIdentifier)
    throw otherSystem(server.systemIdentifier, systemIdentifier);
  const lineage = server?.lineage ?? { timeline: newest.timeline, ancestors: [] };
  const { start, from, until, range, crossesFork } = planContinuation(ranges, lineage);
  const input = { lookup, ranges, major: server?.major, makeInspector };
  const { inspectors, found } = await inspectUnsealed(input, range, signal);
  const fresh = { segmentSizeBytes, systemIdentifier, ...from, begin: from.lsn, collectTouches: true };
  return {
    lastFileId,
    lastEpoch,
    promise,
    log: {
      start,
      timeline: from.timeline,
      end: from.lsn,
      until,
      systemIdentifier,
      segmentSizeBytes,
      maxCommitUs: await lookup.maxCommitUs(undefined, signal),
      checkpoint: await lookup.checkpointUpTo(from.timeline, from.lsn, signal),
      inspector:
        range === undefined
          ? makeInspector({ ...fresh, ...majorOf(server?.major) })
          : defined(inspectors.get(range), 'the inspector of the range that is continued'),
    },
    // Behind a fork the predecessor had another server: our slot does not keep it from writing, and what it still writes
    // belongs to what the fork left behind.
    seal: (it) => sealAll(lookup, found, !crossesFork, it),
  };
}

async function lastFileOf(lookup: LogLookup, range: LogRange, signal: AbortSignal): Promise<LogFile> {
  const last = await lookup.fileAt(range.timeline, toLsn(range.end - 1n), signal);
  return defined(last, 'the file of the last byte');
}

/** A newer archiver of this group has been at the destination: it, not this one, goes on. Throws LOG_ARCHIVE_LEADER_CHANGED. */
export function refuseNewerEpoch(lastEpoch: bigint, epoch: bigint): void {
  if (lastEpoch <= epoch) return;
  throw new HoldfastError(
    'LOG_ARCHIVE_LEADER_CHANGED',
    `the archiver with epoch ${lastEpoch} has taken over from this one, ${epoch}`,
  );
}

function otherSystem(found: bigint, archived: bigint): HoldfastError {
  return new HoldfastError(
    'SYSTEM_IDENTIFIER_MISMATCH',
    `the server has system identifier ${found}, but what is archived is of ${archived}`,
    {
      hint: 'Another server answers at this address, or the database was made anew: correct the agent configuration, or start a new round.',
    },
  );
}

type FoundIn = { readonly file: LogFile; readonly findings: NewFindings };

/** Seals what was read, if it is still all there is (with `whenCurrent`), or as far as it was read. */
async function sealAll(
  lookup: LogLookup,
  found: readonly FoundIn[],
  whenCurrent: boolean,
  signal: AbortSignal,
): Promise<void> {
  const before = await describeRanges(lookup, signal);
  if (whenCurrent && !(await lookup.isCurrent(signal))) throw hasGrown();
  for (const { file, findings } of found) await sealPredecessor(lookup, file, findings, signal);
  // Someone else's index may have been there first, and says what it says.
  if ((await describeRanges(lookup, signal)) !== before) throw hasGrown();
}

async function describeRanges(lookup: LogLookup, signal: AbortSignal): Promise<string> {
  const ranges = await lookup.coverage(signal);
  return ranges.map(({ timeline, begin, end }) => `${timeline}:${begin}-${end}`).join();
}

function hasGrown(): HoldfastError {
  return new HoldfastError(
    'FILE_EXISTS',
    'the log at the destination has changed since it was read: another archiver of the partition group was still writing',
  );
}

type Inspection = {
  readonly lookup: LogLookup;
  readonly ranges: readonly LogRange[];
  readonly major: number | undefined;
  readonly makeInspector: MakeInspector;
};

/**
 * Reads every range that has files without an index, and the one that is continued: from before its first such file (or
 * the unfinished last record) to its end, once.
 */
async function inspectUnsealed(
  input: Inspection,
  continued: LogRange | undefined,
  signal: AbortSignal,
): Promise<{
  readonly inspectors: ReadonlyMap<LogRange, LogInspector>;
  readonly found: readonly FoundIn[];
}> {
  const { lookup, ranges } = input;
  const inspectors = new Map<LogRange, LogInspector>();
  const found: FoundIn[] = [];
  let left = await lookup.unsealed(signal);
  let maxCommitUs = await lookup.maxCommitUs(left[0], signal);
  for (const range of ranges) {
    // A file without log may have been begun behind the end of what counts.
    const files = left.filter(
      (file) => file.timeline === range.timeline && file.begin >= range.begin && file.begin <= range.end,
    );
    if (files.length === 0 && range !== continued) continue;
    left = left.filter((file) => !files.includes(file));
    const inspected = await inspectRange(input, range, files, maxCommitUs, signal);
    inspectors.set(range, inspected.inspector);
    found.push(...inspected.found);
    maxCommitUs = inspected.maxCommitUs;
  }
  found.push(...left.map((file) => ({ file, findings: emptyFindings(file) })));
  return { inspectors, found };
}

async function inspectRange(
  { lookup, major, makeInspector }: Inspection,
  range: LogRange,
  files: readonly LogFile[],
  maxCommitBeforeUs: bigint | undefined,
  signal: AbortSignal,
): Promise<{
  readonly inspector: LogInspector;
  readonly found: readonly FoundIn[];
  readonly maxCommitUs: bigint | undefined;
}> {
  const last = await lastFileOf(lookup, range, signal);
  const inspector = makeInspector({
    segmentSizeBytes: last.segmentSizeBytes,
    timeline: range.timeline,
    systemIdentifier: last.systemIdentifier,
    begin: await inspectionBegin(lookup, range, files, last, signal),
    collectTouches: true,
    ...majorOf(major),
  });
  let maxCommitUs = maxCommitBeforeUs;
  const found: FoundIn[] = [];
  for (const file of files.toSorted((a, b) => compareLsn(a.end, b.end))) {
    const collector = new FindingsCollector(maxCommitUs);
    // What ends before the file was said in the one before it.
    const from = file.begin < range.end ? file.begin : range.end;
    await pushUntil(lookup, inspector, range.timeline, from, undefined, signal);
    // A file without log may have been begun behind the end of what counts.
    const end = file.end < range.end ? file.end : range.end;
    await pushUntil(lookup, inspector, range.timeline, end, collector, signal);
    maxCommitUs = collector.maxCommitUs;
    found.push({ file, findings: collector.findings(inspector.unfinishedRecordBegin) });
  }
  await pushUntil(lookup, inspector, range.timeline, range.end, undefined, signal);
  return { inspector, found, maxCommitUs };
}

/** A segment's start at or before all that must be seen, but not before the range. */
async function inspectionBegin(
  lookup: LogLookup,
  range: LogRange,
  files: readonly LogFile[],
  last: LogFile,
  signal: AbortSignal,
): Promise<Lsn> {
  const from = files.reduce((least, file) => (file.begin < least ? file.begin : least), range.end);
  const before =
    from > range.begin ? await lookup.fileAt(range.timeline, toLsn(from - 1n), signal) : undefined;
  const needed = before?.end === from ? (before.unfinishedRecordBegin ?? from) : from;
  const begin = segmentStart(needed, last.segmentSizeBytes);
  return begin > range.begin ? begin : range.begin;
}

function emptyFindings(file: LogFile): NewFindings {
  return new FindingsCollector(file.maxCommitUs).findings(undefined);
}

function majorOf(major: number | undefined): { readonly major?: number } {
  return major === undefined ? {} : { major };
}

async function pushUntil(
  lookup: LogLookup,
  inspector: LogInspector,
  timeline: Timeline,
  end: Lsn,
  collector: FindingsCollector | undefined,
  signal: AbortSignal,
): Promise<void> {
  if (inspector.position >= end) return;
  for await (const chunk of lookup.read(timeline, inspector.position, end, signal)) {
    inspector.push(chunk.begin, chunk.data);
    const events = inspector.takeEvents();
    const touches = inspector.takeTouches();
    collector?.add(events);
    collector?.addTouches(touches);
  }
}

function compareLsn(a: Lsn, b: Lsn): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}
