/**
 * Turns what a person wants into where recovery stops.
 *
 * - A time becomes an LSN: before the first commit or abort record with a greater time. Commit times do not grow with
 *   the position, so every file whose greatest commit time is beyond the wanted one is read, in order, until one has
 *   such a record behind the baseline's stop. None: the end of the log, so that no target is ever "not reached".
 * - An LSN is PostgreSQL's recovery_target_lsn: the first record that begins at or after it. None: the end of the log.
 * - A transaction id is the record that ends the transaction, found by reading the log; a restore point's name is its
 *   record, found in the indexes, and by reading where a file has none. Of several the first behind the baseline's stop.
 *   None: refused. A subtransaction ends with its transaction, whose id is told: recovery_target_xid knows no other.
 * - Inclusive stops behind what the target names, exclusive before it. A time is inclusive unless said otherwise: what was
 *   committed at that very microsecond is restored.
 */

import type { LogEvent } from '../../engine/engine.ts';
import type { RecoveryTarget } from '../../engine/postgres/restore/settings.ts';
import { createLogInspector } from '../../engine/postgres/wal/inspector.ts';
import type { WalVersion } from '../../engine/postgres/wal/page.ts';
import { findRecordAtOrAfter, findStopBeforeTime } from '../../engine/postgres/wal/search.ts';
import { assertNever } from '../../foundation/assert.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn, type Lsn, segmentStart, type Timeline, toLsn } from '../../foundation/lsn.ts';
import { describeCut, isCutOff } from '../../storage-layout/clog/log-file.ts';
import type { LogLookup } from '../../storage-layout/clog/lookup.ts';
import type { LogRange } from '../../storage-layout/clog/ranges.ts';

export type WantedTarget =
  | { readonly kind: 'endOfLog' }
  | { readonly kind: 'immediate' }
  | { readonly kind: 'time'; readonly timeUs: bigint; readonly inclusive: boolean }
  | { readonly kind: 'lsn'; readonly lsn: Lsn; readonly inclusive: boolean }
  | { readonly kind: 'xid'; readonly xid: number; readonly inclusive: boolean }
  | { readonly kind: 'name'; readonly name: string; readonly inclusive: boolean };

/** The log of one recovery and what is needed to read its records. */
export type LogToRead = {
  readonly lookup: LogLookup;
  readonly path: readonly LogRange[];
  /** The baseline's stop: no earlier position can be restored. */
  readonly stop: Lsn;
  readonly segmentSizeBytes: number;
  readonly systemIdentifier: bigint;
  readonly major: number;
};

/**
 * Throws TARGET_NOT_RESTORABLE when the target does not lie in the path behind the baseline's stop, DATA_CORRUPT or LOG_GAP
 * when the end of the log is wanted and lost, WAL_UNREADABLE, and what reading the archive throws.
 */
export async function resolveTarget(
  log: LogToRead,
  wanted: WantedTarget,
  signal: AbortSignal,
): Promise<RecoveryTarget> {
  switch (wanted.kind) {
    case 'endOfLog':
      await refuseLostLog(log, signal);
      return { kind: 'endOfLog' };
    case 'immediate':
      return { kind: 'immediate' };
    case 'time':
      return await targetOfTime(log, wanted.inclusive ? wanted.timeUs : wanted.timeUs - 1n, signal);
    case 'lsn':
      return await targetOfLsn(log, wanted.lsn, wanted.inclusive, signal);
    case 'xid': {
      const isEnd = (event: LogEvent) =>
        (event.kind === 'commit' || event.kind === 'abort') &&
        (event.xid === wanted.xid || event.subxids?.includes(wanted.xid) === true);
      const found = await findEvent(log, undefined, isEnd, signal);
      refuseSubtransaction(wanted.xid, found);
      return targetOfEvent(log, found, wanted.inclusive, `the end of transaction ${wanted.xid}`);
    }
    case 'name': {
      const isPoint = (event: LogEvent) => event.kind === 'restorePoint' && event.name === wanted.name;
      const found = await findEvent(log, wanted.name, isPoint, signal);
      return targetOfEvent(log, found, wanted.inclusive, `restore point "${wanted.name}"`);
    }
    default:
      return assertNever(wanted);
  }
}

function refuseSubtransaction(xid: number, found: LogEvent | undefined): void {
  if (found?.kind !== 'commit' && found?.kind !== 'abort') return;
  if (found.xid === xid) return;
  throw new HoldfastError(
    'TARGET_NOT_RESTORABLE',
    `transaction ${xid} is a subtransaction of ${found.xid}, and has no end of its own`,
    { hint: `Name the transaction: UNTIL XID = ${found.xid}.` },
  );
}

/** Everything that was archived means all of it: where log is cut off or missing, it does not end but is lost. */
async function refuseLostLog({ lookup, path }: LogToRead, signal: AbortSignal): Promise<void> {
  const last = path.at(-1);
  if (last === undefined) return;
  const hint = `What lies before it can be restored: name a time, or a position up to ${formatLsn(last.end)}.`;
  const cut = await lookup.fileAt(last.timeline, toLsn(last.end - 1n), signal);
  if (cut?.end === last.end && isCutOff(cut))
    throw new HoldfastError('DATA_CORRUPT', `${cut.key} ${describeCut(cut)}`, { hint });
  const [lost] = lookup.lost;
  if (lost !== undefined)
    throw new HoldfastError('FILE_NOT_FOUND', `${lost} is gone, its index is there`, { hint });
  const coverage = await lookup.coverage(signal);
  const behind = coverage.find((range) => range.timeline === last.timeline && range.begin > last.end);
  if (behind !== undefined)
    throw new HoldfastError(
      'LOG_GAP',
      `the archived log lacks ${formatLsn(last.end)} to ${formatLsn(behind.begin)} of timeline ${last.timeline}`,
      { hint },
    );
}

/**
 * End of the last whole record of the log that recovery will find at the path's end; undefined when the last segments
 * hold no record's end.
 */
export async function findEndOfRecords(log: LogToRead, signal: AbortSignal): Promise<Lsn | undefined> {
  const last = log.path.at(-1);
  if (last === undefined) return undefined;
  const begin = segmentsBefore(last, last.end, 2, log.segmentSizeBytes);
  const inspector = createLogInspector(readOptions(log, last.timeline, begin));
  for await (const chunk of log.lookup.read(last.timeline, begin, last.end, signal))
    inspector.push(chunk.begin, chunk.data);
  return inspector.endOfRecords > begin ? inspector.endOfRecords : undefined;
}

/** What a WAL reader needs to begin at `begin`, which may lie inside a page only where a timeline forks. */
export function readOptions(
  log: LogToRead,
  timeline: Timeline,
  begin: Lsn,
): {
  readonly segmentSizeBytes: number;
  readonly timeline: Timeline;
  readonly systemIdentifier: bigint;
  readonly begin: Lsn;
  readonly version: WalVersion;
} {
  return {
    segmentSizeBytes: log.segmentSizeBytes,
    timeline,
    systemIdentifier: log.systemIdentifier,
    begin,
    version: log.major as WalVersion, // the backup's own version; an unknown page magic is refused by the reader
  };
}

async function targetOfTime(log: LogToRead, timeUs: bigint, signal: AbortSignal): Promise<RecoveryTarget> {
  for (const range of log.path) {
    const from = range.begin > log.stop ? range.begin : log.stop;
    for await (const file of log.lookup.filesBetween(range.timeline, from, range.end, timeUs, signal)) {
      if (file.lastCommitUs === undefined || file.lastCommitUs <= timeUs) continue;
      // A record that ends in this file may begin in the segment before the file's first.
      const begin = segmentsBefore(range, file.begin, 1, log.segmentSizeBytes);
      const end = file.end < range.end ? file.end : range.end;
      const found = await findStopBeforeTime(
        log.lookup.read(range.timeline, begin, end, signal),
        readOptions(log, range.timeline, begin),
        timeUs,
        signal,
      );
      if (found === undefined) continue;
      // The server's clock was set back during the backup: the earliest instant that there is.
      if (found.stop < log.stop) return { kind: 'immediate' };
      return { kind: 'lsn', lsn: found.stop, inclusive: false };
    }
  }
  return { kind: 'endOfLog' };
}

async function targetOfLsn(
  log: LogToRead,
  lsn: Lsn,
  inclusive: boolean,
  signal: AbortSignal,
): Promise<RecoveryTarget> {
  const end = log.path.at(-1)?.end ?? log.stop;
  if (lsn < log.stop || lsn > end) {
    throw new HoldfastError(
      'TARGET_NOT_RESTORABLE',
      `log position ${formatLsn(lsn)} cannot be restored from this backup set`,
      { hint: `It reaches from ${formatLsn(log.stop)} to ${formatLsn(end)}.` },
    );
  }
  for (const range of log.path) {
    if (range.end <= lsn) continue;
    const begin = segmentsBefore(range, lsn > range.begin ? lsn : range.begin, 0, log.segmentSizeBytes);
    const found = await findRecordAtOrAfter(
      log.lookup.read(range.timeline, begin, range.end, signal),
      readOptions(log, range.timeline, begin),
      lsn,
      signal,
    );
    if (found !== undefined) return { kind: 'lsn', lsn, inclusive };
  }
  return { kind: 'endOfLog' };
}

/**
 * The first event of the path that is wanted and begins at or behind the stop; without one, the last before it. With a
 * restore point's name, only files are read whose index names it, or that have none.
 */
async function findEvent(
  log: LogToRead,
  restorePoint: string | undefined,
  isWanted: (event: LogEvent) => boolean,
  signal: AbortSignal,
): Promise<LogEvent | undefined> {
  let before: LogEvent | undefined;
  for (const range of log.path) {
    const files = log.lookup.filesBetween(range.timeline, range.begin, range.end, undefined, signal);
    for await (const file of files) {
      const mayHold =
        restorePoint === undefined ||
        !file.hasIndex ||
        file.restorePoints.some((point) => point.name === restorePoint);
      if (!mayHold) continue;
      for await (const event of eventsOf(log, range, file, signal)) {
        if (!isWanted(event)) continue;
        if (event.begin >= log.stop) return event;
        before = event;
      }
    }
  }
  return before;
}

/** The events of the records that end in the file and in the range. */
async function* eventsOf(
  log: LogToRead,
  range: LogRange,
  file: LogRange,
  signal: AbortSignal,
): AsyncGenerator<LogEvent> {
  const begin = segmentsBefore(range, file.begin, 1, log.segmentSizeBytes);
  const end = file.end < range.end ? file.end : range.end;
  const inspector = createLogInspector(readOptions(log, range.timeline, begin));
  for await (const chunk of log.lookup.read(range.timeline, begin, end, signal)) {
    inspector.push(chunk.begin, chunk.data);
    for (const event of inspector.takeEvents()) if (event.end > file.begin) yield event;
  }
}

function targetOfEvent(
  log: LogToRead,
  event: LogEvent | undefined,
  inclusive: boolean,
  what: string,
): RecoveryTarget {
  if (event !== undefined && event.begin >= log.stop) return { kind: 'lsn', lsn: event.begin, inclusive };
  const end = log.path.at(-1)?.end ?? log.stop;
  throw new HoldfastError(
    'TARGET_NOT_RESTORABLE',
    event === undefined
      ? `${what} is not in the archived log behind this backup set`
      : `${what}, at ${formatLsn(event.begin)}, lies before the end of this backup set`,
    {
      detail: `The set and its log reach from ${formatLsn(log.stop)} to ${formatLsn(end)}.`,
      hint: 'Name an earlier backup set if it lies further back, or another timeline.',
    },
  );
}

/** The first byte of the segment that is `count` before `lsn`'s, or the range's first. */
function segmentsBefore(range: LogRange, lsn: Lsn, count: number, segmentSizeBytes: number): Lsn {
  const begin = segmentStart(lsn, segmentSizeBytes) - BigInt(segmentSizeBytes) * BigInt(count);
  return begin > range.begin ? toLsn(begin) : range.begin;
}
