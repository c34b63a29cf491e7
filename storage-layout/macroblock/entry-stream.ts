/** The entries of an index one by one, with one step of foresight. */
import type { MacroBlockEntry } from './index.ts';

export class EntryStream {
  readonly #chunks: AsyncIterator<readonly MacroBlockEntry[]>;
  #chunk: readonly MacroBlockEntry[] = [];
  #next = 0;

  /** `chunks`: as `readMacroBlockIndex` gives them. */
  constructor(chunks: AsyncIterable<readonly MacroBlockEntry[]>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  /** The next entry; undefined behind the last one. */
  async peek(): Promise<MacroBlockEntry | undefined> {
    while (this.#next === this.#chunk.length) {
      const step = await this.#chunks.next();
      if (step.done === true) return undefined;
      this.#chunk = step.value;
      this.#next = 0;
    }
    return this.#chunk[this.#next];
  }

  take(): void {
    this.#next += 1;
  }

  /** The entry of that block, when there is one. What lies before it is passed over: blocks must be asked for in order. */
  async find(fileNumber: number, blockNumber: number): Promise<MacroBlockEntry | undefined> {
    for (;;) {
      const entry = this.#chunk[this.#next] ?? (await this.peek());
      if (entry === undefined) return undefined;
      const order = entry.fileNumber - fileNumber || entry.blockNumber - blockNumber;
      if (order > 0) return undefined;
      this.#next += 1;
      if (order === 0) return entry;
    }
  }
}
