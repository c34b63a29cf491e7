/** Where an archive goes on: along the lineage of the server, from the first byte that is missing. */
import { describe, expect, test } from 'vitest';
import { type Lineage, planContinuation } from '../../../../agent/archive/continuation.ts';
import { toLsn, toTimeline } from '../../../../foundation/lsn.ts';
import type { LogRange } from '../../../../storage-layout/clog/ranges.ts';

const range = (timeline: number, begin: number, end: number): LogRange => ({
  timeline: toTimeline(timeline),
  begin: toLsn(BigInt(begin)),
  end: toLsn(BigInt(end)),
});
/** `lineage(3, [1, 50], [2, 70])`: on timeline 3, which left 1 at 50 and 2 at 70. */
const lineage = (timeline: number, ...left: readonly (readonly [number, number])[]): Lineage => ({
  timeline: toTimeline(timeline),
  ancestors: left.map(([each, end]) => ({ timeline: toTimeline(each), end: toLsn(BigInt(end)) })),
});
const shown = (ranges: readonly LogRange[], of: Lineage) => {
  const { from, until, range: continued, crossesFork } = planContinuation(ranges, of);
  return { from: [from.timeline, Number(from.lsn)], until, continued: continued !== undefined, crossesFork };
};

describe('going on', () => {
  test('on the same timeline: at the end', () => {
    expect(shown([range(1, 10, 40)], lineage(1))).toEqual({
      from: [1, 40],
      until: undefined,
      continued: true,
      crossesFork: false,
    });
  });

  test('behind a promotion: first what the old leader had not shipped, up to the fork', () => {
    expect(shown([range(1, 10, 40)], lineage(2, [1, 50]))).toEqual({
      from: [1, 40],
      until: 50n,
      continued: true,
      crossesFork: true,
    });
  });

  test.each([50, 60])(
    'then, and where the old leader went beyond it (%i), from the fork on the new timeline',
    (end) => {
      expect(shown([range(1, 10, end)], lineage(2, [1, 50]))).toEqual({
        from: [2, 50],
        until: undefined,
        continued: false,
        crossesFork: true,
      });
    },
  );

  test('over several promotions of which nothing is archived: one timeline after the other', () => {
    const three = lineage(3, [1, 50], [2, 70]);
    expect(shown([range(1, 10, 50)], three)).toMatchObject({ from: [2, 50], until: 70n });
    expect(shown([range(1, 10, 50), range(2, 50, 70)], three)).toMatchObject({
      from: [3, 70],
      until: undefined,
    });
    expect(shown([range(1, 10, 50), range(2, 50, 70), range(3, 70, 80)], three)).toMatchObject({
      from: [3, 80],
      continued: true,
      crossesFork: false,
    });
  });

  test('beside a fork that was archived and is not in the lineage', () => {
    expect(shown([range(1, 10, 60), range(2, 50, 90)], lineage(3, [1, 60]))).toMatchObject({
      from: [3, 60],
      continued: false,
    });
  });

  test('a round that began behind earlier forks begins there', () => {
    expect(shown([range(2, 60, 65)], lineage(3, [1, 50], [2, 70]))).toMatchObject({
      from: [2, 65],
      until: 70n,
    });
  });
});

describe('refused', () => {
  test.each([
    [
      'a server on an older timeline',
      [range(1, 10, 50), range(2, 50, 60)],
      lineage(1),
      'LOG_ARCHIVE_LEADER_CHANGED',
    ],
    ['one that left before the round began', [range(1, 10, 50)], lineage(2, [1, 5]), 'LOG_CONFLICT'],
    ['one of another ancestry', [range(2, 10, 50)], lineage(3, [1, 70]), 'LOG_CONFLICT'],
    ['a hole in what is archived', [range(1, 10, 20), range(1, 30, 50)], lineage(1), 'LOG_GAP'],
    [
      'a way back behind a newer timeline',
      [range(1, 10, 50), range(2, 50, 90)],
      lineage(3, [1, 60]),
      'LOG_GAP',
    ],
  ] as const)('%s', (_, ranges, of, code) => {
    expect(() => planContinuation(ranges, of)).toThrow(expect.objectContaining({ code }));
  });
});
