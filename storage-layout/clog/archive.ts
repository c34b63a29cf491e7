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
import { planReads } from '../macroblock/reader.ts';
import type { Medium } from '../media/medium.ts';
import { decodeRecord, RECORD } from '../records/framing.ts';
import { corrupt } from '../records/header.ts';
import { parseTreePath, type RoundKey, type TreeRoot, tree } from '../tree.ts';
import { decodeLogBlockHeader } from './block.ts';
import {
  type LogBlockPlace,
  type LogFileIndex,
  type NewFindings,
  readLogIndex,
  writeLogIndex,
} from './index.ts';
import { findGaps, joinPieces, type LogOverlap, type LogPiece, type LogRange, planPieces } from './ranges.ts';
import { type IgnoredTail, scanLogFile } from './scan.ts';

const READ_BYTES = 8 * 2 ** 20;
/** Checkpoint records between two blocks are read along. */
const READ_GAP_BYTES = 64 * 1024;
const OPEN_CONCURRENCY = 8;
/** How many names behind the last listed one are looked for, in case the listing is behind. */
const PROBE_LIMIT = 64;

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

export type LogChunkRead = { readonly begin: Lsn; readonly data: Buffer };

type FileName = { readonly fileId: bigint; readonly epoch: bigint };
type ListedFile = FileName & { readonly sizeBytes: number };

export class LogArchive {
  readonly #medium: Medium;
  readonly #root: TreeRoot;
  readonly #round: RoundKey;
  readonly #group: string;
  readonly #names: readonly ListedFile[];
  #files: readonly LogFile[] = [];
  #pieces: readonly LogPiece<LogFile>[] = [];
  #ranges: readonly LogRange[] = [];
  #conflicts: readonly { readonly overlap: LogOverlap<LogFile>; readonly lsn: Lsn }[] = [];

  private constructor(
    medium: Medium,
    root: TreeRoot,
    round: RoundKey,
    group: string,
    names: readonly ListedFile[],
  ) {
    this.#medium = medium;
    this.#root = root;
    this.#round = round;
    this.#group = group;
    this.#names = names;
  }

  /**
   * Lists and reads what is there; an archive without files is no error. Throws DATA_CORRUPT (an index file), FORMAT_UNKNOWN,
   * and the medium's errors.
   */
  static async open(
    medium: Medium,
    root: TreeRoot,
    round: RoundKey,
    group: string,
    signal?: AbortSignal,
  ): Promise<LogArchive> {
    const indexed = new Set(await medium.listNames(tree.logIndexDirectory(root, round, group), signal));
    const names = await findFiles(medium, root, round, group, signal);
    const archive = new LogArchive(medium, root, round, group, names);
    const files = await mapLimited(names, OPEN_CONCURRENCY, async (name) =>
      indexed.has(fileLabel(name))
        ? await archive.#openIndexed(name, signal)
        : await archive.#openScanned(name, signal),
    );
    await archive.#setFiles(withRunningMaximum(files), signal);
    return archive;
  }

  /** Every file that holds log, in order of (file id, epoch). */
  get files(): readonly LogFile[] {
    return this.#files;
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
      yield* this.#readFile(piece.file, from, until, signal);
    }
  }

  /** False when a file was begun, or one without an index has grown, since the archive was opened. */
  async isCurrent(signal?: AbortSignal): Promise<boolean> {
    const names = await findFiles(this.#medium, this.#root, this.#round, this.#group, signal);
    if (names.map(fileLabel).join() !== this.#names.map(fileLabel).join()) return false;
    const sealed = new Set(this.#files.filter((file) => file.hasIndex).map(fileLabel));
    for (const name of this.#names.filter((known) => !sealed.has(fileLabel(known)))) {
      // Opening the file makes an NFS client ask the server how long it is; a listing may be told from memory.
      const end = name.sizeBytes;
      const more = await this.#medium.readRange(this.#dataKey(name), end, end + 1, undefined, signal);
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
    await this.#medium.makeDurable(file.key, signal);
    try {
      const written = { ...index, changeMap };
      await writeLogIndex(this.#medium, this.#root, this.#round, this.#group, written, signal);
    } catch (error) {
      if (!isError(error, 'FILE_EXISTS')) throw error;
      index = await readLogIndex(this.#medium, this.#root, this.#round, this.#group, file, signal);
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

  async #openIndexed(name: ListedFile, signal: AbortSignal | undefined): Promise<LogFile> {
    const key = this.#dataKey(name);
    const index = await readLogIndex(this.#medium, this.#root, this.#round, this.#group, name, signal);
    const file = { ...index, key, hasIndex: true };
    return name.sizeBytes >= index.acceptedBytes ? file : cutToSize(file, name.sizeBytes);
  }

  async #openScanned(name: FileName, signal: AbortSignal | undefined): Promise<LogFile | undefined> {
    const key = this.#dataKey(name);
    const { facts, ignored } = await scanLogFile(this.#medium, key, signal);
    if (facts === undefined) return undefined;
    if (facts.fileId !== name.fileId || facts.epoch !== name.epoch)
      throw corrupt({ file: key }, 0, `the file says that it is ${fileLabel(facts)}`);
    return { ...facts, checkpoints: [], restorePoints: [], key, hasIndex: false, ignored };
  }

  #dataKey(name: FileName): string {
    return tree.logData(this.#root, this.#round, this.#group, name.fileId, name.epoch);
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
      `the log of partition group ${this.#group} in round ${this.#round.round} lacks ${missing.join(', ')} of timeline ${timeline}`,
      reasons.length === 0 ? {} : { detail: reasons.join('; ') },
    );
  }

  async *#readFile(
    file: LogFile,
    begin: Lsn,
    end: Lsn,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<LogChunkRead, void, undefined> {
    const wanted = file.blocks.filter(
      (block) => block.begin < end && block.begin + BigInt(block.plainBytes) > begin,
    );
    for (const range of planReads(wanted, READ_GAP_BYTES, READ_BYTES)) {
      const bytes = await this.#medium.readRange(file.key, range.begin, range.end, undefined, signal);
      for (const block of range.entries) {
        const data = decodeBlock(bytes, block, file, range.begin);
        const from = begin > block.begin ? Number(begin - block.begin) : 0;
        const until = Math.min(data.length, Number(end - block.begin));
        yield { begin: toLsn(block.begin + BigInt(from)), data: data.subarray(from, until) };
      }
    }
  }

  /** The first LSN at which the two files differ. Damage decides nothing here: it shows when the bytes are read. */
  async #findDifference(
    overlap: LogOverlap<LogFile>,
    signal: AbortSignal | undefined,
  ): Promise<Lsn | undefined> {
    const { begin, end } = overlap;
    try {
      const other = new LogCursor(this.#readFile(overlap.other, begin, end, signal));
      for await (const chunk of this.#readFile(overlap.file, begin, end, signal)) {
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

function decodeBlock(bytes: Buffer, block: LogBlockPlace, file: LogFile, base: number): Buffer {
  const source = { file: file.key, base };
  const offset = block.offset - base;
  const record = decodeRecord(bytes, offset, source);
  if (record.type !== RECORD.logBlock) throw corrupt(source, offset, 'no log block where the index has one');
  const header = decodeLogBlockHeader(record.extension, offset, source);
  if (
    header.begin !== block.begin ||
    header.timeline !== file.timeline ||
    header.epoch !== file.epoch ||
    record.payload.length !== block.plainBytes ||
    record.next - offset !== block.storedBytes
  )
    throw corrupt(source, offset, 'the log block is not the one of the index');
  return record.payload;
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

function fileLabel(file: FileName): string {
  return `${file.fileId}.${file.epoch}`;
}

/** The log files of a directory, by (file id, epoch). Part objects are a later format: refused, not overlooked. */
async function listFiles(
  medium: Medium,
  directory: string,
  signal: AbortSignal | undefined,
): Promise<ListedFile[]> {
  const files: ListedFile[] = [];
  for await (const page of medium.list(directory, signal)) {
    for (const { key, sizeBytes } of page) {
      const path = parseTreePath(key);
      if (path?.kind === 'logDataPart') {
        throw new HoldfastError('FORMAT_UNKNOWN', `${key}: log files in parts are not known to this version`);
      }
      if (path?.kind === 'logData') files.push({ fileId: path.fileId, epoch: path.epoch, sizeBytes });
    }
  }
  return files.sort(compareNames);
}

/** The log files that there are, by (file id, epoch), each with a length that it has at least. */
async function findFiles(
  medium: Medium,
  root: TreeRoot,
  round: RoundKey,
  group: string,
  signal: AbortSignal | undefined,
): Promise<readonly ListedFile[]> {
  const listed = await listFiles(medium, tree.logDataDirectory(root, round, group), signal);
  return await probeBehind(medium, root, round, group, listed, signal);
}

/** A listing may lag behind: looks for the files that the last archiver would have begun next. */
async function probeBehind(
  medium: Medium,
  root: TreeRoot,
  round: RoundKey,
  group: string,
  listed: readonly ListedFile[],
  signal: AbortSignal | undefined,
): Promise<readonly ListedFile[]> {
  const files = [...listed];
  let last = files.at(-1);
  for (let probes = 0; last !== undefined && probes < PROBE_LIMIT; probes += 1) {
    const { epoch } = last;
    const fileId = last.fileId + 1n;
    const stored = await medium.stat(tree.logData(root, round, group, fileId, epoch), signal);
    if (stored === undefined) break;
    last = { fileId, epoch, sizeBytes: stored.sizeBytes };
    files.push(last);
  }
  return files;
}

function compareNames(a: FileName, b: FileName): number {
  if (a.fileId !== b.fileId) return a.fileId < b.fileId ? -1 : 1;
  if (a.epoch === b.epoch) return 0;
  return a.epoch < b.epoch ? -1 : 1;
}

/** `act` on every item, at most `limit` at a time; results in the items' order. */
async function mapLimited<Item, Result>(
  items: readonly Item[],
  limit: number,
  act: (item: Item) => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = [];
  for (let first = 0; first < items.length; first += limit)
    results.push(...(await Promise.all(items.slice(first, first + limit).map(act))));
  return results;
}
