/**
 * Reads the records of archived log as it is handed over, file after file, and says where they cannot be read. What comes
 * twice is read once; behind a hole, and behind what cannot be read, it goes on at the next segment's first byte.
 */
import type { LogInspector } from '../../engine/engine.ts';
import { createLogInspector } from '../../engine/postgres/wal/inspector.ts';
import { type HoldfastError, isError } from '../../foundation/errors.ts';
import { type Lsn, segmentStart, type Timeline, toLsn } from '../../foundation/lsn.ts';

export type WalFacts = {
  readonly segmentSizeBytes: number;
  readonly systemIdentifier: bigint;
  readonly major: number;
  /** Where each timeline left the one before: a record's beginning inside a segment. */
  readonly forks: ReadonlyMap<Timeline, Lsn>;
};

export class WalFollower {
  readonly #facts: WalFacts;
  readonly #onUnreadable: (error: HoldfastError) => void;
  #inspector: LogInspector | undefined;
  #timeline: Timeline | undefined;

  /** `onUnreadable` is given WAL_UNREADABLE and SYSTEM_IDENTIFIER_MISMATCH. */
  constructor(facts: WalFacts, onUnreadable: (error: HoldfastError) => void) {
    this.#facts = facts;
    this.#onUnreadable = onUnreadable;
  }

  /** The next bytes, in order of (timeline, begin). */
  push(timeline: Timeline, begin: Lsn, data: Buffer): void {
    const position = this.#timeline === timeline ? this.#inspector?.position : undefined;
    if (position === undefined || begin > position) this.#enter(timeline, begin, data);
    else if (begin + BigInt(data.length) > position)
      this.#read(position, data.subarray(Number(position - begin)));
  }

  /** Begins anew at the first place in the data where that can be done; without one, waits for more. */
  #enter(timeline: Timeline, begin: Lsn, data: Buffer): void {
    const { segmentSizeBytes, systemIdentifier, major, forks } = this.#facts;
    this.#inspector = undefined;
    this.#timeline = timeline;
    const at = forks.get(timeline) === begin ? begin : nextSegment(begin, segmentSizeBytes);
    if (at >= begin + BigInt(data.length)) return;
    this.#inspector = createLogInspector({ segmentSizeBytes, timeline, systemIdentifier, begin: at, major });
    this.#read(at, data.subarray(Number(at - begin)));
  }

  #read(begin: Lsn, data: Buffer): void {
    try {
      this.#inspector?.push(begin, data);
      this.#inspector?.takeEvents();
    } catch (error) {
      if (!isError(error, 'WAL_UNREADABLE', 'SYSTEM_IDENTIFIER_MISMATCH')) throw error;
      this.#inspector = undefined;
      this.#onUnreadable(error);
    }
  }
}

/** The first byte of a segment at `lsn` or behind it. */
function nextSegment(lsn: Lsn, segmentSizeBytes: number): Lsn {
  const start = segmentStart(lsn, segmentSizeBytes);
  return start === lsn ? lsn : toLsn(start + BigInt(segmentSizeBytes));
}
