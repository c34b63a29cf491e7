import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { applyDelta, deltaBytes, packDelta } from '../../../storage-layout/macroblock/delta.ts';
import { MACROBLOCK_BYTES } from '../../../storage-layout/macroblock/entry.ts';
import {
  addPageMap,
  addPages,
  countPages,
  cutPages,
  emptyPageMap,
  endOfPages,
  hasPage,
  MAX_PAGES,
  PAGE_BYTES,
  pageRanges,
} from '../../../storage-layout/macroblock/page-map.ts';

const page = fc.integer({ min: 0, max: MAX_PAGES - 1 });
const pages = fc.uniqueArray(page, { maxLength: 40 });

function mapOf(set: Iterable<number>): Uint8Array {
  const map = emptyPageMap();
  for (const each of set) addPages(map, each, each + 1);
  return map;
}

describe('a set of pages', () => {
  test('agrees with a plain set', () => {
    fc.assert(
      fc.property(pages, pages, fc.integer({ min: 0, max: MAX_PAGES }), (some, others, end) => {
        const map = mapOf(some);
        addPageMap(map, mapOf(others));
        cutPages(map, end);
        const model = new Set([...some, ...others].filter((each) => each < end));
        expect(Array.from({ length: MAX_PAGES }, (_, n) => n).filter((n) => hasPage(map, n))).toEqual(
          [...model].sort((a, b) => a - b),
        );
        expect(countPages(map)).toBe(model.size);
        expect(endOfPages(map)).toBe(model.size === 0 ? 0 : Math.max(...model) + 1);
        const inRanges = pageRanges(map).flatMap((range) =>
          Array.from({ length: range.end - range.begin }, (_, n) => range.begin + n),
        );
        expect(new Set(inRanges)).toEqual(model);
      }),
    );
  });

  test('joins ranges over small gaps, and reads at most twice what is wanted for it', () => {
    expect(pageRanges(mapOf([1, 3, 4, 7]), 1)).toEqual([
      { begin: 1, end: 5 },
      { begin: 7, end: 8 },
    ]);
    fc.assert(
      fc.property(pages, (some) => {
        const read = pageRanges(mapOf(some), 1).reduce((sum, range) => sum + range.end - range.begin, 0);
        expect(read).toBeLessThanOrEqual(2 * some.length);
      }),
    );
  });
});

describe('a delta', () => {
  test('on its base, cut or grown, gives the block again', () => {
    const length = fc.integer({ min: 1, max: 12 });
    const content = fc.uint8Array({ minLength: 12, maxLength: 12 });
    fc.assert(
      fc.property(length, length, content, content, (wasPages, isPages, was, is) => {
        const block = (bytes: Uint8Array, count: number) =>
          Buffer.concat(Array.from({ length: count }, (_, n) => Buffer.alloc(PAGE_BYTES, bytes[n])));
        const before = block(was, wasPages);
        const after = block(is, isPages);
        const changed = mapOf(
          Array.from({ length: isPages }, (_, n) => n).filter((n) => is[n] !== (n < wasPages ? was[n] : 0)),
        );
        const working = Buffer.alloc(MACROBLOCK_BYTES, 0xee);
        working.set(after);
        const bytes = Buffer.from(packDelta(working, changed));
        expect(bytes.length).toBe(deltaBytes(changed));
        working.fill(0xee);
        working.set(before);
        const entry = { plainBytes: after.length, wholeBytes: before.length };
        expect(applyDelta(working, entry, { pages: changed, bytes }).equals(after)).toBe(true);
      }),
      { numRuns: 40 },
    );
  });
});
