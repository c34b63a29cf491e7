/** The other side of threads.ts: imported by the modules of worker threads. */
import { parentPort } from 'node:worker_threads';
import { defined } from '../foundation/assert.ts';

/** What `Threads.start` was given for this thread: its first message. Whoever starts a thread of the module gives `Settings`. */
export async function threadSettings<Settings>(): Promise<Settings> {
  const { promise, resolve } = Promise.withResolvers<Settings>();
  defined(parentPort, 'the port of a worker thread').once('message', resolve);
  return await promise;
}
