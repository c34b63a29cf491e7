/** A rate limit by waiting: after each write, sleeps until the bytes so far are due. A pause is not saved up. */
import type { Clock } from '../../foundation/clock.ts';

export class Throttle {
  readonly #bytesPerMs: number;
  readonly #clock: Clock;
  #freeAtMs = 0;

  /** `bytesPerSecond` 0: no limit. */
  constructor(bytesPerSecond: number, clock: Clock) {
    this.#bytesPerMs = bytesPerSecond / 1000;
    this.#clock = clock;
  }

  async spend(bytes: number, signal: AbortSignal): Promise<void> {
    if (this.#bytesPerMs === 0) return;
    const nowMs = this.#clock.monotonicMs();
    this.#freeAtMs = Math.max(nowMs, this.#freeAtMs) + bytes / this.#bytesPerMs;
    if (this.#freeAtMs > nowMs) await this.#clock.sleep(this.#freeAtMs - nowMs, signal);
  }
}
