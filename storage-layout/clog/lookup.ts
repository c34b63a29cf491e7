/**
 * Finding log among very many files: the names are listed, and of their indexes only those are read that a binary
 * search meets. It rests on how archivers name files: one archiver (epoch) writes ids one after the other, each file
 * beginning where the one before ended; a successor takes greater ids, and begins where it sealed its predecessor.
 *
 * 1. Along the names (file id, epoch) timeline and begin never go back, and neither does the running maximum of commit
 *    times. Where two epochs' ids overlap (two archivers wrote at once) that need not hold: then every index is read, and
 *    archive.ts decides.
 * 2. Consecutive ids of one epoch and timeline hold an unbroken range: its ends tell it. A file that is missing or has no
 *    index is seen from the names. One that is shorter than its index says is noticed when it is read, not before.
 */
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn, type Lsn, type Timeline } from '../../foundation/lsn.ts';
import type { Medium } from '../media/medium.ts';
import { type RoundKey, type TreeRoot, tree } from '../tree.ts';
import { LogArchive, type LogCoverage } from './archive.ts';
import {
  dataKey,
  type FileName,
  fileLabel,
  findNames,
  type LogChunkRead,
  type LogFile,
  type LogFilesPlace,
  openIndexed,
  openScanned,
  readLogFile,
} from './log-file.ts';
import { joinPieces, planPieces } from './ranges.ts';

/** Opened files that are remembered: enough for a search and for reading on. */
const KEPT_FILES = 256;

/** Files `first` to `last` (places in the names) hold [begin, end) of one timeline without a break. */
type Run = {
  readonly timeline: Timeline;
  readonly begin: Lsn;
  readonly end: Lsn;
  readonly first: number;
  readonly last: number;
};

export class LogLookup {
  readonly #place: LogFilesPlace;
  readonly #names: readonly FileName[];
  readonly #indexed: ReadonlySet<string>;
  /** Set when the names do not tell an order. */
  readonly #whole: LogArchive | undefined;
  readonly #files = new Map<number, Promise<LogFile | undefined>>();
  #runs: Promise<readonly Run[]> | undefined;

  private constructor(
    place: LogFilesPlace,
    names: readonly FileName[],
    indexed: ReadonlySet<string>,
    whole: LogArchive | undefined,
  ) {
    this.#place = place;
    this.#names = names;
    this.#indexed = indexed;
    this.#whole = whole;
  }

  /** Lists the names. Throws the medium's errors; where archivers overlapped, also what LogArchive.open throws. */
  static async open(
    medium: Medium,
    root: TreeRoot,
    round: RoundKey,
    group: string,
    signal?: AbortSignal,
  ): Promise<LogLookup> {
    const place = { medium, root, round, group };
    const indexed = new Set(await medium.listNames(tree.logIndexDirectory(root, round, group), signal));
    const names = await findNames(place, signal);
    const whole = epochsOverlap(names)
      ? await LogArchive.open(medium, root, round, group, signal)
      : undefined;
    return new LogLookup(place, names, indexed, whole);
  }

  /** Whether nothing was ever archived. */
  get isEmpty(): boolean {
    return this.#names.length === 0;
  }

  /** The unbroken ranges, in order of (timeline, begin), and until when each is known. Throws LOG_CONFLICT. */
  async coverage(signal?: AbortSignal): Promise<readonly LogCoverage[]> {
    if (this.#whole !== undefined) return this.#whole.coverage();
    const runs = await this.#findRuns(signal);
    const { pieces, overlaps } = planPieces(runs);
    if (overlaps.length > 0) return (await this.#readWhole(signal)).coverage();
    const ranges: LogCoverage[] = [];
    for (const range of joinPieces(pieces)) {
      const inside = runs.filter(
        (run) => run.timeline === range.timeline && run.begin < range.end && run.end > range.begin,
      );
      let checkpointUs: bigint | undefined;
      for (const run of inside.toReversed()) checkpointUs ??= await this.#checkpointOf(run, signal);
      ranges.push({ ...range, checkpointUs });
    }
    return ranges;
  }

  /** The file that gives the byte at `lsn`, undefined when none does. */
  async fileAt(timeline: Timeline, lsn: Lsn, signal?: AbortSignal): Promise<LogFile | undefined> {
    return (await this.#find(timeline, lsn, signal))?.file;
  }

  /**
   * The files that hold bytes of [begin, end) on `timeline`, in order; those before the first with a commit after
   * `afterUs` are left out, when it is given.
   */
  async *filesBetween(
    timeline: Timeline,
    begin: Lsn,
    end: Lsn,
    afterUs?: bigint,
    signal?: AbortSignal,
  ): AsyncGenerator<LogFile, void, undefined> {
    if (this.#whole !== undefined) {
      this.#whole.coverage(); // refuses a conflict
      yield* this.#whole.filesBetween(timeline, begin, end, afterUs);
      return;
    }
    const first = await this.#partition((file) => isBefore(file, timeline, begin), signal);
    const late =
      afterUs === undefined
        ? 0
        : await this.#partition(
            async (_, place) => ((await this.#maxCommitUs(place, signal)) ?? -1n) <= afterUs,
            signal,
          );
    for (let place = Math.max(first, late); place < this.#names.length; place += 1) {
      const file = await this.#open(place, signal);
      if (file === undefined) continue;
      if (file.timeline > timeline || (file.timeline === timeline && file.begin >= end)) return;
      if (file.timeline === timeline && file.end > begin) yield file;
    }
  }

  /** As LogArchive.read, but for LOG_GAP, which comes when reading gets there. */
  async *read(
    timeline: Timeline,
    begin: Lsn,
    end: Lsn,
    signal?: AbortSignal,
  ): AsyncGenerator<LogChunkRead, void, undefined> {
    if (this.#whole !== undefined) {
      yield* this.#whole.read(timeline, begin, end, signal);
      return;
    }
    let at = begin;
    let place: number | undefined;
    while (at < end) {
      signal?.throwIfAborted();
      const next: LogFile | undefined = place === undefined ? undefined : await this.#open(place + 1, signal);
      const follows = next !== undefined && next.timeline === timeline && next.begin <= at && at < next.end;
      const found: { readonly file: LogFile; readonly place: number } | undefined =
        follows && place !== undefined
          ? { file: next, place: place + 1 }
          : await this.#find(timeline, at, signal);
      if (found === undefined) throw await this.#gap(timeline, at, signal);
      const until = found.file.end < end ? found.file.end : end;
      yield* readLogFile(this.#place.medium, found.file, at, until, signal);
      at = until;
      place = found.place;
    }
  }

  async #find(
    timeline: Timeline,
    lsn: Lsn,
    signal: AbortSignal | undefined,
  ): Promise<{ readonly file: LogFile; readonly place: number } | undefined> {
    if (this.#whole !== undefined) {
      const file = this.#whole.fileFor(timeline, lsn);
      return file === undefined ? undefined : { file, place: -1 };
    }
    // The first file that ends behind the byte, if it begins at or before it.
    const first = await this.#partition((file) => isBefore(file, timeline, lsn), signal);
    for (let place = first; place < this.#names.length; place += 1) {
      const file = await this.#open(place, signal);
      if (file === undefined) continue;
      if (file.timeline !== timeline || file.begin > lsn) return undefined;
      if (file.end > lsn) return { file, place };
    }
    return undefined;
  }

  /** The first place for which `holds` is false; it is true for all places before that one. */
  async #partition(
    holds: (file: LogFile, place: number) => boolean | Promise<boolean>,
    signal: AbortSignal | undefined,
  ): Promise<number> {
    let low = 0;
    let high = this.#names.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      // A file that does not even say what it is says nothing here: its neighbour does.
      let place = middle;
      let file = await this.#open(place, signal);
      while (file === undefined && place > low) file = await this.#open(--place, signal);
      if (file === undefined || (await holds(file, place))) low = middle + 1;
      else high = place;
    }
    return low;
  }

  /** The running maximum of commit times up to the file at `place`. */
  async #maxCommitUs(place: number, signal: AbortSignal | undefined): Promise<bigint | undefined> {
    let greatest: bigint | undefined;
    for (let at = place; at >= 0; at -= 1) {
      const file = await this.#open(at, signal);
      for (const timeUs of [file?.maxCommitUs, file?.lastCommitUs])
        if (timeUs !== undefined && (greatest === undefined || timeUs > greatest)) greatest = timeUs;
      if (file?.hasIndex === true) break; // it knows those before it
    }
    return greatest;
  }

  async #checkpointOf(run: Run, signal: AbortSignal | undefined): Promise<bigint | undefined> {
    for (let place = run.last; place >= run.first; place -= 1) {
      const checkpoint = (await this.#open(place, signal))?.checkpoint;
      if (checkpoint !== undefined && checkpoint.lsn <= run.end) return checkpoint.timeUs;
    }
    return undefined;
  }

  async #findRuns(signal: AbortSignal | undefined): Promise<readonly Run[]> {
    this.#runs ??= this.#makeRuns(signal);
    return await this.#runs;
  }

  async #makeRuns(signal: AbortSignal | undefined): Promise<readonly Run[]> {
    const runs: Run[] = [];
    for (let first = 0; first < this.#names.length; ) {
      let last = first;
      while (this.#continues(last)) last += 1;
      runs.push(...(await this.#splitByTimeline(first, last, signal)));
      first = last + 1;
    }
    return runs.filter((run) => run.end > run.begin);
  }

  /** Whether the next file was written behind this one by the same archiver, and both have indexes. */
  #continues(place: number): boolean {
    const name = this.#names[place];
    const next = this.#names[place + 1];
    if (name === undefined || next === undefined) return false;
    if (!this.#indexed.has(fileLabel(name)) || !this.#indexed.has(fileLabel(next))) return false;
    return next.epoch === name.epoch && next.fileId === name.fileId + 1n;
  }

  async #splitByTimeline(from: number, to: number, signal: AbortSignal | undefined): Promise<readonly Run[]> {
    const runs: Run[] = [];
    let first = from;
    while (first <= to) {
      const head = await this.#open(first, signal);
      // A file in which no log became durable promised nothing: the next need not follow it.
      if (head === undefined || head.end === head.begin) {
        first += 1;
        continue;
      }
      // As a rule an archiver writes one timeline: its last file tells.
      let low = (await this.#open(to, signal))?.timeline === head.timeline ? to : first;
      let high = to;
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if ((await this.#open(middle, signal))?.timeline === head.timeline) low = middle;
        else high = middle - 1;
      }
      const tail = low === first ? head : await this.#open(low, signal);
      const end = tail?.timeline === head.timeline ? tail.end : head.end;
      runs.push({ timeline: head.timeline, begin: head.begin, end, first, last: low });
      first = low + 1;
    }
    return runs;
  }

  async #readWhole(signal: AbortSignal | undefined): Promise<LogArchive> {
    const { medium, root, round, group } = this.#place;
    return await LogArchive.open(medium, root, round, group, signal);
  }

  async #open(place: number, signal: AbortSignal | undefined): Promise<LogFile | undefined> {
    const known = this.#files.get(place);
    if (known !== undefined) return await known;
    const name = this.#names[place];
    if (name === undefined) return undefined;
    const [oldest] = this.#files.keys();
    if (oldest !== undefined && this.#files.size >= KEPT_FILES) this.#files.delete(oldest);
    const opening = this.#read(name, signal);
    this.#files.set(place, opening);
    opening.catch(() => this.#files.delete(place)); // whoever waits for it sees the error
    return await opening;
  }

  async #read(name: FileName, signal: AbortSignal | undefined): Promise<LogFile | undefined> {
    if (!this.#indexed.has(fileLabel(name))) return await openScanned(this.#place, name, signal);
    const stored = await this.#place.medium.stat(dataKey(this.#place, name), signal);
    return await openIndexed(this.#place, name, stored?.sizeBytes ?? 0, signal);
  }

  async #gap(timeline: Timeline, at: Lsn, signal: AbortSignal | undefined): Promise<HoldfastError> {
    const { round, group } = this.#place;
    const { key, ignored } = (await this.#fileEndingBefore(timeline, at, signal)) ?? {};
    return new HoldfastError(
      'LOG_GAP',
      `the log of partition group ${group} in round ${round.round} lacks ${formatLsn(at)} of timeline ${timeline}`,
      ignored === undefined ? {} : { detail: `${key}: ${ignored.reason}` },
    );
  }

  async #fileEndingBefore(
    timeline: Timeline,
    at: Lsn,
    signal: AbortSignal | undefined,
  ): Promise<LogFile | undefined> {
    const place = await this.#partition((file) => isBefore(file, timeline, at), signal);
    return place === 0 ? undefined : await this.#open(place - 1, signal);
  }
}

/** Whether all of the file lies before the byte at `lsn` of `timeline`. */
function isBefore(file: LogFile, timeline: Timeline, lsn: Lsn): boolean {
  return file.timeline < timeline || (file.timeline === timeline && file.end <= lsn);
}

/** Whether some epoch began a file id before another epoch's last. `names` in order. */
function epochsOverlap(names: readonly FileName[]): boolean {
  const ended = new Set<bigint>();
  let current: FileName | undefined;
  for (const name of names) {
    if (current !== undefined && current.epoch !== name.epoch) {
      if (ended.has(name.epoch) || current.fileId === name.fileId) return true;
      ended.add(current.epoch);
    }
    current = name;
  }
  return false;
}
