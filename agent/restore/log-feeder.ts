/**
 * Feeds a recovering server its log: reads the path's bytes in order, makes whole segments of them (the last one
 * padded with zeros), and keeps up to PREFETCH_SEGMENTS of them ready in the spool, ahead of what the server asks for.
 *
 * 1. A segment may be asked for again, and in any order: it is made again.
 * 2. What is not on the path, or a `.history` file that is not known, is answered as missing, at once.
 * 3. A byte reaches the server only after `inspect` has seen it, in log order (the first segments asked for ahead of
 *    their turn, where only a checkpoint is read, excepted).
 * 4. The first failure ends the feeding; the server then stops (spool.ts) and `failure` tells why.
 */
import { type FSWatcher, watch } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Lsn, segmentStart, type Timeline, toLsn } from '../../foundation/lsn.ts';
import type { LogRange } from '../../storage-layout/clog/ranges.ts';
import { type LogReader, pathSegments, type Segment, segmentPieces } from './log-path.ts';
import {
  answerMissing,
  beat,
  closeSpool,
  HEARTBEAT_MS,
  offerFile,
  readyNames,
  type Spool,
  wantedNames,
} from './spool.ts';

const PREFETCH_SEGMENTS = 16;
const POLL_MS = 50;

export type FeederOptions = {
  readonly reader: LogReader;
  readonly path: readonly LogRange[];
  readonly segmentSizeBytes: number;
  /** Contents of `<timeline>.history` files. */
  readonly histories: ReadonlyMap<Timeline, Uint8Array>;
  /** Sees the path's bytes in order before the server can; throwing ends the feeding. */
  readonly inspect?: (timeline: Timeline, begin: Lsn, data: Uint8Array) => void;
};

export class LogFeeder implements AsyncDisposable {
  readonly #spool: Spool;
  readonly #options: FeederOptions;
  readonly #stop = new AbortController();
  readonly #watcher: FSWatcher;
  /** The sequence's names, and each one's place in it. */
  readonly #names: readonly string[];
  readonly #order: ReadonlyMap<string, number>;
  readonly #loops: Promise<unknown>;
  readonly #sequence: AsyncGenerator<{ readonly segment: Segment; readonly data: Buffer }>;
  /** The newest of the sequence that is in the spool, and the newest that is there or on its way. */
  #made = -1;
  #begun = -1;
  #offering: Promise<void> = Promise.resolve();
  #taken = -1;
  #wake: () => void = () => undefined;
  #failure: unknown;

  constructor(spool: Spool, options: FeederOptions) {
    this.#spool = spool;
    this.#options = options;
    this.#names = [...pathSegments(options.path, options.segmentSizeBytes)].map((segment) => segment.name);
    this.#order = new Map(this.#names.map((name, index) => [name, index]));
    this.#sequence = segmentSequence(options, this.#stop.signal);
    this.#watcher = watch(spool.directory, { persistent: false, recursive: true }, () => this.#wake());
    this.#watcher.on('error', () => undefined); // polling finds what watching misses
    this.#loops = Promise.all([this.#run(() => this.#feed()), this.#run(() => this.#beat())]);
  }

  /** Why feeding ended, if it failed. */
  get failure(): unknown {
    return this.#failure;
  }

  /** Begin of the newest segment that the server has taken; undefined before the first. */
  get takenUntil(): Lsn | undefined {
    const first = this.#options.path[0];
    if (this.#taken < 0 || first === undefined) return undefined;
    const size = this.#options.segmentSizeBytes;
    return toLsn(segmentStart(first.begin, size) + BigInt(this.#taken) * BigInt(size));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    this.#watcher.close();
    await this.#loops;
    await this.#offering.catch(() => undefined); // whoever waited for it has its error
    await closeSpool(this.#spool).catch(() => undefined); // the spool may be gone already: the command ends just so
  }

  /** Runs one loop; its failure ends both. */
  async #run(loop: () => Promise<void>): Promise<void> {
    try {
      await loop();
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      this.#failure = error;
      this.#stop.abort();
      await closeSpool(this.#spool).catch(() => undefined);
    }
  }

  async #beat(): Promise<void> {
    for (let count = 1; ; count++) {
      await beat(this.#spool, count);
      await sleep(HEARTBEAT_MS, undefined, { signal: this.#stop.signal });
    }
  }

  async #feed(): Promise<void> {
    for (;;) {
      this.#stop.signal.throwIfAborted();
      const changed = this.#nextChange();
      const made = this.#made; // before looking: what is offered meanwhile counts as under way, not as taken
      const ready = await readyNames(this.#spool);
      const wanted = (await wantedNames(this.#spool)).find((name) => !ready.has(name));
      this.#noteTaken(ready, made);
      if (wanted !== undefined) await this.#answer(wanted);
      else if (ready.size + this.#begun - made >= PREFETCH_SEGMENTS || !(await this.#makeNext()))
        await changed;
    }
  }

  /** Resolves when something in the spool may have changed; never later than after POLL_MS. */
  #nextChange(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    return Promise.race([promise, sleep(POLL_MS)]);
  }

  #noteTaken(ready: ReadonlySet<string>, made: number): void {
    for (let index = this.#taken + 1; index <= made; index++) {
      if (!ready.has(this.#names[index] ?? '')) this.#taken = index;
    }
  }

  async #answer(name: string): Promise<void> {
    const index = this.#order.get(name);
    if (index === this.#begun + 1) await this.#makeNext();
    if (index !== undefined && index === this.#begun && index > this.#made) {
      await this.#offering;
      return;
    }
    const data = await this.#makeOnDemand(name);
    if (data === undefined) await answerMissing(this.#spool, name);
    else await offerFile(this.#spool, name, data);
  }

  /**
   * The next segment of the sequence on its way into the spool, while the one after it is made; false when the sequence is
   * at its end.
   */
  async #makeNext(): Promise<boolean> {
    const next = await this.#sequence.next();
    await this.#offering;
    if (next.done === true) return false;
    this.#begun += 1;
    this.#offering = this.#offer(this.#begun, next.value.segment.name, next.value.data);
    this.#offering.catch(() => undefined); // its error comes to light where it is awaited
    return true;
  }

  async #offer(index: number, name: string, data: Buffer): Promise<void> {
    await offerFile(this.#spool, name, data);
    this.#made = index;
  }

  async #makeOnDemand(name: string): Promise<Uint8Array | undefined> {
    const history = /^([0-9A-F]{8})\.history$/.exec(name);
    if (history?.[1] !== undefined) {
      const timeline = Number.parseInt(history[1], 16);
      return this.#options.histories.get(timeline as Timeline); // a key to look up: any number will do
    }
    return await readSegment(this.#options, name, this.#stop.signal);
  }
}

/** One segment's whole file, zero-padded; undefined when no byte of it is on the path. */
export async function readSegment(
  options: Pick<FeederOptions, 'reader' | 'path' | 'segmentSizeBytes'>,
  name: string,
  signal: AbortSignal,
): Promise<Buffer | undefined> {
  const pieces = segmentPieces(options.path, name, options.segmentSizeBytes);
  const size = BigInt(options.segmentSizeBytes);
  if (pieces.length === 0) return undefined;
  const data = Buffer.alloc(options.segmentSizeBytes);
  for (const piece of pieces) {
    for await (const chunk of options.reader.read(piece.timeline, piece.begin, piece.end, signal))
      data.set(chunk.data, Number(chunk.begin % size));
  }
  return data;
}

/**
 * The path's segments in order, each byte inspected. Two buffers are used in turn: one is good until the step after the
 * next.
 */
export async function* segmentSequence(
  options: FeederOptions,
  signal: AbortSignal,
): AsyncGenerator<{ readonly segment: Segment; readonly data: Buffer }> {
  const size = BigInt(options.segmentSizeBytes);
  const segments = pathSegments(options.path, options.segmentSizeBytes);
  let data = Buffer.alloc(options.segmentSizeBytes);
  let spare = Buffer.alloc(options.segmentSizeBytes);
  let filledBytes = 0;
  let current = segments.next();
  for (const range of options.path) {
    for await (const chunk of options.reader.read(range.timeline, range.begin, range.end, signal)) {
      options.inspect?.(range.timeline, chunk.begin, chunk.data);
      for (let done = 0; done < chunk.data.length && current.done !== true; ) {
        const position = chunk.begin + BigInt(done);
        if (position >= current.value.begin + size) {
          yield { segment: current.value, data };
          [data, spare] = [spare, data];
          filledBytes = 0;
          current = segments.next();
          continue;
        }
        const part = chunk.data.subarray(done, done + Number(current.value.begin + size - position));
        data.set(part, Number(position % size));
        filledBytes = Number(position % size) + part.length;
        done += part.length;
      }
    }
  }
  // Only the first segment can have a hole, at its beginning, and its buffer was new; only the last can end early.
  if (current.done !== true) yield { segment: current.value, data: data.fill(0, filledBytes) };
}
