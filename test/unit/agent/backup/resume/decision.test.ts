import { create } from '@bufbuild/protobuf';
import { describe, expect, test } from 'vitest';
import { chainOf, decideReuse, earliestOf, isReusable } from '../../../../../agent/backup/resume/decision.ts';
import type { InstanceIdentity } from '../../../../../engine/engine.ts';
import { parseLsn, toLsn, toTimeline } from '../../../../../foundation/lsn.ts';
import {
  type SubTaskIndexInfo,
  SubTaskIndexInfoSchema,
} from '../../../../../proto/gen/holdfast/v1/records_pb.ts';
import type { MacroBlockEntry } from '../../../../../storage-layout/macroblock/entry.ts';
import { addPages, emptyPageMap, PAGE_BYTES } from '../../../../../storage-layout/macroblock/page-map.ts';

const SERVER = {
  systemIdentifier: 7n,
  major: 17,
  blockSizeBytes: 8192,
  segmentSizeBytes: 16_777_216,
  pageChecksumVersion: 1,
} as InstanceIdentity; // what is compared
const NOW = {
  identity: SERVER,
  start: { timeline: toTimeline(1), lsn: parseLsn('0/3000') },
  previousSetId: 0n,
  round: 4n,
  pageCheck: true,
};

function earlier(change: Partial<Omit<SubTaskIndexInfo, '$typeName' | '$unknown'>> = {}): SubTaskIndexInfo {
  return create(SubTaskIndexInfoSchema, {
    backupSetId: 9n,
    subTaskId: 1,
    start: { timeline: 1, lsn: 0x1000n },
    systemIdentifier: 7n,
    postgresMajor: 17,
    blockSizeBytes: 8192,
    segmentSizeBytes: 16_777_216,
    pageChecksumVersion: 1,
    pageCheck: true,
    ...change,
  });
}

describe('what an earlier attempt made durable', () => {
  test('may be taken over as far as the log between the two starts tells', () => {
    expect(decideReuse(earlier(), NOW)).toEqual({
      kind: 'range',
      range: { timeline: 1, begin: 0x1000n, end: 0x3000n },
    });
  });

  test.each([
    ['no round', earlier(), { round: 0n }, /no log is archived/],
    ['no position', earlier({ start: undefined }), {}, /no position/],
    ['pages not checked', earlier({ pageCheck: false }), {}, /did not check pages/],
    ['another system', earlier({ systemIdentifier: 8n }), {}, /another system, 7/],
    ['another version', earlier({ postgresMajor: 16 }), {}, /version 17/],
    ['another page size', earlier({ blockSizeBytes: 16_384 }), {}, /pages have 8192/],
    ['other log segments', earlier({ segmentSizeBytes: 2 ** 20 }), {}, /log segments/],
    ['checksums turned on', earlier({ pageChecksumVersion: 0 }), {}, /turned on/],
    [
      'checksums turned off',
      earlier(),
      { identity: { ...SERVER, pageChecksumVersion: 0 } },
      /page checksums were turned off/,
    ],
    ['another base', earlier({ previousSetId: 8n }), {}, /went on from backup set 8, this one from 0/],
    [
      'a promotion',
      earlier(),
      { start: { timeline: toTimeline(2), lsn: parseLsn('0/3000') } },
      /went on to timeline 2 from timeline 1/,
    ],
    [
      'a server that was set back',
      earlier(),
      { start: { timeline: toTimeline(1), lsn: parseLsn('0/FFF') } },
      /set back: the attempt before began at 0\/1000, this one at 0\/FFF/,
    ],
  ])('is not taken over: %s', (_, info, change, reason) => {
    expect(decideReuse(info, { ...NOW, ...change })).toEqual({
      kind: 'nothing',
      reason: expect.stringMatching(reason),
    });
  });
});

const PLACE = { setId: 9n, subTaskId: 1, offset: 0, storedBytes: 9, crc32c: 1, compression: 'zstd' } as const;
const START = parseLsn('0/3000');

function block(change: Partial<MacroBlockEntry> = {}): MacroBlockEntry {
  const place = { ...PLACE, fileNumber: 4, blockNumber: 0, plainBytes: 256 * PAGE_BYTES };
  return { ...place, newestPageLsn: parseLsn('0/900'), pageCheckFailed: false, ...change };
}
function pages(...numbers: readonly number[]): Uint8Array {
  const map = emptyPageMap();
  for (const page of numbers) addPages(map, page, page + 1);
  return map;
}
/** A delta on a block of the set before, as an interrupted increment leaves it. */
function delta(...numbers: readonly number[]): MacroBlockEntry {
  return block({ storedBytes: 0, subTaskId: 0, delta: { ...PLACE, pages: pages(...numbers) } });
}

describe('a block', () => {
  const wanted = { plainBytes: 256 * PAGE_BYTES, changed: pages() };

  test.each([
    ['that the log did not change is taken over', block(), wanted, true],
    ['of which any one page was changed is not', block(), { ...wanted, changed: pages(255) }, false],
    ['of which the first page was changed is not', block(), { ...wanted, changed: pages(0) }, false],
    ['whose changes nobody knows is not', block(), { ...wanted, changed: new Uint8Array() }, false],
    ['that has grown is not', block({ plainBytes: PAGE_BYTES }), wanted, false],
    ['that was cut is not', block(), { ...wanted, plainBytes: PAGE_BYTES }, false],
    ['whose page check failed is not', block({ pageCheckFailed: true }), wanted, false],
    ['with a page as new as the start is', block({ newestPageLsn: START }), wanted, true],
    ['with a page behind the start is not', block({ newestPageLsn: toLsn(START + 1n) }), wanted, false],
    ['that is whole serves where a delta is wanted', block(), { ...wanted, pages: pages(3) }, true],
    ['with a delta of the wanted pages is', delta(3, 8), { ...wanted, pages: pages(3, 8) }, true],
    ['with a delta of more pages is', delta(3, 8, 9), { ...wanted, pages: pages(3, 8) }, true],
    ['with a delta that lacks one is not', delta(3), { ...wanted, pages: pages(3, 8) }, false],
    ['with a delta is not where the whole is wanted', delta(3), wanted, false],
    [
      'with a delta that was changed since is not',
      delta(3),
      { ...wanted, pages: pages(3), changed: pages(3) },
      false,
    ],
  ])('%s', (_, entry, asked, taken) => {
    expect(isReusable(entry, asked, START)).toBe(taken);
  });
});

test('a sub task that was done again is read once', () => {
  const head = (subTaskId: number, first: number, last: number) => ({
    key: String(subTaskId),
    info: earlier({ subTaskId }),
    files: [],
    first: { fileNumber: 1, blockNumber: first },
    last: { fileNumber: 1, blockNumber: last },
  });
  const empty = { ...head(5, 0, 0), first: undefined, last: undefined };
  const heads = [
    head(999, 10, 19),
    head(1, 0, 9),
    head(2, 10, 19),
    empty,
    head(3, 20, 29),
    head(998, 12, 19),
  ];
  expect(chainOf(heads).map(({ key }) => key)).toEqual(['1', '2', '3']);
});

describe('an attempt that was given twice', () => {
  const at = (lsn: bigint, timeline = 1) =>
    earlier({ start: { $typeName: 'holdfast.v1.LogPosition', timeline, lsn } });

  test('is judged from the first of its starts', () => {
    expect(earliestOf([])).toBeUndefined();
    expect(earliestOf([at(0x2000n), at(0x1000n), at(0x1800n)])?.start?.lsn).toBe(0x1000n);
  });

  test('on two timelines is not taken over from', () => {
    expect(earliestOf([at(0x2000n), at(0x1000n, 2)])).toBeUndefined();
  });
});
