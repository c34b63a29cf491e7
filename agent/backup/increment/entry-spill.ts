/** The index entries of what was copied, kept in a file until the index is written: sub task by sub task, in order. */
import { ENTRY_BYTES } from '../../../storage-layout/macroblock/entry.ts';
import type { IndexChunk } from '../../../storage-layout/macroblock/index.ts';
import type { SubTaskCopy } from '../worker-protocol.ts';
import { UnnamedFile } from './unnamed-file.ts';

export class EntrySpill implements Disposable {
  readonly #file: UnnamedFile;
  readonly #places = new Map<number, { readonly position: number; readonly bytes: number }>();
  #size = 0;

  constructor(directory: string) {
    this.#file = new UnnamedFile(directory);
  }

  add({ subTaskId, entries }: Pick<SubTaskCopy, 'subTaskId' | 'entries'>): void {
    this.#file.write(this.#size, entries);
    this.#places.set(subTaskId, { position: this.#size, bytes: entries.length });
    this.#size += entries.length;
  }

  get count(): number {
    return this.#size / ENTRY_BYTES;
  }

  /** In the order of the sub tasks' ids, one sub task at a time. */
  async *chunks(): AsyncGenerator<IndexChunk, void, undefined> {
    for (const [subTaskId, { position, bytes }] of [...this.#places].sort(([a], [b]) => a - b)) {
      const payload = Buffer.alloc(bytes);
      this.#file.read(position, payload);
      yield { payload, recordOffset: 0, source: { file: `sub task ${subTaskId}` } };
    }
  }

  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]();
  }
}
