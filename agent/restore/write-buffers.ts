/**
 * The buffers that a worker of a restore decodes blocks into, one after the other, while earlier ones are being written.
 * They begin on a page of memory, as writes past the page cache want it, and are kept from job to job: fresh memory costs
 * page faults.
 */
import { MACROBLOCK_BYTES } from '../../storage-layout/macroblock/entry.ts';

/** One that is filled and some that are written: enough to keep both the core and the disk busy. */
const BUFFERS = 4;

export class WriteBuffers {
  readonly #free = Array.from({ length: BUFFERS }, () => allocatePages(MACROBLOCK_BYTES));
  #released = Promise.withResolvers<void>();

  /** A buffer of MACROBLOCK_BYTES for the caller, who releases it; waits for one while all are in use. */
  async take(): Promise<Buffer> {
    for (;;) {
      const buffer = this.#free.pop();
      if (buffer !== undefined) return buffer;
      await this.#released.promise;
    }
  }

  release(buffer: Buffer): void {
    this.#free.push(buffer);
    this.#released.resolve();
    this.#released = Promise.withResolvers<void>();
  }
}

/** V8 takes the memory of an ArrayBuffer that could grow from the kernel page by page; any other may begin anywhere. */
function allocatePages(sizeBytes: number): Buffer {
  return Buffer.from(new ArrayBuffer(sizeBytes, { maxByteLength: sizeBytes }));
}
