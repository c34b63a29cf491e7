/**
 * Worker threads that work jobs off. A bounded number of jobs is in flight; the first failure ends all of them. A worker
 * answers each job, in order, with one message: `done` with what it did, or `failed` with a HoldfastError's fields.
 */
import { Worker } from 'node:worker_threads';
import { type ErrorCode, HoldfastError, toHoldfastError } from '../foundation/errors.ts';

/** Jobs given to one worker: one that it works on and one that waits. */
const JOBS_PER_WORKER = 2;
/** A worker's garbage is small and short-lived; its blocks live outside the heap. */
const WORKER_LIMITS = { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 64 } as const;

type Failed = {
  readonly kind: 'failed';
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint: string | undefined;
  readonly detail: string | undefined;
};
type Done = { readonly kind: 'done' };
type Member = { readonly worker: Worker; jobs: number };

/** `Message`: what the workers answer, one of whose kinds is `failed`. */
export class JobPool<Job, Message extends Done | Failed> implements AsyncDisposable {
  readonly #members: readonly Member[];
  readonly #onDone: (message: Exclude<Message, Failed>) => void;
  #failure: HoldfastError | undefined;
  #closing = false;
  #changed = Promise.withResolvers<void>();

  /** `file`: the worker's module; `data`: what it is given at its start. */
  constructor(file: URL, size: number, data: unknown, onDone: (message: Exclude<Message, Failed>) => void) {
    this.#onDone = onDone;
    this.#members = Array.from({ length: size }, () => this.#start(file, data));
  }

  /** Hands a job to the least busy worker, waiting while all are full. Throws what an earlier job failed with. */
  async submit(job: Job, signal: AbortSignal): Promise<void> {
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

  #start(file: URL, data: unknown): Member {
    const worker = new Worker(file, { workerData: data, resourceLimits: WORKER_LIMITS });
    const member: Member = { worker, jobs: 0 };
    worker.on('message', (message: Message) => {
      member.jobs -= 1;
      if (message.kind === 'failed') this.#fail(failureOf(message));
      else this.#onDone(message as Exclude<Message, Failed>); // the other kind was just ruled out
      this.#notify();
    });
    worker.on('error', (error) => this.#fail(toHoldfastError(error)));
    worker.on('exit', (code) => {
      if (!this.#closing)
        this.#fail(new HoldfastError('INTERNAL', `a worker thread ended with code ${code}`));
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

function failureOf(message: Failed): HoldfastError {
  return new HoldfastError(message.code, message.message, {
    ...(message.hint === undefined ? {} : { hint: message.hint }),
    ...(message.detail === undefined ? {} : { detail: message.detail }),
  });
}
