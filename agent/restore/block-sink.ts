/** Where the jobs of a baseline go: to the threads that write blocks, in a delta restore past those that compare first. */
import { JobPool } from '../job-pool.ts';
import { Threads } from '../threads.ts';
import type { BlockJob } from './block-job.ts';
import type { BlockPool } from './block-pool.ts';
import type { CompareWorkerMessage } from './compare-worker.ts';

const COMPARE_FILE = new URL('compare-worker.ts', import.meta.url);

/** For a `ComparingSink`. */
export function compareThreads(expected: number): Threads {
  return new Threads(COMPARE_FILE, expected);
}

export interface BlockSink extends AsyncDisposable {
  /** Takes a job, waiting while too many are under way. Throws what an earlier one failed with. */
  submit(job: BlockJob, signal: AbortSignal): Promise<void>;
  /** Resolves when every job is done. */
  drain(signal: AbortSignal): Promise<void>;
}

/** Compares each job with what is there, and hands on what differs. Disposes `pool` with itself. */
export class ComparingSink implements BlockSink {
  readonly #pool: BlockPool;
  readonly #compare: JobPool<BlockJob, CompareWorkerMessage>;
  readonly #compared: BlockJob[] = [];

  /** `threads`: of compareThreads. `onKept` is told of blocks that stay as they are. */
  constructor(
    pool: BlockPool,
    threads: Threads,
    size: number,
    onKept: (bytes: number, blocks: number) => void,
  ) {
    this.#pool = pool;
    this.#compare = new JobPool(threads, size, undefined, ({ job, keptBytes, keptBlocks }) => {
      this.#compared.push(job);
      onKept(keptBytes, keptBlocks);
    });
  }

  async submit(job: BlockJob, signal: AbortSignal): Promise<void> {
    await this.#compare.submit(job, signal);
    await this.#handOn(signal);
  }

  async drain(signal: AbortSignal): Promise<void> {
    await this.#compare.drain(signal);
    await this.#handOn(signal);
    await this.#pool.drain(signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#compare[Symbol.asyncDispose]();
    await this.#pool[Symbol.asyncDispose]();
  }

  /** No more are compared than the writers take: the queue is as long as what is under way. */
  async #handOn(signal: AbortSignal): Promise<void> {
    for (let job = this.#compared.shift(); job !== undefined; job = this.#compared.shift())
      await this.#pool.submit(job, signal);
  }
}
