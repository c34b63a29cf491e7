/** What happened in a stretch of archived log, in order: read from the first file that can hold it to the last. */
import type { LogEvent } from '../engine/engine.ts';
import { createLogInspector } from '../engine/postgres/wal/inspector.ts';
import type { WalVersion } from '../engine/postgres/wal/page.ts';
import { type Lsn, segmentStart, type Timeline, toLsn } from '../foundation/lsn.ts';
import type { LogCoverage, LogLookup } from '../storage-layout/clog/lookup.ts';
import type { LogSource } from './log-source.ts';

/** An end of the wanted stretch. */
export type LogBound =
  | { readonly kind: 'time'; readonly timeUs: bigint }
  | { readonly kind: 'lsn'; readonly lsn: Lsn };

export type LogStretch = {
  readonly since: LogBound | undefined;
  readonly until: LogBound | undefined;
  /** Undefined: all. */
  readonly timeline: Timeline | undefined;
};

/** A stretch of one timeline: what to read, beginning where a reader may begin. */
export type StretchRange = {
  readonly timeline: Timeline;
  /** Where reading begins: the segment of `from`, or the range's first byte. */
  readonly begin: Lsn;
  /** What begins before is not wanted. */
  readonly from: Lsn;
  readonly end: Lsn;
  /** The first commit's time in the first file that is read; undefined: it has none. */
  readonly firstCommitUs: bigint | undefined;
};

/** Whether the range is read only for commits out of order: its own first one lies behind the stretch. */
export function beginsBehind({ firstCommitUs }: StretchRange, { until }: LogStretch): boolean {
  return until?.kind === 'time' && firstCommitUs !== undefined && firstCommitUs > until.timeUs;
}

export type TimedEvent = LogEvent & { readonly timeline: Timeline };

/** Microseconds; undefined for events that have no time of their own. */
export function timeOf(event: LogEvent): bigint | undefined {
  return 'timeUs' in event ? event.timeUs : undefined;
}

/** The parts of the archived ranges that can hold the stretch, in order. Their ends are those of files. */
export async function findStretch(
  log: LogLookup,
  coverage: readonly LogCoverage[],
  stretch: LogStretch,
  segmentSizeBytes: number,
  signal: AbortSignal,
): Promise<readonly StretchRange[]> {
  const ranges: StretchRange[] = [];
  for (const range of coverage) {
    if (stretch.timeline !== undefined && range.timeline !== stretch.timeline) continue;
    const { since, until } = stretch;
    const from = since?.kind === 'lsn' && since.lsn > range.begin ? since.lsn : range.begin;
    const to = until?.kind === 'lsn' && until.lsn < range.end ? until.lsn : range.end;
    if (from >= to) continue;
    const found = await findFiles(log, { ...range, begin: from, end: to }, since, until, signal);
    if (found === undefined) continue;
    const start = segmentStart(found.begin, segmentSizeBytes);
    ranges.push({
      timeline: range.timeline,
      begin: start > range.begin ? start : range.begin,
      from: found.begin,
      end: found.end,
      firstCommitUs: found.firstCommitUs,
    });
  }
  return ranges;
}

async function findFiles(
  log: LogLookup,
  range: LogCoverage,
  since: LogBound | undefined,
  until: LogBound | undefined,
  signal: AbortSignal,
): Promise<Pick<StretchRange, 'begin' | 'end' | 'firstCommitUs'> | undefined> {
  const afterUs = since?.kind === 'time' ? since.timeUs - 1n : undefined;
  const { timeline, begin, end } = range;
  let first: Pick<StretchRange, 'begin' | 'firstCommitUs'> | undefined;
  for await (const file of log.filesBetween(timeline, begin, end, afterUs, signal)) {
    first ??= { begin: file.begin > begin ? file.begin : begin, firstCommitUs: file.firstCommitUs };
    if (until?.kind !== 'time') return { ...first, end };
    // Commit times are nearly in the order of positions: one whole file later none is before the instant.
    if (file.firstCommitUs !== undefined && file.firstCommitUs > until.timeUs)
      return { ...first, end: file.end < end ? file.end : end };
  }
  return first === undefined ? undefined : { ...first, end };
}

/** The stretch's events, in the order of timeline and position. Throws what reading the archive throws. */
export async function* readEvents(
  source: LogSource,
  log: LogLookup,
  ranges: readonly StretchRange[],
  stretch: LogStretch,
  signal: AbortSignal,
): AsyncGenerator<TimedEvent, void, undefined> {
  for (const range of ranges) {
    const inspector = createLogInspector(readerOptions(source, range));
    for await (const chunk of log.read(range.timeline, range.begin, range.end, signal)) {
      inspector.push(chunk.begin, chunk.data);
      for (const event of inspector.takeEvents())
        if (event.begin >= range.from && isInside(event, stretch))
          yield { ...event, timeline: range.timeline };
    }
  }
}

/** What a reader of the range's records needs. */
export function readerOptions({ start }: LogSource, range: StretchRange) {
  return {
    segmentSizeBytes: start.segmentSizeBytes,
    timeline: range.timeline,
    systemIdentifier: start.systemIdentifier,
    begin: range.begin,
    version: start.postgresMajor as WalVersion, // the round's; an unknown page magic is refused by the reader
  };
}

function isInside(event: LogEvent, { since, until }: LogStretch): boolean {
  const timeUs = timeOf(event);
  if (since?.kind === 'time' && timeUs !== undefined && timeUs < since.timeUs) return false;
  if (until?.kind === 'time' && timeUs !== undefined && timeUs > until.timeUs) return false;
  return until?.kind !== 'lsn' || event.begin < until.lsn;
}

/** `begin` for people who name a position inside a record. */
export function lsnBound(lsn: bigint): LogBound {
  return { kind: 'lsn', lsn: toLsn(lsn) };
}
