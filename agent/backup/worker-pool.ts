/** Runs a backup's sub tasks on worker threads. All threads have ended when a function of this file returns or throws. */
import { Worker } from 'node:worker_threads';
import { HoldfastError } from '../../foundation/errors.ts';
import type { SubTask } from './plan.ts';
import {
  errorOfPlain,
  type FromWorker,
  type SubTaskCopy,
  type ToWorker,
  type WorkerSettings,
} from './worker-protocol.ts';

const WORKER_FILE = new URL('copy-worker.ts', import.meta.url);
/** A worker's garbage is small and short-lived; its blocks live outside the heap. Saves some 7 MB each. */
const WORKER_LIMITS = { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 64 } as const;

/**
 * Copies every sub task of a known list on `workerCount` threads, and returns the copies in sub task order. Otherwise as
 * `runSubTasks`.
 */
export async function copySubTasks(
  subTasks: readonly SubTask[],
  settings: WorkerSettings,
  workerCount: number,
  signal: AbortSignal,
): Promise<readonly SubTaskCopy[]> {
  const copies = new Map<number, SubTaskCopy>();
  const keep = (copy: SubTaskCopy) => copies.set(copy.subTaskId, copy);
  await runSubTasks(each(subTasks), settings, Math.min(workerCount, subTasks.length), keep, signal);
  return subTasks.map(({ subTaskId }) => {
    const copy = copies.get(subTaskId);
    if (copy === undefined) throw new HoldfastError('INTERNAL', `sub task ${subTaskId} was not copied`);
    return copy;
  });
}

/**
 * Copies the sub tasks as they come, on `workerCount` threads; `onCopied` is told each copy when it is durable, in no
 * order. The first failure, or an aborted `signal`, ends the others at once: their files stay behind as garbage that no
 * index names.
 */
export async function runSubTasks(
  subTasks: AsyncGenerator<SubTask, void, undefined>,
  settings: WorkerSettings,
  workerCount: number,
  onCopied: (copy: SubTaskCopy) => void,
  signal: AbortSignal,
): Promise<void> {
  signal.throwIfAborted();
  const workers = Array.from(
    { length: workerCount },
    () => new Worker(WORKER_FILE, { workerData: settings, resourceLimits: WORKER_LIMITS }),
  );
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(signal.reason as Error); // whatever the caller aborted with
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    const runs = workers.map((worker) => serve(worker, subTasks, onCopied));
    await Promise.race([Promise.all(runs), aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
    await Promise.all(workers.map((worker) => worker.terminate()));
    await subTasks.return();
  }
}

async function* each(subTasks: readonly SubTask[]): AsyncGenerator<SubTask, void, undefined> {
  yield* subTasks;
}

/** Hands sub tasks to one worker whenever it is ready; resolves when its thread has ended. */
async function serve(
  worker: Worker,
  queue: AsyncGenerator<SubTask, void, undefined>,
  onCopied: (copy: SubTaskCopy) => void,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const send = (message: ToWorker) => worker.postMessage(message, []);
  const giveNext = async () => {
    const next = await queue.next();
    send(next.done === true ? { kind: 'end' } : { kind: 'copy', subTask: next.value });
  };
  worker.on('message', (message: FromWorker) => {
    if (message.kind === 'failed') reject(errorOfPlain(message.error));
    else if (message.kind === 'ready') giveNext().catch(reject);
    else {
      try {
        onCopied(message.copy);
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
