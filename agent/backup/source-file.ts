/**
 * Reading the database's files. Reads are synchronous on purpose: this runs in a worker thread, the pages are mostly in
 * the file cache, and the medium's writes go on meanwhile.
 */
import { closeSync, constants, openSync, readSync } from 'node:fs';
import { HoldfastError } from '../../foundation/errors.ts';
import type { Piece } from './plan.ts';

/** The file that was read last stays open: pieces come in file order. */
export class SourceFile implements Disposable {
  #fileNumber = -1;
  #descriptor = -1;

  /** Undefined when the file is gone. It is opened without following a link. Throws BACKUP_FAILED. */
  open(piece: Piece): number | undefined {
    if (piece.fileNumber === this.#fileNumber) return this.#descriptor;
    this[Symbol.dispose]();
    const noFollow = piece.kind === 'external' ? 0 : constants.O_NOFOLLOW;
    try {
      this.#descriptor = openSync(piece.absolutePath, constants.O_RDONLY | noFollow);
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw readFailed(piece, error);
    }
    this.#fileNumber = piece.fileNumber;
    return this.#descriptor;
  }

  [Symbol.dispose](): void {
    if (this.#fileNumber >= 0) closeSync(this.#descriptor);
    this.#fileNumber = -1;
  }
}

/** Fills `into` from `position`; what it returns is shorter at the end of the file. Throws BACKUP_FAILED. */
export function readExtent(piece: Piece, descriptor: number, position: number, into: Buffer): Buffer {
  try {
    let filled = 0;
    while (filled < into.length) {
      const count = readSync(descriptor, into, filled, into.length - filled, position + filled);
      if (count === 0) break;
      filled += count;
    }
    return into.subarray(0, filled);
  } catch (error) {
    throw readFailed(piece, error);
  }
}

function readFailed(piece: Piece, cause: unknown): HoldfastError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new HoldfastError('BACKUP_FAILED', `cannot read ${piece.path}: ${reason}`, {
    cause,
    ...(errnoOf(cause) === 'EACCES' || errnoOf(cause) === 'EPERM'
      ? { hint: `Let the agent's user read ${piece.absolutePath}: run it as the server's user.` }
      : {}),
  });
}

function errnoOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException).code; // node:fs throws errno errors
}
