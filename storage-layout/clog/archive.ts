/**
 * The archived log of one partition group in one round, as a destination holds it.
 *
 * - A file counts as far as its index says; without one, as far as its records are whole (scan.ts).
 * - Nothing is ever cut or overwritten: whoever goes on seals what is there and begins a new file.
 * - The same bytes at the same LSN of one timeline count once; different ones are LOG_CONFLICT.
 */
import { assert } from '../../foundation/assert.ts';
import { HoldfastError, isError } from '../../foundation/errors.ts';
import { formatLsn, type Lsn, type Timeline, toLsn } from '../../foundation/lsn.ts';
import type { Medium } from '../media/medium.ts';
import { type RoundKey, type TreeRoot, tree } from '../tree.ts';
import { type LogFileIndex, type NewFindings, readLogIndex, writeLogIndex } from './index.ts';
import {
  type AbandonedLogFile,
  dataKey,
  type FileName,
  fileLabel,
  findFiles,
  type ListedFile,
  type LogChunkRead,
  type LogFile,
  type LogFilesPlace,
  openIndexed,
  openScanned,
  readLogFile,
} from './log-file.ts';
import { mapLimited } from './map-limited.ts';
import { findGaps, joinPieces, type LogOverlap, type LogPiece, type LogRange, planPieces } from './ranges.ts';

const OPEN_CONCURRENCY = 8;

/** An unbroken range; `checkpointUs`: what was acknowledged before it lies in or before the range. */
export type LogCoverage = LogRange & { readonly checkpointUs: bigint | undefined };

/** What a successor needs: the ids it must exceed, and where the log ends. */
export type LogEnd = {
  /** The greatest file id and the greatest epoch of any file, however damaged. */
  readonly lastFileId: bigint;
  readonly lastEpoch: bigint;
  readonly timeline: Timeline;
  /** End of the log on the highest timeline. */
  readonly end: Lsn;
  /** Known when the file that ends there has an index; undefined also when no record is unfinished. */
  readonly unfinishedRecordBegin: Lsn | undefined;
  readonly lastFileHasIndex: boolean;
};

export class LogArchive {
  readonly #place: LogFilesPlace;
  readonly #names: readonly ListedFile[];
  #files: readonly LogFile[] = [];
  readonly #lost: string[] = [];
  #pieces: readonly LogPiece<LogFile>[] = [];
  #ranges: readonly LogRange[] = [];
  #conflicts: readonly { readonly overlap: LogOverlap<LogFile>; readonly lsn: Lsn }[] = [];

  private constructor(place: LogFilesPlace, names: readonly ListedFile[]) {
    this.#place = place;
    this.#names = names;
  }

  /**
   * Lists and reads what is there; an archive without files is no error. `abandoned`: files without an index of which only
   * so much counts. Throws DATA_CORRUPT (an index file), FORMAT_UNKNOWN, and the medium's errors.
   */
  static async open(
    medium: Medium,
    root: TreeRoot,
    round: RoundKey,
    group: string,
    signal?: AbortSignal,
    abandoned: readonly AbandonedLogFile[] = [],
  ): Promise<LogArchive> {
    const place = { medium, root, round, group };
    const indexed = new Set(await medium.listNames(tree.logIndexDirectory(root, round, group), signal));
    const names = await findFiles(place, signal);
    const archive = new LogArchive(place, names);
    const files = await mapLimited(names, OPEN_CONCURRENCY, async (name) =>
      indexed.has(fileLabel(name))
        ? await openIndexed(place, name, name.sizeBytes, signal)
        : await openScanned(place, name, signal, durableBytesOf(name, abandoned)),
    );
    const listed = new Set(names.map(fileLabel));
    for (const label of indexed) {
      if (listed.has(label)) continue;
      const key = `${tree.logDataDirectory(root, round, group)}/${label}`;
      if ((await medium.stat(key, signal)) === undefined) archive.#lost.push(key); // a listing may lag behind
    }
    await archive.#setFiles(withRunningMaximum(files), signal);
    return archive;
  }

  /** Every file that holds log, in order of (file id, epoch). */
  get files(): readonly LogFile[] {
    return this.#files;
  }

  /** Keys of files that are gone though their index is there. */
  get lost(): readonly string[] {
    return this.#lost;
  }

  /** Files that a successor must seal before it begins its own. */
  get unsealed(): readonly LogFile[] {
    return this.#files.filter((file) => !file.hasIndex);
  }

  /** The unbroken ranges, in order of (timeline, begin). Throws LOG_CONFLICT. */
  coverage(): readonly LogCoverage[] {
    this.#refuseConflict();
    return this.#ranges.map((range) => ({ ...range, checkpointUs: this.#checkpointOf(range) }));
  }

  /** The file that gives the byte at `lsn`, undefined when none does. */
  fileFor(timeline: Timeline, lsn: Lsn): LogFile | undefined {
    return this.#pieces.find((piece) => piece.timeline === timeline && piece.begin <= lsn && lsn < piece.end)
      ?.file;
  }

  /**
   * The files that hold bytes of [begin, end) on `timeline`, by position; those before the first with a commit after
   * `afterUs` are left out, when it is given.
   */
  filesBetween(timeline: Timeline, begin: Lsn, end: Lsn, afterUs?: bigint): readonly LogFile[] {
    return this.#files
      .filter((file) => file.timeline === timeline && file.end > begin && file.begin < end)
      .filter((file) => afterUs === undefined || (file.maxCommitUs ?? afterUs) > afterUs)
      .sort((a, b) => (a.begin < b.begin ? -1 : 1));
  }

  /** Undefined when there is no log yet; a file that holds none yet counts for its ids only. */
  end(): LogEnd | undefined {
    const last = this.#files.reduce<LogFile | undefined>(
      (best, file) => (best === undefined || isBehind(best, file) ? file : best),
      undefined,
    );
    if (last === undefined) return undefined;
    return {
      lastFileId: this.lastFileId,
      lastEpoch: this.lastEpoch,
      timeline: last.timeline,
      end: last.end,
      unfinishedRecordBegin: last.unfinishedRecordBegin,
      lastFileHasIndex: last.hasIndex,
    };
  }

  /** The greatest file id of any name there is, 0 without files. A new file takes a greater one. */
  get lastFileId(): bigint {
    return this.#names.reduce((greatest, { fileId }) => (fileId > greatest ? fileId : greatest), 0n);
  }

  /** The greatest epoch of any name there is, 0 without files. */
  get lastEpoch(): bigint {
    return this.#names.reduce((greatest, { epoch }) => (epoch > greatest ? epoch : greatest), 0n);
  }

  /**
   * The log bytes [begin, end) of `timeline`, in order, every block checked. Throws LOG_GAP before anything is read when
   * some are missing, LOG_CONFLICT, and DATA_CORRUPT naming file and offset.
   */
  async *read(
    timeline: Timeline,
    begin: Lsn,
    end: Lsn,
    signal?: AbortSignal,
  ): AsyncGenerator<LogChunkRead, void, undefined> {
    this.#refuseConflict();
    this.#refuseGap(timeline, begin, end);
    for (const piece of this.#pieces) {
      if (piece.timeline !== timeline || piece.end <= begin || piece.begin >= end) continue;
      const from = piece.begin > begin ? piece.begin : begin;
      const until = piece.end < end ? piece.end : end;
      yield* readLogFile(this.#place.medium, piece.file, from, until, signal);
    }
  }

  /** False when a file was begun, or one without an index has grown, since the archive was opened. */
  async isCurrent(signal?: AbortSignal): Promise<boolean> {
    const names = await findFiles(this.#place, signal);
    if (names.map(fileLabel).join() !== this.#names.map(fileLabel).join()) return false;
    const sealed = new Set(this.#files.filter((file) => file.hasIndex).map(fileLabel));
    for (const name of this.#names.filter((known) => !sealed.has(fileLabel(known)))) {
      // Opening the file makes an NFS client ask the server how long it is; a listing may be told from memory.
      const end = name.sizeBytes;
      const more = await this.#place.medium.readRange(
        dataKey(this.#place, name),
        end,
        end + 1,
        undefined,
        signal,
      );
      if (more.length > 0) return false;
    }
    return true;
  }

  /**
   * Seals a predecessor's file with the length that this archive accepts, after making that much durable: the predecessor
   * may have died between writing and syncing. When someone else has sealed it meanwhile, theirs holds. Returns the file as it counts from now on, which the archive takes over.
   */
  async sealPredecessor(file: LogFile, findings: NewFindings, signal?: AbortSignal): Promise<LogFile> {
    assert(!file.hasIndex, 'only a file without an index is sealed');
    const { changeMap, ...kept } = findings;
    let index: LogFileIndex = { ...indexPart(file), ...kept };
    const { medium, root, round, group } = this.#place;
    await medium.makeDurable(file.key, signal);
    try {
      const written = { ...index, changeMap };
      await writeLogIndex(medium, root, round, group, written, signal);
    } catch (error) {
      if (!isError(error, 'FILE_EXISTS')) throw error;
      index = await readLogIndex(medium, root, round, group, file, signal);
    }
    const sealed: LogFile = { ...index, key: file.key, hasIndex: true };
    const files = this.#files.map((known) => (fileLabel(known) === fileLabel(file) ? sealed : known));
    await this.#setFiles(withRunningMaximum(files), signal);
    return sealed;
  }

  async #setFiles(files: readonly LogFile[], signal: AbortSignal | undefined): Promise<void> {
    const { pieces, overlaps } = planPieces(files.filter((file) => file.end > file.begin));
    const conflicts = [];
    for (const overlap of overlaps) {
      const lsn = await this.#findDifference(overlap, signal);
      if (lsn !== undefined) conflicts.push({ overlap, lsn });
    }
    this.#files = files;
    this.#pieces = pieces;
    this.#ranges = joinPieces(pieces);
    this.#conflicts = conflicts;
  }

  #checkpointOf(range: LogRange): bigint | undefined {
    let newest: bigint | undefined;
    for (const { timeline, checkpoint } of this.#files) {
      if (checkpoint === undefined || timeline !== range.timeline) continue;
      if (checkpoint.lsn < range.begin || checkpoint.lsn > range.end) continue;
      if (newest === undefined || checkpoint.timeUs > newest) newest = checkpoint.timeUs;
    }
    return newest;
  }

  #refuseConflict(): void {
    const [conflict] = this.#conflicts;
    if (conflict === undefined) return;
    const { overlap, lsn } = conflict;
    throw new HoldfastError(
      'LOG_CONFLICT',
      `${overlap.file.key} and ${overlap.other.key} differ at ${formatLsn(lsn)} of timeline ${overlap.timeline}`,
      {
        detail: `Both hold ${formatLsn(overlap.begin)} to ${formatLsn(overlap.end)}.`,
        hint: 'Two servers wrote this timeline. Find out which one is right before restoring.',
      },
    );
  }

  #refuseGap(timeline: Timeline, begin: Lsn, end: Lsn): void {
    const gaps = findGaps(this.#ranges, timeline, begin, end);
    if (gaps.length === 0) return;
    const missing = gaps.map((gap) => `${formatLsn(gap.begin)} to ${formatLsn(gap.end)}`);
    const reasons = this.#files
      .filter((file) => file.timeline === timeline && file.ignored !== undefined)
      .map((file) => `behind ${formatLsn(file.end)}: ${file.ignored?.reason}`);
    throw new HoldfastError(
      'LOG_GAP',
      `the log of partition group ${this.#place.group} in round ${this.#place.round.round} lacks ${missing.join(', ')} of timeline ${timeline}`,
      reasons.length === 0 ? {} : { detail: reasons.join('; ') },
    );
  }

  /** The first LSN at which the two files differ. Damage decides nothing here: it shows when the bytes are read. */
  async #findDifference(
    overlap: LogOverlap<LogFile>,
    signal: AbortSignal | undefined,
  ): Promise<Lsn | undefined> {
    const { begin, end } = overlap;
    try {
      const other = new LogCursor(readLogFile(this.#place.medium, overlap.other, begin, end, signal));
      for await (const chunk of readLogFile(this.#place.medium, overlap.file, begin, end, signal)) {
        const copy = await other.take(chunk.data.length);
        if (copy.equals(chunk.data)) continue;
        const at = chunk.data.findIndex((byte, position) => byte !== copy[position]);
        return toLsn(chunk.begin + BigInt(at));
      }
    } catch (error) {
      if (!isError(error, 'DATA_CORRUPT')) throw error;
    }
    return undefined;
  }
}

/** Takes bytes off a stream of chunks in other portions than they come in. */
class LogCursor {
  readonly #chunks: AsyncGenerator<LogChunkRead, void, undefined>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(chunks: AsyncGenerator<LogChunkRead, void, undefined>) {
    this.#chunks = chunks;
  }

  async take(length: number): Promise<Buffer> {
    while (this.#rest.length < length) {
      const next = await this.#chunks.next();
      if (next.done === true) break;
      this.#rest = this.#rest.length === 0 ? next.value.data : Buffer.concat([this.#rest, next.value.data]);
    }
    const taken = this.#rest.subarray(0, length);
    this.#rest = this.#rest.subarray(length);
    return taken;
  }
}

function indexPart(file: LogFile): LogFileIndex {
  const { key: _key, hasIndex: _hasIndex, ignored: _ignored, ...index } = file;
  return index;
}

/** Makes `maxCommitUs` what it is documented to be, whoever wrote the indexes and whichever files have none. */
function withRunningMaximum(files: readonly (LogFile | undefined)[]): readonly LogFile[] {
  let maxCommitUs: bigint | undefined;
  return files
    .filter((file) => file !== undefined)
    .map((file) => {
      for (const timeUs of [file.maxCommitUs, file.lastCommitUs]) {
        if (timeUs !== undefined && (maxCommitUs === undefined || timeUs > maxCommitUs)) maxCommitUs = timeUs;
      }
      return { ...file, maxCommitUs };
    });
}

/** True when `file` holds log behind `best`'s: a higher timeline, or a later end on the same one. */
function isBehind(best: LogFile, file: LogFile): boolean {
  return file.timeline === best.timeline ? file.end >= best.end : file.timeline > best.timeline;
}

function durableBytesOf(name: FileName, abandoned: readonly AbandonedLogFile[]): number | undefined {
  return abandoned.find((file) => fileLabel(file) === fileLabel(name))?.durableBytes;
}
