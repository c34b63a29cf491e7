/** Runs a backup's sub tasks on worker threads. All threads have ended when a function of this file returns or throws. */
import type { Worker } from 'node:worker_threads';
import { HoldfastError } from '../../foundation/errors.ts';
import { errorOfPlain } from '../plain-error.ts';
import { Threads } from '../threads.ts';
import type { SubTask } from './plan.ts';
import type { Redo } from './resume/redo.ts';
import type { FromWorker, SubTaskCopy, ToWorker, WorkerSettings } from './worker-protocol.ts';

const WORKER_FILE = new URL('copy-worker.ts', import.meta.url);

/** For the functions of this file. */
export function copyThreads(expected: number): Threads {
  return new Threads(WORKER_FILE, expected);
}

/**
 * Copies the sub tasks as they come, on up to `workerCount` threads, a further one for each sub task that is known;
 * `onCopied` is told each copy when it is durable, in no order. One whose destination failed is done again, as long as `redo`
 * says so. The first other failure, or an aborted `signal`, ends all at once: files that were not finished stay behind as
 * garbage that no index names.
 */
export async function runSubTasks(
  threads: Threads,
  subTasks: AsyncGenerator<SubTask, void, undefined>,
  settings: WorkerSettings,
  workerCount: number,
  onCopied: (copy: SubTaskCopy) => void,
  redo: Redo,
  signal: AbortSignal,
): Promise<void> {
  signal.throwIfAborted();
  const ended = new AbortController();
  const queue = new SubTaskQueue(subTasks, redo, AbortSignal.any([signal, ended.signal]));
  const workers: Worker[] = [];
  const runs: Promise<void>[] = [];
  const { promise: failed, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(signal.reason as Error); // whatever the caller aborted with
  signal.addEventListener('abort', onAbort, { once: true });
  const start = () => {
    const worker = threads.start(settings);
    workers.push(worker);
    const run = serve(worker, queue, onCopied);
    run.catch(reject);
    runs.push(run);
  };
  const runAll = async () => {
    if (workerCount > 0) start();
    while (workers.length < workerCount && (await queue.hasMoreThan(workers.length))) start();
    await Promise.all(runs);
  };
  try {
    await Promise.race([runAll(), failed]);
  } finally {
    signal.removeEventListener('abort', onAbort);
    ended.abort();
    await Promise.all(workers.map((worker) => worker.terminate()));
    await subTasks.return();
  }
}

/** The sub tasks that are to be done: as they come, and those that are done again. */
class SubTaskQueue {
  readonly #source: AsyncGenerator<SubTask, void, undefined>;
  readonly #redo: Redo;
  readonly #signal: AbortSignal;
  readonly #again: SubTask[] = [];
  /** Known, and given to no worker yet. */
  readonly #ahead: SubTask[] = [];
  #known = 0;
  /** Given to workers and not yet durable, or waiting to be done again. */
  #open = 0;
  #sourceHasEnded = false;
  #changed = Promise.withResolvers<void>();

  constructor(source: AsyncGenerator<SubTask, void, undefined>, redo: Redo, signal: AbortSignal) {
    this.#source = source;
    this.#redo = redo;
    this.#signal = signal;
  }

  /** Undefined when all are durable: until then one may come back. */
  async next(): Promise<SubTask | undefined> {
    for (;;) {
      const again = this.#again.shift();
      if (again !== undefined) return again;
      const next = this.#ahead.shift();
      if (next !== undefined) {
        this.#open += 1;
        return next;
      }
      if (!this.#sourceHasEnded) await this.#learnNext();
      else if (this.#open === 0) return undefined;
      else await this.#changed.promise;
    }
  }

  /** Whether there are or were more sub tasks than so many. */
  async hasMoreThan(count: number): Promise<boolean> {
    while (this.#known <= count && !this.#sourceHasEnded) await this.#learnNext();
    return this.#known > count;
  }

  async #learnNext(): Promise<void> {
    const next = await this.#source.next();
    if (next.done === true) {
      this.#sourceHasEnded = true;
      return;
    }
    this.#known += 1;
    this.#ahead.push(next.value);
  }

  isDurable(): void {
    this.#open -= 1;
    this.#redo.succeeded();
    this.#notify();
  }

  /** Throws `error` when it is not done again. */
  async giveBack({ subTaskId, pieces, redoOf }: SubTask, error: HoldfastError): Promise<void> {
    const id = await this.#redo.failed(error, this.#signal);
    this.#again.push({ subTaskId: id, pieces, redoOf: redoOf ?? subTaskId });
    this.#notify();
  }

  #notify(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers<void>();
  }
}

/** Hands sub tasks to one worker whenever it is ready; resolves when its thread has ended. */
async function serve(
  worker: Worker,
  queue: SubTaskQueue,
  onCopied: (copy: SubTaskCopy) => void,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const send = (message: ToWorker) => worker.postMessage(message, []);
  const giveNext = async () => {
    const subTask = await queue.next();
    send(subTask === undefined ? { kind: 'end' } : { kind: 'copy', subTask });
  };
  // A worker whose sub task came back waits with it: it would meet the same destination.
  let givingBack: Promise<void> = Promise.resolve();
  worker.on('message', (message: FromWorker) => {
    if (message.kind === 'failed') reject(errorOfPlain(message.error));
    else if (message.kind === 'ready') givingBack.then(giveNext).catch(reject);
    else if (message.kind === 'undone') {
      givingBack = Promise.all([
        givingBack,
        queue.giveBack(message.subTask, errorOfPlain(message.error)),
      ]).then(() => undefined);
      givingBack.catch(reject);
    } else {
      try {
        onCopied(message.copy);
        queue.isDurable();
      } catch (error) {
        reject(error);
      }
    }
  });
  worker.once('error', (cause) => {
    reject(new HoldfastError('INTERNAL', 'a worker thread of the backup failed', { cause }));
  });
  worker.once('exit', (code) => {
    if (code === 0) resolve();
    else reject(new HoldfastError('INTERNAL', `a worker thread of the backup ended with code ${code}`));
  });
  await promise;
}
