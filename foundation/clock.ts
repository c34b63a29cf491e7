/** Time as an argument: code that reads a clock or waits takes a `Clock`, so that a test can stand in for it. */
import { setTimeout as wait } from 'node:timers/promises';

export type Clock = {
  /** Wall clock, milliseconds since 1970. */
  nowMs(): number;
  /** Wall clock, microseconds since 1970. */
  nowUs(): bigint;
  /** Milliseconds that only ever grow, for durations. */
  monotonicMs(): number;
  /** Waits. Rejects with the signal's reason when it is aborted. */
  sleep(durationMs: number, signal: AbortSignal): Promise<void>;
};

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  nowUs: () => BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000)),
  monotonicMs: () => performance.now(),
  async sleep(durationMs, signal) {
    signal.throwIfAborted();
    try {
      await wait(durationMs, undefined, { signal });
    } catch (error) {
      throw signal.aborted ? signal.reason : error;
    }
  },
};
