/** Plans and indexes of whole chains of backups against a model in which pages are numbers. */
import { tmpdir } from 'node:os';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ChangedPages } from '../../../../../agent/backup/increment/changed-pages.ts';
import { numberFiles } from '../../../../../agent/backup/increment/file-numbers.ts';
import { IndexMerge, type MergeInput } from '../../../../../agent/backup/increment/merge.ts';
import { planPieces } from '../../../../../agent/backup/increment/plan.ts';
import { NamedFiles } from '../../../../../agent/backup/named-files.ts';
import type { DataFile } from '../../../../../engine/engine.ts';
import { toLsn } from '../../../../../foundation/lsn.ts';
import type { LogChange } from '../../../../../storage-layout/clog/change-map.ts';
import { combineCrc32c } from '../../../../../storage-layout/crc32c.ts';
import {
  decodeMacroBlockEntries,
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
import type { Medium } from '../../../../../storage-layout/media/medium.ts';

const DATABASE = { tablespace: 1663, database: 5 };
const NO_PLACE = {
  setId: 0n,
  subTaskId: 0,
  offset: 0,
  storedBytes: 0,
  crc32c: 0,
  compression: 'none',
} as const;

/** A database: relations by number, each the versions of its pages; 0 is a page of zeros. */
class Model {
  readonly relations = new Map<number, number[]>();
  /** What the log says of the changes since the last backup. */
  changes: LogChange[] = [];
  /** Pages that were written since the whole block of their macroblock was stored, at least. */
  #version = 0;

  apply({ kind, relation, page, count }: Step): void {
    const pages = this.relations.get(relation);
    switch (kind) {
      case 'create':
        if (pages !== undefined) return;
        this.relations.set(relation, []);
        this.changes.push({
          kind: 'fork',
          ...DATABASE,
          relation,
          fork: 0,
          created: true,
          truncatedTo: undefined,
          macroblocks: [],
        });
        this.write(relation, 0, count);
        return;
      case 'drop':
        if (pages === undefined) return;
        this.relations.delete(relation);
        this.changes.push({ kind: 'droppedRelation', ...DATABASE, relation });
        return;
      case 'cut':
        if (pages === undefined || page >= pages.length) return;
        pages.length = page;
        this.changes.push({
          kind: 'fork',
          ...DATABASE,
          relation,
          fork: 0,
          created: false,
          truncatedTo: page,
          macroblocks: [],
        });
        return;
      case 'extend': // as bulk extension does: no word of it in the log
        pages?.push(...Array.from({ length: count }, () => 0));
        return;
      case 'write':
        if (pages !== undefined) this.write(relation, Math.min(page, pages.length), count);
    }
  }

  write(relation: number, first: number, count: number): void {
    const pages = this.relations.get(relation) ?? [];
    const maps = new Map<number, Uint8Array>();
    for (let page = first; page < first + count; page += 1) {
      this.#version += 1;
      pages[page] = this.#version;
      const macroblock = Math.floor(page / MAX_PAGES);
      const map = maps.get(macroblock) ?? emptyPageMap();
      maps.set(macroblock, map);
      addPages(map, page % MAX_PAGES, (page % MAX_PAGES) + 1);
    }
    const macroblocks = [...maps].map(([macroblock, map]) => ({ macroblock, pages: map }));
    this.changes.push({
      kind: 'fork',
      ...DATABASE,
      relation,
      fork: 0,
      created: false,
      truncatedTo: undefined,
      macroblocks,
    });
  }

  list(): DataFile[] {
    const relations = [...this.relations].map(([relation, pages]) =>
      fileOf(`base/5/${relation}`, 'main', pages.length),
    );
    return [
      ...relations,
      fileOf('base/5/100_vm', 'vm', 3),
      { ...fileOf('global/pg_control', 'control', 1) },
    ].sort((a, b) => (a.path < b.path ? -1 : 1));
  }
}

function fileOf(path: string, kind: DataFile['kind'], pages: number): DataFile {
  return { path, absolutePath: `/${path}`, kind, sizeBytes: pages * PAGE_BYTES, mode: 0o600, modifiedMs: 0 };
}

/** A destination: what was stored where, as page versions. */
class Store {
  readonly #blocks = new Map<string, readonly number[]>();

  put(setId: bigint, pages: readonly number[]): MacroBlockEntry & { readonly plainBytes: number } {
    const offset = this.#blocks.size;
    this.#blocks.set(`${setId}.${offset}`, pages);
    return {
      setId,
      subTaskId: 1,
      offset,
      storedBytes: 1,
      crc32c: offset,
      compression: 'zstd' as const,
      fileNumber: 0,
      blockNumber: 0,
      newestPageLsn: toLsn(0n),
      pageCheckFailed: false,
      plainBytes: pages.length * PAGE_BYTES,
    };
  }

  get(place: { readonly setId: bigint; readonly offset: number }): readonly number[] {
    const pages = this.#blocks.get(`${place.setId}.${place.offset}`);
    if (pages === undefined) throw new Error('nothing is stored there');
    return pages;
  }

  /** The block, as a reader makes it: base, cut or filled, then the delta. */
  read(entry: MacroBlockEntry): readonly number[] {
    const base = this.get(entry);
    expect(base.length * PAGE_BYTES).toBe(entry.wholeBytes ?? entry.plainBytes);
    const block = Array.from({ length: entry.plainBytes / PAGE_BYTES }, (_, page) => base[page] ?? 0);
    const delta = entry.delta;
    if (delta === undefined) return block;
    const pages = Array.from({ length: MAX_PAGES }, (_, page) => page).filter((page) =>
      hasPage(delta.pages, page),
    );
    const stored = this.get(delta);
    expect(stored.length).toBe(pages.length);
    for (const [n, page] of pages.entries()) block[page] = stored[n] ?? -1;
    return block;
  }
}

type Backup = {
  readonly entries: readonly MacroBlockEntry[];
  readonly byPath: ReadonlyMap<string, number>;
  readonly next: number;
  readonly pagesRead: number;
  readonly files: IndexMerge['files'];
  readonly named: IndexMerge['named'];
};
const NOTHING: Backup = {
  entries: [],
  byPath: new Map(),
  next: 1,
  pagesRead: 0,
  files: [],
  named: new NamedFiles(),
};
const { signal } = new AbortController();

async function backUp(
  model: Model,
  store: Store,
  setId: bigint,
  before: Backup,
  change: Partial<MergeInput> = {},
): Promise<Backup> {
  const listed = model.list();
  using changed = new ChangedPages(tmpdir(), listed);
  for (const each of model.changes) changed.add(each);
  model.changes = [];
  const { files, nextFileNumber } = numberFiles(listed, before, (path) => changed.isNew(path));
  const copied: MacroBlockEntry[] = [];
  let pagesRead = 0;
  const contents = (path: string) => model.relations.get(Number(path.split('/')[2])) ?? [7, 7, 7];
  const pieces = planPieces(
    files,
    stream(before.entries),
    (path) => changed.mapsOf(path),
    () => undefined,
  );
  for await (const piece of pieces) {
    for (let block = piece.beginBlock; block < piece.endBlock; block += 1) {
      const pages = contents(piece.path).slice(block * MAX_PAGES, (block + 1) * MAX_PAGES);
      const place = { fileNumber: piece.fileNumber, blockNumber: block };
      const { pages: wanted } = piece;
      const taken = wanted === undefined ? pages : pages.filter((_, page) => hasPage(wanted, page));
      if (piece.kind === 'main') pagesRead += taken.length;
      const stored = taken.length === 0 ? undefined : { ...store.put(setId, taken), ...place };
      if (wanted === undefined && stored !== undefined) copied.push(stored);
      if (wanted === undefined) continue;
      const entry = {
        ...NO_PLACE,
        ...place,
        plainBytes: pages.length * PAGE_BYTES,
        newestPageLsn: toLsn(0n),
        pageCheckFailed: false,
      };
      copied.push(stored === undefined ? entry : { ...entry, delta: { ...stored, pages: wanted } });
    }
  }
  const control = files.find((file) => file.kind === 'control');
  const merge = new IndexMerge({
    files,
    before: stream(before.entries),
    copied: stream(copied),
    control: [{ ...store.put(setId, [setId === 0n ? 0 : 9]), fileNumber: control?.fileNumber ?? 0 }],
    gone: new Set(),
    ends: new Map(),
    pagesAreChecked: true,
    hasFailed: () => false,
    ...change,
  });
  const entries: MacroBlockEntry[] = [];
  for await (const entry of merge.entries()) entries.push(throughBytes(entry));
  const byPath = new Map(merge.files.map(({ path, fileNumber }) => [path, fileNumber]));
  return { entries, byPath, next: nextFileNumber, pagesRead, files: merge.files, named: merge.named };
}

/** The entry as a reader of the index gets it. */
function throughBytes(entry: MacroBlockEntry): MacroBlockEntry {
  const bytes = Buffer.alloc(ENTRY_BYTES);
  encodeMacroBlockEntry(bytes, 0, entry);
  return decodeMacroBlockEntries(bytes, 0, { file: 'index' })[0] ?? entry;
}

function stream(entries: readonly MacroBlockEntry[]): EntryStream {
  return new EntryStream(
    (async function* chunks() {
      for (let begin = 0; begin < entries.length; begin += 3) {
        const some = entries.slice(begin, begin + 3);
        const payload = Buffer.alloc(some.length * ENTRY_BYTES);
        for (const [n, entry] of some.entries()) encodeMacroBlockEntry(payload, n * ENTRY_BYTES, entry);
        yield { payload, recordOffset: 0, source: { file: 'index' } };
      }
    })(),
  );
}

function check(model: Model, store: Store, backup: Backup): void {
  const order = backup.entries.map((entry) => [entry.fileNumber, entry.blockNumber] as const);
  expect(order).toEqual(order.toSorted((a, b) => a[0] - b[0] || a[1] - b[1]));
  for (const [relation, pages] of model.relations) {
    const number = backup.byPath.get(`base/5/${relation}`);
    const own = backup.entries.filter((entry) => entry.fileNumber === number);
    expect(own.map((entry) => entry.blockNumber)).toEqual(own.map((_, n) => n));
    expect(own.flatMap((entry) => store.read(entry))).toEqual(pages);
    const file = backup.files.find((each) => each.fileNumber === number);
    expect(file).toMatchObject({ storedBytes: pages.length * PAGE_BYTES, blockCount: own.length });
    const isWhole = own.every((entry) => entry.delta === undefined && entry.wholeBytes === undefined);
    const crc = own.reduce((sum, entry) => combineCrc32c(sum, entry.crc32c, entry.plainBytes), 0);
    expect(file?.crc32c).toBe(isWhole ? crc : undefined);
  }
}

type Step = {
  readonly kind: 'create' | 'drop' | 'cut' | 'extend' | 'write';
  readonly relation: number;
  readonly page: number;
  readonly count: number;
};

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom('write', 'write', 'write', 'write', 'cut', 'extend', 'create', 'drop'),
  relation: fc.integer({ min: 100, max: 102 }),
  page: fc.integer({ min: 0, max: 600 }),
  count: fc.oneof(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 300 })),
});

describe('a chain of backups', () => {
  test('gives every block as it is, from one whole block and one delta, whatever happened', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(step, { maxLength: 12 }), { minLength: 2, maxLength: 7 }),
        async (rounds) => {
          const model = new Model();
          const store = new Store();
          for (const relation of [100, 101, 102])
            model.apply({ kind: 'create', relation, page: 0, count: 520 });
          let backup = NOTHING;
          for (const [n, steps] of rounds.entries()) {
            for (const each of steps) model.apply(each);
            backup = await backUp(model, store, BigInt(n + 1), backup);
            check(model, store, backup);
          }
        },
      ),
      { numRuns: 150 },
    );
  });

  test('reads no more than the changed pages, and at most twice those since the whole block', async () => {
    const model = new Model();
    const store = new Store();
    model.apply({ kind: 'create', relation: 100, page: 0, count: 512 });
    let backup = await backUp(model, store, 1n, NOTHING);
    expect(backup.pagesRead).toBe(512);
    backup = await backUp(model, store, 2n, backup);
    expect(backup.pagesRead).toBe(0);
    const changed = new Set<number>();
    for (let setId = 3n; setId < 20n; setId += 1n) {
      const page = (Number(setId) * 37) % 256;
      model.apply({ kind: 'write', relation: 100, page, count: 4 });
      for (let n = 0; n < 4; n += 1) changed.add(page + n);
      backup = await backUp(model, store, setId, backup);
      expect(backup.pagesRead).toBeLessThanOrEqual(changed.size);
      check(model, store, backup);
    }
    model.apply({ kind: 'write', relation: 100, page: 0, count: 129 });
    backup = await backUp(model, store, 20n, backup);
    expect(backup.pagesRead).toBe(256);
    expect(
      backup.entries.find((entry) => entry.fileNumber === backup.byPath.get('base/5/100'))?.delta,
    ).toBeUndefined();
  });

  test('a file that is created anew under its old name shares nothing with the one before', async () => {
    const model = new Model();
    const store = new Store();
    model.apply({ kind: 'create', relation: 100, page: 0, count: 300 });
    const first = await backUp(model, store, 1n, NOTHING);
    model.apply({ kind: 'drop', relation: 100, page: 0, count: 0 });
    model.apply({ kind: 'create', relation: 100, page: 0, count: 300 });
    const second = await backUp(model, store, 2n, first);
    check(model, store, second);
    expect(second.byPath.get('base/5/100')).toBeGreaterThanOrEqual(first.next); // never given before
    model.apply({ kind: 'drop', relation: 100, page: 0, count: 0 });
    const third = await backUp(model, store, 3n, second);
    model.apply({ kind: 'create', relation: 100, page: 0, count: 2 });
    const fourth = await backUp(model, store, 4n, third);
    expect(third.next).toBe(second.next + 1); // the visibility map's
    expect(fourth.byPath.get('base/5/100')).toBeGreaterThanOrEqual(third.next);
  });

  test('a file that was found shorter ends there, and one that was gone is left out', async () => {
    const model = new Model();
    const store = new Store();
    for (const relation of [100, 101]) model.apply({ kind: 'create', relation, page: 0, count: 600 });
    const first = await backUp(model, store, 1n, NOTHING);
    const [hundred, other] = [100, 101].map((relation) => first.byPath.get(`base/5/${relation}`) ?? 0);
    const change = { ends: new Map([[hundred ?? 0, 1]]), gone: new Set([other ?? 0]) };
    const second = await backUp(model, store, 2n, first, change);
    const own = second.entries.filter((entry) => entry.fileNumber === hundred);
    expect(own.map((entry) => entry.plainBytes)).toEqual([MACROBLOCK_BYTES]);
    expect(second.entries.some((entry) => entry.fileNumber === other)).toBe(false);
    expect(second.byPath.has('base/5/101')).toBe(false);
    check(model, store, await backUp(model, store, 3n, second)); // what was left out is read whole
  });

  test('a block with a failed page is marked, and read whole the next time', async () => {
    const model = new Model();
    const store = new Store();
    model.apply({ kind: 'create', relation: 100, page: 0, count: 256 });
    const first = await backUp(model, store, 1n, NOTHING);
    const number = first.byPath.get('base/5/100');
    model.apply({ kind: 'write', relation: 100, page: 9, count: 1 });
    const second = await backUp(model, store, 2n, first, { hasFailed: (file) => file === number });
    expect(second.pagesRead).toBe(1);
    expect(second.entries.find((entry) => entry.fileNumber === number)?.pageCheckFailed).toBe(true);
    const third = await backUp(model, store, 3n, second);
    expect(third.pagesRead).toBe(256);
    check(model, store, third);
  });

  test('a failed page stays failed while pages are not checked, and is right when it was read and checked again', async () => {
    const model = new Model();
    const store = new Store();
    model.apply({ kind: 'create', relation: 100, page: 0, count: 256 });
    const first = await backUp(model, store, 1n, NOTHING, { hasFailed: () => true });
    const number = first.byPath.get('base/5/100');
    const failed = ({ entries }: Backup) =>
      entries.find((entry) => entry.fileNumber === number)?.pageCheckFailed;
    const second = await backUp(model, store, 2n, first, { pagesAreChecked: false });
    expect([second.pagesRead, failed(second)]).toEqual([256, true]);
    const third = await backUp(model, store, 3n, second);
    expect([third.pagesRead, failed(third)]).toEqual([256, false]);
  });

  test('names the files of every block, its own and those of the sets before', async () => {
    const model = new Model();
    const store = new Store();
    model.apply({ kind: 'create', relation: 100, page: 0, count: 600 });
    const first = await backUp(model, store, 1n, NOTHING);
    model.apply({ kind: 'write', relation: 100, page: 300, count: 1 });
    const second = await backUp(model, store, 2n, first);
    const places = second.entries.flatMap((entry) => [
      entry,
      ...(entry.delta === undefined ? [] : [entry.delta]),
    ]);
    const names = [...new Set(places.map(({ setId, subTaskId }) => `macro_block_${setId}.${subTaskId}`))];
    expect(names.some((name) => name.startsWith('macro_block_1.'))).toBe(true);
    expect(names.some((name) => name.startsWith('macro_block_2.'))).toBe(true);
    const target = {
      root: { clusterName: 'c', clusterId: 1n },
      setKey: { tenantId: 1n, fullSetId: 1n, setId: 2n },
    };
    const listing = (there: readonly string[]) =>
      ({ listNames: async () => there, displayUri: 'file:///there' }) as unknown as Medium; // what is asked of it
    const look = async (there: readonly string[]) =>
      await second.named.checkAreThere(listing(there), { ...target, group: 'g', round: undefined }, signal);
    await look([...names, 'macro_block_1.999']);
    for (const lost of names) {
      const code = lost.startsWith('macro_block_1.') ? 'FULL_BACKUP_NEEDED' : 'DESTINATION_IO';
      const left = names.filter((name) => name !== lost);
      await expect(look(left)).rejects.toMatchObject({ code, message: expect.stringContaining(lost) });
    }
  });
});
