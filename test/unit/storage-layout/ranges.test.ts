import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { toLsn, toTimeline } from '../../../foundation/lsn.ts';
import { findGaps, joinPieces, planPieces } from '../../../storage-layout/clog/ranges.ts';

describe('pieces', () => {
  it('of any files cover exactly the positions of the files, each once', () => {
    const range = fc
      .tuple(fc.integer({ min: 0, max: 60 }), fc.integer({ min: 1, max: 30 }), fc.integer({ min: 1, max: 2 }))
      .map(([from, length, timeline]) => ({
        timeline: toTimeline(timeline),
        begin: toLsn(BigInt(from)),
        end: toLsn(BigInt(from + length)),
      }));
    fc.assert(
      fc.property(fc.array(range, { maxLength: 12 }), (files) => {
        const { pieces, overlaps } = planPieces(files);
        const count = (
          ranges: readonly { timeline: number; begin: bigint; end: bigint }[],
          timeline: number,
          at: bigint,
        ) => ranges.filter((each) => each.timeline === timeline && each.begin <= at && at < each.end).length;
        for (const timeline of [1, 2]) {
          for (let at = 0n; at < 100n; at += 1n) {
            const inFiles = count(files, timeline, at);
            expect(count(pieces, timeline, at)).toBe(Math.min(inFiles, 1));
            expect(count(overlaps, timeline, at)).toBe(Math.max(inFiles - 1, 0));
          }
        }
        const ranges = joinPieces(pieces);
        for (const each of ranges) expect(findGaps(ranges, each.timeline, each.begin, each.end)).toEqual([]);
        const holes = findGaps(ranges, toTimeline(1), toLsn(0n), toLsn(100n));
        for (let at = 0n; at < 100n; at += 1n)
          expect(count(holes, 1, at)).toBe(count(files, 1, at) === 0 ? 1 : 0);
      }),
    );
  });
});
