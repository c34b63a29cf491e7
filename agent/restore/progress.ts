/** How far a restore is, as it tells whoever waits for it. */
import type { Lsn } from '../../foundation/lsn.ts';

export type RestorePhase = 'CREATE' | 'SYSTEM_DATA' | 'USER_DATA' | 'LOG' | 'CHECK';

export type RestoreStep = {
  readonly phase: RestorePhase;
  readonly bytesDone: bigint;
  readonly bytesTotal: bigint;
  readonly blocksDone: bigint;
  readonly blocksTotal: bigint;
  /** Of a delta restore: what of it was there already. */
  readonly bytesKept: bigint;
  readonly blocksKept: bigint;
  /** Where the server is about to read; undefined before it does. */
  readonly replayLsn: Lsn | undefined;
  /** Where recovery stops, or the end of the archived log. */
  readonly targetLsn: Lsn | undefined;
};

/** The latest step, reported whole whenever a part of it changes. */
export class RestoreReporter {
  readonly #report: (step: RestoreStep) => void;
  #step: RestoreStep = {
    phase: 'CREATE',
    bytesDone: 0n,
    bytesTotal: 0n,
    blocksDone: 0n,
    blocksTotal: 0n,
    bytesKept: 0n,
    blocksKept: 0n,
    replayLsn: undefined,
    targetLsn: undefined,
  };

  constructor(report: (step: RestoreStep) => void) {
    this.#report = report;
  }

  get step(): RestoreStep {
    return this.#step;
  }

  set(change: Partial<RestoreStep>): void {
    this.#step = { ...this.#step, ...change };
    this.#report(this.#step);
  }
}
