/**
 * What a synthetic full does with each block and each macroblock file of its source. Pure.
 *
 * - A block is usable as it is stored when its record is all of it: no delta, not cut, not grown.
 * - A macroblock file is copied whole when the records of usable blocks are most of its bytes; what else is in it is dead
 *   weight, at most a third of what it is copied for.
 * - Every other block is read, merged and written anew, neighbours together, in the order of the index.
 */
import { isStoredWhole } from '../../../storage-layout/macroblock/delta.ts';
import {
  MAX_MACROBLOCKS_PER_FILE,
  type MacroBlockEntry,
  type MacroBlockPlace,
} from '../../../storage-layout/macroblock/entry.ts';

/** The share of a file's bytes that must be live for it to be copied whole. */
const MOSTLY_LIVE = 0.75;

/** Names a macroblock file of the source's full set. */
export type StoredFileId = Pick<MacroBlockPlace, 'setId' | 'subTaskId'>;

/** How many bytes of each macroblock file are records of blocks that are usable as they are stored. */
export class LiveBytes {
  readonly #files = new Map<string, StoredFileId & { liveBytes: number }>();

  add(entry: MacroBlockEntry): void {
    if (!isStoredWhole(entry)) return;
    const { setId, subTaskId, storedBytes } = entry;
    const name = nameOf(entry);
    const known = this.#files.get(name);
    if (known === undefined) this.#files.set(name, { setId, subTaskId, liveBytes: storedBytes });
    else known.liveBytes += storedBytes;
  }

  files(): readonly (StoredFileId & { readonly liveBytes: number })[] {
    return [...this.#files.values()];
  }
}

export function isMostlyLive(file: { readonly liveBytes: number; readonly sizeBytes: number }): boolean {
  return file.liveBytes >= file.sizeBytes * MOSTLY_LIVE;
}

/** A macroblock file of the source's full set and the sub task whose name its copy gets. */
export type FileCopy = {
  readonly source: StoredFileId;
  readonly sizeBytes: number;
  readonly subTaskId: number;
};

/** The files that are copied whole, by what they are copied from. */
export class FileCopies {
  readonly #bySource = new Map<string, FileCopy>();
  readonly all: readonly FileCopy[];

  /** Gives the copies their names, from `firstSubTaskId` on. */
  constructor(
    files: readonly (StoredFileId & { readonly liveBytes: number; readonly sizeBytes: number })[],
    firstSubTaskId: number,
  ) {
    this.all = files.filter(isMostlyLive).map(({ setId, subTaskId, sizeBytes }, index) => ({
      source: { setId, subTaskId },
      sizeBytes,
      subTaskId: firstSubTaskId + index,
    }));
    for (const copy of this.all) this.#bySource.set(nameOf(copy.source), copy);
  }

  /** The copy that has the block, when it is usable as it is stored; undefined: it is written anew. */
  of(entry: MacroBlockEntry): FileCopy | undefined {
    return isStoredWhole(entry) ? this.#bySource.get(nameOf(entry)) : undefined;
  }
}

function nameOf({ setId, subTaskId }: StoredFileId): string {
  return `${setId}.${subTaskId}`;
}

const SMALLEST_TASK_BYTES = 16 * 2 ** 20;
const LARGEST_TASK_BYTES = 256 * 2 ** 20;
/** Parts that each worker's share is cut into, so that workers end together. */
const TASKS_PER_WORKER = 8;
/** Of one task, those that are only checked included: a task is one message. */
const MAX_BLOCKS = 2048;

/** Plain bytes after which a task is large enough. */
export function taskBytes(totalBytes: number, workerCount: number): number {
  const share = totalBytes / (workerCount * TASKS_PER_WORKER);
  return Math.min(LARGEST_TASK_BYTES, Math.max(SMALLEST_TASK_BYTES, share));
}

/** What a task has so far: it takes no more when `isFull`. */
export class TaskSize {
  readonly #wantedBytes: number;
  #blocks = 0;
  #rewritten = 0;
  #bytes = 0;

  constructor(wantedBytes: number) {
    this.#wantedBytes = wantedBytes;
  }

  add(plainBytes: number, isRewritten: boolean): void {
    this.#blocks += 1;
    this.#bytes += plainBytes;
    if (isRewritten) this.#rewritten += 1;
  }

  get isFull(): boolean {
    return (
      this.#bytes >= this.#wantedBytes ||
      this.#blocks >= MAX_BLOCKS ||
      this.#rewritten >= MAX_MACROBLOCKS_PER_FILE
    );
  }
}
