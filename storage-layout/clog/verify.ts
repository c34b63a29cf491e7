/** Proof that a stretch of log is there: every file of it is opened, and must be as long as its index says. */
import { type Lsn, type Timeline, toLsn } from '../../foundation/lsn.ts';
import type { LogLookup } from './lookup.ts';

/**
 * Throws LOG_GAP unless the files themselves hold every byte of [begin, end) of `timeline`; LOG_CONFLICT, DATA_CORRUPT (an
 * index), and the medium's errors. Reads the files' indexes, not their blocks.
 */
export async function verifyLog(
  lookup: LogLookup,
  timeline: Timeline,
  begin: Lsn,
  end: Lsn,
  signal?: AbortSignal,
): Promise<void> {
  await lookup.coverage(signal); // refuses a conflict
  let covered = begin;
  for await (const file of lookup.filesBetween(timeline, begin, end, undefined, signal)) {
    if (file.begin > covered) throw await lookup.gap(timeline, [{ begin: covered, end: file.begin }], signal);
    if (file.end > covered) covered = file.end;
  }
  if (covered < end) throw await lookup.gap(timeline, [{ begin: toLsn(covered), end }], signal);
}
