import { describe, expect, test } from 'vitest';
import {
  type ChangeMap,
  ChangeMapCollector,
  type EndRange,
} from '../../../../engine/postgres/wal/change-map.ts';
import type { WalVersion } from '../../../../engine/postgres/wal/page.ts';
import { WalParser } from '../../../../engine/postgres/wal/parser.ts';
import { toLsn } from '../../../../foundation/lsn.ts';
import {
  BEGIN,
  integers,
  optionsFrom,
  type RecordSpec,
  transactionEnd,
  VERSIONS,
  WalBuilder,
} from './build-wal.ts';

function collect(log: WalBuilder, range?: EndRange): ChangeMap {
  const collector = new ChangeMapCollector(range);
  const parser = new WalParser(optionsFrom(), (record) => {
    collector.add(record);
    return true;
  });
  parser.push(toLsn(BEGIN), log.bytes());
  return collector.changes();
}

function changesOf(spec: RecordSpec, version: WalVersion = 17): ChangeMap {
  const log = new WalBuilder(version);
  log.add(spec);
  return collect(log);
}

function touch(relation: readonly [number, number, number], block: number, fork = 0): RecordSpec {
  return { rmgr: 10, blocks: [{ id: 0, relation, block, fork }] };
}

function pagesOf(map: ChangeMap) {
  return map.forks.map((fork) => ({
    id: [fork.tablespace, fork.database, fork.relation, fork.fork],
    pages: fork.macroblocks.flatMap(({ macroblock, pages }) =>
      Array.from({ length: 256 }, (_, page) => page)
        .filter((page) => ((pages[page >> 3] ?? 0) & (1 << (page & 7))) !== 0)
        .map((page) => macroblock * 256 + page),
    ),
  }));
}

describe('the change map', () => {
  test('holds every page once, ordered, whatever the order of the log', () => {
    const log = new WalBuilder();
    const [a, b] = [[1663, 5, 200] as const, [1663, 4, 300] as const];
    for (const block of [700, 3, 255, 256, 3, 0xffff_fffe]) log.add(touch(a, block));
    log.add(touch(b, 1));
    log.add(touch(a, 9, 2));
    log.add({
      rmgr: 11,
      blocks: [
        { id: 0, relation: a, block: 4 },
        { id: 1, block: 5 },
      ],
    });
    expect(pagesOf(collect(log))).toEqual([
      { id: [1663, 4, 300, 0], pages: [1] },
      { id: [1663, 5, 200, 0], pages: [3, 4, 5, 255, 256, 700, 0xffff_fffe] },
      { id: [1663, 5, 200, 2], pages: [9] },
    ]);
  });

  test('takes the records that end in (begin, end]', () => {
    const log = new WalBuilder();
    for (let block = 0; block < 5; block += 1) log.add(touch([1, 2, 3], block));
    const end = (index: number) => toLsn(log.placed[index]?.end ?? 0n);
    const within = (begin: bigint, last: bigint) =>
      pagesOf(collect(log, { begin: toLsn(begin), end: toLsn(last) }))[0]?.pages;
    expect(within(end(1), end(3))).toEqual([2, 3]);
    expect(within(end(1) - 1n, end(3) - 1n)).toEqual([1, 2]);
    expect(within(BEGIN, end(0) - 1n)).toBeUndefined();
  });

  test('remembers creations, and the lowest truncation of each fork', () => {
    const log = new WalBuilder();
    const relation = integers([32, 1663], [32, 5], [32, 77]);
    const truncate = (blocks: number, flags: number) =>
      log.add({
        rmgr: 2,
        info: 0x21,
        main: Buffer.concat([integers([32, blocks]), relation, integers([32, flags])]),
      });
    truncate(9, 7);
    truncate(4, 1);
    truncate(6, 1);
    log.add({ rmgr: 2, info: 0x11, main: Buffer.concat([relation, integers([32, 3])]) });
    const id = { tablespace: 1663, database: 5, relation: 77 };
    expect(collect(log).forks).toEqual([
      { ...id, fork: 0, created: false, truncatedTo: 4, macroblocks: [] },
      { ...id, fork: 1, created: false, truncatedTo: 0, macroblocks: [] },
      { ...id, fork: 2, created: false, truncatedTo: 0, macroblocks: [] },
      { ...id, fork: 3, created: true, truncatedTo: undefined, macroblocks: [] },
    ]);
  });

  test.each(VERSIONS)('remembers relations that ends of transactions of version %i drop', (version) => {
    const dropped = [
      [1663, 5, 90],
      [1663, 5, 80],
    ] as const;
    for (const info of [0x00, 0x20, 0x30, 0x40]) {
      const spec = transactionEnd({
        info,
        xid: 5,
        timeUs: 0n,
        dropped,
        ...(info >= 0x30 ? { twoPhaseXid: 4 } : {}),
      });
      expect(changesOf(spec, version).droppedRelations).toEqual([
        { tablespace: 1663, database: 5, relation: 80 },
        { tablespace: 1663, database: 5, relation: 90 },
      ]);
    }
  });

  test('tells the database records of 14 from those of 15 and later', () => {
    const create = integers([32, 500], [32, 1663], [32, 1], [32, 1663]);
    const byLog = integers([32, 500], [32, 1663]);
    const drop = integers([32, 500], [32, 2], [32, 1700], [32, 1663]);
    const made = [{ tablespace: 1663, database: 500 }];
    const gone = [...made, { tablespace: 1700, database: 500 }];
    for (const version of VERSIONS)
      expect(changesOf({ rmgr: 4, info: 0x01, main: create }, version).createdDatabases).toEqual(made);
    expect(changesOf({ rmgr: 4, info: 0x11, main: drop }, 14).droppedDatabases).toEqual(gone);
    expect(changesOf({ rmgr: 4, info: 0x21, main: drop }, 14).unknownSpecial).toMatchObject({
      count: 1,
      rmgr: 4,
    });
    for (const version of [15, 16, 17, 18] as const) {
      expect(changesOf({ rmgr: 4, info: 0x11, main: byLog }, version).createdDatabases).toEqual(made);
      expect(changesOf({ rmgr: 4, info: 0x21, main: drop }, version).droppedDatabases).toEqual(gone);
    }
  });

  test('counts special records that it does not know, and names the first', () => {
    const log = new WalBuilder();
    log.add({ rmgr: 10, info: 0x40 });
    const { begin } = log.add({ rmgr: 200, info: 0x31 });
    log.add({ rmgr: 2, info: 0x71 });
    expect(collect(log).unknownSpecial).toEqual({ count: 2, first: begin, rmgr: 200, info: 0x31 });
  });

  test('knows when wal_level was minimal', () => {
    const settings = (walLevel: number) =>
      integers([32, 100], [32, 8], [32, 10], [32, 0], [32, 64], [32, walLevel], [16, 0]);
    expect(changesOf({ rmgr: 0, info: 0x60, main: settings(0) }).walLevelMinimal).toBe(true);
    expect(changesOf({ rmgr: 0, info: 0x60, main: settings(1) }).walLevelMinimal).toBe(false);
    const redo = integers([32, 0]);
    expect(changesOf({ rmgr: 0, info: 0xe0, main: redo }, 17).walLevelMinimal).toBe(true);
    expect(changesOf({ rmgr: 0, info: 0xe0, main: redo }, 16).walLevelMinimal).toBe(false);
    expect(changesOf({ rmgr: 0, info: 0x10, main: Buffer.alloc(88) }, 18).walLevelMinimal).toBe(true);
    expect(changesOf({ rmgr: 0, info: 0x10, main: Buffer.alloc(88) }, 16).walLevelMinimal).toBe(false);
  });
});
