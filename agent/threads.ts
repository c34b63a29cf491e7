/**
 * Worker threads of one module. To load a module and all that it imports takes a thread some 200 ms, as long as an increment
 * of a quiet database: so some are started before what they are to do is known (spares), and load meanwhile. What they are
 * to do comes as their first message (thread-settings.ts).
 */
import { Worker } from 'node:worker_threads';

/** A thread's garbage is small and short-lived; its blocks live outside the heap. Saves some 7 MB each. */
const LIMITS = { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 64 } as const;

/** The others are started when there is something to do for them: there may be less than was thought. */
const MAX_SPARES = 2;

export class Threads implements AsyncDisposable {
  readonly #file: URL;
  readonly #spares = new Set<Worker>();

  /** `expected`: how many will be taken, as far as is known; the first of them are started at once. */
  constructor(file: URL, expected = 0) {
    this.#file = file;
    for (let count = 0; count < Math.min(expected, MAX_SPARES); count += 1) this.#addSpare();
  }

  /** A thread that is given its settings, a spare one if there is one. It is the caller's from now on. */
  start(settings: unknown): Worker {
    const [spare] = this.#spares;
    if (spare !== undefined) this.#spares.delete(spare);
    const worker = spare ?? new Worker(this.#file, { resourceLimits: LIMITS });
    worker.postMessage(settings, []);
    return worker;
  }

  /** Ends the spares that were not taken. */
  async [Symbol.asyncDispose](): Promise<void> {
    const spares = [...this.#spares];
    this.#spares.clear();
    await Promise.all(spares.map((worker) => worker.terminate()));
  }

  /** One that cannot even load is none; the next that is started says why. */
  #addSpare(): void {
    const worker = new Worker(this.#file, { resourceLimits: LIMITS });
    worker.on('error', () => this.#spares.delete(worker));
    worker.on('exit', () => this.#spares.delete(worker));
    this.#spares.add(worker);
  }
}
