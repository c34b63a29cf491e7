/**
 * The messages of one socket, in order, with back-pressure: the socket is read on while a statement runs (so that its
 * end is noticed), and paused when too much waits.
 */
import type { Socket } from 'node:net';
import { HoldfastError } from '../../../foundation/errors.ts';
import { type Frame, FrameSplitter } from './frames.ts';

/** The longest message a client may send. */
const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;
const PAUSE_ABOVE_BYTES = 1024 * 1024;

export class MessageQueue {
  readonly #socket: Socket;
  readonly #splitter = new FrameSplitter(MAX_MESSAGE_BYTES);
  readonly #waiting: Frame[] = [];
  #waitingBytes = 0;
  #wake: (() => void) | undefined;
  #failure: HoldfastError | undefined;
  #closed = false;

  /** `first`: bytes that were read with the start-up packet. */
  constructor(socket: Socket, first: Buffer) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => this.#push(chunk));
    socket.on('close', () => this.#close());
    socket.on('end', () => this.#close());
    if (first.length > 0) this.#push(first);
    socket.resume();
  }

  /** The next message; undefined when the client is gone. Throws INVALID_ARGUMENT when it does not speak the protocol. */
  async next(): Promise<Frame | undefined> {
    while (this.#waiting.length === 0) {
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#closed) return undefined;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await promise;
    }
    const found = this.#waiting.shift();
    this.#waitingBytes -= found?.bytes.length ?? 0;
    if (this.#waitingBytes <= PAUSE_ABOVE_BYTES && !this.#closed) this.#socket.resume();
    return found;
  }

  #push(chunk: Buffer): void {
    try {
      for (const found of this.#splitter.push(chunk)) {
        this.#waiting.push(found);
        this.#waitingBytes += found.bytes.length;
      }
    } catch (error) {
      this.#failure =
        error instanceof HoldfastError
          ? error
          : new HoldfastError('INTERNAL', 'cannot read', { cause: error });
      this.#socket.pause();
    }
    if (this.#waitingBytes > PAUSE_ABOVE_BYTES) this.#socket.pause();
    this.#wake?.();
  }

  #close(): void {
    this.#closed = true;
    this.#wake?.();
  }
}

/** Writes and waits until there is room for more. Throws CANCELLED when the client is gone. */
export async function writeTo(socket: Socket, bytes: Buffer): Promise<void> {
  if (socket.destroyed || socket.writableEnded) throw clientGone();
  if (socket.write(bytes)) return;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const closed = () => reject(clientGone());
  socket.once('drain', resolve);
  socket.once('close', closed);
  try {
    await promise;
  } finally {
    socket.off('drain', resolve);
    socket.off('close', closed);
  }
}

export function clientGone(): HoldfastError {
  return new HoldfastError('CANCELLED', 'the client went away');
}
