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
import { type BlockView, RecordDecoder } from './blocks.ts';
import type { RecordView } from './record.ts';
import { type DatabaseId, type ForkId, type RelationChange, relationChangesOf } from './relation-records.ts';
import type { RelationId } from './transaction.ts';

export const MACROBLOCK_PAGES = 256;
const MAP_BYTES = MACROBLOCK_PAGES / 8;
const MAX_FORK = 3;

export type MacroblockChanges = {
  /** Block number in the fork / 256. */
  readonly macroblock: number;
  /** 32 bytes, at least one bit set. */
  readonly pages: Uint8Array;
};

export type ForkChanges = ForkId & {
  readonly created: boolean;
  /** The fewest blocks that the fork was cut to; undefined: it was not cut. */
  readonly truncatedTo: number | undefined;
  /** Ascending. */
  readonly macroblocks: readonly MacroblockChanges[];
};

export type ChangeMap = {
  /** Ordered by tablespace, database, relation, fork. */
  readonly forks: readonly ForkChanges[];
  /** Removed with all their forks by a commit or abort. Ordered, each once. */
  readonly droppedRelations: readonly RelationId[];
  /** Databases copied or removed whole, per tablespace. Ordered, each once. */
  readonly createdDatabases: readonly DatabaseId[];
  readonly droppedDatabases: readonly DatabaseId[];
  /** Records flagged special that are not known: how many, and the first. */
  readonly unknownSpecial:
    | { readonly count: number; readonly first: Lsn; readonly rmgr: number; readonly info: number }
    | undefined;
  /** A record said wal_level = minimal: what was changed then is not in the log. */
  readonly walLevelMinimal: boolean;
};

/** Records that end in (begin, end]. */
export type EndRange = { readonly begin: Lsn; readonly end: Lsn };

type MutableFork = {
  readonly id: ForkId;
  created: boolean;
  truncatedTo: number | undefined;
  readonly macroblocks: Map<number, Uint8Array>;
  /** The macroblock touched last. */
  lastMacroblock: number;
  lastPages: Uint8Array;
};

type RelationForks = (MutableFork | undefined)[];

/** Collects records as a parser hands them out. Its memory grows with what the range touches: 32 bytes and a map entry per macroblock. */
export class ChangeMapCollector {
  readonly #range: EndRange | undefined;
  readonly #decoder = new RecordDecoder();
  readonly #databases = new Map<string, Map<number, RelationForks>>();
  readonly #droppedRelations = new Map<string, RelationId>();
  readonly #createdDatabases = new Map<string, DatabaseId>();
  readonly #droppedDatabases = new Map<string, DatabaseId>();
  #unknownSpecial: ChangeMap['unknownSpecial'];
  #walLevelMinimal = false;

  // The range in the record's own numbers, and the database met last: both change rarely.
  #base = -1n;
  #rangeBegin = 0;
  #rangeEnd = 0;
  #lastTablespace = -1;
  #lastDatabase = -1;
  #lastRelations = new Map<number, RelationForks>();

  /** `range` undefined: every record counts. */
  constructor(range?: EndRange) {
    this.#range = range;
  }

  /** Takes the record in, if it ends in the range. Throws WAL_UNREADABLE when it cannot be decoded. */
  add(record: RecordView): void {
    if (!this.#inRange(record)) return;
    for (const change of relationChangesOf(record, this.#decoder)) this.#apply(change, record);
    this.#decoder.decode(record);
    for (let index = 0; index < this.#decoder.blockCount; index += 1) {
      const block = this.#decoder.blocks[index];
      assert(block !== undefined, 'blockCount counts blocks');
      this.#touch(block);
    }
  }

  /** What was collected so far, as an ordered value of its own. */
  changes(): ChangeMap {
    const forks = [...this.#databases.values()].flatMap((relations) =>
      [...relations.values()].flatMap((all) => all.filter((fork) => fork !== undefined)),
    );
    return {
      forks: forks.map(copyFork).sort(compareIds),
      droppedRelations: [...this.#droppedRelations.values()].sort(compareIds),
      createdDatabases: [...this.#createdDatabases.values()].sort(compareIds),
      droppedDatabases: [...this.#droppedDatabases.values()].sort(compareIds),
      unknownSpecial: this.#unknownSpecial,
      walLevelMinimal: this.#walLevelMinimal,
    };
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

  #touch(block: BlockView): void {
    const fork = this.#fork(block.tablespace, block.database, block.relation, block.fork);
    const macroblock = Math.floor(block.block / MACROBLOCK_PAGES);
    if (macroblock !== fork.lastMacroblock) {
      fork.lastPages = fork.macroblocks.get(macroblock) ?? new Uint8Array(MAP_BYTES);
      fork.lastMacroblock = macroblock;
      fork.macroblocks.set(macroblock, fork.lastPages);
    }
    const page = block.block % MACROBLOCK_PAGES;
    fork.lastPages[page >> 3] = (fork.lastPages[page >> 3] ?? 0) | (1 << (page & 7));
  }

  #apply(change: RelationChange, record: RecordView): void {
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
          first: record.begin,
          rmgr: record.rmgr,
          info: record.info,
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
      forks = Array.from({ length: MAX_FORK + 1 }, () => undefined);
      relations.set(relation, forks);
    }
    let found = forks[fork];
    if (found === undefined) {
      found = {
        id: { tablespace, database, relation, fork },
        created: false,
        truncatedTo: undefined,
        macroblocks: new Map(),
        lastMacroblock: -1,
        lastPages: new Uint8Array(0),
      };
      forks[fork] = found;
    }
    return found;
  }

  #relations(tablespace: number, database: number): Map<number, RelationForks> {
    if (tablespace === this.#lastTablespace && database === this.#lastDatabase) return this.#lastRelations;
    const key = keyOf({ tablespace, database });
    const relations = this.#databases.get(key) ?? new Map<number, RelationForks>();
    this.#databases.set(key, relations);
    this.#lastTablespace = tablespace;
    this.#lastDatabase = database;
    this.#lastRelations = relations;
    return relations;
  }
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

function copyFork(fork: MutableFork): ForkChanges {
  return {
    ...fork.id,
    created: fork.created,
    truncatedTo: fork.truncatedTo,
    macroblocks: [...fork.macroblocks]
      .map(([macroblock, pages]) => ({ macroblock, pages: pages.slice() }))
      .sort((a, b) => a.macroblock - b.macroblock),
  };
}
