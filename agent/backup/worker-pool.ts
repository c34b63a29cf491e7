/** Runs a backup's sub tasks on worker threads. All threads have ended when `runSubTasks` returns or throws. */
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
 * Copies every sub task on `workerCount` threads and returns the copies in sub task order. The first failure, or an
 * aborted `signal`, ends the others at once: their files stay behind as garbage that no index names.
 */
export async function runSubTasks(
  subTasks: readonly SubTask[],
  settings: WorkerSettings,
  workerCount: number,
  signal: AbortSignal,
): Promise<readonly SubTaskCopy[]> {
  signal.throwIfAborted();
  const queue = subTasks.values();
  const copies = new Map<number, SubTaskCopy>();
  const workers = Array.from(
    { length: Math.min(workerCount, subTasks.length) },
    () => new Worker(WORKER_FILE, { workerData: settings, resourceLimits: WORKER_LIMITS }),
  );
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(signal.reason as Error); // whatever the caller aborted with
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    const runs = workers.map((worker) => serve(worker, queue, (copy) => copies.set(copy.subTaskId, copy)));
    await Promise.race([Promise.all(runs), aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
  return subTasks.map(({ subTaskId }) => {
    const copy = copies.get(subTaskId);
    if (copy === undefined) throw new HoldfastError('INTERNAL', `sub task ${subTaskId} was not copied`);
    return copy;
  });
}

/** Hands sub tasks to one worker whenever it is ready; resolves when its thread has ended. */
async function serve(
  worker: Worker,
  queue: Iterator<SubTask, unknown>,
  onCopied: (copy: SubTaskCopy) => void,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const send = (message: ToWorker) => worker.postMessage(message, []);
  worker.on('message', (message: FromWorker) => {
    if (message.kind === 'copied') onCopied(message.copy);
    else if (message.kind === 'failed') reject(errorOfPlain(message.error));
    else {
      const next = queue.next();
      send(next.done === true ? { kind: 'end' } : { kind: 'copy', subTask: next.value });
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
