/** What a copy does when the database changes files under its hands. A fake clock stands in for the wait between reads. */

import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { isBasedOnBefore } from '../../../../agent/backup/copy-delta.ts';
import { type CopiedBlocks, copyBlocks } from '../../../../agent/backup/copy-sub-task.ts';
import { Counters } from '../../../../agent/backup/counters.ts';
import type { Piece } from '../../../../agent/backup/plan.ts';
import { Throttle } from '../../../../agent/backup/throttle.ts';
import { BlocksBefore, planRuns } from '../../../../agent/backup/unchanged-block.ts';
import { PAGE_BYTES, pageChecksum } from '../../../../engine/postgres/pages.ts';
import { systemClock } from '../../../../foundation/clock.ts';
import { toLsn } from '../../../../foundation/lsn.ts';
import { crc32c } from '../../../../storage-layout/crc32c.ts';
import { MACROBLOCK_BYTES } from '../../../../storage-layout/macroblock/entry.ts';
import { nameMacroBlockFile } from '../../../../storage-layout/macroblock/file-name.ts';
import { openMedium } from '../../../../storage-layout/media/open.ts';
import { tree } from '../../../../storage-layout/tree.ts';
import { damage } from '../../../support/damage.ts';
import { makeTestDirectory } from '../../../support/postgres.ts';

let directory: string;
let path: string;

beforeEach(async () => {
  directory = await makeTestDirectory('copy');
  path = join(directory, '16384');
  await mkdir(join(directory, 'destination'));
});
afterEach(async () => await rm(directory, { recursive: true, force: true }));

test('a file is copied as far as it was listed, whatever was added since', async () => {
  const bytes = pages(300);
  await writeFile(path, bytes);
  const listed = 290 * PAGE_BYTES;
  const { entries, suspects } = await copy(piece(listed));
  expect(suspects).toEqual([]);
  expect(entries.map(({ blockNumber, plainBytes }) => [blockNumber, plainBytes])).toEqual([
    [0, MACROBLOCK_BYTES],
    [1, 34 * PAGE_BYTES],
  ]);
  expect(entries[1]?.crc32c).toBe(crc32c(bytes.subarray(MACROBLOCK_BYTES, listed)));
  expect(entries[1]?.newestPageLsn).toBe(1289n);
});

test('a file that was cut since it was listed has its real size', async () => {
  await writeFile(path, pages(257));
  const { entries } = await copy(piece(600 * PAGE_BYTES));
  expect(entries.map((entry) => entry.plainBytes)).toEqual([MACROBLOCK_BYTES, PAGE_BYTES]);
});

test('a file that is gone is said to be gone', async () => {
  const { entries, vanished } = await copy(piece(PAGE_BYTES));
  expect({ entries, vanished }).toEqual({ entries: [], vanished: [{ fileNumber: 4, beginBlock: 0 }] });
});

test('a torn page is read again until it is whole', async () => {
  const whole = pages(5);
  const torn = Buffer.from(whole);
  torn.fill(0, 3 * PAGE_BYTES + 4096, 4 * PAGE_BYTES);
  await writeFile(path, torn);
  let waits = 0;
  const { entries, suspects } = await copy(piece(whole.length), () => {
    waits += 1;
    if (waits === 2) writeFileSync(path, whole);
  });
  expect(waits).toBe(2);
  expect(suspects).toEqual([]);
  expect(entries.map((entry) => entry.crc32c)).toEqual([crc32c(whole)]);
});

test('a page that stays bad is reported with its position, and copied as it is', async () => {
  const bytes = pages(260);
  bytes.fill(9, 258 * PAGE_BYTES + 5000, 258 * PAGE_BYTES + 5010);
  await writeFile(path, bytes);
  const { entries, suspects } = await copy(piece(bytes.length));
  expect(suspects).toEqual([
    { fileNumber: 4, path: 'base/5/16384', macroblock: 1, pageInFile: 258, pageLsn: 1258n },
  ]);
  expect(entries[1]?.crc32c).toBe(crc32c(bytes.subarray(MACROBLOCK_BYTES)));
});

test('a bad page that is cut away while it is read again is no damage', async () => {
  const bytes = pages(5);
  bytes.fill(9, 4 * PAGE_BYTES + 5000, 4 * PAGE_BYTES + 5010);
  await writeFile(path, bytes);
  const { suspects } = await copy(piece(bytes.length), () =>
    writeFileSync(path, bytes.subarray(0, 4 * PAGE_BYTES)),
  );
  expect(suspects).toEqual([]);
});

test('pages of a later segment are checked under their number in the relation', async () => {
  await writeFile(path, pages(3, 2 * 131_072));
  const inSegment = { ...piece(3 * PAGE_BYTES), path: 'base/5/16384.2' };
  expect((await copy(inSegment)).suspects).toEqual([]);
  const second = { ...inSegment, path: 'base/5/16384.1' };
  await rm(join(directory, 'destination'), { recursive: true });
  await mkdir(join(directory, 'destination'));
  expect((await copy(second)).suspects).toHaveLength(3);
});

test('a link in the place of a file is not followed', async () => {
  await writeFile(join(directory, 'secret'), 'x');
  await symlink(join(directory, 'secret'), path);
  await expect(copy(piece(1))).rejects.toMatchObject({ code: 'BACKUP_FAILED' });
});

describe('a block that is read whole, and is as the set before has it', () => {
  const bytes = randomBytes(2 * MACROBLOCK_BYTES + 10_000);

  /** Copies `now` where `bytes` was copied before. Returns the numbers of the blocks that were stored. */
  async function stored(
    now: Buffer,
    between: (first: CopiedBlocks) => Promise<CopiedBlocks['entries']>,
  ): Promise<number[]> {
    await writeFile(path, bytes);
    const file: Piece = { ...piece(bytes.length), kind: 'other' };
    const first = await copy(file);
    const before = await between(first);
    await writeFile(path, now);
    const { entries, writer } = await copy({ ...file, before }, undefined, 2);
    expect(entries.map(({ plainBytes }) => plainBytes)).toEqual(
      first.entries.map(({ plainBytes }) => plainBytes),
    );
    const own = entries.filter((entry) => !isBasedOnBefore(entry));
    expect(writer.blockCount).toBe(own.length);
    return own.map(({ blockNumber }) => blockNumber);
  }

  test('is not stored again, one with another byte is', async () => {
    const now = Buffer.from(bytes);
    now.writeUInt8(now.readUInt8(MACROBLOCK_BYTES + 77) ^ 1, MACROBLOCK_BYTES + 77);
    expect(await stored(now, async ({ entries }) => await Promise.resolve(entries))).toEqual([1]);
  });

  test('is stored again when only its checksum is the same', async () => {
    const now = randomBytes(bytes.length);
    const sameChecksums = ({ entries }: CopiedBlocks) =>
      entries.map((entry) => {
        const begin = entry.blockNumber * MACROBLOCK_BYTES;
        return { ...entry, crc32c: crc32c(now.subarray(begin, begin + entry.plainBytes)) };
      });
    expect(await stored(now, async (first) => await Promise.resolve(sameChecksums(first)))).toEqual([
      0, 1, 2,
    ]);
  });

  test('is stored again when what is there is damaged, or gone', async () => {
    const root = { clusterName: 'test', clusterId: 1n };
    const key = tree.macroBlock(root, { tenantId: 1n, fullSetId: 1n, setId: 1n }, 'main', 1);
    const file = join(directory, 'destination', key);
    const damaged = (how: 'flip' | 'delete') => async (first: CopiedBlocks) => {
      await damage(file, how); // in the middle: of block 1
      return first.entries;
    };
    expect(await stored(bytes, damaged('flip'))).toEqual([1]);
    await rm(join(directory, 'destination'), { recursive: true });
    await mkdir(join(directory, 'destination'));
    expect(await stored(bytes, damaged('delete'))).toEqual([0, 1, 2]);
  });
});

describe('small files that are read whole, and are as the set before has them', () => {
  /** Copies so many files of 500 bytes, then again with every seventh changed. Returns how many were stored again. */
  async function storedOf(count: number): Promise<number> {
    const files = Array.from({ length: count }, (_, n) => ({
      ...piece(500),
      kind: 'other' as const,
      fileNumber: n,
      absolutePath: join(directory, `small-${n}`),
    }));
    for (const { absolutePath } of files) await writeFile(absolutePath, randomBytes(500));
    const first = await copy(files);
    for (const { absolutePath } of files.filter((_, n) => n % 7 === 3))
      await writeFile(absolutePath, randomBytes(500));
    const second = files.map((file, n) => ({ ...file, before: first.entries.slice(n, n + 1) }));
    const { entries, writer } = await copy(second, undefined, 2);
    expect(entries.map(({ fileNumber }) => fileNumber)).toEqual(files.map(({ fileNumber }) => fileNumber));
    return writer.blockCount;
  }

  test('are not stored again where they are fetched together', async () => {
    expect(await storedOf(70)).toBe(10);
  });

  test('are stored again where that costs less than to fetch them', async () => {
    expect(await storedOf(1)).toBe(1);
  });
});

describe('runs of blocks that are fetched together', () => {
  const block = (setId: bigint, subTaskId: number, offset: number, storedBytes: number) => ({
    setId,
    subTaskId,
    offset,
    storedBytes,
    plainBytes: storedBytes,
    crc32c: 1,
    compression: 'none' as const,
    fileNumber: 1,
    blockNumber: offset,
    newestPageLsn: toLsn(0n),
    pageCheckFailed: false,
  });

  test('are in one file each, with small gaps, and hold enough', () => {
    const near = [block(1n, 1, 0, 3000), block(1n, 1, 4000, 3000)];
    const otherFile = block(1n, 2, 3000, 5000);
    const otherSet = block(2n, 1, 3000, 5000);
    const far = block(1n, 1, 200_000, 1000); // not worth it by itself
    const runs = planRuns([near[1], far, otherSet, near[0], otherFile].filter((each) => each !== undefined));
    const ranges = [...near, otherFile, otherSet, far].map((each) => {
      const run = runs.get(each);
      return run === undefined ? undefined : [run.begin, run.end];
    });
    expect(ranges).toEqual([[0, 7000], [0, 7000], [3000, 8000], [3000, 8000], undefined]);
  });
});

async function copy(
  wanted: Piece | readonly Piece[],
  onWait: () => void = () => undefined,
  subTaskId = 1,
): Promise<CopiedBlocks> {
  await using medium = await openMedium(`file://${join(directory, 'destination')}`);
  const clock = {
    ...systemClock,
    sleep: async () => {
      onWait();
      await Promise.resolve();
    },
  };
  const copied = await copyBlocks(
    {
      medium,
      blocksBefore: new BlocksBefore(medium),
      root: { clusterName: 'test', clusterId: 1n },
      setKey: { tenantId: 1n, fullSetId: 1n, setId: 1n },
      group: 'main',
      compression: 'zstd:1',
      pageChecksums: true,
      counters: new Counters(),
      throttle: new Throttle({ bytesPerSecond: 0, pace: 1 }, clock),
      clock,
      buffer: Buffer.alloc(MACROBLOCK_BYTES),
    },
    { subTaskId, pieces: [wanted].flat() },
    nameMacroBlockFile(1n, subTaskId, 'main'),
    new AbortController().signal,
  );
  await copied.writer.close();
  await copied.writer[Symbol.asyncDispose]();
  return copied;
}

function piece(listedBytes: number): Piece {
  const endBlock = Math.ceil(listedBytes / MACROBLOCK_BYTES);
  return {
    fileNumber: 4,
    path: 'base/5/16384',
    absolutePath: path,
    kind: 'main',
    listedBytes,
    beginBlock: 0,
    endBlock,
  };
}

/** Whole pages; page n has position 1000 + n. */
function pages(count: number, firstBlock = 0): Buffer {
  const bytes = Buffer.alloc(count * PAGE_BYTES, 3);
  for (let n = 0; n < count; n += 1) {
    const page = bytes.subarray(n * PAGE_BYTES, (n + 1) * PAGE_BYTES);
    page.writeUInt32LE(0, 0);
    page.writeUInt32LE(1000 + n, 4);
    page.writeUInt16LE(pageChecksum(page, firstBlock + n), 8);
  }
  return bytes;
}
