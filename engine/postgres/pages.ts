/**
 * Page checks. A page is 8,192 bytes; what is read here of its header (PostgreSQL's storage/bufpage.h):
 *
 *   offset  size  field
 *        0     4  pd_lsn, high half        4  4  pd_lsn, low half
 *        8     2  pd_checksum              14  2  pd_upper, 0 in a page that was never initialised
 *
 * The checksum is PostgreSQL's (storage/checksum_impl.h): 32 lanes of a FNV-1a variant over the page as 2,048 words with
 * pd_checksum taken as zero, two more rounds of zeros, the lanes xor-ed, xor the block number, mod 65,535, plus 1.
 *
 * Plain JavaScript on purpose: eight lanes at a time stay in registers, and 2 GB cost a third of a second.
 */

import { type Lsn, toLsn } from '../../foundation/lsn.ts';
import type { CheckExtent, ExtentFacts, SuspectPage } from '../engine.ts';

export const PAGE_BYTES = 8192;
const PAGE_WORDS = PAGE_BYTES / 4;
const PRIME = 16_777_619;
const LANES = 32;
const LANES_AT_ONCE = 8;

const OFFSET_BASES = new Int32Array([
  0x5b1f36e9, 0xb8525960, 0x02ab50aa, 0x1de66d2a, 0x79ff467a, 0x9bb9f8a3, 0x217e7cd2, 0x83e13d2c, 0xf8d4474f,
  0xe39eb970, 0x42c6ae16, 0x993216fa, 0x7b093b5d, 0x98daff3c, 0xf718902a, 0x0b1c9cdb, 0xe58f764b, 0x187636bc,
  0x5d7b3bb1, 0xe73de7de, 0x92bec979, 0xcca6c0b2, 0x304a0979, 0x85aa43d4, 0x783125bb, 0x6ca8eaa2, 0xe407eac6,
  0x4b5cfc3e, 0x9fbf8c76, 0x15ca20be, 0xf2ca9fd3, 0x959bd756,
]);

/**
 * Checks every whole page of `extent`; an incomplete page at its end is ignored (the server ignores it too). A page is
 * suspect when its checksum is wrong, or when it looks uninitialised but holds something. `newestPageLsn` counts the
 * pages that are not suspect. Without `checksums` nothing is suspect.
 */
export const checkExtent: CheckExtent = (extent, firstBlock, checksums): ExtentFacts => {
  const words = pageWords(extent);
  const pageCount = Math.floor(extent.byteLength / PAGE_BYTES);
  const suspects: SuspectPage[] = [];
  let newestHigh = 0;
  let newestLow = 0;
  for (let pageNo = 0; pageNo < pageCount; pageNo += 1) {
    const begin = pageNo * PAGE_WORDS;
    if (checksums && !pageHolds(words, begin, firstBlock + pageNo)) {
      suspects.push({ pageNo, pageLsn: joinLsn(words[begin] ?? 0, words[begin + 1] ?? 0) });
      continue;
    }
    const high = (words[begin] ?? 0) >>> 0;
    const low = (words[begin + 1] ?? 0) >>> 0;
    if (high > newestHigh || (high === newestHigh && low > newestLow)) {
      newestHigh = high;
      newestLow = low;
    }
  }
  return { newestPageLsn: joinLsn(newestHigh, newestLow), suspects };
};

/** The checksum that the server would write into this page as block `blockNo` of its relation fork. `page` is 8,192 bytes. */
export function pageChecksum(page: Uint8Array, blockNo: number): number {
  return checksumAt(pageWords(page), 0, blockNo);
}

/** True for a page that passes: right checksum, or never initialised and all zero. */
function pageHolds(words: Int32Array, begin: number, blockNo: number): boolean {
  const upper = (words[begin + 3] ?? 0) >>> 16;
  if (upper === 0) return isZero(words, begin);
  return checksumAt(words, begin, blockNo) === ((words[begin + 2] ?? 0) & 0xffff);
}

function isZero(words: Int32Array, begin: number): boolean {
  for (let at = begin; at < begin + PAGE_WORDS; at += 1) if (words[at] !== 0) return false;
  return true;
}

function checksumAt(words: Int32Array, begin: number, blockNo: number): number {
  let sum = 0;
  for (let lane = 0; lane < LANES; lane += LANES_AT_ONCE) sum ^= hashLanes(words, begin, lane);
  return (((sum ^ blockNo) >>> 0) % 65_535) + 1;
}

/** Eight neighbouring lanes of one page, finished and xor-ed together. Unrolled so that the sums stay in registers. */
function hashLanes(w: Int32Array, begin: number, lane: number): number {
  const bases = OFFSET_BASES;
  let a = bases[lane] ?? 0;
  let b = bases[lane + 1] ?? 0;
  let c = bases[lane + 2] ?? 0;
  let d = bases[lane + 3] ?? 0;
  let e = bases[lane + 4] ?? 0;
  let f = bases[lane + 5] ?? 0;
  let g = bases[lane + 6] ?? 0;
  let h = bases[lane + 7] ?? 0;
  const end = begin + PAGE_WORDS;
  // Word 2 holds pd_checksum in its low half: xor-ing that half into the base first takes it out again.
  if (lane === 0) c ^= (w[begin + 2] ?? 0) & 0xffff;
  for (let at = begin + lane; at < end; at += LANES) {
    a ^= w[at] ?? 0;
    b ^= w[at + 1] ?? 0;
    c ^= w[at + 2] ?? 0;
    d ^= w[at + 3] ?? 0;
    e ^= w[at + 4] ?? 0;
    f ^= w[at + 5] ?? 0;
    g ^= w[at + 6] ?? 0;
    h ^= w[at + 7] ?? 0;
    a = Math.imul(a, PRIME) ^ (a >>> 17);
    b = Math.imul(b, PRIME) ^ (b >>> 17);
    c = Math.imul(c, PRIME) ^ (c >>> 17);
    d = Math.imul(d, PRIME) ^ (d >>> 17);
    e = Math.imul(e, PRIME) ^ (e >>> 17);
    f = Math.imul(f, PRIME) ^ (f >>> 17);
    g = Math.imul(g, PRIME) ^ (g >>> 17);
    h = Math.imul(h, PRIME) ^ (h >>> 17);
  }
  return (
    finishLane(a) ^
    finishLane(b) ^
    finishLane(c) ^
    finishLane(d) ^
    finishLane(e) ^
    finishLane(f) ^
    finishLane(g) ^
    finishLane(h)
  );
}

/** Two rounds of zeros. */
function finishLane(sum: number): number {
  const once = Math.imul(sum, PRIME) ^ (sum >>> 17);
  return Math.imul(once, PRIME) ^ (once >>> 17);
}

/** The bytes as little-endian words, without a copy where they are aligned. */
function pageWords(bytes: Uint8Array): Int32Array {
  const wordCount = Math.floor(bytes.byteLength / 4);
  if (bytes.byteOffset % 4 === 0) return new Int32Array(bytes.buffer, bytes.byteOffset, wordCount);
  return new Int32Array(new Uint8Array(bytes).buffer, 0, wordCount);
}

function joinLsn(high: number, low: number): Lsn {
  return toLsn((BigInt(high >>> 0) << 32n) | BigInt(low >>> 0));
}
