import { tmpdir } from 'node:os';
import { describe, expect, test } from 'vitest';
import { ChangedPages } from '../../../../../agent/backup/increment/changed-pages.ts';
import type { LogChange } from '../../../../../storage-layout/clog/change-map.ts';
import {
  addPages,
  emptyPageMap,
  hasPage,
  MAX_PAGES,
  PAGE_MAP_BYTES,
} from '../../../../../storage-layout/macroblock/page-map.ts';

const GIB = 2 ** 30;
const FILES = [
  { path: 'base/5/100', sizeBytes: GIB },
  { path: 'base/5/100.1', sizeBytes: GIB },
  { path: 'base/5/100.2', sizeBytes: 3 * 8192 },
  { path: 'base/5/100_vm', sizeBytes: 8192 },
  { path: 'base/6/100', sizeBytes: 8192 },
  { path: 'global/100', sizeBytes: 8192 },
  { path: 'pg_tblspc/77/PG_17_202406281/5/100', sizeBytes: 8192 },
  { path: 'PG_VERSION', sizeBytes: 3 },
];

function fork(change: Partial<LogChange & { kind: 'fork' }> = {}): LogChange {
  return {
    kind: 'fork',
    tablespace: 1663,
    database: 5,
    relation: 100,
    fork: 0,
    created: false,
    truncatedTo: undefined,
    macroblocks: [],
    ...change,
  };
}

function macroblock(number: number, ...pages: readonly number[]) {
  const map = emptyPageMap();
  for (const page of pages) addPages(map, page, page + 1);
  return { macroblock: number, pages: map };
}

/** `macroblock/page` of every changed page of the file. */
function pagesOf(changed: ChangedPages, path: string): readonly string[] {
  const maps = Uint8Array.from(changed.mapsOf(path));
  return Array.from({ length: maps.length / PAGE_MAP_BYTES }, (_, block) => block).flatMap((block) =>
    Array.from({ length: MAX_PAGES }, (_, page) => page)
      .filter((page) => hasPage(maps.subarray(block * PAGE_MAP_BYTES), page))
      .map((page) => `${block}/${page}`),
  );
}

describe('changed pages', () => {
  test('of several maps are put together, segment by segment', () => {
    using changed = new ChangedPages(tmpdir(), FILES);
    changed.add(
      fork({
        macroblocks: [macroblock(0, 3), macroblock(511, 255), macroblock(512, 0), macroblock(1024, 1)],
      }),
    );
    changed.add(fork({ macroblocks: [macroblock(511, 1), macroblock(9999, 1)] }));
    expect(pagesOf(changed, 'base/5/100')).toEqual(['0/3', '511/1', '511/255']);
    expect(pagesOf(changed, 'base/5/100.1')).toEqual(['0/0']);
    expect(pagesOf(changed, 'base/5/100.2')).toEqual(['0/1']);
    for (const path of ['base/6/100', 'global/100', 'base/5/100_vm'])
      expect(pagesOf(changed, path)).toEqual([]);
    expect(FILES.some(({ path }) => changed.isNew(path))).toBe(false);
  });

  test('count from where a fork was cut on, over the border of a segment', () => {
    using changed = new ChangedPages(tmpdir(), FILES);
    changed.add(fork({ truncatedTo: 131_072 - 2 }));
    expect(pagesOf(changed, 'base/5/100')).toEqual(['511/254', '511/255']);
    expect(pagesOf(changed, 'base/5/100.1')).toHaveLength(131_072);
    expect(pagesOf(changed, 'base/5/100.2')).toHaveLength(256);
  });

  test.each([
    ['a created fork', fork({ created: true }), ['base/5/100', 'base/5/100.1', 'base/5/100.2']],
    ['a created visibility map', fork({ created: true, fork: 2 }), ['base/5/100_vm']],
    [
      'a dropped relation',
      { kind: 'droppedRelation', tablespace: 1663, database: 5, relation: 100 },
      ['base/5/100', 'base/5/100.1', 'base/5/100.2', 'base/5/100_vm'],
    ],
    ['a shared relation', fork({ tablespace: 1664, database: 0, created: true }), ['global/100']],
    ['a created database', { kind: 'createdDatabase', tablespace: 1663, database: 6 }, ['base/6/100']],
    [
      'a dropped database in a tablespace',
      { kind: 'droppedDatabase', tablespace: 77, database: 5 },
      ['pg_tblspc/77/PG_17_202406281/5/100'],
    ],
    ['a relation that is not there', fork({ relation: 9, created: true }), []],
  ] as readonly (readonly [string, LogChange, readonly string[]])[])(
    '%s makes its files new, and no others',
    (_, change, paths) => {
      using changed = new ChangedPages(tmpdir(), FILES);
      changed.add(change);
      expect(FILES.map(({ path }) => path).filter((path) => changed.isNew(path))).toEqual(paths);
    },
  );
});
