import { expect, test } from 'vitest';
import { numberFiles } from '../../../../../agent/backup/increment/file-numbers.ts';
import type { Piece } from '../../../../../agent/backup/plan.ts';
import { reusableBlocks } from '../../../../../agent/backup/resume/own-index.ts';
import { takeOver, withoutTakenOver } from '../../../../../agent/backup/resume/take-over.ts';
import type { DataFile } from '../../../../../engine/engine.ts';
import { parseLsn } from '../../../../../foundation/lsn.ts';
import { MACROBLOCK_BYTES, type MacroBlockEntry } from '../../../../../storage-layout/macroblock/entry.ts';
import { addPages, PAGE_BYTES, PAGE_MAP_BYTES } from '../../../../../storage-layout/macroblock/page-map.ts';

const START = parseLsn('0/3000');
const PLACE = { setId: 9n, subTaskId: 1, offset: 0, storedBytes: 9, crc32c: 1, compression: 'zstd' } as const;

function piece(fileNumber: number, kind: Piece['kind'], blocks: number, lastBytes = MACROBLOCK_BYTES): Piece {
  const path = `base/5/${fileNumber}`;
  const listedBytes = (blocks - 1) * MACROBLOCK_BYTES + lastBytes;
  return { fileNumber, path, absolutePath: `/${path}`, kind, listedBytes, beginBlock: 0, endBlock: blocks };
}
function entry(fileNumber: number, blockNumber: number, plainBytes = MACROBLOCK_BYTES): MacroBlockEntry {
  const newestPageLsn = parseLsn('0/900');
  return { ...PLACE, fileNumber, blockNumber, plainBytes, newestPageLsn, pageCheckFailed: false };
}
function blocksOf(entries: readonly MacroBlockEntry[]) {
  return {
    find: async (file: number, block: number) =>
      entries.find(({ fileNumber, blockNumber }) => fileNumber === file && blockNumber === block),
  };
}
async function* each<T>(items: readonly T[]): AsyncGenerator<T> {
  yield* items;
}
const names = (entries: readonly { readonly fileNumber: number; readonly blockNumber: number }[]) =>
  entries.map(({ fileNumber, blockNumber }) => `${fileNumber}.${blockNumber}`);
const ranges = (pieces: readonly Piece[]) =>
  pieces.map(({ fileNumber, beginBlock, endBlock }) => `${fileNumber}:${beginBlock}-${endBlock}`);

test('only unchanged blocks of main forks of the same creation are taken over, the rest is copied', async () => {
  const pieces = [
    piece(1, 'main', 4, 3 * PAGE_BYTES),
    piece(2, 'vm', 1),
    piece(3, 'fsm', 1),
    piece(4, 'init', 1),
    piece(5, 'main', 2), // dropped and made anew
    piece(6, 'main', 2),
    piece(7, 'other', 1),
  ];
  const all = pieces.flatMap(({ fileNumber, endBlock, listedBytes }) =>
    Array.from({ length: endBlock }, (_, block) =>
      entry(fileNumber, block, Math.min(MACROBLOCK_BYTES, listedBytes - block * MACROBLOCK_BYTES)),
    ),
  );
  const durable = all.filter(({ fileNumber, blockNumber }) => fileNumber !== 6 || blockNumber === 1);
  const mapsOf = (path: string) => {
    const maps = new Uint8Array(4 * PAGE_MAP_BYTES);
    if (path === 'base/5/1') addPages(maps, 256 + 17, 256 + 18); // a page of block 1
    return maps;
  };
  const sameFiles = new Set([1, 2, 3, 4, 6, 7]);
  // The file of 1.3 has gone, its index has not.
  const isThere = async (found: { readonly fileNumber: number; readonly blockNumber: number }) =>
    names([found])[0] !== '1.3';
  const input = { pieces: each(pieces), blocks: blocksOf(durable), sameFiles, mapsOf, start: START, isThere };
  const taken = await Array.fromAsync(takeOver(input));
  expect(names(taken)).toEqual(['1.0', '1.2', '6.1']);

  const bytes: number[] = [];
  const left = await Array.fromAsync(
    withoutTakenOver(each(pieces), blocksOf(taken), (plainBytes) => bytes.push(plainBytes)),
  );
  expect(ranges(left)).toEqual(['1:1-2', '1:3-4', '2:0-1', '3:0-1', '4:0-1', '5:0-2', '6:0-1', '7:0-1']);
  expect(bytes).toEqual([MACROBLOCK_BYTES, MACROBLOCK_BYTES, MACROBLOCK_BYTES]);
});

test('a delta that is taken over is left out of the copy', async () => {
  const pages = new Uint8Array(PAGE_MAP_BYTES);
  addPages(pages, 3, 4);
  const own = { ...entry(1, 0), storedBytes: 0, delta: { ...PLACE, pages } };
  const pieces = [{ ...piece(1, 'main', 1), pages }];
  const input = {
    pieces: each(pieces),
    blocks: blocksOf([own]),
    sameFiles: new Set([1]),
    mapsOf: () => new Uint8Array(PAGE_MAP_BYTES),
    start: START,
    isThere: async () => true,
  };
  expect(await Array.fromAsync(takeOver(input))).toEqual([own]);
  expect(await Array.fromAsync(withoutTakenOver(each(pieces), blocksOf([own]), () => undefined))).toEqual([]);
});

test('a sub task names blocks of main forks without a suspect page, and their files', () => {
  const pieces = [piece(1, 'main', 2), piece(2, 'vm', 1), piece(3, 'main', 1), piece(4, 'main', 1)];
  const entries = [entry(1, 0), entry(1, 1), entry(2, 0), entry(4, 0)];
  const suspects = [{ fileNumber: 4, path: '', macroblock: 0, pageInFile: 1, pageLsn: 1n }];
  const found = reusableBlocks({ subTaskId: 1, pieces }, { entries, suspects });
  expect(names(found.entries)).toEqual(['1.0', '1.1']);
  expect(found.files).toEqual([{ fileNumber: 1, path: 'base/5/1' }]);
});

test('files keep the numbers of the set before, then those of the earlier attempt; no number is given twice', () => {
  const listed = ['a', 'b', 'c', 'd', 'e'].map((path) => ({ path }) as DataFile);
  const before = {
    byPath: new Map([
      ['a', 1],
      ['b', 2],
    ]),
    next: 5,
  };
  const given = new Map([
    ['b', 6],
    ['c', 7],
    ['d', 8],
  ]);
  const attempt = { next: 9, numberOf: (path: string) => (path === 'd' ? undefined : given.get(path)) };
  const { files, nextFileNumber } = numberFiles(listed, before, (path) => path === 'b', attempt);
  expect(files.map(({ path, fileNumber, isKept }) => [path, fileNumber, isKept])).toEqual([
    ['a', 1, true],
    ['b', 6, false], // new since the set before, the same as the attempt read
    ['c', 7, false],
    ['d', 9, false], // made anew since the attempt
    ['e', 10, false],
  ]);
  expect(nextFileNumber).toBe(11);
});
