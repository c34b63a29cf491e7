/**
 * Received log that is not durable yet: its bytes in one ring that is allocated once, and what was seen in them as a
 * queue of pieces. A block is always cut at a piece's end, because only there is it known where an unfinished record
 * began. Nothing is allocated per piece for bytes: buffers of that size that live for a while are what a garbage
 * collector is slowest at.
 *
 *   0            #head        (taken)       waiting           #tail                       capacity
 *   │  free       │ bytes of a block that is  │ bytes of pieces │ free                        │
 *   │             │ being written             │                 │                             │
 *
 * A piece lies in one run: one that does not fit before the ring's end goes to its beginning. A block lies in one run too.
 * Bounded: a push without room is a bug; the reader waits for room first.
 */
import type { LogEvent, LogTouches } from '../../engine/engine.ts';
import { assert } from '../../foundation/assert.ts';
import { type Lsn, toLsn } from '../../foundation/lsn.ts';

export type LogPiece = {
  readonly begin: Lsn;
  readonly sizeBytes: number;
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
  /** Lies in the buffer: good until `release`. */
  readonly data: Uint8Array;
  readonly pieces: readonly LogPiece[];
};

type PlacedPiece = { readonly piece: LogPiece; readonly offset: number };

export class LogBuffer {
  readonly #ring: Buffer;
  readonly #pieces: PlacedPiece[] = [];
  #sizeBytes = 0;
  #head = 0;
  #tail = 0;
  #isTaken = false;

  constructor(capacityBytes: number) {
    this.#ring = Buffer.allocUnsafeSlow(capacityBytes); // pages that are never written to cost no memory
  }

  /** Bytes that no block has been made of yet. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** When the oldest piece came; undefined when empty. */
  get oldestReceivedMs(): number | undefined {
    return this.#pieces[0]?.piece.receivedMs;
  }

  hasRoomFor(sizeBytes: number): boolean {
    return this.#placeFor(sizeBytes) !== undefined;
  }

  /** Copies `data`. */
  push(piece: Omit<LogPiece, 'sizeBytes'>, data: Uint8Array): void {
    const last = this.#pieces.at(-1)?.piece;
    assert(
      last === undefined || last.begin + BigInt(last.sizeBytes) === piece.begin,
      'each piece of log lies directly behind the one before',
    );
    const offset = this.#placeFor(data.length);
    assert(offset !== undefined, 'nothing is buffered beyond the limit');
    this.#ring.set(data, offset);
    this.#tail = offset + data.length;
    this.#pieces.push({ piece: { ...piece, sizeBytes: data.length }, offset });
    this.#sizeBytes += data.length;
  }

  /**
   * Takes as many of the oldest pieces as lie in one run and fit into `maxBytes`, at least one; undefined when empty. The
   * block before it must have been released.
   */
  take(maxBytes: number): LogBlock | undefined {
    assert(!this.#isTaken, 'one block at a time is written');
    const first = this.#pieces[0];
    if (first === undefined) return undefined;
    let count = 0;
    let sizeBytes = 0;
    for (const { piece, offset } of this.#pieces) {
      const fits = sizeBytes + piece.sizeBytes <= maxBytes && offset === first.offset + sizeBytes;
      if (count > 0 && !fits) break;
      sizeBytes += piece.sizeBytes;
      count += 1;
    }
    const pieces = this.#pieces.splice(0, count).map(({ piece }) => piece);
    this.#sizeBytes -= sizeBytes;
    this.#isTaken = true;
    const { begin } = first.piece;
    const data = this.#ring.subarray(first.offset, first.offset + sizeBytes);
    return { begin, end: toLsn(begin + BigInt(sizeBytes)), data, pieces };
  }

  /** The taken block's bytes are not needed any more. */
  release(): void {
    this.#isTaken = false;
    this.#head = this.#pieces[0]?.offset ?? 0;
    if (this.#pieces.length === 0) this.#tail = 0; // the beginning is used again, and the rest stays untouched
  }

  /** Where that many bytes can lie in one run; undefined: nowhere. */
  #placeFor(sizeBytes: number): number | undefined {
    const isEmpty = this.#pieces.length === 0 && !this.#isTaken;
    // With the tail at or before the head the bytes go over the ring's end, and only what is between them is free.
    if (!isEmpty && this.#tail <= this.#head)
      return this.#head - this.#tail >= sizeBytes ? this.#tail : undefined;
    if (this.#ring.length - this.#tail >= sizeBytes) return this.#tail;
    return this.#head >= sizeBytes ? 0 : undefined;
  }
}
