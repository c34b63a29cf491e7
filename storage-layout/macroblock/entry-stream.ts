/** The entries of an index one by one, decoded when they are asked for: a large index leaves nothing behind in memory. */
import { corrupt } from '../records/header.ts';
import { decodeMacroBlockEntry, ENTRY_BYTES, type MacroBlockEntry } from './entry.ts';
import type { IndexChunk } from './index.ts';

export class EntryStream {
  readonly #chunks: AsyncIterator<IndexChunk>;
  #chunk: IndexChunk | undefined;
  /** Of the next entry in the chunk. */
  #offset = 0;
  #lastFile = -1;
  #lastBlock = -1;

  /** `chunks`: as `readIndexChunks` gives them. */
  constructor(chunks: AsyncIterable<IndexChunk>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  /** The next entry; undefined behind the last one. Throws DATA_CORRUPT (damage, disorder, no end mark), FORMAT_UNKNOWN. */
  async peek(): Promise<MacroBlockEntry | undefined> {
    const chunk = this.#loaded() ?? (await this.#load());
    if (chunk === undefined) return undefined;
    return decodeMacroBlockEntry(chunk.payload, this.#offset, chunk.recordOffset, chunk.source);
  }

  /** Goes behind the entry that `peek` gave. */
  take(): void {
    const chunk = this.#loaded();
    if (chunk === undefined) return;
    const file = chunk.payload.readUInt32LE(this.#offset);
    const block = chunk.payload.readUInt32LE(this.#offset + 4);
    if (file < this.#lastFile || (file === this.#lastFile && block <= this.#lastBlock))
      throw corrupt(chunk.source, chunk.recordOffset, 'the entries of the index are out of order');
    this.#lastFile = file;
    this.#lastBlock = block;
    this.#offset += ENTRY_BYTES;
  }

  /** The entry of that block, when there is one. What lies before it is passed over: blocks must be asked for in order. */
  async find(fileNumber: number, blockNumber: number): Promise<MacroBlockEntry | undefined> {
    for (;;) {
      const chunk = this.#loaded() ?? (await this.#load());
      if (chunk === undefined) return undefined;
      const { payload, recordOffset, source } = chunk;
      const order =
        payload.readUInt32LE(this.#offset) - fileNumber ||
        payload.readUInt32LE(this.#offset + 4) - blockNumber;
      if (order > 0) return undefined;
      const found =
        order === 0 ? decodeMacroBlockEntry(payload, this.#offset, recordOffset, source) : undefined;
      this.take();
      if (found !== undefined) return found;
    }
  }

  /** The chunk that the next entry is in; undefined: it must be loaded. */
  #loaded(): IndexChunk | undefined {
    return this.#chunk !== undefined && this.#offset < this.#chunk.payload.length ? this.#chunk : undefined;
  }

  async #load(): Promise<IndexChunk | undefined> {
    for (;;) {
      const step = await this.#chunks.next();
      this.#chunk = step.done === true ? undefined : step.value;
      this.#offset = 0;
      if (this.#chunk === undefined || this.#chunk.payload.length > 0) return this.#chunk;
    }
  }
}
