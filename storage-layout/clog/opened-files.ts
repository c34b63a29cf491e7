/**
 * The log files of a list of names, opened when they are asked for: their indexes, or where there is none the files
 * themselves, are read once, and the last few hundred are remembered.
 */
import { defined } from '../../foundation/assert.ts';
import {
  type AbandonedLogFile,
  dataKey,
  type FileName,
  fileLabel,
  isCutOff,
  type LogFile,
  type LogFilesPlace,
  openIndexed,
  openScanned,
} from './log-file.ts';

/** Enough for a search and for reading on. */
const KEPT_FILES = 256;

export class OpenedFiles {
  readonly place: LogFilesPlace;
  readonly names: readonly FileName[];
  readonly #isIndexed: boolean[];
  readonly #abandoned: readonly AbandonedLogFile[];
  readonly #files = new Map<number, Promise<LogFile | undefined>>();
  /** Of files without an index: how long they were before they were read. */
  readonly #sizes = new Map<number, number>();
  readonly #cut = new Map<number, LogFile>();

  constructor(
    place: LogFilesPlace,
    names: readonly FileName[],
    indexed: ReadonlySet<string>,
    abandoned: readonly AbandonedLogFile[],
  ) {
    this.place = place;
    this.names = names;
    this.#isIndexed = names.map((name) => indexed.has(fileLabel(name)));
    this.#abandoned = abandoned;
  }

  isIndexed(place: number): boolean {
    return this.#isIndexed[place] === true;
  }

  /** Length of a file without an index, before it was read; 0: it was not. */
  sizeBytes(place: number): number {
    return this.#sizes.get(place) ?? 0;
  }

  /** Sealed files, of those that were opened, that have lost their tail since, by their places. */
  get cut(): ReadonlyMap<number, LogFile> {
    return this.#cut;
  }

  /** Undefined for a file that does not even say what it is, and behind the last place. Throws DATA_CORRUPT (the index). */
  async at(place: number, signal: AbortSignal | undefined): Promise<LogFile | undefined> {
    if (place < 0 || place >= this.names.length) return undefined;
    const known = this.#files.get(place);
    if (known !== undefined) return await known;
    const [oldest] = this.#files.keys();
    if (oldest !== undefined && this.#files.size >= KEPT_FILES) this.#files.delete(oldest);
    const opening = this.#open(place, signal);
    this.#files.set(place, opening);
    opening.catch(() => this.#files.delete(place)); // whoever waits for it sees the error
    return await opening;
  }

  /** From now on the file counts as its index says. */
  noteSealed(place: number, sealed: LogFile): void {
    this.#isIndexed[place] = true;
    this.#files.set(place, Promise.resolve(sealed));
  }

  async #open(place: number, signal: AbortSignal | undefined): Promise<LogFile | undefined> {
    const name = defined(this.names[place], 'a file of the list');
    const stored = await this.place.medium.stat(dataKey(this.place, name), signal);
    if (this.isIndexed(place)) {
      const file = await openIndexed(this.place, name, stored?.sizeBytes ?? 0, signal);
      if (isCutOff(file)) this.#cut.set(place, file);
      return file;
    }
    this.#sizes.set(place, stored?.sizeBytes ?? 0);
    const left = this.#abandoned.find((file) => fileLabel(file) === fileLabel(name));
    return await openScanned(this.place, name, signal, left?.durableBytes);
  }
}
