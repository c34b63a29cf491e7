import { describe, expect, test } from 'vitest';
import { pathSegments, segmentPieces } from '../../../../agent/restore/log-path.ts';
import { toLsn, toTimeline } from '../../../../foundation/lsn.ts';

const SIZE = 1024 * 1024;
const MB = (megabytes: number) => toLsn(BigInt(Math.round(megabytes * SIZE)));
const range = (timeline: number, begin: number, end: number) => ({
  timeline: toTimeline(timeline),
  begin: MB(begin),
  end: MB(end),
});

describe('a path over a fork', () => {
  const path = [range(1, 2, 4.5), range(2, 4.5, 6.25)];

  test('is asked for on the newest timeline that begins in the segment', () => {
    expect([...pathSegments(path, SIZE)].map((segment) => [segment.timeline, segment.begin])).toEqual([
      [1, MB(2)],
      [1, MB(3)],
      [2, MB(4)],
      [2, MB(5)],
      [2, MB(6)],
    ]);
  });

  test("gives the new timeline's first segment the parent's bytes before the fork", () => {
    expect(segmentPieces(path, '000000020000000000000004', SIZE)).toEqual([
      range(1, 4, 4.5),
      range(2, 4.5, 5),
    ]);
    expect(segmentPieces(path, '000000010000000000000004', SIZE)).toEqual([range(1, 4, 4.5)]);
    expect(segmentPieces(path, '000000020000000000000006', SIZE)).toEqual([range(2, 6, 6.25)]);
  });

  test('has no file where it has no byte', () => {
    for (const name of [
      '000000010000000000000001',
      '000000010000000000000005',
      '000000020000000000000003',
      '000000020000000000000007',
      '000000030000000000000004',
      '00000002.history',
      'x',
    ])
      expect(segmentPieces(path, name, SIZE), name).toEqual([]);
  });
});

test('a fork on a segment border leaves no segment twice', () => {
  const path = [range(1, 2, 4), range(2, 4, 5)];
  expect([...pathSegments(path, SIZE)].map((segment) => segment.timeline)).toEqual([1, 1, 2]);
});
