/** Comparing two copies of the same log. */
import { isError } from '../../foundation/errors.ts';
import { type Lsn, toLsn } from '../../foundation/lsn.ts';
import type { LogChunkRead } from './read-log-file.ts';

type Chunks = AsyncGenerator<LogChunkRead, void, undefined>;

/**
 * The first LSN at which the copies differ; undefined where both have the same, as far as both can be read. Damage decides
 * nothing here: it shows when the bytes are read.
 */
export async function findDifference(one: Chunks, other: Chunks): Promise<Lsn | undefined> {
  const copies = new Cursor(other);
  try {
    for await (const chunk of one) {
      const copy = await copies.take(chunk.data.length);
      const data = chunk.data.subarray(0, copy.length);
      if (copy.equals(data)) continue;
      const at = data.findIndex((byte, position) => byte !== copy[position]);
      return toLsn(chunk.begin + BigInt(at));
    }
  } catch (error) {
    if (!isError(error, 'DATA_CORRUPT')) throw error;
  }
  return undefined;
}

/** Takes bytes off a stream of chunks in other portions than they come in; fewer at its end. */
class Cursor {
  readonly #chunks: Chunks;
  #rest: Buffer = Buffer.alloc(0);

  constructor(chunks: Chunks) {
    this.#chunks = chunks;
  }

  async take(length: number): Promise<Buffer> {
    while (this.#rest.length < length) {
      const next = await this.#chunks.next();
      if (next.done === true) break;
      this.#rest = Buffer.concat([this.#rest, next.value.data]); // a chunk is valid until the next one only
    }
    const taken = this.#rest.subarray(0, length);
    this.#rest = this.#rest.subarray(length);
    return taken;
  }
}
