/** The change maps between two backups' starts, at the destination: waiting for the last one, and reading them all. */
import type { Clock } from '../../../foundation/clock.ts';
import { HoldfastError, isError } from '../../../foundation/errors.ts';
import { formatLsn, toLsn } from '../../../foundation/lsn.ts';
import { type LogChange, readChangeMap } from '../../../storage-layout/clog/change-map.ts';
import { LogLookup } from '../../../storage-layout/clog/lookup.ts';
import type { LogRange } from '../../../storage-layout/clog/ranges.ts';
import type { Medium } from '../../../storage-layout/media/medium.ts';
import { type RoundKey, type TreeRoot, tree } from '../../../storage-layout/tree.ts';
import { readBoundaryChanges } from './boundary-changes.ts';
import type { ChangedPages } from './changed-pages.ts';
import { flawOf, type MappedLog } from './decision.ts';

/** How long the archiver may take to seal the log up to the backup's start. */
const SEAL_WAIT_MS = 300_000;
const FIRST_POLL_MS = 20;
const LAST_POLL_MS = 2000;

export type ChangeMapPlace = {
  readonly medium: Medium;
  readonly root: TreeRoot;
  readonly round: RoundKey;
  readonly group: string;
  /** The server's version. */
  readonly major: number;
};

type MapFile = MappedLog & {
  readonly indexKey: string;
  readonly segmentSizeBytes: number;
  readonly systemIdentifier: bigint;
};

/** Throws FULL_BACKUP_NEEDED. */
export function needFull(reason: string, cause?: unknown): never {
  throw new HoldfastError('FULL_BACKUP_NEEDED', reason, cause === undefined ? {} : { cause });
}

/**
 * Takes all that the log of `ranges` changes into `changed`. Waits until it is sealed up to the end of the last range;
 * somebody asks its archiver for that. Throws FULL_BACKUP_NEEDED when the maps do not tell all that was changed, and the
 * medium's errors.
 */
export async function readChangeMaps(
  place: ChangeMapPlace,
  ranges: readonly LogRange[],
  changed: ChangedPages,
  clock: Clock,
  signal: AbortSignal,
  sealWaitMs: number = SEAL_WAIT_MS,
): Promise<void> {
  try {
    const lookup = await awaitSealed(place, ranges, clock, sealWaitMs, signal);
    const files = await filesOf(place, lookup, ranges, signal);
    const boundary = await readBoundary(place, lookup, ranges, files, signal);
    const mapped = boundary === undefined ? files : [boundary.file, ...files.slice(1)];
    const flaw = flawOf(ranges, mapped);
    if (flaw !== undefined) needFull(flaw);
    for (const change of boundary?.changes ?? []) changed.add(change);
    for (const { indexKey } of boundary === undefined ? files : files.slice(1))
      for await (const change of readChangeMap(place.medium, indexKey, signal)) changed.add(change);
  } catch (error) {
    if (!isError(error, ...UNREADABLE)) throw error;
    needFull(`the archived log cannot be read: ${error.message}`, error);
  }
}

const UNREADABLE = [
  'DATA_CORRUPT',
  'FORMAT_UNKNOWN',
  'LOG_CONFLICT',
  'LOG_GAP',
  'LOG_INDEX_INVALID',
  'WAL_UNREADABLE',
  'SYSTEM_IDENTIFIER_MISMATCH',
  'FILE_NOT_FOUND',
] as const;

type Boundary = { readonly file: MapFile; readonly changes: Iterable<LogChange> };

/** What the first file changes from where the ranges begin on, when that is inside it. */
async function readBoundary(
  place: ChangeMapPlace,
  lookup: LogLookup,
  ranges: readonly LogRange[],
  files: readonly MapFile[],
  signal: AbortSignal,
): Promise<Boundary | undefined> {
  const [first] = files;
  const begin = ranges[0]?.begin;
  if (first === undefined || begin === undefined || first.begin >= begin || first.end <= begin)
    return undefined;
  const { timeline, end, segmentSizeBytes, systemIdentifier, changes } = first;
  if (changes === undefined) return undefined;
  const log = { timeline, begin, segmentSizeBytes, systemIdentifier, major: place.major };
  const read = await readBoundaryChanges(log, lookup.read(timeline, begin, end, signal));
  return { file: { ...first, begin, changes: { ...changes, ...read.warnings } }, changes: read.changes };
}

/** Resolves when a sealed file holds the last byte of the ranges, or something is wrong with the file that has it. */
async function awaitSealed(
  { medium, root, round, group }: ChangeMapPlace,
  ranges: readonly LogRange[],
  clock: Clock,
  sealWaitMs: number,
  signal: AbortSignal,
): Promise<LogLookup> {
  const deadlineMs = clock.monotonicMs() + sealWaitMs;
  const last = ranges.at(-1);
  for (let pollMs = FIRST_POLL_MS; ; pollMs = Math.min(pollMs * 2, LAST_POLL_MS)) {
    const lookup = await LogLookup.open(medium, root, round, group, signal);
    if (last === undefined) return lookup;
    const file = await lookup.fileAt(last.timeline, toLsn(last.end - 1n), signal);
    if (file?.hasIndex === true) return lookup;
    if (clock.monotonicMs() >= deadlineMs)
      needFull(`the log up to ${formatLsn(last.end)} was not archived and sealed in time`);
    await clock.sleep(pollMs, signal);
  }
}

async function filesOf(
  { root, round, group }: ChangeMapPlace,
  lookup: LogLookup,
  ranges: readonly LogRange[],
  signal: AbortSignal,
): Promise<readonly MapFile[]> {
  const files: MapFile[] = [];
  for (const { timeline, begin, end } of ranges)
    for await (const file of lookup.filesBetween(timeline, begin, end, undefined, signal))
      files.push({
        key: file.key,
        indexKey: tree.logIndex(root, round, group, file.fileId, file.epoch),
        timeline: file.timeline,
        begin: file.begin,
        end: file.end,
        hasIndex: file.hasIndex,
        changes: file.changes,
        segmentSizeBytes: file.segmentSizeBytes,
        systemIdentifier: file.systemIdentifier,
      });
  return files;
}
