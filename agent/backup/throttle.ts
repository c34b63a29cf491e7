/**
 * How fast a copy may go: so many stored bytes per second (backup_net_limit), and so much of the time (its pace, which the
 * load of the server decides). Both may change while a copy waits: it looks again every quarter of a second.
 */
import type { Clock } from '../../foundation/clock.ts';

const LOOK_AGAIN_MS = 250;
/** What a worker that waited for its next work did in the meantime is not known: no more than this counts as work. */
const LONGEST_WORK_MS = 2000;

/** `bytesPerSecond` 0: no limit; `pace`: the share of the time in which there may be work, above 0 to 1. */
export type CopyLimits = { readonly bytesPerSecond: number; readonly pace: number };

const PACE_UNIT = 1_000_000;

/** The limits of a task, in memory that its threads share: the parent sets them, workers look at them. */
export class SharedLimits {
  readonly shared: SharedArrayBuffer;
  readonly #values: BigInt64Array;

  constructor(shared?: SharedArrayBuffer) {
    this.shared = shared ?? new SharedArrayBuffer(2 * BigInt64Array.BYTES_PER_ELEMENT);
    this.#values = new BigInt64Array(this.shared);
    if (shared === undefined) this.pace = 1;
  }

  get bytesPerSecond(): number {
    return Number(Atomics.load(this.#values, 0));
  }

  set bytesPerSecond(value: number) {
    Atomics.store(this.#values, 0, BigInt(Math.round(value)));
  }

  get pace(): number {
    return Number(Atomics.load(this.#values, 1)) / PACE_UNIT;
  }

  set pace(value: number) {
    Atomics.store(this.#values, 1, BigInt(Math.max(1, Math.round(value * PACE_UNIT))));
  }

  /** One worker's part of them. */
  shareOf(workerCount: number): CopyLimits {
    const [bytesPerSecond, pace] = [() => this.bytesPerSecond / workerCount, () => this.pace];
    return {
      get bytesPerSecond() {
        return bytesPerSecond();
      },
      get pace() {
        return pace();
      },
    };
  }
}

/** Limits one worker by waiting: after each write until the bytes so far are due, and as long as its pace asks for. A pause is not saved up. */
export class Throttle {
  readonly #limits: CopyLimits;
  readonly #clock: Clock;
  /** Bytes that were written too early, at `#paidMs`. */
  #owedBytes = 0;
  #paidMs: number;
  #workSinceMs: number;

  constructor(limits: CopyLimits, clock: Clock) {
    this.#limits = limits;
    this.#clock = clock;
    this.#paidMs = clock.monotonicMs();
    this.#workSinceMs = this.#paidMs;
  }

  async spend(bytes: number, signal: AbortSignal): Promise<void> {
    const begunMs = this.#clock.monotonicMs();
    const workMs = Math.min(begunMs - this.#workSinceMs, LONGEST_WORK_MS);
    this.#pay(begunMs);
    this.#owedBytes += bytes;
    for (let nowMs = begunMs; ; ) {
      const waitMs = Math.max(this.#dueMs(), workMs * (1 / this.#limits.pace - 1) - (nowMs - begunMs));
      if (waitMs <= 0) break;
      await this.#clock.sleep(Math.min(waitMs, LOOK_AGAIN_MS), signal);
      nowMs = this.#clock.monotonicMs();
      this.#pay(nowMs);
    }
    this.#workSinceMs = this.#clock.monotonicMs();
  }

  #pay(nowMs: number): void {
    const { bytesPerSecond } = this.#limits;
    const paid = ((nowMs - this.#paidMs) * bytesPerSecond) / 1000;
    this.#owedBytes = bytesPerSecond === 0 ? 0 : Math.max(0, this.#owedBytes - paid);
    this.#paidMs = nowMs;
  }

  /** How long until all bytes are due; a fraction of a byte is none. */
  #dueMs(): number {
    const { bytesPerSecond } = this.#limits;
    if (bytesPerSecond === 0 || this.#owedBytes < 1) return 0;
    return (this.#owedBytes * 1000) / bytesPerSecond;
  }
}
