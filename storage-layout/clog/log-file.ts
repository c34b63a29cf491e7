/**
 * The log files of one partition group in one round, one by one: which names there are, and what of a file counts. Its
 * bytes are read-log-file.ts's; what the files make together is lookup.ts's to say.
 */
import { HoldfastError } from '../../foundation/errors.ts';
import { toLsn } from '../../foundation/lsn.ts';
import type { Medium } from '../media/medium.ts';
import { corrupt } from '../records/header.ts';
import { parseTreePath, type RoundKey, type TreeRoot, tree } from '../tree.ts';
import { type LogFileIndex, readLogIndex } from './index.ts';
import { type IgnoredTail, scanLogFile } from './scan.ts';

/** How many names behind the last listed one are looked for, in case the listing is behind. */
const PROBE_LIMIT = 64;

/**
 * A file whose writer failed, and how many of its bytes were durable then: what can be read behind them may be in a cache
 * alone, where a sync that failed once does not fail again.
 */
export type AbandonedLogFile = FileName & { readonly durableBytes: number };

/** Where a partition group's log of one round stands. */
export type LogFilesPlace = {
  readonly medium: Medium;
  readonly root: TreeRoot;
  readonly round: RoundKey;
  readonly group: string;
};

/**
 * One log file of the destination: what counts of it, whether an index says so, and what was left out. `maxCommitUs` is the
 * running maximum over the files up to this one, of every timeline: a file whose maximum is at most T holds no commit after
 * T; one whose maximum is greater need not hold one.
 */
export type LogFile = LogFileIndex & {
  readonly key: string;
  readonly hasIndex: boolean;
  /** Bytes behind those that count, in a file without an index or shorter than its index says. */
  readonly ignored?: IgnoredTail | undefined;
};

export type FileName = { readonly fileId: bigint; readonly epoch: bigint };

/** A file as its index says, of `sizeBytes` bytes. Throws DATA_CORRUPT (the index), and the medium's errors. */
export async function openIndexed(
  place: LogFilesPlace,
  name: FileName,
  sizeBytes: number,
  signal: AbortSignal | undefined,
): Promise<LogFile> {
  const { medium, root, round, group } = place;
  const key = dataKey(place, name);
  const index = await readLogIndex(medium, root, round, group, name, signal);
  const file = { ...index, key, hasIndex: true };
  return sizeBytes >= index.acceptedBytes ? file : cutToSize(file, sizeBytes);
}

/**
 * A file without an index, as far as its records are whole, and no further than `limitBytes`; undefined when it does not
 * even say what it is.
 */
export async function openScanned(
  place: LogFilesPlace,
  name: FileName,
  signal: AbortSignal | undefined,
  limitBytes?: number,
): Promise<LogFile | undefined> {
  const key = dataKey(place, name);
  const { facts, ignored } = await scanLogFile(place.medium, key, signal, limitBytes);
  if (facts === undefined) return undefined;
  if (facts.fileId !== name.fileId || facts.epoch !== name.epoch)
    throw corrupt({ file: key }, 0, `the file says that it is ${fileLabel(facts)}`);
  return { ...facts, checkpoints: [], restorePoints: [], key, hasIndex: false, ignored };
}

export function dataKey({ root, round, group }: LogFilesPlace, name: FileName): string {
  return tree.logData(root, round, group, name.fileId, name.epoch);
}

/** True for a sealed file that has lost its tail since. */
export function isCutOff(file: LogFile): file is LogFile & { readonly ignored: IgnoredTail } {
  return file.hasIndex && file.ignored !== undefined;
}

/** Where such a file ends, and where it should. */
export function describeCut(file: LogFile & { readonly ignored: IgnoredTail }): string {
  return `at offset ${file.ignored.offset}: the file ends here, its index says ${file.acceptedBytes} bytes`;
}

/** What is left of a file that is shorter than its index says. */
function cutToSize(file: LogFile, sizeBytes: number): LogFile {
  const blocks = file.blocks.filter((block) => block.offset + block.storedBytes <= sizeBytes);
  const last = blocks.at(-1);
  const end = last === undefined ? file.begin : toLsn(last.begin + BigInt(last.plainBytes));
  const reason = `${file.key} has ${sizeBytes} bytes where its index says ${file.acceptedBytes}`;
  const kept = file.checkpoint !== undefined && file.checkpoint.lsn <= end ? file.checkpoint : undefined;
  const ignored = { offset: sizeBytes, reason };
  return { ...file, blocks, end, checkpoint: kept, unfinishedRecordBegin: undefined, ignored };
}

export function fileLabel(file: FileName): string {
  return `${file.fileId}.${file.epoch}`;
}

/**
 * The log files that there are, by (file id, epoch): their names alone, which a store tells without looking at each file.
 * Part objects are a later format: refused, not overlooked.
 */
export async function findNames(
  place: LogFilesPlace,
  signal: AbortSignal | undefined,
): Promise<readonly FileName[]> {
  const { medium, root, round, group } = place;
  const directory = tree.logDataDirectory(root, round, group);
  const names: FileName[] = [];
  for (const name of await medium.listNames(directory, signal)) {
    const match = /^([1-9][0-9]*)\.([1-9][0-9]*)$/.exec(name);
    if (match?.[1] !== undefined && match[2] !== undefined)
      names.push({ fileId: BigInt(match[1]), epoch: BigInt(match[2]) });
    else if (parseTreePath(`${directory}/${name}`)?.kind === 'logDataPart') throw partsUnknown(name);
  }
  return await probeBehind(place, names.sort(compareNames), signal);
}

function partsUnknown(name: string): HoldfastError {
  return new HoldfastError('FORMAT_UNKNOWN', `${name}: log files in parts are not known to this version`);
}

/** A listing may lag behind: looks for the files that the last archiver would have begun next. */
async function probeBehind(
  place: LogFilesPlace,
  listed: readonly FileName[],
  signal: AbortSignal | undefined,
): Promise<readonly FileName[]> {
  const files = [...listed];
  let last: FileName | undefined = files.at(-1);
  for (let probes = 0; last !== undefined && probes < PROBE_LIMIT; probes += 1) {
    const next: FileName = { fileId: last.fileId + 1n, epoch: last.epoch };
    const stored = await place.medium.stat(dataKey(place, next), signal);
    if (stored === undefined) break;
    last = next;
    files.push(next);
  }
  return files;
}

function compareNames(a: FileName, b: FileName): number {
  if (a.fileId !== b.fileId) return a.fileId < b.fileId ? -1 : 1;
  if (a.epoch === b.epoch) return 0;
  return a.epoch < b.epoch ? -1 : 1;
}
