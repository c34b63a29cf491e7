import { expect, test } from 'vitest';
import { toLsn, toTimeline } from '../../../../foundation/lsn.ts';
import { findAbandoned } from '../../../../storage-layout/plan/abandoned.ts';

type Range = readonly [timeline: number, begin: number, end: number];

/** `timeline: begin-end` of what is abandoned, `histories` being the text of each timeline's history file. */
function abandoned(ranges: readonly Range[], histories: Readonly<Record<number, string>>): readonly string[] {
  return findAbandoned({
    partitionGroup: 'p0',
    segmentSizeBytes: 16,
    coverage: ranges.map(([timeline, begin, end]) => ({
      timeline: toTimeline(timeline),
      begin: toLsn(BigInt(begin)),
      end: toLsn(BigInt(end)),
      checkpointUs: BigInt(end) * 10n,
    })),
    histories: new Map(
      Object.entries(histories).map(([timeline, text]) => [toTimeline(Number(timeline)), Buffer.from(text)]),
    ),
  }).map(
    ({ timeline, begin, end, survivor, untilUs }) =>
      `${timeline}: ${begin}-${end}, survived by ${survivor}, until ${untilUs}`,
  );
}

test('one timeline leaves nothing behind, nor does a fork at its very end', () => {
  expect(abandoned([], {})).toEqual([]);
  expect(abandoned([[1, 16, 100]], {})).toEqual([]);
  expect(
    abandoned(
      [
        [1, 16, 64],
        [2, 64, 90],
      ],
      { 2: '1\t0/40\tno reason\n' },
    ),
  ).toEqual([]);
});

test('what lies behind a fork is abandoned, of every ancestor', () => {
  const ranges: Range[] = [
    [1, 16, 100],
    [2, 64, 128],
    [3, 96, 160],
  ];
  expect(abandoned(ranges, { 2: '1\t0/40\tx\n', 3: '1\t0/40\tx\n2\t0/60\tx\n' })).toEqual([
    '1: 64-100, survived by 3, until 1000',
    '2: 96-128, survived by 3, until 1280',
  ]);
});

test('a timeline that the survivor does not descend from is abandoned whole', () => {
  const ranges: Range[] = [
    [1, 16, 80],
    [2, 64, 128],
    [3, 80, 160],
  ];
  expect(abandoned(ranges, { 2: '1\t0/40\tx\n', 3: '1\t0/50\tx\n' })).toEqual([
    '2: 64-128, survived by 3, until 1280',
  ]);
});

test('a range that begins behind the fork is abandoned whole', () => {
  const ranges: Range[] = [
    [1, 16, 50],
    [1, 70, 100],
    [2, 64, 128],
  ];
  expect(abandoned(ranges, { 2: '1\t0/40\tx\n' })).toEqual(['1: 70-100, survived by 2, until 1000']);
});

test('a timeline without its history survives nothing', () => {
  const ranges: Range[] = [
    [1, 16, 100],
    [2, 64, 128],
    [3, 96, 160],
  ];
  expect(abandoned(ranges, { 2: '1\t0/40\tx\n' })).toEqual([
    '1: 64-100, survived by 2, until 1000',
    '3: 96-160, survived by 2, until 1600',
  ]);
});
