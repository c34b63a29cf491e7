/**
 * The state `streaming` and its end, `draining`: three loops over one buffer.
 *
 *   receive   stream → inspector → buffer; waits while the buffer is full (the socket is then not read)
 *   write     buffer → destination, one append at a time; after each: durable moves, the server is told, in this order
 *   watch     polls the insert position and its clock, several times in each interval
 *
 * When receiving ends, whatever the reason (drain, the server closed, unreadable log), what was received whole is still
 * written and sealed; then the reason decides. When writing fails nothing more is received.
 */
import type { Instance, LogInspector, LogStream } from '../../engine/engine.ts';
import type { Clock } from '../../foundation/clock.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import type { Lsn } from '../../foundation/lsn.ts';
import type { LogFileSequence } from './file-sequence.ts';
import { LogBuffer } from './log-buffer.ts';
import {
  addPolled,
  advanceCheckpoint,
  BUFFER_BYTES,
  type Checkpoint,
  decideFlush,
  FLUSH_MIN_BYTES,
  IDLE_RECORD_INTERVAL_MS,
  nextThreshold,
} from './policy.ts';
import { WakeUp } from './wake-up.ts';

/** The checkpoint's age is at most a flush interval plus the age of the newest poll: so polls come more often. */
const POLLS_PER_INTERVAL = 4;
/** How long bytes may go to a medium that was taken away or wiped. */
const MEDIUM_CHECK_INTERVAL_MS = 5000;

export type StreamingInput = {
  readonly instance: Instance;
  readonly stream: LogStream;
  readonly inspector: LogInspector;
  readonly files: LogFileSequence;
  readonly checkpointIntervalMs: number;
  readonly clock: Clock;
  readonly checkpoint: Checkpoint;
  /** What a FlushLog asked for before. */
  readonly flushUpTo: Lsn;
  /** And what one asked to be sealed. */
  readonly sealUpTo: Lsn;
  /** Commits wait for us, as far as is known now. */
  readonly synchronous: boolean;
  /** Where the server's history leaves the timeline: its end. Undefined: the timeline goes on. */
  readonly until?: Lsn | undefined;
  /** Fires when no more is to be received. */
  readonly drain: AbortSignal;
  /** Called after every change of what progress shows. */
  readonly changed: () => void;
};

export class Streaming {
  readonly #input: StreamingInput;
  readonly #buffer = new LogBuffer(BUFFER_BYTES);
  /** For the write loop: bytes came, a flush is wanted, receiving ended, the checkpoint moved. */
  readonly #work = new WakeUp();
  /** For the receive loop: bytes left the buffer. */
  readonly #room = new WakeUp();
  #checkpoint: Checkpoint;
  #flushUpTo: Lsn;
  #sealUpTo: Lsn;
  #synchronous: boolean;
  #receiving = true;
  #inputBytes = 0;
  #serverEnd: Lsn;
  #serverClockUs = 0n;
  #recordedCheckpointUs: bigint;
  #lastRecordMs: number;
  #mediumCheckedMs: number;
  /** Monotonic; since when a call to the destination is under way. */
  #callBeganMs: number | undefined;

  constructor(input: StreamingInput) {
    this.#input = input;
    this.#checkpoint = input.checkpoint;
    this.#recordedCheckpointUs = input.checkpoint.timeUs;
    this.#lastRecordMs = input.clock.monotonicMs();
    this.#mediumCheckedMs = this.#lastRecordMs;
    this.#flushUpTo = input.flushUpTo;
    this.#sealUpTo = input.sealUpTo;
    this.#synchronous = input.synchronous;
    this.#serverEnd = input.files.durable;
  }

  get checkpoint(): Checkpoint {
    return this.#checkpoint;
  }
  get inputBytes(): number {
    return this.#inputBytes;
  }
  /** How long the present call to the destination has taken; 0: none is under way. */
  get callMs(): number {
    return this.#callBeganMs === undefined ? 0 : this.#input.clock.monotonicMs() - this.#callBeganMs;
  }
  /** End of the log on the server as last heard, and the server's clock then. */
  get server(): { readonly end: Lsn; readonly clockUs: bigint } {
    return { end: this.#serverEnd, clockUs: this.#serverClockUs };
  }

  /** Makes everything up to `lsn` durable as soon as it is here; with `seal`, in a sealed file. */
  flush(lsn: Lsn, seal: boolean): void {
    if (lsn <= this.#flushUpTo && (!seal || lsn <= this.#sealUpTo)) return;
    if (lsn > this.#flushUpTo) this.#flushUpTo = lsn;
    if (seal && lsn > this.#sealUpTo) this.#sealUpTo = lsn;
    this.#work.notify();
  }

  /** The server has begun to wait for us with each commit, or does so no more. */
  setSynchronous(synchronous: boolean): void {
    if (synchronous === this.#synchronous) return;
    this.#synchronous = synchronous;
    this.#work.notify();
  }

  /**
   * Runs until it was drained or the timeline is archived to its end (resolves), or until something fails (rejects, after what was received before has been written
   * if that was possible).
   */
  async run(signal: AbortSignal): Promise<void> {
    const { drain } = this.#input;
    const receiveScope = new AbortController();
    const watchScope = new AbortController();
    const receiving = this.#receive(AbortSignal.any([signal, drain, receiveScope.signal]));
    // A server that does not answer ends receiving; what came before is still written.
    const watching = this.#watch(AbortSignal.any([signal, drain, watchScope.signal])).catch(
      (error: unknown) => {
        receiveScope.abort(error);
        throw error;
      },
    );
    const writing = this.#write(signal).finally(() => {
      receiveScope.abort();
      watchScope.abort();
    });
    const results = await Promise.allSettled([writing, receiving, watching]);
    signal.throwIfAborted();
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    const { until, files } = this.#input;
    if (!drain.aborted && (until === undefined || files.durable < until)) {
      throw new HoldfastError('SERVER_UNREACHABLE', 'the server ended the log stream (is it shutting down?)');
    }
  }

  async #receive(stop: AbortSignal): Promise<void> {
    const { stream, inspector, clock } = this.#input;
    const dispose = () => void stream[Symbol.asyncDispose]();
    stop.addEventListener('abort', dispose, { once: true });
    if (stop.aborted) dispose();
    try {
      for await (const chunk of stream) {
        while (!this.#buffer.hasRoomFor(chunk.data.length) && !stop.aborted)
          await this.#room.wait(undefined, stop);
        if (stop.aborted) break;
        inspector.push(chunk.begin, chunk.data);
        const seen = {
          begin: chunk.begin,
          events: inspector.takeEvents(),
          touches: inspector.takeTouches(),
          unfinishedRecordBegin: inspector.unfinishedRecordBegin,
          receivedMs: clock.monotonicMs(),
        };
        this.#buffer.push(seen, chunk.data);
        this.#inputBytes += chunk.data.length;
        this.#hear(chunk.serverEnd, chunk.serverClockUs);
        this.#work.notify();
      }
    } catch (error) {
      if (!stop.aborted) throw error;
    } finally {
      stop.removeEventListener('abort', dispose);
      this.#receiving = false;
      this.#work.notify();
    }
  }

  async #write(signal: AbortSignal): Promise<void> {
    const { files, checkpointIntervalMs, clock } = this.#input;
    let thresholdBytes = FLUSH_MIN_BYTES;
    for (;;) {
      signal.throwIfAborted();
      if (clock.monotonicMs() - this.#mediumCheckedMs >= MEDIUM_CHECK_INTERVAL_MS) {
        await this.#timed(files.checkMedium(signal));
        this.#mediumCheckedMs = clock.monotonicMs();
      }
      await files.sealUpTo(this.#sealUpTo, signal);
      const oldestMs = this.#buffer.oldestReceivedMs;
      const decision = decideFlush({
        bufferedBytes: this.#buffer.sizeBytes,
        oldestWaitedMs: oldestMs === undefined ? 0 : clock.monotonicMs() - oldestMs,
        checkpointIntervalMs,
        thresholdBytes,
        wanted: !this.#receiving || this.#flushUpTo > files.durable,
        synchronous: this.#synchronous,
      });
      if (decision.kind === 'flush') {
        const flushedBytes = await this.#flushOnce(thresholdBytes, signal);
        thresholdBytes = nextThreshold(thresholdBytes, flushedBytes, this.#buffer.sizeBytes);
      } else if (!this.#receiving) {
        break;
      } else {
        await this.#work.wait(decision.ms, signal);
      }
      if (clock.monotonicMs() - this.#lastRecordMs >= IDLE_RECORD_INTERVAL_MS)
        await this.#recordCheckpoint(signal);
    }
    await this.#recordCheckpoint(signal);
    await this.#timed(files.seal(signal));
    this.#input.changed();
  }

  async #flushOnce(maxBytes: number, signal: AbortSignal): Promise<number> {
    const { files, stream } = this.#input;
    const block = this.#buffer.take(maxBytes);
    if (block === undefined) return 0;
    await this.#timed(files.append(block, signal));
    this.#buffer.release();
    this.#room.notify();
    if (this.#receiving) stream.acknowledge(files.durable);
    this.#checkpoint = advanceCheckpoint(this.#checkpoint, files.durable);
    this.#input.changed();
    return block.data.length;
  }

  /** The destination learns, by a small record now and then, of time that passed without a commit. */
  async #recordCheckpoint(signal: AbortSignal): Promise<void> {
    const { timeUs, lsn } = this.#checkpoint;
    if (timeUs <= this.#recordedCheckpointUs) return;
    await this.#timed(this.#input.files.appendCheckpoint({ lsn, timeUs }, signal));
    this.#recordedCheckpointUs = timeUs;
    this.#lastRecordMs = this.#input.clock.monotonicMs();
  }

  async #timed(call: Promise<void>): Promise<void> {
    this.#callBeganMs = this.#input.clock.monotonicMs();
    try {
      await call;
    } finally {
      this.#callBeganMs = undefined;
    }
  }

  /** Ends when the signal fires. */
  async #watch(signal: AbortSignal): Promise<void> {
    const { instance, files, checkpointIntervalMs, clock } = this.#input;
    try {
      while (!signal.aborted) {
        const polled = await instance.insertPosition(signal);
        this.#hear(polled.lsn, polled.clockUs);
        this.#checkpoint = advanceCheckpoint(addPolled(this.#checkpoint, polled), files.durable);
        this.#work.notify();
        this.#input.changed();
        await clock.sleep(checkpointIntervalMs / POLLS_PER_INTERVAL, signal);
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }

  #hear(end: Lsn, clockUs: bigint): void {
    if (end > this.#serverEnd) this.#serverEnd = end;
    if (clockUs > this.#serverClockUs) this.#serverClockUs = clockUs;
  }
}
