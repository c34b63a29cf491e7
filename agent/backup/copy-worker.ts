/**
 * A worker thread of a backup: takes sub tasks from its parent one after the other and says when each is durable. While
 * the disk makes one file durable the next is being copied; not more than two files are open.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { defined } from '../../foundation/assert.ts';
import { systemClock } from '../../foundation/clock.ts';
import { parseCompression } from '../../storage-layout/macroblock/compress.ts';
import {
  ENTRY_BYTES,
  encodeMacroBlockEntry,
  MACROBLOCK_BYTES,
  type MacroBlockEntry,
} from '../../storage-layout/macroblock/index.ts';
import { openKeyedMedium } from '../../storage-layout/media/with-keys.ts';
import { type CopiedBlocks, type CopyContext, copyBlocks } from './copy-sub-task.ts';
import { Counters } from './counters.ts';
import type { SubTask } from './plan.ts';
import { SharedLimits, Throttle } from './throttle.ts';
import { type FromWorker, plainError, type ToWorker, type WorkerSettings } from './worker-protocol.ts';

const port = defined(parentPort, 'the port of a worker thread');
const settings = workerData as WorkerSettings; // only worker-pool.ts starts this file
/** The parent ends a worker by ending its thread. */
const never = new AbortController().signal;

function post(message: FromWorker, transfer: readonly ArrayBuffer[] = []): void {
  port.postMessage(message, [...transfer]);
}

async function run(): Promise<void> {
  await using medium = await openKeyedMedium(settings.destinationUri, settings.keys, never);
  const context: CopyContext = {
    ...settings,
    medium,
    compression: parseCompression(settings.compression),
    counters: new Counters(settings.counters),
    throttle: new Throttle(new SharedLimits(settings.limits).shareOf(settings.workerCount), systemClock),
    clock: systemClock,
    buffer: Buffer.allocUnsafeSlow(MACROBLOCK_BYTES),
  };
  let closing: Promise<void> = Promise.resolve();
  for await (const subTask of subTasks()) {
    const copied = await copyBlocks(context, subTask, never);
    await closing;
    closing = close(subTask, copied);
    closing.catch(() => undefined); // awaited in the next round or below; until then it is nobody's
  }
  await closing;
}

async function close(subTask: SubTask, copied: CopiedBlocks): Promise<void> {
  await using writer = copied.writer;
  const { sizeBytes } = await writer.close();
  const entries = encodeEntries(copied.entries);
  const { suspects, vanished, ended } = copied;
  const copy = { subTaskId: subTask.subTaskId, entries, suspects, vanished, ended, storedBytes: sizeBytes };
  post({ kind: 'copied', copy }, [entries.buffer]);
}

function encodeEntries(entries: readonly MacroBlockEntry[]): Uint8Array<ArrayBuffer> {
  const bytes = Buffer.from(new ArrayBuffer(entries.length * ENTRY_BYTES));
  for (const [index, entry] of entries.entries()) encodeMacroBlockEntry(bytes, index * ENTRY_BYTES, entry);
  return bytes;
}

/** Asks for a sub task and yields it, until the parent has none. */
async function* subTasks(): AsyncGenerator<SubTask> {
  for (;;) {
    const { promise, resolve } = Promise.withResolvers<ToWorker>();
    port.once('message', resolve);
    post({ kind: 'ready' });
    const message = await promise;
    if (message.kind === 'end') return;
    yield message.subTask;
  }
}

try {
  await run();
} catch (error) {
  post({ kind: 'failed', error: plainError(error) });
}
port.close();
