/**
 * The reader of an embedded catalog: one query process for each client session, taken from a spare that is kept warm.
 *
 * Invariants:
 * - A query process serves one session in its life and is killed after it: nothing that one client did to its copy can
 *   be seen by another.
 * - At most `maxProcesses` live at once, the spare included.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { defined } from '../../../foundation/assert.ts';
import { HoldfastError } from '../../../foundation/errors.ts';
import type { Reader, ReadingSession, ViewSource } from '../reader.ts';
import { QueryProcess } from './query-process.ts';
import { provideSnapshot, type Snapshot } from './snapshot.ts';

export type PgliteReaderOptions = {
  readonly views: ViewSource;
  /** Default 8; each holds about 400 MB. */
  readonly maxProcesses?: number;
  /**
   * The coordinator's own directory: the snapshot (about 25 MB) is kept in `query-snapshot` below it, from one start to
   * the next. Default: a new directory in the system's temporary one, which goes with the reader.
   */
  readonly directory?: string;
};

const MAX_PROCESSES = 8;
/** How long a client waits for a place before it is refused. */
const WAIT_FOR_PLACE_MS = 5000;
const POLL_MS = 50;

/** Begins to prepare the first query process; `open` waits for it. */
export function startPgliteReader(options: PgliteReaderOptions): PgliteReader {
  return new PgliteReader(options);
}

class PgliteReader implements Reader {
  readonly #views: ViewSource;
  readonly #maxProcesses: number;
  readonly #stopping = new AbortController();
  readonly #directory: string | undefined;
  readonly #live = new Set<QueryProcess>();
  readonly #ending = new Set<Promise<void>>();
  #temporary: string | undefined;
  #snapshot: Promise<Snapshot> | undefined;
  #discarded: Snapshot | undefined;
  #starting = 0;
  #serverVersion: string | undefined;
  #spare: Promise<QueryProcess> | undefined;

  constructor(options: PgliteReaderOptions) {
    this.#views = options.views;
    this.#maxProcesses = options.maxProcesses ?? MAX_PROCESSES;
    this.#directory = options.directory;
    this.#startSpare();
  }

  async serverVersion(): Promise<string> {
    if (this.#serverVersion === undefined) {
      this.#startSpare();
      await this.#spare;
    }
    this.#stopping.signal.throwIfAborted();
    return defined(this.#serverVersion, 'the version of a query process that has started');
  }

  async open(signal: AbortSignal): Promise<ReadingSession> {
    this.#stopping.signal.throwIfAborted();
    const process = await this.#take(signal);
    return {
      refresh: (texts, bounded) => this.#refresh(process, texts, bounded),
      async *exchange(message, bounded) {
        yield* await process.exchange(message, bounded);
      },
      [Symbol.asyncDispose]: () => this.#endProcess(process),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort(new HoldfastError('SHUTTING_DOWN', 'the coordinator is shutting down'));
    await this.#spare?.catch(() => undefined);
    await Promise.all([...this.#live].map((process) => this.#endProcess(process)));
    await Promise.all(this.#ending);
    if (this.#temporary !== undefined) await rm(this.#temporary, { recursive: true, force: true });
  }

  /** Provided once; again when that failed. */
  async #readySnapshot(): Promise<Snapshot> {
    this.#snapshot ??= this.#provide();
    try {
      return await this.#snapshot;
    } catch (error) {
      this.#snapshot = undefined;
      throw error;
    }
  }

  async #provide(): Promise<Snapshot> {
    if (this.#directory === undefined) this.#temporary ??= await mkdtemp(join(tmpdir(), 'holdfast-query-'));
    const directory = this.#temporary ?? join(this.#directory ?? '', 'query-snapshot');
    return await provideSnapshot(directory, this.#views.views, this.#stopping.signal);
  }

  /** The spare, or a new process; and a new spare behind it. */
  async #take(signal: AbortSignal): Promise<QueryProcess> {
    await this.#waitForPlace(signal);
    const spare = this.#spare;
    this.#spare = undefined;
    const process = await (spare ?? this.#start());
    if (!process.alive) {
      await this.#endProcess(process);
      return await this.#take(signal);
    }
    this.#startSpare();
    if (signal.aborted) {
      await this.#endProcess(process);
      signal.throwIfAborted();
    }
    return process;
  }

  /** Resolves when there is a spare, or room for a process. Throws TOO_MANY_SESSIONS, or what `signal` aborts with. */
  async #waitForPlace(signal: AbortSignal): Promise<void> {
    const deadlineMs = performance.now() + WAIT_FOR_PLACE_MS;
    while (this.#spare === undefined && this.#live.size + this.#starting >= this.#maxProcesses) {
      signal.throwIfAborted();
      if (performance.now() >= deadlineMs)
        throw new HoldfastError(
          'TOO_MANY_SESSIONS',
          `${this.#maxProcesses} clients read the catalog already`,
          {
            hint: 'Try again when one of them has finished. A client that is quiet for a minute gives its place back.',
          },
        );
      await setTimeout(POLL_MS);
    }
  }

  #startSpare(): void {
    if (this.#spare !== undefined || this.#stopping.signal.aborted) return;
    if (this.#live.size + this.#starting >= this.#maxProcesses) return;
    const spare = this.#start();
    this.#spare = spare;
    // Reported by whoever takes it; the next one begins anew.
    spare.catch(() => {
      if (this.#spare === spare) this.#spare = undefined;
    });
  }

  async #start(): Promise<QueryProcess> {
    this.#starting += 1;
    try {
      const process = await this.#startFrom(await this.#readySnapshot());
      this.#serverVersion = process.serverVersion;
      this.#live.add(process);
      if (this.#stopping.signal.aborted) await this.#endProcess(process);
      return process;
    } finally {
      this.#starting -= 1;
    }
  }

  /** A kept snapshot from which nothing starts is made anew. */
  async #startFrom(snapshot: Snapshot): Promise<QueryProcess> {
    try {
      return await QueryProcess.start(snapshot.path);
    } catch (error) {
      if (!snapshot.isKept || this.#stopping.signal.aborted) throw error;
      if (this.#discarded !== snapshot) {
        this.#discarded = snapshot; // by one of those that it failed: they share the next one
        this.#snapshot = rm(snapshot.path, { force: true }).then(() => this.#provide());
      }
      return await QueryProcess.start((await this.#readySnapshot()).path);
    }
  }

  async #endProcess(process: QueryProcess): Promise<void> {
    this.#live.delete(process);
    const ending = process[Symbol.asyncDispose]().finally(() => this.#ending.delete(ending));
    this.#ending.add(ending);
    await ending;
    this.#startSpare();
  }

  /** Loads the mentioned views whose counter moved. True when it loaded one. */
  async #refresh(
    process: QueryProcess,
    texts: readonly string[] | undefined,
    signal: AbortSignal,
  ): Promise<boolean> {
    const counter = this.#views.changeCounter();
    const text = texts?.join('\n').toLowerCase();
    const stale = this.#views.views
      .map(({ name }) => name)
      .filter((name) => (text === undefined || text.includes(name)) && process.loaded.get(name) !== counter);
    if (stale.length === 0) return false;
    const loads: { readonly name: string; readonly rows: string }[] = [];
    for (const name of stale) loads.push({ name, rows: await this.#views.readView(name, signal) });
    await process.load(loads, signal);
    for (const name of stale) process.loaded.set(name, counter);
    return true;
  }
}
