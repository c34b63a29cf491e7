/**
 * The archived log of one partition group in one round, as a destination holds it, found without reading all of it: the
 * names are listed, and of the files only those are opened that a question needs (lanes.ts, runs.ts).
 *
 * - A file counts as far as its index says; without one, as far as its records are whole (scan.ts).
 * - Nothing is ever cut or overwritten: whoever goes on seals what is there and begins a new file.
 * - The same bytes at the same LSN of one timeline count once; different ones are LOG_CONFLICT.
 * - What is said to be covered rests on the names and on what archivers saw when they went on. A file that was damaged
 *   since, other than by its removal, is noticed when it is opened: `verifyLog` (verify.ts) opens all of a stretch.
 */
import { defined } from '../../foundation/assert.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn, type Lsn, type Timeline, toLsn } from '../../foundation/lsn.ts';
import type { Medium } from '../media/medium.ts';
import { type RoundKey, type TreeRoot, tree } from '../tree.ts';
import { findDifference } from './difference.ts';
import type { LogCheckpointPoint, LogUnbroken } from './index.ts';
import { arrangeLanes, type Lane } from './lanes.ts';
import {
  type AbandonedLogFile,
  dataKey,
  fileLabel,
  findNames,
  type LogFile,
  type LogFilesPlace,
} from './log-file.ts';
import { OpenedFiles } from './opened-files.ts';
import { promiseBehind, promiseOfNone } from './promise.ts';
import { findGaps, joinPieces, type LogOverlap, type LogRange, planPieces } from './ranges.ts';
import { LogBuffers, type LogChunkRead, readLogFile } from './read-log-file.ts';
import { type Found, findRuns, firstWithLog, type Run, search } from './runs.ts';

/** How many of a run's last files are asked for their newest checkpoint, and how many of them may have none. */
const CHECKPOINT_FILES = 2;
const CHECKPOINT_PROBES = 16;
/** A listing may lack the newest files: no more are asked for whether they are really gone. */
const LOST_PROBES = 64;
/** How many files an overtaken archiver can have written late: what it had received and not yet written (policy.ts). */
const LATE_FILES = 16;

/** An unbroken range; `checkpointUs`: what was acknowledged before it lies in or before the range. */
export type LogCoverage = LogRange & { readonly checkpointUs: bigint | undefined };

/** A part of the log, and the file that gives it. */
export type LogStretch = { readonly file: LogFile; readonly begin: Lsn; readonly end: Lsn };

type Place = Found & { readonly lane: Lane };

export class LogLookup {
  readonly files: OpenedFiles;
  /** Keys of files that are gone though their index is there. */
  readonly lost: readonly string[];
  readonly #lanes: readonly Lane[];
  #runs: Promise<readonly Run[]> | undefined;
  #coverage: Promise<readonly LogCoverage[]> | undefined;

  private constructor(files: OpenedFiles, lost: readonly string[]) {
    this.files = files;
    this.lost = lost;
    this.#lanes = arrangeLanes(files.names);
  }

  /**
   * Lists the names; an archive without files is no error. `abandoned`: files without an index of which only so much
   * counts. Throws the medium's errors.
   */
  static async open(
    medium: Medium,
    root: TreeRoot,
    round: RoundKey,
    group: string,
    signal?: AbortSignal,
    abandoned: readonly AbandonedLogFile[] = [],
  ): Promise<LogLookup> {
    const place = { medium, root, round, group };
    const indexed = new Set(await medium.listNames(tree.logIndexDirectory(root, round, group), signal));
    const names = await findNames(place, signal);
    const lost = await findLost(place, indexed, new Set(names.map(fileLabel)), signal);
    return new LogLookup(new OpenedFiles(place, names, indexed, abandoned), lost);
  }

  /** Whether nothing was ever archived. */
  get isEmpty(): boolean {
    return this.files.names.length === 0;
  }

  /** The greatest file id of any name there is, 0 without files. A new file takes a greater one. */
  get lastFileId(): bigint {
    return this.files.names.at(-1)?.fileId ?? 0n;
  }

  /** The greatest epoch of any name there is, 0 without files. */
  get lastEpoch(): bigint {
    return this.files.names.reduce((greatest, { epoch }) => (epoch > greatest ? epoch : greatest), 0n);
  }

  /** The unbroken ranges, in order of (timeline, begin), and until when each is known. Throws LOG_CONFLICT, DATA_CORRUPT. */
  async coverage(signal?: AbortSignal): Promise<readonly LogCoverage[]> {
    this.#coverage ??= this.#cover(signal);
    const covering = this.#coverage;
    covering.catch(() => {
      if (this.#coverage === covering) this.#coverage = undefined; // whoever waits for it sees the error
    });
    return await covering;
  }

  /** The file that gives the byte at `lsn`, undefined when none does. */
  async fileAt(timeline: Timeline, lsn: Lsn, signal?: AbortSignal): Promise<LogFile | undefined> {
    return (await this.#find(timeline, lsn, signal))?.file;
  }

  /**
   * The files that hold bytes of [begin, end) on `timeline`, in order of their begin; those before the first with a commit
   * after `afterUs` are left out, when it is given.
   */
  async *filesBetween(
    timeline: Timeline,
    begin: Lsn,
    end: Lsn,
    afterUs?: bigint,
    signal?: AbortSignal,
  ): AsyncGenerator<LogFile, void, undefined> {
    const runs = (await this.#allRuns(signal)).filter(
      (run) => run.timeline === timeline && run.begin < end && run.end > begin,
    );
    const sources = runs.map((run) => this.#filesOf(run, begin, end, afterUs, signal));
    const heads = await Promise.all(sources.map(async (source) => (await source.next()).value ?? undefined));
    for (;;) {
      let least: number | undefined;
      for (const [n, file] of heads.entries())
        if (file !== undefined && (least === undefined || file.begin < (heads[least]?.begin ?? 0n)))
          least = n;
      const file = heads[least ?? -1];
      if (least === undefined || file === undefined) return;
      yield file;
      heads[least] = (await sources[least]?.next())?.value ?? undefined;
    }
  }

  /**
   * The log bytes [begin, end) of `timeline`, in order, every block checked. Throws LOG_GAP: before anything is read when
   * it is known that some are missing, else when reading gets there; LOG_CONFLICT, and DATA_CORRUPT naming file and offset.
   */
  async *read(
    timeline: Timeline,
    begin: Lsn,
    end: Lsn,
    signal?: AbortSignal,
  ): AsyncGenerator<LogChunkRead, void, undefined> {
    const buffers = new LogBuffers();
    for await (const { file, begin: from, end: until } of this.stretches(timeline, begin, end, signal))
      yield* readLogFile(this.files.place.medium, file, from, until, signal, buffers);
  }

  /** Which file gives which part of [begin, end) of `timeline`, in order, as `read` reads them. Throws LOG_GAP, LOG_CONFLICT. */
  async *stretches(
    timeline: Timeline,
    begin: Lsn,
    end: Lsn,
    signal?: AbortSignal,
  ): AsyncGenerator<LogStretch, void, undefined> {
    const gaps = findGaps(await this.coverage(signal), timeline, begin, end);
    if (gaps.length > 0) throw await this.gap(timeline, gaps, signal);
    let place: Place | undefined;
    for (let at = begin; at < end; ) {
      signal?.throwIfAborted();
      place = (await this.#next(place, timeline, at, signal)) ?? (await this.#find(timeline, at, signal));
      if (place === undefined) throw await this.gap(timeline, [{ begin: at, end }], signal);
      const until = place.file.end < end ? place.file.end : end;
      yield { file: place.file, begin: at, end: until };
      at = until;
    }
  }

  /** Files without an index: a successor must seal them before it begins its own. In order of their names. */
  async unsealed(signal?: AbortSignal): Promise<readonly LogFile[]> {
    const found: LogFile[] = [];
    for (const place of this.files.names.keys()) {
      if (this.files.isIndexed(place)) continue;
      const file = await this.files.at(place, signal);
      if (file !== undefined) found.push(file);
    }
    return found;
  }

  /** The greatest commit time of all files, or of those before `file` in the order of names; undefined: none. */
  async maxCommitUs(file?: LogFile, signal?: AbortSignal): Promise<bigint | undefined> {
    const end = file === undefined ? Number.POSITIVE_INFINITY : this.#placeOf(file);
    let greatest: bigint | undefined;
    for (const lane of this.#lanes) {
      const last = lane.findLastIndex((place) => place < end);
      const timeUs = await this.#maxCommitUsAt(lane, last, signal);
      if (timeUs !== undefined && (greatest === undefined || timeUs > greatest)) greatest = timeUs;
    }
    return greatest;
  }

  /** The newest checkpoint of the log of `timeline` that ends at `end`. */
  async checkpointUpTo(
    timeline: Timeline,
    end: Lsn,
    signal?: AbortSignal,
  ): Promise<LogCheckpointPoint | undefined> {
    const runs = (await this.#allRuns(signal)).filter((run) => run.timeline === timeline && run.begin < end);
    return await this.#newestCheckpoint(runs, end, signal);
  }

  /**
   * What the archiver of this epoch may promise in its next files, of which the first begins at `end`: since when the files
   * of the main lane hold the log of `timeline`, if it is the last of them that ends there.
   */
  async promiseBehind(
    timeline: Timeline,
    end: Lsn,
    epoch: bigint,
    signal?: AbortSignal,
  ): Promise<LogUnbroken> {
    const next = { fileId: this.lastFileId + 1n, epoch };
    const [main] = this.#lanes;
    const last = (await this.#allRuns(signal)).findLast((run) => run.lane === main);
    if (main === undefined || last?.timeline !== timeline || last.end !== end)
      return promiseOfNone(next, end);
    const head = defined(await this.files.at(main[last.first] ?? -1, signal), 'the first file of a run');
    return promiseBehind(head, this.files.names, main, { head: last.first, tail: main.length - 1 }, next);
  }

  /** False when a file was begun, or one without an index has grown, since the names were listed. */
  async isCurrent(signal?: AbortSignal): Promise<boolean> {
    const { names, place } = this.files;
    const now = await findNames(place, signal);
    if (now.map(fileLabel).join() !== names.map(fileLabel).join()) return false;
    for (const [ordinal, name] of names.entries()) {
      if (this.files.isIndexed(ordinal)) continue;
      // Opening the file makes an NFS client ask the server how long it is; a listing may be told from memory.
      const end = this.files.sizeBytes(ordinal);
      const more = await place.medium.readRange(dataKey(place, name), end, end + 1, undefined, signal);
      if (more.length > 0) return false;
    }
    return true;
  }

  /** From now on the file counts as its index says, which whoever sealed it has written. */
  noteSealed(sealed: LogFile): void {
    this.files.noteSealed(this.#placeOf(sealed), sealed);
    this.#runs = undefined;
    this.#coverage = undefined;
  }

  /** LOG_GAP: what is missing, and what is known of why. */
  async gap(
    timeline: Timeline,
    gaps: readonly Pick<LogRange, 'begin' | 'end'>[],
    signal: AbortSignal | undefined,
  ): Promise<HoldfastError> {
    const { round, group } = this.files.place;
    const missing = gaps.map(({ begin, end }) => `${formatLsn(begin)} to ${formatLsn(end)}`);
    const reasons: string[] = [];
    for (const { begin } of gaps) {
      const before = begin > 0n ? await this.fileAt(timeline, toLsn(begin - 1n), signal) : undefined;
      if (before?.ignored !== undefined && before.end === begin)
        reasons.push(`behind ${formatLsn(before.end)}: ${before.ignored.reason}`);
    }
    return new HoldfastError(
      'LOG_GAP',
      `the log of partition group ${group} in round ${round.round} lacks ${missing.join(', ')} of timeline ${timeline}`,
      reasons.length === 0 ? {} : { detail: reasons.join('; ') },
    );
  }

  async #cover(signal: AbortSignal | undefined): Promise<readonly LogCoverage[]> {
    const runs = await this.#splitAtCuts(await this.#allRuns(signal), signal);
    const { pieces, overlaps } = planPieces(runs);
    for (const overlap of overlaps) await this.#refuseConflict(overlap, signal);
    const ranges: LogCoverage[] = [];
    for (const range of joinPieces(pieces)) {
      const inside = runs.filter(
        (run) => run.timeline === range.timeline && run.begin < range.end && run.end > range.begin,
      );
      const checkpoint = await this.#newestCheckpoint(inside, range.end, signal);
      ranges.push({ ...range, checkpointUs: checkpoint?.timeUs });
    }
    return ranges;
  }

  async #allRuns(signal: AbortSignal | undefined): Promise<readonly Run[]> {
    this.#runs ??= this.#findRuns(signal);
    const finding = this.#runs;
    finding.catch(() => {
      if (this.#runs === finding) this.#runs = undefined; // whoever waits for it sees the error
    });
    return await finding;
  }

  async #findRuns(signal: AbortSignal | undefined): Promise<readonly Run[]> {
    const runs: Run[] = [];
    for (const lane of this.#lanes) runs.push(...(await findRuns(this.files, lane, signal)));
    return runs;
  }

  /** A file that was opened and found cut ends its run there. */
  async #splitAtCuts(runs: readonly Run[], signal: AbortSignal | undefined): Promise<readonly Run[]> {
    if (this.files.cut.size === 0) return runs;
    const split: Run[] = [];
    for (const run of runs) {
      let rest: Run | undefined = run;
      for (const [place, file] of [...this.files.cut].sort(([a], [b]) => a - b)) {
        const at: number = run.lane.indexOf(place);
        if (rest === undefined || at < rest.first || at >= rest.last) continue;
        split.push({ ...rest, end: file.end, last: at });
        const next = await firstWithLog(this.files, run.lane, at + 1, run.last, signal);
        rest = next === undefined ? undefined : { ...rest, begin: next.file.begin, first: next.at };
      }
      if (rest !== undefined) split.push(rest);
    }
    return split.filter((run) => run.end > run.begin);
  }

  async #refuseConflict(overlap: LogOverlap<Run>, signal: AbortSignal | undefined): Promise<void> {
    const { begin, end, timeline } = overlap;
    const differs = await findDifference(
      this.#readRun(overlap.file, begin, end, signal),
      this.#readRun(overlap.other, begin, end, signal),
    );
    if (differs === undefined) return;
    const keys = await Promise.all(
      [overlap.file, overlap.other].map(async (run) => (await this.#findIn(run, differs, signal))?.file.key),
    );
    throw new HoldfastError(
      'LOG_CONFLICT',
      `${keys.join(' and ')} differ at ${formatLsn(differs)} of timeline ${timeline}`,
      {
        detail: `Both hold ${formatLsn(begin)} to ${formatLsn(end)}.`,
        hint: 'Two servers wrote this timeline. Find out which one is right before restoring.',
      },
    );
  }

  /** The run's own copy of the bytes, as far as it has them. */
  async *#readRun(
    run: Run,
    begin: Lsn,
    end: Lsn,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<LogChunkRead, void, undefined> {
    for (let at = begin; at < end; ) {
      const found = await this.#findIn(run, at, signal);
      if (found === undefined) return;
      const until = found.file.end < end ? found.file.end : end;
      yield* readLogFile(this.files.place.medium, found.file, at, until, signal);
      at = until;
    }
  }

  async #findIn(run: Run, lsn: Lsn, signal: AbortSignal | undefined): Promise<Place | undefined> {
    const range = { begin: run.first, end: run.last + 1 };
    const first = await search(this.files, run.lane, range, (file) => file.end <= lsn, signal);
    // What an overtaken archiver wrote late may stand between the files of its successor.
    for (let at = first; at <= run.last && at < first + LATE_FILES; at += 1) {
      const found = await this.#firstHolding(run.lane, at, run.timeline, lsn, signal);
      if (found !== undefined) return { ...found, lane: run.lane };
    }
    return undefined;
  }

  async #find(timeline: Timeline, lsn: Lsn, signal: AbortSignal | undefined): Promise<Place | undefined> {
    for (const run of await this.#allRuns(signal)) {
      if (run.timeline !== timeline || run.begin > lsn || run.end <= lsn) continue;
      const found = await this.#findIn(run, lsn, signal);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  /** The file that gives the byte, if it is the first with log from `at` on. */
  async #firstHolding(
    lane: Lane,
    at: number,
    timeline: Timeline,
    lsn: Lsn,
    signal: AbortSignal | undefined,
  ): Promise<Found | undefined> {
    const found = await firstWithLog(this.files, lane, at, lane.length - 1, signal);
    if (found === undefined || found.file.timeline !== timeline) return undefined;
    return found.file.begin <= lsn && lsn < found.file.end ? found : undefined;
  }

  /** The file behind `place`, if it gives the byte. */
  async #next(
    place: Place | undefined,
    timeline: Timeline,
    lsn: Lsn,
    signal: AbortSignal | undefined,
  ): Promise<Place | undefined> {
    if (place === undefined) return undefined;
    const found = await this.#firstHolding(place.lane, place.at + 1, timeline, lsn, signal);
    return found === undefined ? undefined : { ...found, lane: place.lane };
  }

  /** Of one run, from the first that ends behind `begin` and, with `afterUs`, may hold such a commit. */
  async *#filesOf(
    { lane, timeline, first, last }: Run,
    begin: Lsn,
    end: Lsn,
    afterUs: bigint | undefined,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<LogFile, void, undefined> {
    const all = { begin: first, end: last + 1 };
    let at = await search(this.files, lane, all, (file) => file.end <= begin, signal);
    if (afterUs !== undefined) {
      const isEarly = async (_file: LogFile, place: number) =>
        ((await this.#maxCommitUsAt(lane, place, signal)) ?? -1n) <= afterUs;
      at = await search(this.files, lane, { ...all, begin: at }, isEarly, signal);
    }
    for (; at <= last; at += 1) {
      const file = await this.files.at(lane[at] ?? -1, signal);
      if (file === undefined || file.end === file.begin || file.timeline !== timeline) continue;
      if (file.begin >= end) return;
      if (file.end > begin) yield file;
    }
  }

  /** The running maximum of commit times up to the file at that place of the lane. */
  async #maxCommitUsAt(
    lane: Lane,
    last: number,
    signal: AbortSignal | undefined,
  ): Promise<bigint | undefined> {
    let greatest: bigint | undefined;
    for (let at = last; at >= 0; at -= 1) {
      const file = await this.files.at(lane[at] ?? -1, signal);
      for (const timeUs of [file?.maxCommitUs, file?.lastCommitUs])
        if (timeUs !== undefined && (greatest === undefined || timeUs > greatest)) greatest = timeUs;
      if (file?.hasIndex === true) break; // it knows those before it
    }
    return greatest;
  }

  /** Of the last files of the runs: an archiver's checkpoint times do not go back. */
  async #newestCheckpoint(
    runs: readonly Run[],
    end: Lsn,
    signal: AbortSignal | undefined,
  ): Promise<LogCheckpointPoint | undefined> {
    let newest: LogCheckpointPoint | undefined;
    let asked = 0;
    let probes = 0;
    for (const run of runs.toSorted((a, b) => (a.end > b.end ? -1 : 1))) {
      // Behind its last log an archiver of an idle server goes on with files that hold checkpoints only.
      let at = (await this.#nextRunIn(run, signal)) - 1;
      for (; at >= run.first && asked < CHECKPOINT_FILES && probes < CHECKPOINT_PROBES; at -= 1) {
        const file = await this.files.at(run.lane[at] ?? -1, signal);
        probes += 1;
        if (file?.checkpoint === undefined || file.timeline !== run.timeline || file.checkpoint.lsn > end)
          continue;
        asked += 1;
        if (newest === undefined || file.checkpoint.timeUs > newest.timeUs) newest = file.checkpoint;
      }
    }
    return newest;
  }

  /** Where in its lane the next run begins, or the lane ends. */
  async #nextRunIn(run: Run, signal: AbortSignal | undefined): Promise<number> {
    const next = (await this.#allRuns(signal)).find(
      (each) => each.lane === run.lane && each.first > run.last,
    );
    return next?.first ?? run.lane.length;
  }

  #placeOf(file: LogFile): number {
    return this.files.names.findIndex((name) => fileLabel(name) === fileLabel(file));
  }
}

async function findLost(
  place: LogFilesPlace,
  indexed: ReadonlySet<string>,
  listed: ReadonlySet<string>,
  signal: AbortSignal | undefined,
): Promise<readonly string[]> {
  const directory = tree.logDataDirectory(place.root, place.round, place.group);
  const lost = [...indexed].filter((label) => !listed.has(label)).map((label) => `${directory}/${label}`);
  if (lost.length > LOST_PROBES) return lost;
  const gone: string[] = [];
  for (const key of lost) if ((await place.medium.stat(key, signal)) === undefined) gone.push(key); // a listing may lag
  return gone;
}
