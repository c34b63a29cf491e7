/**
 * What records change before it is known into which map it goes: an archiver reads records ahead of deciding where a log
 * file ends. Compact, because it waits with the piece of log that it was read from: records touch the same few pages again
 * and again (where rows are appended, the upper pages of an index), and a page that is remembered is not added a second
 * time. What is remembered is exact, and a page that was forgotten is merely there twice.
 */
import { assert } from '../../../foundation/assert.ts';
import type { LogTouches, RelationChange } from '../../engine.ts';
import type { RecordDecoder } from './blocks.ts';
import type { RecordView } from './record.ts';
import { relationChangesOf } from './relation-records.ts';

/** Numbers per touched page in `LogTouches.pages`. */
export const TOUCH_FIELDS = 5;
/** A power of two. */
const REMEMBERED_PAGES = 2048;

export class TouchRecorder {
  #pages = new Uint32Array(1024 * TOUCH_FIELDS);
  #length = 0;
  #changes: RelationChange[] = [];
  /** By hash of a page: behind its place in `#pages`; 0: none. */
  readonly #remembered = new Uint32Array(REMEMBERED_PAGES);

  /** Decodes the record with `decoder`. Throws WAL_UNREADABLE. */
  add(record: RecordView, decoder: RecordDecoder): void {
    for (const change of relationChangesOf(record, decoder)) this.#changes.push(change);
    decoder.decode(record);
    for (let index = 0; index < decoder.blockCount; index += 1) {
      const block = decoder.blocks[index];
      assert(block !== undefined, 'blockCount counts blocks');
      this.#touch(block.tablespace, block.database, block.relation, block.fork, block.block);
    }
  }

  /** What was added since the last call. */
  take(): LogTouches {
    const touches = { pages: this.#pages.slice(0, this.#length), changes: this.#changes };
    this.#length = 0;
    this.#changes = [];
    this.#remembered.fill(0);
    return touches;
  }

  #touch(tablespace: number, database: number, relation: number, fork: number, block: number): void {
    let pages = this.#pages;
    const hash = Math.imul(block, 0x9e3779b1) ^ Math.imul(relation * 4 + fork, 0x85ebca6b);
    const slot = (hash ^ (hash >>> 16)) & (REMEMBERED_PAGES - 1);
    const behind = this.#remembered[slot] ?? 0;
    if (
      behind > 0 &&
      pages[behind - 1] === block &&
      pages[behind - 2] === fork &&
      pages[behind - 3] === relation &&
      pages[behind - 4] === database &&
      pages[behind - 5] === tablespace
    )
      return;
    const at = this.#length;
    if (at + TOUCH_FIELDS > pages.length) {
      pages = new Uint32Array(pages.length * 2);
      pages.set(this.#pages);
      this.#pages = pages;
    }
    pages[at] = tablespace;
    pages[at + 1] = database;
    pages[at + 2] = relation;
    pages[at + 3] = fork;
    pages[at + 4] = block;
    this.#length = at + TOUCH_FIELDS;
    this.#remembered[slot] = at + TOUCH_FIELDS;
  }
}
