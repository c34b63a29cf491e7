/**
 * Archived log for a recovering server, read ahead: fetching, checking and decompressing it is as much work as replaying
 * it, so a thread of its own does that while this one watches the log and hands it on. The bytes lie in memory that both
 * threads share.
 */
import type { Worker } from 'node:worker_threads';
import { defined } from '../../foundation/assert.ts';
import { HoldfastError, toHoldfastError } from '../../foundation/errors.ts';
import type { Lsn, Timeline } from '../../foundation/lsn.ts';
import type { LogLookup } from '../../storage-layout/clog/lookup.ts';
import { errorOfPlain } from '../plain-error.ts';
import { Threads } from '../threads.ts';
import type { LogReader } from './log-path.ts';
import type { FromReadAhead, ReadAheadSettings, ToReadAhead } from './read-ahead-protocol.ts';

const WORKER_FILE = new URL('read-ahead-worker.ts', import.meta.url);
/** Of at most a block of log (8 MiB) each. */
const SLOT_COUNT = 4;
/** The next file is known to the thread before it is through with one. */
const STRETCHES_AHEAD = 2;

export class ReadAheadLog implements LogReader {
  readonly #lookup: LogLookup;
  readonly #uri: string;

  /** `uri`: where `lookup` looks. */
  constructor(lookup: LogLookup, uri: string) {
    this.#lookup = lookup;
    this.#uri = uri;
  }

  /** As LogLookup's `read`. A chunk is valid until the next one is asked for. */
  async *read(
    timeline: Timeline,
    begin: Lsn,
    end: Lsn,
    signal: AbortSignal,
  ): AsyncGenerator<{ readonly begin: Lsn; readonly data: Buffer }, void, undefined> {
    const stretches = this.#lookup.stretches(timeline, begin, end, signal);
    let next = await stretches.next();
    if (next.done === true) return;
    const keys = await this.#lookup.files.place.medium.keys?.keysFor(next.value.file.key, signal);
    await using thread = new ReadAheadThread(
      { uri: this.#uri, keys: keys ?? [], slotCount: SLOT_COUNT },
      signal,
    );
    let underWay = 0;
    const giveNext = async () => {
      if (next.done === true) return;
      underWay += 1;
      thread.send({ kind: 'stretch', ...next.value });
      next = await stretches.next();
    };
    for (let count = 0; count < STRETCHES_AHEAD; count += 1) await giveNext();
    while (underWay > 0) {
      const message = await thread.next();
      if (message.kind === 'failed') throw errorOfPlain(message.error);
      if (message.kind === 'read') {
        underWay -= 1;
        await giveNext();
        continue;
      }
      yield { begin: message.begin, data: thread.bytesOf(message) };
      thread.send({ kind: 'free', slot: message.slot });
    }
  }
}

class ReadAheadThread implements AsyncDisposable {
  readonly #worker: Worker;
  readonly #signal: AbortSignal;
  readonly #inbox: FromReadAhead[] = [];
  readonly #memories = new Map<number, SharedArrayBuffer>();
  #failure: unknown;
  #wake: () => void = () => undefined;
  readonly #onAbort = () => this.#fail(this.#signal.reason);

  constructor(settings: ReadAheadSettings, signal: AbortSignal) {
    this.#signal = signal;
    this.#worker = new Threads(WORKER_FILE).start(settings);
    this.#worker.on('message', (message: FromReadAhead) => {
      this.#inbox.push(message);
      this.#wake();
    });
    this.#worker.on('error', (error) => this.#fail(toHoldfastError(error)));
    this.#worker.on('exit', () =>
      this.#fail(new HoldfastError('INTERNAL', 'the thread that reads archived log has ended')),
    );
    signal.addEventListener('abort', this.#onAbort, { once: true });
    if (signal.aborted) this.#onAbort();
  }

  send(message: ToReadAhead): void {
    this.#worker.postMessage(message, []);
  }

  /** Throws the signal's reason, and why the thread has ended. */
  async next(): Promise<FromReadAhead> {
    for (;;) {
      const message = this.#inbox.shift();
      if (message !== undefined) return message;
      if (this.#failure !== undefined) throw this.#failure;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await promise;
    }
  }

  bytesOf({ slot, memory, offset, sizeBytes }: FromReadAhead & { readonly kind: 'chunk' }): Buffer {
    if (memory !== undefined) this.#memories.set(slot, memory);
    return Buffer.from(defined(this.#memories.get(slot), "a slot's memory"), offset, sizeBytes);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#signal.removeEventListener('abort', this.#onAbort);
    await this.#worker.terminate();
  }

  #fail(error: unknown): void {
    this.#failure ??= error;
    this.#wake();
  }
}
