/**
 * Worker threads that work jobs off. A bounded number of jobs is in flight; the first failure ends all of them. A worker
 * answers each job, in order, with one message: `done` with what it did, or `failed` with a HoldfastError's fields.
 */
import type { Worker } from 'node:worker_threads';
import { HoldfastError, toHoldfastError } from '../foundation/errors.ts';
import { errorOfPlain, type PlainError } from './plain-error.ts';
import type { Threads } from './threads.ts';

/** Jobs given to one worker: one that it works on and one that waits. */
const JOBS_PER_WORKER = 2;

/** What a worker answers to a job that failed. */
export type Failed = PlainError & { readonly kind: 'failed' };
type Done = { readonly kind: 'done' };
type Member = { readonly worker: Worker; jobs: number };

/** `Message`: what the workers answer, one of whose kinds is `failed`. */
export class JobPool<Job, Message extends Done | Failed> implements AsyncDisposable {
  readonly #threads: Threads;
  readonly #size: number;
  readonly #data: unknown;
  readonly #members: Member[] = [];
  readonly #onDone: (message: Exclude<Message, Failed>) => void;
  #failure: HoldfastError | undefined;
  #closing = false;
  #changed = Promise.withResolvers<void>();

  /**
   * Up to `size` of `threads`, which stay the caller's; `data`: what each is given. One is started when there is a job that
   * the others would not begin at once.
   */
  constructor(
    threads: Threads,
    size: number,
    data: unknown,
    onDone: (message: Exclude<Message, Failed>) => void,
  ) {
    this.#threads = threads;
    this.#size = size;
    this.#data = data;
    this.#onDone = onDone;
  }

  /** Hands a job to the least busy worker, waiting while all are full. Throws what an earlier job failed with. */
  async submit(job: Job, signal: AbortSignal): Promise<void> {
    for (;;) {
      this.#check(signal);
      const member = this.#memberFor();
      if (member !== undefined) {
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

  /** Undefined: all are full. */
  #memberFor(): Member | undefined {
    const idle = this.#members.find((member) => member.jobs === 0);
    if (idle !== undefined) return idle;
    if (this.#members.length < this.#size) return this.#start();
    return this.#members
      .filter((member) => member.jobs < JOBS_PER_WORKER)
      .reduce<Member | undefined>((a, b) => (a === undefined || b.jobs < a.jobs ? b : a), undefined);
  }

  #start(): Member {
    const worker = this.#threads.start(this.#data);
    const member: Member = { worker, jobs: 0 };
    this.#members.push(member);
    worker.on('message', (message: Message) => {
      member.jobs -= 1;
      if (message.kind === 'failed') this.#fail(errorOfPlain(message));
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
