/**
 * What the change maps of a range say about the files that were listed: 32 bytes per macroblock of every relation's main
 * fork in an unnamed file, so that a database of any size costs no memory, and per file whether it is another creation
 * than the one that the backup before copied. Maps may be added in any order, and twice.
 */
import type { DataFile } from '../../../engine/engine.ts';
import { parseForkPath, SEGMENT_PAGES } from '../../../engine/postgres/relation-files.ts';
import type { LogChange, MacroblockChanges } from '../../../storage-layout/clog/change-map.ts';
import {
  addPageMap,
  addPages,
  MAX_PAGES,
  PAGE_MAP_BYTES,
} from '../../../storage-layout/macroblock/page-map.ts';
import { blockCount } from '../plan.ts';
import { UnnamedFile } from './unnamed-file.ts';

const SEGMENT_BLOCKS = SEGMENT_PAGES / MAX_PAGES;
const MAIN_FORK = 0;

/** A relation file of the listing. */
type Tracked = {
  readonly fork: number;
  readonly segmentNo: number;
  /** Where its maps stand, one per macroblock; none but for main forks. */
  readonly position: number;
  readonly blocks: number;
  isNew: boolean;
};
type Relations = Map<number, Tracked[]>;

export class ChangedPages implements Disposable {
  readonly #maps: UnnamedFile;
  readonly #byPath = new Map<string, Tracked>();
  /** By tablespace and database. */
  readonly #databases = new Map<string, Relations>();
  readonly #buffer = Buffer.alloc(SEGMENT_BLOCKS * PAGE_MAP_BYTES);

  /** `directory`: for the unnamed file. */
  constructor(directory: string, files: Iterable<Pick<DataFile, 'path' | 'sizeBytes'>>) {
    this.#maps = new UnnamedFile(directory);
    let position = 0;
    for (const { path, sizeBytes } of files) {
      const place = parseForkPath(path);
      if (place === undefined) continue;
      const { fork, segmentNo } = place;
      const blocks = fork.fork === MAIN_FORK ? Math.min(blockCount(sizeBytes), SEGMENT_BLOCKS) : 0;
      const tracked = { fork: fork.fork, segmentNo, position, blocks, isNew: false };
      position += blocks * PAGE_MAP_BYTES;
      this.#byPath.set(path, tracked);
      const relations = this.#relationsOf(fork) ?? new Map<number, Tracked[]>();
      this.#databases.set(keyOf(fork), relations);
      const ofRelation = relations.get(fork.relation);
      if (ofRelation === undefined) relations.set(fork.relation, [tracked]);
      else ofRelation.push(tracked);
    }
  }

  add(change: LogChange): void {
    const relations = this.#relationsOf(change);
    switch (change.kind) {
      case 'createdDatabase':
      case 'droppedDatabase':
        for (const files of relations?.values() ?? []) for (const file of files) file.isNew = true;
        return;
      case 'droppedRelation':
        for (const file of relations?.get(change.relation) ?? []) file.isNew = true;
        return;
      case 'fork':
        for (const file of relations?.get(change.relation) ?? []) {
          if (file.fork !== change.fork) continue;
          if (change.created) file.isNew = true;
          if (file.blocks > 0) this.#addToFile(file, change);
        }
    }
  }

  /** True when the relation file may be another creation than before. */
  isNew(path: string): boolean {
    return this.#byPath.get(path)?.isNew === true;
  }

  /** The maps of a main fork's file, 32 bytes per macroblock; valid until the next call. */
  mapsOf(path: string): Uint8Array {
    const file = this.#byPath.get(path);
    const maps = this.#buffer.subarray(0, (file?.blocks ?? 0) * PAGE_MAP_BYTES);
    if (file !== undefined) this.#maps.read(file.position, maps);
    return maps;
  }

  [Symbol.dispose](): void {
    this.#maps[Symbol.dispose]();
  }

  #relationsOf(id: { readonly tablespace: number; readonly database: number }): Relations | undefined {
    return this.#databases.get(keyOf(id));
  }

  #addToFile(file: Tracked, change: LogChange & { readonly kind: 'fork' }): void {
    const firstBlock = file.segmentNo * SEGMENT_BLOCKS;
    const inFile = change.macroblocks.slice(
      lowerBound(change.macroblocks, firstBlock),
      lowerBound(change.macroblocks, firstBlock + file.blocks),
    );
    const cutTo = change.truncatedTo === undefined ? undefined : change.truncatedTo - firstBlock * MAX_PAGES;
    const isCut = cutTo !== undefined && cutTo < file.blocks * MAX_PAGES;
    if (inFile.length === 0 && !isCut) return;
    const maps = this.#buffer.subarray(0, file.blocks * PAGE_MAP_BYTES);
    this.#maps.read(file.position, maps);
    for (const { macroblock, pages } of inFile) {
      const at = (macroblock - firstBlock) * PAGE_MAP_BYTES;
      addPageMap(maps.subarray(at, at + PAGE_MAP_BYTES), pages);
    }
    if (isCut) addPages(maps, Math.max(0, cutTo), file.blocks * MAX_PAGES);
    this.#maps.write(file.position, maps);
  }
}

/** The place of the first map of a macroblock from `macroblock` on. */
function lowerBound(maps: readonly MacroblockChanges[], macroblock: number): number {
  let low = 0;
  let high = maps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((maps[middle]?.macroblock ?? macroblock) < macroblock) low = middle + 1;
    else high = middle;
  }
  return low;
}

function keyOf(id: { readonly tablespace: number; readonly database: number }): string {
  return `${id.tablespace}/${id.database}`;
}
