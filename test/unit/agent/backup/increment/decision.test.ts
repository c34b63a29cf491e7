import { describe, expect, test } from 'vitest';
import {
  differenceOf,
  flawOf,
  type MappedLog,
  rangesBetween,
} from '../../../../../agent/backup/increment/decision.ts';
import { type Lsn, parseLsn, type Timeline, toTimeline } from '../../../../../foundation/lsn.ts';

const SERVER = {
  systemIdentifier: 7n,
  major: 17,
  blockSizeBytes: 8192,
  segmentSizeBytes: 16_777_216,
  pageChecksumVersion: 1,
};
const BEFORE = { ...SERVER, postgresMajor: 17, ...positions(1, '0/1000', 1, '0/1800') };
const NO_CHANGES = { pageCount: 0, forkCount: 0, walLevelMinimal: false, unknownSpecial: undefined };

function positions(startTimeline: number, start: string, stopTimeline: number, stop: string) {
  const at = (timeline: number, lsn: string) => ({
    $typeName: 'holdfast.v1.LogPosition' as const,
    timeline,
    lsn: BigInt(parseLsn(lsn)),
  });
  return { start: at(startTimeline, start), stop: at(stopTimeline, stop) };
}

const point = (timeline: number, lsn: string) => ({ timeline: toTimeline(timeline), lsn: parseLsn(lsn) });
const left = (timeline: number, lsn: string): { readonly timeline: Timeline; readonly end: Lsn } => ({
  timeline: toTimeline(timeline),
  end: parseLsn(lsn),
});

describe('the server of the backup before', () => {
  test('is the same', () => {
    expect(differenceOf(BEFORE, SERVER)).toBeUndefined();
  });

  test.each([
    ['another system identifier', { systemIdentifier: 8n }, /another system, 8/],
    ['another version', { major: 18 }, /version 18/],
    ['another page size', { blockSizeBytes: 16_384 }, /pages have 16384 bytes/],
    ['other log segments', { segmentSizeBytes: 2 ** 20 }, /log segments have 1048576/],
    ['page checksums turned off', { pageChecksumVersion: 0 }, /page checksums were turned off/],
  ])('%s makes a full backup', (_, change, reason) => {
    expect(differenceOf(BEFORE, { ...SERVER, ...change })).toMatch(reason);
  });

  test('page checksums that were turned on make a full backup', () => {
    expect(differenceOf({ ...BEFORE, pageChecksumVersion: 0 }, SERVER)).toMatch(/turned on/);
  });
});

describe('the log between two starts', () => {
  test.each([
    ['on one timeline', BEFORE, point(1, '0/3000'), [], ['1 0/1000 0/3000']],
    ['with no log between', BEFORE, point(1, '0/1800'), [], ['1 0/1000 0/1800']],
    [
      'over forks',
      BEFORE,
      point(3, '0/5000'),
      [left(1, '0/2000'), left(2, '0/3000')],
      ['1 0/1000 0/2000', '2 0/2000 0/3000', '3 0/3000 0/5000'],
    ],
    [
      'from a timeline that is none of the oldest',
      { ...BEFORE, ...positions(2, '0/2100', 2, '0/2200') },
      point(3, '0/5000'),
      [left(1, '0/2000'), left(2, '0/3000')],
      ['2 0/2100 0/3000', '3 0/3000 0/5000'],
    ],
    [
      'left at the end of the backup before',
      BEFORE,
      point(2, '0/3000'),
      [left(1, '0/1800')],
      ['1 0/1000 0/1800', '2 0/1800 0/3000'],
    ],
  ])('%s', (_, before, start, ancestors, ranges) => {
    const decision = rangesBetween(before, start, ancestors);
    expect(decision).toMatchObject({ kind: 'ranges' });
    if (decision.kind !== 'ranges') return;
    const text = (lsn: Lsn) => `0/${lsn.toString(16)}`;
    expect(decision.ranges.map((it) => `${it.timeline} ${text(it.begin)} ${text(it.end)}`)).toEqual(ranges);
  });

  test.each([
    ['no ancestor', BEFORE, point(3, '0/5000'), [left(2, '0/3000')], /does not descend from timeline 1/],
    [
      'a fork inside the backup before',
      BEFORE,
      point(2, '0/5000'),
      [left(1, '0/1700')],
      /timeline 1 was left at 0\/1700/,
    ],
    [
      'a fork before the backup before',
      BEFORE,
      point(2, '0/5000'),
      [left(1, '0/800')],
      /timeline 1 was left at 0\/800/,
    ],
    ['a start before the stop before', BEFORE, point(1, '0/1700'), [], /ended at 0\/1800, behind the start/],
    ['a server that was set back', BEFORE, point(1, '0/800'), [], /ends at 0\/800|behind the start/],
    ['no positions', { ...BEFORE, start: undefined }, point(1, '0/5000'), [], /no positions/],
  ])('%s makes a full backup', (_, before, start, ancestors, reason) => {
    const decision = rangesBetween(before, start, ancestors);
    expect(decision.kind === 'full' ? decision.reason : decision).toMatch(reason);
  });
});

describe('the change maps of the log', () => {
  const file = (
    timeline: number,
    begin: string,
    end: string,
    change: Partial<MappedLog> = {},
  ): MappedLog => ({
    key: `log ${begin}`,
    timeline: toTimeline(timeline),
    begin: parseLsn(begin),
    end: parseLsn(end),
    hasIndex: true,
    changes: NO_CHANGES,
    ...change,
  });
  const range = (timeline: number, begin: string, end: string) => ({
    timeline: toTimeline(timeline),
    begin: parseLsn(begin),
    end: parseLsn(end),
  });
  const RANGES = [range(1, '0/1000', '0/2000'), range(2, '0/2000', '0/3000')];
  const FILES = [file(1, '0/0', '0/1800'), file(1, '0/1800', '0/2400'), file(2, '0/2000', '0/3000')];

  test.each([
    ['files that follow each other', RANGES, FILES],
    ['files that overlap', RANGES, [file(1, '0/0', '0/1900'), ...FILES.slice(1)]],
    ['no range', [], []],
  ])('%s tell all', (_, ranges, files) => {
    expect(flawOf(ranges, files)).toBeUndefined();
  });

  const special = { count: 2, first: parseLsn('0/1234'), rmgr: 200, info: 1 };
  test.each([
    ['a missing file', [FILES[0], FILES[2]], /lacks log of timeline 1 between 0\/1800 and 0\/2000/],
    ['a missing beginning', FILES.slice(1), /lacks log of timeline 1 between 0\/1000/],
    ['a missing end', FILES.slice(0, 2), /lacks log of timeline 2 between 0\/2000 and 0\/3000/],
    [
      'a file without an index',
      [file(1, '0/0', '0/1800', { hasIndex: false }), ...FILES.slice(1)],
      /not sealed/,
    ],
    [
      'a file without a map',
      [file(1, '0/0', '0/1800', { changes: undefined }), ...FILES.slice(1)],
      /no change map/,
    ],
    [
      'wal_level = minimal',
      [file(1, '0/0', '0/1800', { changes: { ...NO_CHANGES, walLevelMinimal: true } }), ...FILES.slice(1)],
      /wal_level was minimal/,
    ],
    [
      'an unknown special record',
      [file(1, '0/0', '0/1800', { changes: { ...NO_CHANGES, unknownSpecial: special } }), ...FILES.slice(1)],
      /unknown kind at 0\/1234: resource manager 200/,
    ],
  ])('%s makes a full backup', (_, files, reason) => {
    expect(
      flawOf(
        RANGES,
        files.filter((it) => it !== undefined),
      ),
    ).toMatch(reason);
  });
});
