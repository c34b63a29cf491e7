import { describe, expect, it } from 'vitest';
import { type Lsn, toLsn, toTimeline } from '../../../foundation/lsn.ts';
import { encodeLogIndex } from '../../../storage-layout/clog/index.ts';
import { LogLookup } from '../../../storage-layout/clog/lookup.ts';
import type { Medium } from '../../../storage-layout/media/medium.ts';
import { parseTreePath } from '../../../storage-layout/tree.ts';
import { GROUP, openTestMedium, overriding, ROOT, ROUND } from './support.ts';

const FILES = 100_000;
const FILE_BYTES = 1000n;
const BEGIN = 0x3000000n;
/** Every so many files another archiver took over. */
const FILES_PER_EPOCH = 1000;
/** From this file on, the second timeline, which begins a little before the first one's end. */
const SECOND_TIMELINE = 60_000;

/** Files that exist only as far as they are asked for, and how often they were. */
function synthetic(store: Medium, missing = -1): { readonly medium: Medium; readonly reads: () => number } {
  let reads = 0;
  const names = Array.from({ length: FILES }, (_, n) => n)
    .filter((n) => n !== missing)
    .map(nameOf);
  const bytesOf = (key: string): Buffer => {
    const path = parseTreePath(key);
    if (path?.kind !== 'logIndex') throw new Error(`read of ${key}`);
    return indexOf(Number(path.fileId) - 1);
  };
  const medium = overriding(store, {
    listNames: async () => await Promise.resolve(names),
    stat: async (key) => {
      reads += 1;
      const path = parseTreePath(key);
      if (path?.kind !== 'logData' || path.fileId > FILES) return await Promise.resolve(undefined);
      return await Promise.resolve({ key, sizeBytes: 2000, modifiedMs: 0 });
    },
    readRange: async (key, begin, end) => {
      reads += 1;
      return await Promise.resolve(bytesOf(key).subarray(begin, end));
    },
  });
  return { medium, reads: () => reads };
}

function nameOf(n: number): string {
  return `${n + 1}.${Math.floor(n / FILES_PER_EPOCH) + 1}`;
}

function beginOf(n: number): Lsn {
  return toLsn(BEGIN + BigInt(n) * FILE_BYTES - (n >= SECOND_TIMELINE ? 500n : 0n));
}

function indexOf(n: number): Buffer {
  const begin = beginOf(n);
  return encodeLogIndex(ROUND, GROUP, {
    fileId: BigInt(n + 1),
    epoch: BigInt(Math.floor(n / FILES_PER_EPOCH) + 1),
    timeline: toTimeline(n >= SECOND_TIMELINE ? 2 : 1),
    begin,
    end: toLsn(begin + FILE_BYTES),
    systemIdentifier: 1n,
    segmentSizeBytes: 16 * 2 ** 20,
    acceptedBytes: 1100,
    blocks: [{ begin, offset: 100, storedBytes: 1000, plainBytes: Number(FILE_BYTES) }],
    maxCommitUs: BigInt(n) * 10n,
    lastCommitUs: BigInt(n) * 10n,
    checkpoint: { lsn: toLsn(begin + FILE_BYTES), timeUs: BigInt(n) * 10n + 5n },
    checkpoints: [],
    restorePoints: [],
  });
}

async function open(medium: Medium): Promise<LogLookup> {
  return await LogLookup.open(medium, ROOT, ROUND, GROUP);
}

describe('looking for log among 100,000 files', () => {
  it('finds the file of a position, or that there is none, in a few reads', async () => {
    await using store = await openTestMedium();
    const { medium, reads } = synthetic(store.medium);
    for (const n of [0, 1, 777, 59_999, 60_000, 60_001, 99_998, 99_999]) {
      const lookup = await open(medium);
      const before = reads();
      const timeline = toTimeline(n >= SECOND_TIMELINE ? 2 : 1);
      const file = await lookup.fileAt(timeline, toLsn(beginOf(n) + 1n));
      expect(file?.fileId).toBe(BigInt(n + 1));
      expect(reads() - before).toBeLessThanOrEqual(40); // 17 indexes, a length and a read each
    }
    for (const [timeline, lsn] of [
      [1, BEGIN - 1n],
      [1, BEGIN + 60_000n * FILE_BYTES],
      [2, BEGIN],
      [2, BEGIN + 100_000n * FILE_BYTES],
      [3, BEGIN],
    ] as const) {
      const lookup = await open(medium);
      const before = reads();
      expect(await lookup.fileAt(toTimeline(timeline), toLsn(lsn))).toBeUndefined();
      expect(reads() - before).toBeLessThanOrEqual(40);
    }
  });

  it('finds the first file with a commit after an instant in a few reads', async () => {
    await using store = await openTestMedium();
    const { medium, reads } = synthetic(store.medium);
    const lookup = await open(medium);
    const before = reads();
    const files = lookup.filesBetween(toTimeline(2), toLsn(0n), toLsn(2n ** 63n), 812_345n);
    expect((await files.next()).value).toMatchObject({ fileId: 81_236n });
    expect(reads() - before).toBeLessThanOrEqual(80);
  });

  it('knows what is covered from the ends of what each archiver wrote', async () => {
    await using store = await openTestMedium();
    const { medium, reads } = synthetic(store.medium);
    const lookup = await open(medium);
    const before = reads();
    expect(await lookup.coverage()).toEqual([
      { timeline: 1, begin: BEGIN, end: BEGIN + 60_000n * FILE_BYTES, checkpointUs: 599_995n },
      { timeline: 2, begin: beginOf(60_000), end: beginOf(99_999) + FILE_BYTES, checkpointUs: 999_995n },
    ]);
    expect(reads() - before).toBeLessThanOrEqual((FILES / FILES_PER_EPOCH) * 5);
  });

  it('sees a file that is missing as a hole', async () => {
    await using store = await openTestMedium();
    const { medium } = synthetic(store.medium, 777);
    const lookup = await open(medium);
    expect((await lookup.coverage()).map((range) => [range.begin, range.end])).toEqual([
      [BEGIN, beginOf(777)],
      [beginOf(778), BEGIN + 60_000n * FILE_BYTES],
      [beginOf(60_000), beginOf(99_999) + FILE_BYTES],
    ]);
    expect(await lookup.fileAt(toTimeline(1), beginOf(777))).toBeUndefined();
    await expect(
      (async () => {
        for await (const _ of lookup.read(toTimeline(1), beginOf(777), beginOf(778)));
      })(),
    ).rejects.toMatchObject({ code: 'LOG_GAP' });
  });
});
