/** Threads that start before what they are to do is known, and pools of them. */
import { once } from 'node:events';
import type { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { type Failed, JobPool } from '../../../agent/job-pool.ts';
import { Threads } from '../../../agent/threads.ts';

type Answer = { readonly kind: 'done'; readonly thread: number; readonly job: unknown } | Failed;

const SETTINGS = new URL('../../../agent/thread-settings.ts', import.meta.url);
/** Answers its settings first of all, then each job; to 'fail' that it failed. */
const ECHO = moduleOf(`
  import { parentPort, threadId } from 'node:worker_threads';
  import { threadSettings } from '${SETTINGS.href}';
  const settings = await threadSettings();
  if (settings?.greets) parentPort.postMessage({ settings, thread: threadId });
  await new Promise((resolve) => setTimeout(resolve, 20)); // as when a destination is opened
  parentPort.on('message', async (job) => {
    await new Promise((resolve) => setTimeout(resolve, 50));
    parentPort.postMessage(
      job === 'fail'
        ? { kind: 'failed', code: 'DATA_CORRUPT', message: 'broken', hint: 'mend it', detail: undefined }
        : { kind: 'done', thread: threadId, job });
  });`);
const { signal } = new AbortController();

function moduleOf(source: string): URL {
  return new URL(`data:text/javascript,${encodeURIComponent(source)}`);
}

function listenTo(name: string): Disposable & { readonly count: number } {
  const channel = new BroadcastChannel(name);
  let count = 0;
  channel.addEventListener('message', () => {
    count += 1;
  });
  return {
    get count() {
      return count;
    },
    [Symbol.dispose]: () => channel.close(),
  };
}

async function greetingOf(worker: Worker): Promise<{ readonly settings: unknown; readonly thread: number }> {
  const [message] = (await once(worker, 'message')) as [{ settings: unknown; thread: number }]; // as ECHO answers
  return message;
}

test('give spares their settings first, and start others when none is left', async () => {
  await using threads = new Threads(ECHO, 1);
  const [spare, other] = [
    threads.start({ greets: true, name: 'a' }),
    threads.start({ greets: true, name: 'b' }),
  ];
  const greetings = await Promise.all([greetingOf(spare), greetingOf(other)]);
  expect(greetings).toEqual([
    { settings: { greets: true, name: 'a' }, thread: spare.threadId },
    { settings: { greets: true, name: 'b' }, thread: other.threadId },
  ]);
  await Promise.all([spare.terminate(), other.terminate()]);
});

test('lose no job that was sent before a thread was ready', async () => {
  await using threads = new Threads(ECHO);
  const worker = threads.start(undefined);
  for (const job of [1, 2, 3]) worker.postMessage(job, []);
  const done: unknown[] = [];
  worker.on('message', (message: { job: unknown }) => done.push(message.job));
  await expect.poll(() => done).toEqual([1, 2, 3]);
  await worker.terminate();
});

test('a spare that cannot load is not given to anybody, and a fresh one says why', async () => {
  await using threads = new Threads(moduleOf(`throw new Error('this cannot be loaded')`), 1);
  await new Promise((resolve) => setTimeout(resolve, 500));
  const [error] = (await once(threads.start(undefined), 'error')) as [Error]; // once gives what was emitted
  expect(error.message).toContain('this cannot be loaded');
});

test('end the spares that nobody took', async () => {
  using heard = listenTo('ticks of spares');
  const ticking = moduleOf(`
    const channel = new BroadcastChannel('ticks of spares');
    setInterval(() => channel.postMessage(1), 10);`);
  const threads = new Threads(ticking, 2);
  const taken = threads.start(undefined);
  await threads[Symbol.asyncDispose]();
  await expect.poll(() => heard.count).toBeGreaterThan(3); // the one that was taken is its taker's
  await taken.terminate();
  const { count } = heard;
  await new Promise((resolve) => setTimeout(resolve, 200));
  expect(heard.count - count).toBeLessThan(3);
});

test('a pool starts no more threads than it has jobs for, and no more than it may', async () => {
  await using threads = new Threads(ECHO);
  const used = async (jobs: number) => {
    const seen = new Map<number, number>();
    const done = ({ thread }: Exclude<Answer, Failed>) => seen.set(thread, (seen.get(thread) ?? 0) + 1);
    await using pool = new JobPool<number, Answer>(threads, 3, undefined, done);
    for (let job = 0; job < jobs; job += 1) await pool.submit(job, signal);
    await pool.drain(signal);
    return [...seen.values()];
  };
  expect(await used(0)).toEqual([]);
  expect(await used(1)).toEqual([1]);
  const counts = await used(12);
  expect(counts).toHaveLength(3);
  expect(counts.reduce((a, b) => a + b)).toBe(12);
});

test('the first job that fails ends a pool, with its error', async () => {
  await using threads = new Threads(ECHO);
  await using pool = new JobPool<unknown, Answer>(threads, 2, undefined, () => undefined);
  await pool.submit('fail', signal);
  await expect(pool.drain(signal)).rejects.toMatchObject({
    code: 'DATA_CORRUPT',
    message: 'broken',
    hint: 'mend it',
  });
  await expect(pool.submit('more', signal)).rejects.toThrow('broken');
});
