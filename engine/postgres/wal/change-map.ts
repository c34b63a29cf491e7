/**
 * Which pages of which relation forks a range of log touches, and what else happened to relation files in it.
 *
 * A page is in the map when a record that ENDS in the range refers to it. A macroblock is 256 pages, numbered over the
 * whole fork (its segments hold 512 each); its map has a bit per page: page p of it is bit p % 8 of byte p / 8.
 * Whoever takes an increment from the map must also count as changed: every page at or above `truncatedTo`, all of a
 * fork that was created, of a relation that was dropped (its number may be used again) and of a database that was
 * created or dropped; and must take everything when there is an unknown special record or `wal_level` was minimal.
 * Visibility maps are not to be taken from here (reference 5.6): some records clear their bits without a reference.
 */
import { assert, assertNever } from '../../../foundation/assert.ts';
import type { Lsn } from '../../../foundation/lsn.ts';
import {
  type ChangeMapParts,
  type ChangeWarnings,
  type DatabaseId,
  type ForkChanges,
  type ForkId,
  type ForkParts,
  MACROBLOCK_PAGES,
  MAP_BYTES,
  type MacroblockChanges,
  type RelationId,
  type UnknownSpecial,
} from '../../../storage-layout/clog/change-map.ts';
import type { LogTouches, RelationChange } from '../../engine.ts';
import { RecordDecoder } from './blocks.ts';
import { forkOf, PageSet, pageOf } from './page-set.ts';
import type { RecordView } from './record.ts';
import { relationChangesOf } from './relation-records.ts';
import { TOUCH_FIELDS } from './touches.ts';

/** A whole map as one value; forks ordered by tablespace, database, relation, fork. */
export type ChangeMap = ChangeWarnings & {
  readonly forks: readonly ForkChanges[];
  readonly droppedRelations: readonly RelationId[];
  readonly createdDatabases: readonly DatabaseId[];
  readonly droppedDatabases: readonly DatabaseId[];
};

/** Records that end in (begin, end]. */
export type EndRange = { readonly begin: Lsn; readonly end: Lsn };

const FORKS = 4;

type MutableFork = {
  readonly id: ForkId;
  /** In the order in which forks were met. */
  readonly number: number;
  created: boolean;
  truncatedTo: number | undefined;
};

type Relations = Map<number, (MutableFork | undefined)[]>;

/** Collects records as a parser hands them out, or what a TouchRecorder kept of them. Its memory: page-set.ts. */
export class ChangeMapCollector {
  readonly #range: EndRange | undefined;
  readonly #decoder = new RecordDecoder();
  readonly #pages = new PageSet();
  readonly #forks: MutableFork[] = [];
  readonly #databases = new Map<string, Relations>();
  readonly #droppedRelations = new Map<string, RelationId>();
  readonly #createdDatabases = new Map<string, DatabaseId>();
  readonly #droppedDatabases = new Map<string, DatabaseId>();
  #unknownSpecial: UnknownSpecial | undefined;
  #walLevelMinimal = false;

  // The range in the record's own numbers, and the database met last: both change rarely.
  #base = -1n;
  #rangeBegin = 0;
  #rangeEnd = 0;
  #lastTablespace = -1;
  #lastDatabase = -1;
  #lastRelations: Relations = new Map();

  /** `range` undefined: every record counts. */
  constructor(range?: EndRange) {
    this.#range = range;
  }

  /** Takes the record in, if it ends in the range. Throws WAL_UNREADABLE when it cannot be decoded. */
  add(record: RecordView): void {
    if (!this.#inRange(record)) return;
    for (const change of relationChangesOf(record, this.#decoder)) this.#apply(change);
    this.#decoder.decode(record);
    for (let index = 0; index < this.#decoder.blockCount; index += 1) {
      const block = this.#decoder.blocks[index];
      assert(block !== undefined, 'blockCount counts blocks');
      const fork = this.#fork(block.tablespace, block.database, block.relation, block.fork);
      this.#pages.add(fork.number, block.block);
    }
  }

  /** Takes in what records changed, whatever the range. */
  addTouches(touches: LogTouches): void {
    const { pages } = touches;
    for (let at = 0; at + TOUCH_FIELDS <= pages.length; at += TOUCH_FIELDS) {
      const fork = this.#fork(pages[at] ?? 0, pages[at + 1] ?? 0, pages[at + 2] ?? 0, pages[at + 3] ?? 0);
      this.#pages.add(fork.number, pages[at + 4] ?? 0);
    }
    for (const change of touches.changes) this.#apply(change);
  }

  /** What was collected so far, as an ordered value of its own. */
  changes(): ChangeMap {
    const parts = this.parts();
    return {
      ...parts,
      forks: [...parts.forks].map((fork) => ({ ...fork, macroblocks: [...fork.macroblocks] })),
    };
  }

  /** The same for writing: forks and maps are made one by one, and must be taken before anything else is added. */
  parts(): Omit<ChangeMap, 'forks'> & Pick<ChangeMapParts, 'forks'> {
    return {
      forks: this.#orderedForks(),
      droppedRelations: [...this.#droppedRelations.values()].sort(compareIds),
      createdDatabases: [...this.#createdDatabases.values()].sort(compareIds),
      droppedDatabases: [...this.#droppedDatabases.values()].sort(compareIds),
      unknownSpecial: this.#unknownSpecial,
      walLevelMinimal: this.#walLevelMinimal,
    };
  }

  *#orderedForks(): Generator<ForkParts> {
    const ordered = this.#forks.toSorted((a, b) => compareIds(a.id, b.id));
    const order = new Uint32Array(ordered.length);
    for (const [place, fork] of ordered.entries()) order[fork.number] = place;
    const keys = this.#pages.sorted(order);
    let begin = 0;
    for (const [place, { id, created, truncatedTo }] of ordered.entries()) {
      let end = begin;
      while (end < keys.length && forkOf(keys[end] ?? 0) === place) end += 1;
      yield { ...id, created, truncatedTo, macroblocks: macroblocksOf(keys.subarray(begin, end)) };
      begin = end;
    }
  }

  #inRange(record: RecordView): boolean {
    if (this.#range === undefined) return true;
    if (record.base !== this.#base) {
      this.#base = record.base;
      this.#rangeBegin = Number(this.#range.begin - record.base);
      this.#rangeEnd = Number(this.#range.end - record.base);
    }
    return record.endOffset > this.#rangeBegin && record.endOffset <= this.#rangeEnd;
  }

  #apply(change: RelationChange): void {
    switch (change.kind) {
      case 'create':
        this.#forkOf(change.fork).created = true;
        return;
      case 'truncate': {
        const fork = this.#forkOf(change.fork);
        fork.truncatedTo = Math.min(fork.truncatedTo ?? change.blocksLeft, change.blocksLeft);
        return;
      }
      case 'dropRelation':
        this.#droppedRelations.set(keyOf(change.relation), change.relation);
        return;
      case 'createDatabase':
        this.#createdDatabases.set(keyOf(change.database), change.database);
        return;
      case 'dropDatabase':
        this.#droppedDatabases.set(keyOf(change.database), change.database);
        return;
      case 'walLevelMinimal':
        this.#walLevelMinimal = true;
        return;
      case 'unknownSpecial':
        this.#unknownSpecial = {
          first: change.at,
          rmgr: change.rmgr,
          info: change.info,
          ...this.#unknownSpecial,
          count: (this.#unknownSpecial?.count ?? 0) + 1,
        };
        return;
      default:
        assertNever(change);
    }
  }

  #forkOf(id: ForkId): MutableFork {
    return this.#fork(id.tablespace, id.database, id.relation, id.fork);
  }

  #fork(tablespace: number, database: number, relation: number, fork: number): MutableFork {
    const relations = this.#relations(tablespace, database);
    let forks = relations.get(relation);
    if (forks === undefined) {
      forks = Array.from({ length: FORKS }, () => undefined);
      relations.set(relation, forks);
    }
    let found = forks[fork];
    if (found === undefined) {
      const id = { tablespace, database, relation, fork };
      found = { id, number: this.#forks.length, created: false, truncatedTo: undefined };
      this.#forks.push(found);
      forks[fork] = found;
    }
    return found;
  }

  #relations(tablespace: number, database: number): Relations {
    if (tablespace === this.#lastTablespace && database === this.#lastDatabase) return this.#lastRelations;
    const key = keyOf({ tablespace, database });
    const relations: Relations = this.#databases.get(key) ?? new Map();
    this.#databases.set(key, relations);
    this.#lastTablespace = tablespace;
    this.#lastDatabase = database;
    this.#lastRelations = relations;
    return relations;
  }
}

/** The maps of one fork's pages, which are ascending. */
function* macroblocksOf(keys: Float64Array): Generator<MacroblockChanges> {
  let current: { readonly macroblock: number; readonly pages: Uint8Array } | undefined;
  for (const key of keys) {
    const page = pageOf(key);
    const macroblock = Math.floor(page / MACROBLOCK_PAGES);
    if (current?.macroblock !== macroblock) {
      if (current !== undefined) yield current;
      current = { macroblock, pages: new Uint8Array(MAP_BYTES) };
    }
    const bit = page % MACROBLOCK_PAGES;
    current.pages[bit >> 3] = (current.pages[bit >> 3] ?? 0) | (1 << (bit & 7));
  }
  if (current !== undefined) yield current;
}

type AnyId = DatabaseId & { readonly relation?: number; readonly fork?: number };

function keyOf(id: AnyId): string {
  return `${id.tablespace}/${id.database}/${id.relation ?? ''}`;
}

function compareIds(a: AnyId, b: AnyId): number {
  return (
    a.tablespace - b.tablespace ||
    a.database - b.database ||
    (a.relation ?? 0) - (b.relation ?? 0) ||
    (a.fork ?? 0) - (b.fork ?? 0)
  );
}
