/**
 * The worker threads of one restore. A bounded number of jobs is in flight; the first failure ends all of them.
 */
import { Worker } from 'node:worker_threads';
import { HoldfastError, toHoldfastError } from '../../foundation/errors.ts';
import type { BlockJob, BlockWorkerData, BlockWorkerMessage } from './block-job.ts';

/** Jobs given to one worker: one that it works on and one that waits. */
const JOBS_PER_WORKER = 2;
/** A worker's garbage is small and short-lived; its blocks live outside the heap. */
const WORKER_LIMITS = { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 64 } as const;

type Member = { readonly worker: Worker; jobs: number };

export class BlockPool implements AsyncDisposable {
  readonly #members: readonly Member[];
  readonly #onDone: (bytes: number, blocks: number) => void;
  #failure: HoldfastError | undefined;
  #closing = false;
  #changed = Promise.withResolvers<void>();

  constructor(size: number, data: BlockWorkerData, onDone: (bytes: number, blocks: number) => void) {
    this.#onDone = onDone;
    this.#members = Array.from({ length: size }, () => this.#start(data));
  }

  /** Hands a job to the least busy worker, waiting while all are full. Throws what an earlier job failed with. */
  async submit(job: BlockJob, signal: AbortSignal): Promise<void> {
    for (;;) {
      this.#check(signal);
      const member = this.#members.reduce((a, b) => (b.jobs < a.jobs ? b : a));
      if (member.jobs < JOBS_PER_WORKER) {
        member.jobs += 1;
        member.worker.postMessage(job, []);
        return;
      }
      await this.#wait(signal);
    }
  }

  /** Resolves when every job is done. */
  async drain(signal: AbortSignal): Promise<void> {
    for (;;) {
      this.#check(signal);
      if (this.#members.every((member) => member.jobs === 0)) return;
      await this.#wait(signal);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing = true;
    await Promise.all(this.#members.map((member) => member.worker.terminate()));
  }

  #start(data: BlockWorkerData): Member {
    const worker = new Worker(new URL('./block-worker.ts', import.meta.url), {
      workerData: data,
      resourceLimits: WORKER_LIMITS,
    });
    const member: Member = { worker, jobs: 0 };
    worker.on('message', (message: BlockWorkerMessage) => {
      member.jobs -= 1;
      if (message.kind === 'done') this.#onDone(message.bytes, message.blocks);
      else this.#fail(failureOf(message));
      this.#notify();
    });
    worker.on('error', (error) => this.#fail(toHoldfastError(error)));
    worker.on('exit', (code) => {
      if (!this.#closing)
        this.#fail(new HoldfastError('INTERNAL', `a restore's worker thread ended with code ${code}`));
    });
    return member;
  }

  #check(signal: AbortSignal): void {
    signal.throwIfAborted();
    if (this.#failure !== undefined) throw this.#failure;
  }

  #fail(error: HoldfastError): void {
    this.#failure ??= error;
    this.#notify();
  }

  #notify(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers<void>();
  }

  async #wait(signal: AbortSignal): Promise<void> {
    const aborted = Promise.withResolvers<void>();
    const onAbort = () => aborted.resolve();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      await Promise.race([this.#changed.promise, aborted.promise]);
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }
}

function failureOf(message: BlockWorkerMessage & { readonly kind: 'failed' }): HoldfastError {
  return new HoldfastError(message.code, message.message, {
    ...(message.hint === undefined ? {} : { hint: message.hint }),
    ...(message.detail === undefined ? {} : { detail: message.detail }),
  });
}
