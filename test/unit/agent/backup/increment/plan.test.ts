import { describe, expect, test } from 'vitest';
import { type IncrementFile, numberFiles } from '../../../../../agent/backup/increment/file-numbers.ts';
import { planBlock, planPieces } from '../../../../../agent/backup/increment/plan.ts';
import type { Piece } from '../../../../../agent/backup/plan.ts';
import { evenTasks, groupPieces } from '../../../../../agent/backup/plan.ts';
import type { DataFile } from '../../../../../engine/engine.ts';
import { toLsn } from '../../../../../foundation/lsn.ts';
import {
  ENTRY_BYTES,
  encodeMacroBlockEntry,
  MACROBLOCK_BYTES,
  type MacroBlockEntry,
} from '../../../../../storage-layout/macroblock/entry.ts';
import { EntryStream } from '../../../../../storage-layout/macroblock/entry-stream.ts';
import {
  addPages,
  emptyPageMap,
  hasPage,
  MAX_PAGES,
  PAGE_BYTES,
} from '../../../../../storage-layout/macroblock/page-map.ts';

const PLACE = { setId: 1n, subTaskId: 1, offset: 0, storedBytes: 9, crc32c: 1, compression: 'zstd' } as const;

function mapOf(...pages: readonly number[]): Uint8Array {
  const map = emptyPageMap();
  for (const page of pages) addPages(map, page, page + 1);
  return map;
}
function range(begin: number, end: number): Uint8Array {
  const map = emptyPageMap();
  addPages(map, begin, end);
  return map;
}
function before(pages: number, delta?: Uint8Array) {
  return {
    plainBytes: pages * PAGE_BYTES,
    pageCheckFailed: false,
    ...(delta === undefined ? {} : { delta: { ...PLACE, pages: delta } }),
  };
}
function plan(pages: number, entry: Parameters<typeof planBlock>[1], changed: Uint8Array): string {
  const planned = planBlock(pages * PAGE_BYTES, entry, changed);
  if (planned.kind !== 'delta') return planned.kind;
  return Array.from({ length: MAX_PAGES }, (_, page) => page)
    .filter((page) => hasPage(planned.pages, page))
    .join(' ');
}

describe('a block', () => {
  test.each([
    ['that was not changed is kept', 256, before(256), mapOf(), 'keep'],
    ['with a delta that was not changed since is kept', 256, before(256, mapOf(3)), mapOf(), 'keep'],
    ['that was not in the index before is whole', 256, undefined, mapOf(), 'whole'],
    ['whose page check failed is whole', 256, { ...before(256), pageCheckFailed: true }, mapOf(), 'whole'],
    ['with few changed pages is a delta of them', 256, before(256), mapOf(3, 200), '3 200'],
    ['has all pages since its whole block in the delta', 256, before(256, mapOf(1, 9)), mapOf(3), '1 3 9'],
    ['with more than half of its pages changed is whole', 256, before(256), range(0, 129), 'whole'],
    ['with half of its pages changed is a delta', 8, before(8), mapOf(0, 2, 4, 6), '0 2 4 6'],
    ['whose delta has grown beyond half is whole', 8, before(8, mapOf(0, 1, 2)), mapOf(5, 6), 'whole'],
    ['that has grown takes the new pages', 20, before(16), mapOf(), '16 17 18 19'],
    ['that was cut is kept without the rest', 10, before(20), mapOf(), 'keep'],
    ['that was cut below pages of its delta is a delta anew', 10, before(20, mapOf(2, 15)), mapOf(), '2'],
    [
      'that was cut below all pages of its delta is one without pages',
      10,
      before(20, mapOf(15)),
      mapOf(),
      '',
    ],
    ['ignores changes behind its end', 10, before(10), mapOf(12), 'keep'],
    [
      'that was cut and grew takes the pages from the cut on',
      20,
      before(20),
      range(14, 256),
      '14 15 16 17 18 19',
    ],
  ])('%s', (_, pages, entry, changed, planned) => {
    expect(plan(pages, entry, changed)).toBe(planned);
  });

  test('that the change maps do not reach is whole', () => {
    expect(planBlock(256 * PAGE_BYTES, before(256), new Uint8Array(0))).toEqual({ kind: 'whole' });
  });

  test('that is no whole number of pages, now or before, is whole', () => {
    expect(planBlock(100, before(1), mapOf())).toEqual({ kind: 'whole' });
    expect(planBlock(PAGE_BYTES, { ...before(1), plainBytes: 100 }, mapOf())).toEqual({ kind: 'whole' });
  });
});

describe('file numbers', () => {
  const file = (path: string) => ({
    path,
    absolutePath: `/${path}`,
    kind: 'main' as const,
    sizeBytes: 1,
    mode: 0o600,
    modifiedMs: 0,
  });

  test('stay with a creation, and are never given twice', () => {
    const byPath = new Map([
      ['base/5/1', 1],
      ['base/5/2', 2],
      ['base/5/9', 7],
    ]);
    const listed = ['base/5/1', 'base/5/2', 'base/5/3', 'base/5/9'].map(file);
    const { files, nextFileNumber } = numberFiles(
      listed,
      { byPath, next: 12 },
      (path) => path === 'base/5/2',
    );
    expect(files.map(({ path, fileNumber, isKept }) => [path, fileNumber, isKept])).toEqual([
      ['base/5/1', 1, true],
      ['base/5/9', 7, true],
      ['base/5/2', 12, false],
      ['base/5/3', 13, false],
    ]);
    expect(nextFileNumber).toBe(14);
  });

  test('main forks are numbered behind the small files that are always read whole, the control file behind all', () => {
    const paths = ['base/5/1', 'base/5/1_fsm', 'base/5/2', 'base/5/2_vm', 'global/pg_control', 'PG_VERSION'];
    const kinds: readonly DataFile['kind'][] = ['main', 'fsm', 'main', 'vm', 'control', 'other'];
    const listed = paths.map((path, n) => ({ ...file(path), kind: kinds[n] ?? 'other' }));
    const { files } = numberFiles(listed, { byPath: new Map(), next: 1 }, () => false);
    expect(files.map(({ path }) => path)).toEqual([
      'base/5/1_fsm',
      'base/5/2_vm',
      'PG_VERSION',
      'base/5/1',
      'base/5/2',
      'global/pg_control',
    ]);
  });
});

describe('files that are read whole', () => {
  const PAGES = { plainBytes: MACROBLOCK_BYTES, newestPageLsn: toLsn(0n), pageCheckFailed: false };
  const entry = (fileNumber: number, blockNumber: number, change: Partial<MacroBlockEntry> = {}) => ({
    ...PLACE,
    ...PAGES,
    storedBytes: 5000,
    fileNumber,
    blockNumber,
    ...change,
  });
  const file = (fileNumber: number, blocks: number, change: Partial<IncrementFile> = {}): IncrementFile => ({
    path: `base/5/${fileNumber}_fsm`,
    absolutePath: `/base/5/${fileNumber}_fsm`,
    kind: 'fsm',
    sizeBytes: blocks * MACROBLOCK_BYTES,
    mode: 0o600,
    modifiedMs: 0,
    fileNumber,
    isKept: true,
    ...change,
  });

  function streamOf(entries: readonly MacroBlockEntry[]): EntryStream {
    const payload = Buffer.alloc(entries.length * ENTRY_BYTES);
    for (const [n, each] of entries.entries()) encodeMacroBlockEntry(payload, n * ENTRY_BYTES, each);
    async function* chunks() {
      yield { payload, recordOffset: 0, source: { file: 'index' } };
    }
    return new EntryStream(chunks());
  }

  /** What each sub task compares, as file.block. */
  async function compared(
    files: readonly IncrementFile[],
    entries: readonly MacroBlockEntry[],
  ): Promise<string[][]> {
    const pieces = planPieces(
      files,
      streamOf(entries),
      () => new Uint8Array(0),
      () => undefined,
    );
    const tasks: string[][] = [];
    for await (const task of groupPieces(pieces, 1, evenTasks(0)))
      tasks.push(
        task.pieces.flatMap(({ before: known = [], beginBlock, endBlock }) =>
          known.map(({ fileNumber, blockNumber }) => {
            expect(blockNumber).toBeGreaterThanOrEqual(beginBlock);
            expect(blockNumber).toBeLessThan(endBlock);
            return `${fileNumber}.${blockNumber}`;
          }),
        ),
      );
    return tasks;
  }

  test('are compared with what the set before has of them', async () => {
    const files = [file(1, 3), file(2, 1, { isKept: false }), file(3, 1)];
    expect(await compared(files, [entry(1, 0), entry(1, 2), entry(2, 0), entry(3, 0)])).toEqual([
      ['1.0', '1.2', '3.0'],
    ]);
  });

  test('are not where that failed its check, or is not stored whole', async () => {
    const entries = [
      entry(1, 1, { pageCheckFailed: true }),
      entry(1, 2, { wholeBytes: PAGE_BYTES }),
      entry(1, 3, { delta: { ...PLACE, pages: mapOf(1) } }),
      entry(1, 4),
    ];
    expect(await compared([file(1, 5)], entries)).toEqual([['1.4']]);
  });

  test('give each sub task its own blocks', async () => {
    const entries = Array.from({ length: 600 }, (_, n) => entry(1, n));
    const tasks = await compared([file(1, 600)], entries);
    expect(tasks.length).toBeGreaterThan(70); // some 16 MiB each
    expect(tasks.flat()).toEqual(entries.map(({ blockNumber }) => `1.${blockNumber}`));
  });
});

describe('sub tasks', () => {
  const piece = (beginBlock: number, endBlock: number, pages?: Uint8Array): Piece => ({
    fileNumber: 1,
    path: 'base/5/1',
    absolutePath: '/base/5/1',
    kind: 'main',
    listedBytes: 5000 * MACROBLOCK_BYTES,
    beginBlock,
    endBlock,
    ...(pages === undefined ? {} : { pages }),
  });

  test('hold every block once, in order, at most 512 of them', async () => {
    const pieces = [
      piece(0, 700),
      ...Array.from({ length: 1200 }, (_, n) => piece(700 + n, 701 + n, mapOf(1))),
      piece(1900, 1901),
    ];
    async function* each() {
      yield* pieces;
    }
    const blocks: number[] = [];
    let subTaskId = 10;
    for await (const task of groupPieces(each(), 10, evenTasks(0))) {
      expect(task.subTaskId).toBe(subTaskId);
      subTaskId += 1;
      const own = task.pieces.flatMap(({ beginBlock, endBlock }) =>
        Array.from({ length: endBlock - beginBlock }, (_, n) => beginBlock + n),
      );
      expect(own.length).toBeLessThanOrEqual(512);
      expect(own.length).toBeGreaterThan(0);
      blocks.push(...own);
    }
    expect(blocks).toEqual(Array.from({ length: 1901 }, (_, n) => n));
    expect(subTaskId).toBeGreaterThan(80); // 700 whole blocks are some 16 MiB each
  });
});
