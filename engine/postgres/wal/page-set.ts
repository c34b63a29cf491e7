/**
 * A set of (fork, page) pairs in one typed array: 16 to 32 bytes a page, nothing to collect, so that a log file that
 * touches a million pages of a large database costs the archiver megabytes. Open addressing; a key is
 * fork × 2^32 + page + 1, which a double holds exactly for forks below 2^20; 0 is a free slot.
 */
import { assert } from '../../../foundation/assert.ts';

const PAGES = 0x1_0000_0000;
const MAX_FORKS = 2 ** 20;
const FIRST_SLOTS = 1024;

export class PageSet {
  #slots = new Float64Array(FIRST_SLOTS);
  #size = 0;
  #last = 0;

  get size(): number {
    return this.#size;
  }

  /** `fork`: a number of the caller's, below 2^20. `page`: 32 bit. */
  add(fork: number, page: number): void {
    const key = fork * PAGES + page + 1;
    if (key === this.#last) return;
    assert(fork < MAX_FORKS, 'a change map holds at most a million forks');
    this.#last = key;
    if (this.#size * 2 >= this.#slots.length) this.#grow();
    if (insert(this.#slots, key)) this.#size += 1;
  }

  /** `order[fork]` × 2^32 + page for every page, ascending. */
  sorted(order: Uint32Array): Float64Array {
    const keys = new Float64Array(this.#size);
    let at = 0;
    for (const key of this.#slots) {
      if (key === 0) continue;
      const fork = Math.floor((key - 1) / PAGES);
      keys[at] = (order[fork] ?? 0) * PAGES + (key - 1 - fork * PAGES);
      at += 1;
    }
    return keys.sort();
  }

  #grow(): void {
    const grown = new Float64Array(this.#slots.length * 2);
    for (const key of this.#slots) if (key !== 0) insert(grown, key);
    this.#slots = grown;
  }
}

/** False when the key is there already. `slots` has a free one, and a power of two of them. */
function insert(slots: Float64Array, key: number): boolean {
  const mask = slots.length - 1;
  const high = Math.floor(key / PAGES);
  let hash = Math.imul((key - high * PAGES) | 0, 0x9e3779b1) ^ Math.imul(high, 0x85ebca6b);
  hash ^= hash >>> 15;
  for (let at = hash & mask; ; at = (at + 1) & mask) {
    const found = slots[at];
    if (found === key) return false;
    if (found === 0) {
      slots[at] = key;
      return true;
    }
  }
}

/** The two halves of a number that `sorted` gives. */
export function forkOf(key: number): number {
  return Math.floor(key / PAGES);
}

export function pageOf(key: number): number {
  return key % PAGES;
}
