/**
 * How an archiver begins, whether it is the first, was restarted, or takes over from another: it asks the destination
 * alone. The inspector is led through the archived bytes, so that the record that was unfinished at the end is known when
 * it ends.
 *
 * Predecessors' files without an index are sealed with what of them counts; nothing is cut. That is a step of its own, for
 * when the server's slot is held: a predecessor that still lives and holds the slot may append and have it acknowledged,
 * and an index that was written too early would leave those bytes out for ever.
 */
import type { LogInspector, LogInspectorOptions } from '../../engine/engine.ts';
import { defined } from '../../foundation/assert.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn, type Lsn, segmentStart, type Timeline, toLsn } from '../../foundation/lsn.ts';
import { LogArchive } from '../../storage-layout/clog/archive.ts';
import type { LogCheckpointPoint, NewFindings } from '../../storage-layout/clog/index.ts';
import type { AbandonedLogFile, LogFile } from '../../storage-layout/clog/log-file.ts';
import { FindingsCollector } from './findings.ts';
import type { LogPlace } from './place.ts';

export type MakeInspector = (options: LogInspectorOptions) => LogInspector;

export type LogSoFar = {
  readonly timeline: Timeline;
  /** Where the round's log begins. */
  readonly begin: Lsn;
  readonly end: Lsn;
  readonly systemIdentifier: bigint;
  readonly segmentSizeBytes: number;
  readonly maxCommitUs: bigint | undefined;
  /** The newest that the files know. */
  readonly checkpoint: LogCheckpointPoint | undefined;
  /** Stands at `end`. */
  readonly inspector: LogInspector;
};

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
};

/**
 * Reads only. `abandoned`: files that this archiver itself failed to write, and how much of them counts. Throws LOG_GAP when the archived log has a hole, LOG_CONFLICT, DATA_CORRUPT, WAL_UNREADABLE, and the
 * medium's errors.
 */
export async function takeOver(
  place: LogPlace,
  makeInspector: MakeInspector,
  signal: AbortSignal,
  abandoned: readonly AbandonedLogFile[] = [],
): Promise<Takeover> {
  const archive = await LogArchive.open(
    place.medium,
    place.root,
    place.round,
    place.group,
    signal,
    abandoned,
  );
  const { lastFileId, lastEpoch } = archive;
  const range = unbrokenRange(archive);
  if (range === undefined) {
    const noLog = archive.unsealed.map((file) => ({
      file,
      findings: new FindingsCollector(file.maxCommitUs).findings(undefined),
    }));
    return { lastFileId, lastEpoch, log: undefined, seal: (it) => sealAll(archive, undefined, noLog, it) };
  }
  const { inspector, last, found } = await inspect(archive, range, makeInspector, signal);
  return {
    lastFileId,
    lastEpoch,
    log: {
      ...range,
      systemIdentifier: last.systemIdentifier,
      segmentSizeBytes: last.segmentSizeBytes,
      maxCommitUs: archive.files.at(-1)?.maxCommitUs,
      checkpoint: newestCheckpoint(archive.files),
      inspector,
    },
    seal: (it) => sealAll(archive, range, found, it),
  };
}

type Range = { readonly timeline: Timeline; readonly begin: Lsn; readonly end: Lsn };

/** The whole log of the round as one range; a round with a hole or several timelines is not one that can be continued. */
function unbrokenRange(archive: LogArchive): Range | undefined {
  const [range, other] = archive.coverage();
  if (other === undefined || range === undefined) return range;
  throw new HoldfastError(
    'LOG_GAP',
    `the archived log ends at ${formatLsn(range.end)} of timeline ${range.timeline} and goes on at ${formatLsn(other.begin)} of timeline ${other.timeline}`,
    { hint: 'The round cannot be continued: begin a new one and take a full backup.' },
  );
}

type FoundIn = { readonly file: LogFile; readonly findings: NewFindings };

/** Seals what was read, if it is still all there is. */
async function sealAll(
  archive: LogArchive,
  range: Range | undefined,
  found: readonly FoundIn[],
  signal: AbortSignal,
): Promise<void> {
  if (!(await archive.isCurrent(signal))) throw hasGrown();
  for (const { file, findings } of found) await archive.sealPredecessor(file, findings, signal);
  // Someone else's index may have been there first, and says what it says.
  if (unbrokenRange(archive)?.end !== range?.end) throw hasGrown();
}

function hasGrown(): HoldfastError {
  return new HoldfastError(
    'FILE_EXISTS',
    'the log at the destination has changed since it was read: another archiver of the partition group was still writing',
  );
}

/** Reads the log from before the first unsealed file (or the unfinished last record) to the end, once. */
async function inspect(
  archive: LogArchive,
  range: Range,
  makeInspector: MakeInspector,
  signal: AbortSignal,
): Promise<{ readonly inspector: LogInspector; readonly last: LogFile; readonly found: readonly FoundIn[] }> {
  const last = defined(archive.fileFor(range.timeline, toLsn(range.end - 1n)), 'the file of the last byte');
  const begin = inspectionBegin(archive, range, last);
  const inspector = makeInspector({
    segmentSizeBytes: last.segmentSizeBytes,
    timeline: range.timeline,
    systemIdentifier: last.systemIdentifier,
    begin,
    collectTouches: true,
  });
  let maxCommitUs = maxCommitBefore(archive.files, archive.unsealed[0]);
  const found: FoundIn[] = [];
  for (const file of archive.unsealed.toSorted((a, b) => compareLsn(a.end, b.end))) {
    const collector = new FindingsCollector(maxCommitUs);
    // What ends before the file was said in the one before it.
    const from = file.begin < range.end ? file.begin : range.end;
    await pushUntil(archive, inspector, range.timeline, from, undefined, signal);
    // A file without log may have been begun behind the end of what counts.
    const end = file.end < range.end ? file.end : range.end;
    await pushUntil(archive, inspector, range.timeline, end, collector, signal);
    maxCommitUs = collector.maxCommitUs;
    found.push({ file, findings: collector.findings(inspector.unfinishedRecordBegin) });
  }
  await pushUntil(archive, inspector, range.timeline, range.end, undefined, signal);
  return { inspector, last, found };
}

/** A segment's start at or before all that must be seen, but not before the round. */
function inspectionBegin(archive: LogArchive, range: Range, last: LogFile): Lsn {
  const firstUnsealed = archive.unsealed[0]?.begin ?? range.end;
  const from = firstUnsealed < range.end ? firstUnsealed : range.end;
  const before = from > range.begin ? archive.fileFor(range.timeline, toLsn(from - 1n)) : undefined;
  const needed = before?.end === from ? (before.unfinishedRecordBegin ?? from) : from;
  const begin = segmentStart(needed, last.segmentSizeBytes);
  return begin > range.begin ? begin : range.begin;
}

async function pushUntil(
  archive: LogArchive,
  inspector: LogInspector,
  timeline: Timeline,
  end: Lsn,
  collector: FindingsCollector | undefined,
  signal: AbortSignal,
): Promise<void> {
  if (inspector.position >= end) return;
  for await (const chunk of archive.read(timeline, inspector.position, end, signal)) {
    inspector.push(chunk.begin, chunk.data);
    const events = inspector.takeEvents();
    const touches = inspector.takeTouches();
    collector?.add(events);
    collector?.addTouches(touches);
  }
}

function maxCommitBefore(files: readonly LogFile[], firstUnsealed: LogFile | undefined): bigint | undefined {
  const before = firstUnsealed === undefined ? files : files.slice(0, files.indexOf(firstUnsealed));
  return before.at(-1)?.maxCommitUs;
}

function newestCheckpoint(files: readonly LogFile[]): LogCheckpointPoint | undefined {
  return files
    .flatMap(({ checkpoint }) => (checkpoint === undefined ? [] : [checkpoint]))
    .reduce<LogCheckpointPoint | undefined>(
      (newest, point) => (newest === undefined || point.timeUs > newest.timeUs ? point : newest),
      undefined,
    );
}

function compareLsn(a: Lsn, b: Lsn): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}
