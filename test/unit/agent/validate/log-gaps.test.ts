/** What a round's log lacks, along its timelines. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { findLogGaps, isChecked } from '../../../../agent/validate/log-gaps.ts';
import { toLsn, toTimeline } from '../../../../foundation/lsn.ts';

const range = (timeline: number, begin: number, end: number) => ({
  timeline: toTimeline(timeline),
  begin: toLsn(BigInt(begin)),
  end: toLsn(BigInt(end)),
});
const START = { timeline: toTimeline(1), lsn: toLsn(0n) };
const history = (...ancestors: readonly (readonly [number, number])[]) =>
  ancestors.map(([timeline, end]) => ({ timeline: toTimeline(timeline), end: toLsn(BigInt(end)) }));

describe('gaps of a round', () => {
  test('none in log that is whole, whatever overlaps', () => {
    const files = [range(1, 0, 40), range(1, 30, 60), range(1, 60, 90)];
    expect(findLogGaps(files, [START], new Map())).toEqual([]);
  });

  test('at the beginning, in the middle, and before each fork', () => {
    expect(findLogGaps([range(1, 10, 40), range(1, 50, 60)], [START], new Map())).toEqual([
      range(1, 0, 10),
      range(1, 40, 50),
    ]);
    const histories = new Map([[toTimeline(2), history([1, 50])]]);
    const lost = [range(1, 0, 40), range(2, 55, 80)];
    expect(findLogGaps(lost, [START], histories)).toEqual([range(1, 40, 50), range(2, 50, 55)]);
  });

  test('what an old leader wrote behind the fork need not go on', () => {
    const histories = new Map([[toTimeline(2), history([1, 50])]]);
    expect(findLogGaps([range(1, 0, 70), range(2, 50, 80)], [START], histories)).toEqual([]);
  });

  test('between two memberships of the partition group nothing is missed, behind the second beginning it is', () => {
    const at = (timeline: number, lsn: bigint) => ({ timeline: toTimeline(timeline), lsn: toLsn(lsn) });
    const files = [range(1, 0, 40), range(1, 60, 90)];
    expect(findLogGaps(files, [START, at(1, 60n)], new Map())).toEqual([]);
    expect(findLogGaps(files, [START, at(1, 50n)], new Map())).toEqual([range(1, 50, 60)]);
    expect(
      findLogGaps([range(1, 0, 20), range(1, 30, 40), range(1, 60, 90)], [START, at(1, 60n)], new Map()),
    ).toEqual([range(1, 20, 30)]);
    // It came back as another timeline: neither the rest of the first one nor the beginning of the second is missed.
    const histories = new Map([[toTimeline(2), history([1, 50])]]);
    const promoted = [range(1, 0, 40), range(2, 60, 90)];
    expect(findLogGaps(promoted, [START, at(2, 60n)], histories)).toEqual([]);
    expect(findLogGaps(promoted, [START, at(2, 55n)], histories)).toEqual([range(2, 55, 60)]);
    const lost = [range(1, 0, 20), range(1, 30, 40), range(2, 60, 90)];
    expect(findLogGaps(lost, [START, at(2, 60n)], histories)).toEqual([range(1, 20, 30)]);
  });

  test('timelines from before the round are not asked for', () => {
    const start = { timeline: toTimeline(3), lsn: toLsn(100n) };
    const histories = new Map([[toTimeline(3), history([1, 20], [2, 60])]]);
    expect(findLogGaps([range(3, 100, 200)], [start], histories)).toEqual([]);
  });

  test('taking any file away from a whole log is a gap of exactly what only it held', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 2, maxLength: 8 }),
        fc.nat(),
        (lengths, chosen) => {
          let at = 0;
          const files = lengths.map((length) => range(1, at, (at += length)));
          expect(findLogGaps(files, [START], new Map())).toEqual([]);
          const lost = chosen % (files.length - 1); // behind the last one nothing is known to be
          const gaps = findLogGaps(files.toSpliced(lost, 1), [START], new Map());
          expect(gaps).toEqual([files[lost]]);
        },
      ),
    );
  });

  test('log counts as checked only when one stretch holds all of it', () => {
    const checked = [range(1, 0, 50), range(1, 50, 90)];
    expect(isChecked(range(1, 10, 50), checked)).toBe(true);
    expect(isChecked(range(1, 40, 60), checked)).toBe(false);
    expect(isChecked(range(2, 10, 20), checked)).toBe(false);
  });
});
