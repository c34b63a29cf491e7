/**
 * Received log that is not durable yet, as a queue of pieces. A block is always cut at a piece's end, because only there
 * is it known where an unfinished record began. Bounded: a push into a full buffer is a bug; the reader waits for room
 * first.
 */
import type { LogEvent, LogTouches } from '../../engine/engine.ts';
import { assert } from '../../foundation/assert.ts';
import { type Lsn, toLsn } from '../../foundation/lsn.ts';

export type LogPiece = {
  readonly begin: Lsn;
  readonly data: Buffer;
  /** Events of the records that end inside this piece. */
  readonly events: readonly LogEvent[];
  /** What those records change. */
  readonly touches: LogTouches;
  /** Where the record that is unfinished at this piece's end began; undefined: a record border. */
  readonly unfinishedRecordBegin: Lsn | undefined;
  /** The agent's monotonic clock when it came. */
  readonly receivedMs: number;
};

export type LogBlock = {
  readonly begin: Lsn;
  readonly end: Lsn;
  readonly sizeBytes: number;
  readonly pieces: readonly LogPiece[];
};

export class LogBuffer {
  readonly #limitBytes: number;
  readonly #pieces: LogPiece[] = [];
  #sizeBytes = 0;

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  get isFull(): boolean {
    return this.#sizeBytes >= this.#limitBytes;
  }

  /** When the oldest piece came; undefined when empty. */
  get oldestReceivedMs(): number | undefined {
    return this.#pieces[0]?.receivedMs;
  }

  push(piece: LogPiece): void {
    assert(!this.isFull, 'nothing is buffered beyond the limit');
    const last = this.#pieces.at(-1);
    assert(
      last === undefined || last.begin + BigInt(last.data.length) === piece.begin,
      'each piece of log lies directly behind the one before',
    );
    this.#pieces.push(piece);
    this.#sizeBytes += piece.data.length;
  }

  /** Takes as many of the oldest pieces as fit into `maxBytes`, at least one; undefined when empty. */
  take(maxBytes: number): LogBlock | undefined {
    const first = this.#pieces[0];
    if (first === undefined) return undefined;
    let count = 0;
    let sizeBytes = 0;
    for (const piece of this.#pieces) {
      if (count > 0 && sizeBytes + piece.data.length > maxBytes) break;
      sizeBytes += piece.data.length;
      count += 1;
    }
    const pieces = this.#pieces.splice(0, count);
    this.#sizeBytes -= sizeBytes;
    return { begin: first.begin, end: toLsn(first.begin + BigInt(sizeBytes)), sizeBytes, pieces };
  }
}
