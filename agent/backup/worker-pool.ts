/** Runs a backup's sub tasks on worker threads. All threads have ended when a function of this file returns or throws. */
import type { Worker } from 'node:worker_threads';
import { defined } from '../../foundation/assert.ts';
import { HoldfastError, toHoldfastError } from '../../foundation/errors.ts';
import { nameMacroBlockFile } from '../../storage-layout/macroblock/file-name.ts';
import { errorOfPlain } from '../plain-error.ts';
import { Threads } from '../threads.ts';
import { Counters } from './counters.ts';
import type { SubTask } from './plan.ts';
import { mayBeRedone, type Redo } from './resume/redo.ts';
import type { FromWorker, SubTaskCopy, ToWorker, WorkerSettings } from './worker-protocol.ts';

const WORKER_FILE = new URL('copy-worker.ts', import.meta.url);

/** For the functions of this file. */
export function copyThreads(expected: number): Threads {
  return new Threads(WORKER_FILE, expected);
}

/** What becomes of each sub task. */
export type SubTaskCare = {
  /** Does what is left to do when the macroblock file is durable. */
  readonly makeCount: (subTask: SubTask, copy: SubTaskCopy, signal: AbortSignal) => Promise<void>;
  /** Told each copy that counts, in no order. */
  readonly onCopied: (copy: SubTaskCopy) => void;
  /** Says what is done again. */
  readonly redo: Redo;
};

/**
 * Copies the sub tasks as they come, on up to `workerCount` threads, a further one for each sub task that is known. One
 * whose destination failed is done again, as long as `redo` says so. The first other failure, or an aborted `signal`, ends
 * all at once: files that were not finished stay behind as garbage that no index names.
 */
export async function runSubTasks(
  threads: Threads,
  subTasks: AsyncGenerator<SubTask, void, undefined>,
  settings: WorkerSettings,
  { makeCount, onCopied, redo }: SubTaskCare,
  signal: AbortSignal,
): Promise<void> {
  const { workerCount } = settings;
  signal.throwIfAborted();
  const ended = new AbortController();
  const live = AbortSignal.any([signal, ended.signal]);
  const queue = new SubTaskQueue(subTasks, redo, live);
  const settling = new Set<Promise<void>>();
  const workers: Worker[] = [];
  const runs: Promise<void>[] = [];
  const { promise: failed, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(signal.reason as Error); // whatever the caller aborted with
  signal.addEventListener('abort', onAbort, { once: true });
  const start = () => {
    const worker = threads.start(settings);
    workers.push(worker);
    const run = serve(worker, queue, { settings, makeCount, onCopied, settling }, live);
    run.catch(reject);
    runs.push(run);
  };
  const runAll = async () => {
    if (workerCount > 0) start();
    while (workers.length < workerCount && (await queue.hasMoreThan(workers.length))) {
      if (live.aborted) break; // what failed meanwhile has ended the others
      start();
    }
    await Promise.all(runs);
  };
  try {
    await Promise.race([runAll(), failed]);
  } finally {
    signal.removeEventListener('abort', onAbort);
    ended.abort();
    await Promise.all(workers.map((worker) => worker.terminate()));
    await Promise.allSettled(settling);
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

type Serving = Omit<SubTaskCare, 'redo'> & {
  readonly settings: WorkerSettings;
  /** What the parent is doing for sub tasks. */
  readonly settling: Set<Promise<void>>;
};

/** Hands sub tasks to one worker whenever it is ready; resolves when its thread has ended. */
async function serve(
  worker: Worker,
  queue: SubTaskQueue,
  { settings, makeCount, onCopied, settling }: Serving,
  signal: AbortSignal,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const inHand = new Map<number, SubTask>();
  const send = (message: ToWorker) => worker.postMessage(message, []);
  const giveNext = async () => {
    const subTask = await queue.next();
    if (subTask === undefined) {
      send({ kind: 'end' });
      return;
    }
    const { subTaskId } = subTask;
    inHand.set(subTaskId, subTask);
    send({
      kind: 'copy',
      subTask,
      name: nameMacroBlockFile(settings.setKey.setId, subTaskId, settings.group),
    });
  };
  const take = (subTaskId: number): SubTask => {
    const subTask = defined(inHand.get(subTaskId), 'a worker ends what it was given');
    inHand.delete(subTaskId);
    return subTask;
  };
  const giveBack = async ({ subTaskId, error }: Extract<FromWorker, { readonly kind: 'undone' }>) =>
    await queue.giveBack(take(subTaskId), errorOfPlain(error));
  const keep = async ({ subTaskId, copy, counted }: Extract<FromWorker, { readonly kind: 'copied' }>) => {
    const subTask = take(subTaskId);
    try {
      await makeCount(subTask, copy, signal);
    } catch (error) {
      const failure = toHoldfastError(error);
      if (!mayBeRedone(failure)) throw error;
      new Counters(settings.counters).takeBack(counted);
      await queue.giveBack(subTask, failure);
      return;
    }
    onCopied(copy);
    queue.isDurable();
  };
  // A worker whose sub task came back waits with it: it would meet the same destination. What is left to do for the sub
  // task before the last is waited for too: the parent falls behind by no more.
  let settled: Promise<void> = Promise.resolve();
  const endBoth = async (earlier: Promise<void>, act: Promise<void>) => {
    await Promise.all([earlier, act]);
    settling.delete(act);
  };
  const settle = (act: Promise<void>) => {
    settling.add(act);
    settled = endBoth(settled, act);
    settled.catch(reject);
  };
  worker.on('message', (message: FromWorker) => {
    if (message.kind === 'failed') reject(errorOfPlain(message.error));
    else if (message.kind === 'ready') settled.then(giveNext).catch(reject);
    else if (message.kind === 'undone') settle(giveBack(message));
    else settle(keep(message));
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
