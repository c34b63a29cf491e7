/**
 * The change map of one log file: what the records that END in it change in relation files. It stands in the file's
 * index behind the block places, as logIndexChanges records of at most 1 MiB, so that a map of any size is written and
 * read as a stream. Entries of 24 bytes, little-endian, each fork's followed by its maps:
 *
 *   offset size
 *        0    1  kind: 1 fork, 2 dropped relation, 3 created database, 4 dropped database
 *        1    1  fork: 0 main, 1 free space map, 2 visibility map, 3 init
 *        2    1  flags: bit 0 created, bit 1 cut
 *        3    1  zero
 *        4    4  tablespace
 *        8    4  database
 *       12    4  relation; zero for a database
 *       16    4  the fewest blocks that the fork was cut to; zero unless it was cut
 *       20    4  count of the maps that follow
 *
 *   map: macroblock u32 (block number in the fork / 256), length n u8, n bytes
 *        n < 32: run lengths of the 256 bits, from page 0 on, clear and set in turn, clear first; the last run, which
 *        goes to the end, is left out. n = 32: the bits, page p being bit p % 8 of byte p / 8.
 *
 * Order: by kind, tablespace, database, relation, fork, macroblock. A fork whose maps do not fit into a record goes on
 * in the next one with the same entry again.
 */
import type { Lsn } from '../../foundation/lsn.ts';
import type { Medium } from '../media/medium.ts';
import { RECORD } from '../records/framing.ts';
import { corrupt, type RecordSource, unknown } from '../records/header.ts';
import { CHUNK_BYTES, type PlacedRecord, readRecordFile } from '../records/record-file.ts';

/** Pages of a macroblock, and the bytes of its map. */
export const MACROBLOCK_PAGES = 256;
export const MAP_BYTES = MACROBLOCK_PAGES / 8;

export type DatabaseId = { readonly tablespace: number; readonly database: number };
export type RelationId = DatabaseId & { readonly relation: number };
export type ForkId = RelationId & { readonly fork: number };

export type MacroblockChanges = {
  /** Block number in the fork / 256. */
  readonly macroblock: number;
  /** 32 bytes, at least one bit set: page p of the macroblock is bit p % 8 of byte p / 8. */
  readonly pages: Uint8Array;
};

export type ForkChanges = ForkId & {
  readonly created: boolean;
  /** The fewest blocks that the fork was cut to; undefined: it was not cut. */
  readonly truncatedTo: number | undefined;
  /** Ascending. */
  readonly macroblocks: readonly MacroblockChanges[];
};

/** A fork whose maps are made one by one. */
export type ForkParts = Omit<ForkChanges, 'macroblocks'> & {
  readonly macroblocks: Iterable<MacroblockChanges>;
};

export type UnknownSpecial = {
  readonly count: number;
  readonly first: Lsn;
  readonly rmgr: number;
  readonly info: number;
};

/** What decides about a map as a whole. */
export type ChangeWarnings = {
  /** Records flagged special that are not known: how many, and the first. */
  readonly unknownSpecial: UnknownSpecial | undefined;
  /** A record said wal_level = minimal: what was changed then is not in the log. */
  readonly walLevelMinimal: boolean;
};

/** What is written; each list ordered, each item once. */
export type ChangeMapParts = ChangeWarnings & {
  readonly forks: Iterable<ForkParts>;
  /** Removed with all their forks by a commit or abort. */
  readonly droppedRelations: Iterable<RelationId>;
  /** Databases copied or removed whole, per tablespace. */
  readonly createdDatabases: Iterable<DatabaseId>;
  readonly droppedDatabases: Iterable<DatabaseId>;
};

/** What an index says of its map before one reads it. */
export type ChangeSummary = ChangeWarnings & { readonly pageCount: number; readonly forkCount: number };

/** One entry as it is read. A large fork comes in several, in order. */
export type LogChange =
  | ({ readonly kind: 'fork' } & ForkChanges)
  | ({ readonly kind: 'droppedRelation' } & RelationId)
  | ({ readonly kind: 'createdDatabase' | 'droppedDatabase' } & DatabaseId);

const ENTRY_BYTES = 24;
const MAP_HEADER_BYTES = 5;
const KIND = { fork: 1, droppedRelation: 2, createdDatabase: 3, droppedDatabase: 4 } as const;
const KIND_NAMES = new Map(Object.entries(KIND).map(([name, kind]) => [kind as number, name]));
const FLAG = { created: 1, cut: 2 } as const;
const MAX_FORK = 3;

/** The payloads of the logIndexChanges records, and the summary that goes into the index. */
export function encodeChangeMap(parts: ChangeMapParts): {
  readonly payloads: readonly Buffer[];
  readonly summary: ChangeSummary;
} {
  const writer = new ChunkWriter();
  let pageCount = 0;
  let forkCount = 0;
  for (const fork of parts.forks) {
    forkCount += 1;
    writer.beginEntry(KIND.fork, fork);
    for (const { macroblock, pages } of fork.macroblocks) {
      pageCount += countBits(pages);
      writer.addMap(macroblock, pages);
    }
  }
  for (const relation of parts.droppedRelations) writer.beginEntry(KIND.droppedRelation, relation);
  for (const database of parts.createdDatabases) writer.beginEntry(KIND.createdDatabase, database);
  for (const database of parts.droppedDatabases) writer.beginEntry(KIND.droppedDatabase, database);
  const { unknownSpecial, walLevelMinimal } = parts;
  return { payloads: writer.finish(), summary: { pageCount, forkCount, unknownSpecial, walLevelMinimal } };
}

/** So many maps of a fork come at once, at most: decoded they take twenty times their place in the record. */
const MAPS_AT_ONCE = 1000;

/**
 * The change map in the index file `key`, entry by entry; a fork with many maps comes in several. Throws DATA_CORRUPT,
 * FORMAT_UNKNOWN, FILE_NOT_FOUND. Whether there is a map at all, the index's summary says.
 */
export async function* readChangeMap(
  medium: Medium,
  key: string,
  signal?: AbortSignal,
): AsyncGenerator<LogChange, void, undefined> {
  const source = { file: key };
  for await (const record of readRecordFile(medium, key, RECORD.logIndex, signal)) {
    if (record.type === RECORD.logIndexChanges) yield* changesIn(record, source, MAPS_AT_ONCE);
  }
}

/** The entries of one logIndexChanges record. */
export function decodeChanges(
  record: Pick<PlacedRecord, 'payload' | 'offset'>,
  source: RecordSource,
): LogChange[] {
  return [...changesIn(record, source, Number.POSITIVE_INFINITY)];
}

function* changesIn(
  record: Pick<PlacedRecord, 'payload' | 'offset'>,
  source: RecordSource,
  mapsAtOnce: number,
): Generator<LogChange> {
  const { payload } = record;
  let at = 0;
  while (at < payload.length) {
    if (payload.length - at < ENTRY_BYTES) throw corrupt(source, record.offset, 'a change map entry is cut');
    const kind = payload.readUInt8(at);
    const name = KIND_NAMES.get(kind);
    if (name === undefined) throw unknown(source, record.offset, `a change of kind ${kind}`);
    const fork = payload.readUInt8(at + 1);
    const flags = payload.readUInt8(at + 2);
    const mapCount = payload.readUInt32LE(at + 20);
    if (fork > MAX_FORK || (flags & ~(FLAG.created | FLAG.cut)) !== 0 || payload.readUInt8(at + 3) !== 0)
      throw unknown(source, record.offset, `a change of fork ${fork} with flags ${flags}`);
    const database = {
      tablespace: payload.readUInt32LE(at + 4),
      database: payload.readUInt32LE(at + 8),
    };
    const relation = { ...database, relation: payload.readUInt32LE(at + 12) };
    const truncatedTo = (flags & FLAG.cut) === 0 ? undefined : payload.readUInt32LE(at + 16);
    at += ENTRY_BYTES;
    if (kind !== KIND.fork && mapCount !== 0) throw corrupt(source, record.offset, 'pages of no fork');
    switch (kind) {
      case KIND.fork: {
        const created = (flags & FLAG.created) !== 0;
        let left = mapCount;
        do {
          const macroblocks: MacroblockChanges[] = [];
          for (; left > 0 && macroblocks.length < mapsAtOnce; left -= 1) {
            const map = decodeMapAt(payload, at);
            if (map === undefined)
              throw corrupt(source, record.offset, 'a map of changed pages is malformed');
            macroblocks.push(map.changes);
            at = map.next;
          }
          yield { kind: 'fork', ...relation, fork, created, truncatedTo, macroblocks };
        } while (left > 0);
        break;
      }
      case KIND.droppedRelation:
        yield { kind: 'droppedRelation', ...relation };
        break;
      default:
        yield { kind: kind === KIND.createdDatabase ? 'createdDatabase' : 'droppedDatabase', ...database };
    }
  }
}

/** The map at `at` and where the next thing begins; undefined when there is none. */
function decodeMapAt(
  payload: Buffer,
  at: number,
): { readonly changes: MacroblockChanges; readonly next: number } | undefined {
  if (at + MAP_HEADER_BYTES > payload.length) return undefined;
  const next = at + MAP_HEADER_BYTES + payload.readUInt8(at + 4);
  if (next > payload.length) return undefined;
  const pages = decodeMap(payload.subarray(at + MAP_HEADER_BYTES, next));
  return pages === undefined ? undefined : { changes: { macroblock: payload.readUInt32LE(at), pages }, next };
}

/** What of an item goes into its entry. */
type EntryFields = Partial<Omit<ForkParts, 'macroblocks'>>;

/** Fills chunks of at most CHUNK_BYTES. */
class ChunkWriter {
  readonly #done: Buffer[] = [];
  #chunk = Buffer.alloc(64 * 1024);
  #length = 0;
  #entry: { readonly kind: number; readonly id: EntryFields; readonly at: number; maps: number } | undefined;

  beginEntry(kind: number, id: EntryFields): void {
    this.#reserve(ENTRY_BYTES);
    const at = this.#length;
    this.#chunk.fill(0, at, at + ENTRY_BYTES);
    this.#chunk.writeUInt8(kind, at);
    this.#chunk.writeUInt8(id.fork ?? 0, at + 1);
    const flags = (id.created === true ? FLAG.created : 0) | (id.truncatedTo === undefined ? 0 : FLAG.cut);
    this.#chunk.writeUInt8(flags, at + 2);
    this.#chunk.writeUInt32LE(id.tablespace ?? 0, at + 4);
    this.#chunk.writeUInt32LE(id.database ?? 0, at + 8);
    this.#chunk.writeUInt32LE(id.relation ?? 0, at + 12);
    this.#chunk.writeUInt32LE(id.truncatedTo ?? 0, at + 16);
    this.#entry = { kind, id, at, maps: 0 };
    this.#length += ENTRY_BYTES;
  }

  addMap(macroblock: number, pages: Uint8Array): void {
    const { kind, id } = this.#entry ?? { kind: KIND.fork, id: {} };
    if (this.#reserve(MAP_HEADER_BYTES + MAP_BYTES)) this.beginEntry(kind, id);
    const entry = this.#entry;
    if (entry === undefined) return;
    const length = encodeMap(pages, this.#chunk, this.#length + MAP_HEADER_BYTES);
    this.#chunk.writeUInt32LE(macroblock, this.#length);
    this.#chunk.writeUInt8(length, this.#length + 4);
    this.#length += MAP_HEADER_BYTES + length;
    entry.maps += 1;
    this.#chunk.writeUInt32LE(entry.maps, entry.at + 20);
  }

  finish(): readonly Buffer[] {
    this.#cut();
    return this.#done;
  }

  /** Makes room; true when that began a new chunk. */
  #reserve(bytes: number): boolean {
    if (this.#length + bytes > CHUNK_BYTES) {
      this.#cut();
      return true;
    }
    if (this.#length + bytes > this.#chunk.length) {
      const grown = Buffer.alloc(Math.min(CHUNK_BYTES, this.#chunk.length * 2));
      grown.set(this.#chunk.subarray(0, this.#length));
      this.#chunk = grown;
    }
    return false;
  }

  #cut(): void {
    if (this.#length > 0) this.#done.push(Buffer.from(this.#chunk.subarray(0, this.#length)));
    this.#length = 0;
  }
}

/** Writes the coded map at `at` and returns its length: runs when they are shorter than the bits themselves. */
function encodeMap(pages: Uint8Array, into: Buffer, at: number): number {
  let count = 0;
  let runBegin = 0;
  let value = 0;
  for (let page = 0; page < MACROBLOCK_PAGES; page += 1) {
    const bit = ((pages[page >> 3] ?? 0) >> (page & 7)) & 1;
    if (bit === value) continue;
    if (count === MAP_BYTES - 1) {
      into.set(pages.subarray(0, MAP_BYTES), at);
      return MAP_BYTES;
    }
    into[at + count] = page - runBegin;
    count += 1;
    runBegin = page;
    value = bit;
  }
  return count;
}

/** Undefined when the bytes are no coded map with a page in it. */
function decodeMap(coded: Uint8Array): Uint8Array | undefined {
  if (coded.length === 0 || coded.length > MAP_BYTES) return undefined;
  if (coded.length === MAP_BYTES) return Uint8Array.from(coded);
  const pages = new Uint8Array(MAP_BYTES);
  let page = 0;
  for (const [index, run] of coded.entries()) {
    if ((run === 0 && index > 0) || page + run >= MACROBLOCK_PAGES) return undefined;
    if (index % 2 === 1) setBits(pages, page, page + run);
    page += run;
  }
  if (coded.length % 2 === 1) setBits(pages, page, MACROBLOCK_PAGES);
  return pages;
}

function setBits(pages: Uint8Array, begin: number, end: number): void {
  for (let page = begin; page < end; page += 1)
    pages[page >> 3] = (pages[page >> 3] ?? 0) | (1 << (page & 7));
}

function countBits(pages: Uint8Array): number {
  let count = 0;
  for (const byte of pages) for (let rest = byte; rest !== 0; rest &= rest - 1) count += 1;
  return count;
}
