/**
 * Deltas: the pages of a block that were changed since the start of the backup that wrote the whole block, one behind the
 * other in page order, stored as one macroBlock record. A block with a delta is read by two ranged reads: the whole
 * block's record (the base) and the delta's. The base is cut, or filled with zeros, to the block's plain length, and
 * then each page of the delta takes its place.
 */
import { assert } from '../../foundation/assert.ts';
import type { MacroBlockEntry } from './entry.ts';
import { countPages, hasPage, MAX_PAGES, PAGE_BYTES } from './page-map.ts';

/** Plain length of the base: what its record holds. */
export function baseBytes(entry: Pick<MacroBlockEntry, 'plainBytes' | 'wholeBytes'>): number {
  return entry.wholeBytes ?? entry.plainBytes;
}

/** True when the record of the whole block is all of the block, and its checksum the block's. */
export function isStoredWhole(entry: Pick<MacroBlockEntry, 'plainBytes' | 'wholeBytes' | 'delta'>): boolean {
  return entry.delta === undefined && baseBytes(entry) === entry.plainBytes;
}

/** Plain length of a delta of these pages. */
export function deltaBytes(pages: Uint8Array): number {
  return countPages(pages) * PAGE_BYTES;
}

/** Moves the pages of a block, each at its place in `block`, together at its beginning: the plain bytes of a delta. */
export function packDelta(block: Buffer, pages: Uint8Array): Buffer {
  let packed = 0;
  for (let page = 0; page < MAX_PAGES; page += 1) {
    if (!hasPage(pages, page)) continue;
    block.copyWithin(packed, page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
    packed += PAGE_BYTES;
  }
  return block.subarray(0, packed);
}

/**
 * Makes a block out of its base, which stands at the beginning of `block` (2 MiB), and its delta's plain bytes. Returns
 * the block's part of `block`.
 */
export function applyDelta(
  block: Buffer,
  entry: Pick<MacroBlockEntry, 'plainBytes' | 'wholeBytes'>,
  delta: { readonly pages: Uint8Array; readonly bytes: Uint8Array } | undefined,
): Buffer {
  const whole = baseBytes(entry);
  if (whole < entry.plainBytes) block.fill(0, whole, entry.plainBytes);
  if (delta !== undefined) {
    assert(delta.bytes.length === deltaBytes(delta.pages), "a delta's bytes are its pages");
    let packed = 0;
    for (let page = 0; page < MAX_PAGES; page += 1) {
      if (!hasPage(delta.pages, page)) continue;
      block.set(delta.bytes.subarray(packed, packed + PAGE_BYTES), page * PAGE_BYTES);
      packed += PAGE_BYTES;
    }
  }
  return block.subarray(0, entry.plainBytes);
}
