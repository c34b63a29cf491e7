/**
 * What records change, in the order of the log, before it is known into which map it goes: an archiver reads records
 * ahead of deciding where a log file ends. Compact, because it waits with the piece of log that it was read from.
 */
import { assert } from '../../../foundation/assert.ts';
import type { LogTouches, RelationChange } from '../../engine.ts';
import type { RecordDecoder } from './blocks.ts';
import type { RecordView } from './record.ts';
import { relationChangesOf } from './relation-records.ts';

/** Numbers per touched page in `LogTouches.pages`. */
export const TOUCH_FIELDS = 5;

export class TouchRecorder {
  #pages = new Uint32Array(1024 * TOUCH_FIELDS);
  #length = 0;
  #changes: RelationChange[] = [];

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
    return touches;
  }

  #touch(tablespace: number, database: number, relation: number, fork: number, block: number): void {
    let pages = this.#pages;
    const at = this.#length;
    // Inserts touch one page many times in a row.
    if (
      at > 0 &&
      pages[at - 1] === block &&
      pages[at - 2] === fork &&
      pages[at - 3] === relation &&
      pages[at - 4] === database
    )
      return;
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
  }
}
