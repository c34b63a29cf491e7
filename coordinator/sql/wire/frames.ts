/**
 * Frames of the PostgreSQL protocol (version 3): one type byte, a 32-bit big-endian length that counts itself, a body.
 *
 *   0      type   one ASCII letter
 *   1..4   length of what follows the type, at least 4
 *   5..    body
 */
import { HoldfastError } from '../../../foundation/errors.ts';

export type Frame = {
  /** One letter. */
  readonly type: string;
  /** The whole frame, type and length included. */
  readonly bytes: Buffer;
};

export const FRAME_HEADER_BYTES = 5;

export function frame(type: string, body: Buffer): Buffer {
  const bytes = Buffer.allocUnsafe(FRAME_HEADER_BYTES + body.length);
  bytes.write(type, 0, 'latin1');
  bytes.writeInt32BE(4 + body.length, 1);
  body.copy(bytes, FRAME_HEADER_BYTES);
  return bytes;
}

/** Cuts a stream of bytes into frames. */
export class FrameSplitter {
  readonly #maxBytes: number;
  #pending: Buffer = Buffer.alloc(0);

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** The whole frames that are there after `chunk`. Throws INVALID_ARGUMENT at a length that cannot be. */
  push(chunk: Buffer): readonly Frame[] {
    this.#pending = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk]);
    const frames: Frame[] = [];
    let at = 0;
    while (this.#pending.length - at >= FRAME_HEADER_BYTES) {
      const length = this.#pending.readInt32BE(at + 1);
      if (length < 4 || length > this.#maxBytes)
        throw new HoldfastError('INVALID_ARGUMENT', `protocol message of ${length} bytes`, {
          detail: `A message has 4 to ${this.#maxBytes} bytes.`,
        });
      if (this.#pending.length - at < 1 + length) break;
      const bytes = this.#pending.subarray(at, at + 1 + length);
      frames.push({ type: bytes.toString('latin1', 0, 1), bytes });
      at += 1 + length;
    }
    this.#pending = this.#pending.subarray(at);
    return frames;
  }
}

/** The frames of a buffer that holds whole ones only. */
export function splitFrames(bytes: Buffer): readonly Frame[] {
  return new FrameSplitter(0x7fff_ffff).push(bytes);
}

/** Reads a message body field by field. Throws INVALID_ARGUMENT when the body is shorter than its fields. */
export class BodyReader {
  readonly #bytes: Buffer;
  #at: number;

  constructor(bytes: Buffer, begin = FRAME_HEADER_BYTES) {
    this.#bytes = bytes;
    this.#at = begin;
  }

  get remainingBytes(): number {
    return this.#bytes.length - this.#at;
  }

  /** The offset in the whole buffer. */
  get offset(): number {
    return this.#at;
  }

  string(): string {
    const end = this.#bytes.indexOf(0, this.#at);
    if (end < 0) throw truncated();
    const text = this.#bytes.toString('utf8', this.#at, end);
    this.#at = end + 1;
    return text;
  }

  letter(): string {
    return this.take(1).toString('latin1');
  }

  int16(): number {
    return this.take(2).readInt16BE();
  }

  int32(): number {
    return this.take(4).readInt32BE();
  }

  take(sizeBytes: number): Buffer {
    if (sizeBytes < 0 || this.#at + sizeBytes > this.#bytes.length) throw truncated();
    const part = this.#bytes.subarray(this.#at, this.#at + sizeBytes);
    this.#at += sizeBytes;
    return part;
  }
}

function truncated(): HoldfastError {
  return new HoldfastError('INVALID_ARGUMENT', 'protocol message is shorter than its fields');
}
