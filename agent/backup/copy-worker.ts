/**
 * A worker thread of a backup: takes sub tasks from its parent one after the other and says when each is durable. While
 * the disk makes one file durable the next is being copied; not more than two files are open.
 */
import { parentPort } from 'node:worker_threads';
import { defined } from '../../foundation/assert.ts';
import { systemClock } from '../../foundation/clock.ts';
import { HoldfastError, isError, toHoldfastError } from '../../foundation/errors.ts';
import { parseCompression } from '../../storage-layout/macroblock/compress.ts';
import {
  ENTRY_BYTES,
  encodeMacroBlockEntry,
  MACROBLOCK_BYTES,
  type MacroBlockEntry,
} from '../../storage-layout/macroblock/entry.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { openKeyedMedium } from '../../storage-layout/media/with-keys.ts';
import { plainError } from '../plain-error.ts';
import { threadSettings } from '../thread-settings.ts';
import { type CopiedBlocks, type CopyContext, copyBlocks } from './copy-sub-task.ts';
import { Counters } from './counters.ts';
import { mayBeRedone } from './resume/redo.ts';
import { SharedLimits, Throttle } from './throttle.ts';
import { BlocksBefore } from './unchanged-block.ts';
import type { FromWorker, ToWorker, WorkerSettings } from './worker-protocol.ts';

const port = defined(parentPort, 'the port of a worker thread');
const settings = await threadSettings<WorkerSettings>(); // only worker-pool.ts starts this file
/** The parent ends a worker by ending its thread. */
const never = new AbortController().signal;

function post(message: FromWorker, transfer: readonly ArrayBuffer[] = []): void {
  port.postMessage(message, [...transfer]);
}

async function run(): Promise<void> {
  await using destination = new Destination();
  const common: Omit<CopyContext, 'counters' | keyof Opened> = {
    ...settings,
    compression: parseCompression(settings.compression),
    throttle: new Throttle(new SharedLimits(settings.limits).shareOf(settings.workerCount), systemClock),
    clock: systemClock,
    buffer: Buffer.allocUnsafeSlow(MACROBLOCK_BYTES),
  };
  let closing: Promise<void> = Promise.resolve();
  for await (const order of subTasks()) {
    const counters = new Counters(settings.counters);
    let context: CopyContext;
    let copied: CopiedBlocks;
    try {
      context = { ...common, counters, ...(await destination.open()) };
      copied = await copyBlocks(context, order.subTask, order.name, never);
    } catch (error) {
      giveBack(counters, order, error);
      continue;
    }
    await closing;
    closing = close(counters, order, copied).catch((error: unknown) => {
      try {
        giveBack(counters, order, error);
      } catch (fatal) {
        // The parent waits for this sub task, and gives no other.
        post({ kind: 'failed', error: plainError(fatal) });
        throw fatal;
      }
    });
    closing.catch(() => undefined); // awaited in the next round or below; until then it is nobody's
  }
  await closing;
}

type Order = Extract<ToWorker, { readonly kind: 'copy' }>;
type Opened = { readonly medium: Medium; readonly blocksBefore: BlocksBefore };

/** Opened for the first sub task: the parent had it open, so when it is not there it has gone away. */
class Destination implements AsyncDisposable {
  #opened: Opened | undefined;

  async open(): Promise<Opened> {
    try {
      if (this.#opened === undefined) {
        const medium = await openKeyedMedium(settings.destinationUri, settings.keys, never);
        this.#opened = { medium, blocksBefore: new BlocksBefore(medium) };
      }
      return this.#opened;
    } catch (cause) {
      if (!isError(cause, 'INVALID_BACKUP_DEST')) throw cause;
      throw new HoldfastError('DESTINATION_IO', cause.message, { cause });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#opened?.medium[Symbol.asyncDispose]();
  }
}

async function close(counters: Counters, { subTask }: Order, copied: CopiedBlocks): Promise<void> {
  await using writer = copied.writer;
  const { sizeBytes: storedBytes } = await writer.close();
  const entries = encodeEntries(copied.entries);
  const { suspects, vanished, ended } = copied;
  const { subTaskId, redoOf = subTaskId } = subTask;
  const copy = { subTaskId: redoOf, entries, suspects, vanished, ended, storedBytes };
  post({ kind: 'copied', subTaskId, copy, counted: counters.counted }, [entries.buffer]);
}

/** A destination that fails may come back. Throws `error` when the backup fails with it. */
function giveBack(counters: Counters, { subTask }: Order, error: unknown): void {
  if (!mayBeRedone(toHoldfastError(error))) throw error;
  counters.takeBack(counters.counted);
  post({ kind: 'undone', subTaskId: subTask.subTaskId, error: plainError(error) });
}

function encodeEntries(entries: readonly MacroBlockEntry[]): Uint8Array<ArrayBuffer> {
  const bytes = Buffer.from(new ArrayBuffer(entries.length * ENTRY_BYTES));
  for (const [index, entry] of entries.entries()) encodeMacroBlockEntry(bytes, index * ENTRY_BYTES, entry);
  return bytes;
}

/** Asks for a sub task and yields it, until the parent has none. */
async function* subTasks(): AsyncGenerator<Order> {
  for (;;) {
    const { promise, resolve } = Promise.withResolvers<ToWorker>();
    port.once('message', resolve);
    post({ kind: 'ready' });
    const message = await promise;
    if (message.kind === 'end') return;
    yield message;
  }
}

try {
  await run();
} catch (error) {
  post({ kind: 'failed', error: plainError(error) });
}
port.close();
