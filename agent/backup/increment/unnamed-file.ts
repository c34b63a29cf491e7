/**
 * A temporary file without a name: what a backup keeps of a large database for a while. It is gone with its process, and
 * its pages are the kernel's to keep in memory or not. Synchronous: pieces of a few kilobytes out of the page cache.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, mkdirSync, openSync, readSync, unlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';

export class UnnamedFile implements Disposable {
  readonly #descriptor: number;

  /** `directory` is made if it is not there. */
  constructor(directory: string) {
    mkdirSync(directory, { recursive: true });
    const path = join(directory, `.unnamed-${randomBytes(8).toString('hex')}`);
    this.#descriptor = openSync(path, 'wx+', 0o600);
    unlinkSync(path);
  }

  write(position: number, data: Uint8Array): void {
    for (let done = 0; done < data.length; )
      done += writeSync(this.#descriptor, data, done, data.length - done, position + done);
  }

  /** Fills `into`; what was never written is zero. */
  read(position: number, into: Uint8Array): void {
    let done = 0;
    while (done < into.length) {
      const count = readSync(this.#descriptor, into, done, into.length - done, position + done);
      if (count === 0) break;
      done += count;
    }
    into.fill(0, done);
  }

  [Symbol.dispose](): void {
    closeSync(this.#descriptor);
  }
}
