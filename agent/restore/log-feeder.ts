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
import type { NewFile } from './new-file.ts';
import {
  answerMissing,
  beat,
  beginOffer,
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
  /** Gives what is asked for out of turn. */
  readonly reader: LogReader;
  /** Gives the path in order; by default `reader`. */
  readonly sequenceReader?: LogReader;
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
  readonly #watchers: readonly FSWatcher[];
  /** The sequence's names, and each one's place in it. */
  readonly #names: readonly string[];
  readonly #order: ReadonlyMap<string, number>;
  readonly #loops: Promise<unknown>;
  readonly #sequence: AsyncGenerator<SegmentPiece, void, undefined>;
  /** The newest of the sequence that is in the spool. */
  #made = -1;
  #taken = -1;
  #wake: () => void = () => undefined;
  #failure: unknown;

  constructor(spool: Spool, options: FeederOptions) {
    this.#spool = spool;
    this.#options = options;
    this.#names = [...pathSegments(options.path, options.segmentSizeBytes)].map((segment) => segment.name);
    this.#order = new Map(this.#names.map((name, index) => [name, index]));
    this.#sequence = segmentSequence(options, this.#stop.signal);
    this.#watchers = [spool.readyDirectory, spool.wantedDirectory].map((directory) =>
      watch(directory, { persistent: false }, () => this.#wake()),
    );
    for (const watcher of this.#watchers) watcher.on('error', () => undefined); // polling finds what watching misses
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
    for (const watcher of this.#watchers) watcher.close();
    await this.#loops;
    await this.#sequence.return().catch(() => undefined); // what it threw was seen by who asked for it
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
      const ready = await readyNames(this.#spool);
      const wanted = (await wantedNames(this.#spool)).find((name) => !ready.has(name));
      this.#noteTaken(ready);
      if (wanted !== undefined) await this.#answer(wanted);
      else if (ready.size >= PREFETCH_SEGMENTS || !(await this.#makeNext())) await changed;
    }
  }

  /** Resolves when something in the spool may have changed; never later than after POLL_MS. */
  #nextChange(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    return Promise.race([promise, sleep(POLL_MS)]);
  }

  #noteTaken(ready: ReadonlySet<string>): void {
    for (let index = this.#taken + 1; index <= this.#made; index++) {
      if (!ready.has(this.#names[index] ?? '')) this.#taken = index;
    }
  }

  async #answer(name: string): Promise<void> {
    if (this.#order.get(name) === this.#made + 1 && (await this.#makeNext())) return;
    const data = await this.#makeOnDemand(name);
    if (data === undefined) await answerMissing(this.#spool, name);
    else await offerFile(this.#spool, name, data);
  }

  /** Puts the next segment of the sequence into the spool; false when the sequence is at its end. */
  async #makeNext(): Promise<boolean> {
    let offer: NewFile | undefined;
    try {
      for (let isWhole = false; !isWhole; ) {
        const next = await this.#sequence.next();
        if (next.done === true) break;
        const { segment, position, data } = next.value;
        offer ??= await beginOffer(this.#spool, segment.name);
        await offer.write(data, position);
        isWhole = next.value.isLast;
      }
      if (offer === undefined) return false;
      await offer.finish(this.#options.segmentSizeBytes);
      this.#made += 1;
      return true;
    } finally {
      await offer?.[Symbol.asyncDispose]();
    }
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

/** Bytes of a segment. They are valid until the next piece is asked for. */
export type SegmentPiece = {
  readonly segment: Segment;
  /** Where in the segment they begin. What no piece fills, at the path's beginning and behind its end, is zeros. */
  readonly position: number;
  readonly data: Uint8Array;
  /** Whether the segment is at its end with them. The path may end earlier. */
  readonly isLast: boolean;
};

/** The path's segments in order, piece by piece, each byte inspected. */
export async function* segmentSequence(
  options: FeederOptions,
  signal: AbortSignal,
): AsyncGenerator<SegmentPiece, void, undefined> {
  const size = BigInt(options.segmentSizeBytes);
  const reader = options.sequenceReader ?? options.reader;
  const segments = pathSegments(options.path, options.segmentSizeBytes);
  let current = segments.next();
  for (const range of options.path) {
    for await (const chunk of reader.read(range.timeline, range.begin, range.end, signal)) {
      options.inspect?.(range.timeline, chunk.begin, chunk.data);
      for (let done = 0; done < chunk.data.length && current.done !== true; ) {
        const begin = chunk.begin + BigInt(done);
        const end = current.value.begin + size;
        const data = chunk.data.subarray(done, done + Number(end - begin));
        done += data.length;
        const isLast = begin + BigInt(data.length) === end;
        yield { segment: current.value, position: Number(begin % size), data, isLast };
        if (isLast) current = segments.next();
      }
    }
  }
}
