import { describe, expect, test } from 'vitest';
import {
  FileCopies,
  isMostlyLive,
  LiveBytes,
  TaskSize,
  taskBytes,
} from '../../../../agent/backup/synthetic/plan.ts';
import { toLsn } from '../../../../foundation/lsn.ts';
import type { MacroBlockEntry } from '../../../../storage-layout/macroblock/entry.ts';
import { addPages, emptyPageMap } from '../../../../storage-layout/macroblock/page-map.ts';

const BLOCK: MacroBlockEntry = {
  fileNumber: 1,
  blockNumber: 0,
  plainBytes: 2 ** 21,
  newestPageLsn: toLsn(5n),
  pageCheckFailed: false,
  setId: 8n,
  subTaskId: 1,
  offset: 100,
  storedBytes: 1000,
  crc32c: 7,
  compression: 'zstd',
};
const pages = emptyPageMap();
addPages(pages, 3, 5);
const WITH_DELTA: MacroBlockEntry = {
  ...BLOCK,
  delta: { setId: 9n, subTaskId: 4, offset: 100, storedBytes: 50, crc32c: 1, compression: 'none', pages },
};
const CUT: MacroBlockEntry = { ...BLOCK, plainBytes: 2 ** 20, wholeBytes: 2 ** 21 };

describe('live bytes of macroblock files', () => {
  test('are the records of blocks that can be used as they are stored', () => {
    const live = new LiveBytes();
    live.add(BLOCK);
    live.add({ ...BLOCK, blockNumber: 1, offset: 1100, storedBytes: 200 });
    live.add({ ...WITH_DELTA, blockNumber: 2 });
    live.add({ ...CUT, blockNumber: 3 });
    live.add({ ...BLOCK, blockNumber: 4, setId: 9n, subTaskId: 4 });
    expect(live.files()).toEqual([
      { setId: 8n, subTaskId: 1, liveBytes: 1200 },
      { setId: 9n, subTaskId: 4, liveBytes: 1000 },
    ]);
  });

  test('decide whether a file is copied whole: three quarters of it must be live', () => {
    expect(isMostlyLive({ liveBytes: 750, sizeBytes: 1000 })).toBe(true);
    expect(isMostlyLive({ liveBytes: 749, sizeBytes: 1000 })).toBe(false);
  });
});

describe('copies', () => {
  const copies = new FileCopies(
    [
      { setId: 8n, subTaskId: 1, liveBytes: 900, sizeBytes: 1000 },
      { setId: 8n, subTaskId: 2, liveBytes: 100, sizeBytes: 1000 },
      { setId: 9n, subTaskId: 1, liveBytes: 1000, sizeBytes: 1100 },
    ],
    1_000_001,
  );

  test('get names of their own, one after the other', () => {
    expect(copies.all).toEqual([
      { source: { setId: 8n, subTaskId: 1 }, sizeBytes: 1000, subTaskId: 1_000_001 },
      { source: { setId: 9n, subTaskId: 1 }, sizeBytes: 1100, subTaskId: 1_000_002 },
    ]);
  });

  test('have the blocks that are usable as stored in a copied file, and no others', () => {
    expect(copies.of(BLOCK)?.subTaskId).toBe(1_000_001);
    expect(copies.of({ ...BLOCK, setId: 9n })?.subTaskId).toBe(1_000_002);
    expect(copies.of({ ...BLOCK, subTaskId: 2 })).toBeUndefined();
    expect(copies.of(WITH_DELTA)).toBeUndefined();
    expect(copies.of(CUT)).toBeUndefined();
  });
});

test('a task is full by its bytes, and never writes more than a macroblock file may hold', () => {
  const small = new TaskSize(100);
  small.add(60, false);
  expect(small.isFull).toBe(false);
  small.add(60, false);
  expect(small.isFull).toBe(true);
  const many = new TaskSize(2 ** 40);
  for (let n = 0; n < 512; n += 1) {
    expect(many.isFull).toBe(false);
    many.add(10, true);
  }
  expect(many.isFull).toBe(true);
  expect(taskBytes(0, 4)).toBe(16 * 2 ** 20);
  expect(taskBytes(64 * 2 ** 30, 4)).toBe(256 * 2 ** 20);
});
