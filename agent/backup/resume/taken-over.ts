/** The blocks that an attempt takes over from an earlier one: planned once, written down durably, then left out of the copy. */

import type { MacroBlockEntry } from '../../../storage-layout/macroblock/entry.ts';
import { EntryStream } from '../../../storage-layout/macroblock/entry-stream.ts';
import {
  type NamedFile,
  readSubTaskIndexChunks,
  writeSubTaskIndex,
} from '../../../storage-layout/macroblock/sub-task-index.ts';
import type { Medium } from '../../../storage-layout/media/medium.ts';
import { tree } from '../../../storage-layout/tree.ts';
import type { BegunBackup } from '../copy.ts';
import type { NumbersOfAttempt } from '../increment/file-numbers.ts';
import type { NumberedFile, Piece } from '../plan.ts';
import type { BackupTarget } from '../target.ts';
import { attemptOf, infoOf } from './attempt.ts';
import type { ResumePoint } from './resume.ts';
import { takeOver, withoutTakenOver } from './take-over.ts';

export class TakenOver {
  readonly #backup: BegunBackup;
  readonly #point: ResumePoint;
  /** Where they are written down; undefined: there are none. */
  #key: string | undefined;
  #storedBytes = 0;

  constructor(backup: BegunBackup, point: ResumePoint) {
    this.#backup = backup;
    this.#point = point;
  }

  get numbers(): NumbersOfAttempt {
    const { earlier, changed } = this.#point;
    return {
      next: earlier.numbers.next,
      numberOf: (path) => (changed.isNew(path) ? undefined : earlier.numbers.byPath.get(path)),
    };
  }

  /** Of their records. */
  get storedBytes(): number {
    return this.#storedBytes;
  }

  /** Decides which they are, and makes that durable before any other block is copied. `pieces`: a reading of the usual plan. */
  async plan(
    files: readonly NumberedFile[],
    pieces: () => AsyncIterable<Piece>,
    signal: AbortSignal,
  ): Promise<void> {
    const { medium, target, task, identity, start, redo, progress, context } = this.#backup;
    const { earlier, changed } = this.#point;
    const { numbers } = this;
    const same: NamedFile[] = files
      .filter(({ path, fileNumber, kind }) => kind === 'main' && numbers.numberOf(path) === fileNumber)
      .map(({ path, fileNumber }) => ({ path, fileNumber }));
    const sameFiles = new Set(same.map(({ fileNumber }) => fileNumber));
    const write = async (id: number) => {
      const stored = new StoredFiles(medium, target, signal); // anew for each try: a failure to look is kept too
      const key = tree.subTaskIndex(target.root, target.setKey, target.group, id);
      const counted = new CountedEntries(
        takeOver({
          pieces: pieces(),
          blocks: earlier.openBlocks(signal),
          sameFiles,
          mapsOf: (path) => changed.mapsOf(path),
          start: start.lsn,
          isThere: (entry) => stored.holds(entry),
        }),
      );
      const info = infoOf(attemptOf(task, identity, start), id, true);
      await writeSubTaskIndex(medium, key, info, same, counted.entries(), signal);
      return { key, counted };
    };
    const { key, counted } = await redo.untilDone(redo.takenOverId, write, signal);
    this.#key = key;
    this.#storedBytes = counted.storedBytes;
    progress.resumed(task.retry, counted);
    const facts = { blocks: counted.macroblocks, bytes: counted.bytes, attempt: earlier.info.retry + 1 };
    context.logger.info(
      { backupSetId: String(task.backupSetId), ...facts },
      'blocks of an earlier attempt are taken over',
    );
  }

  /** The pieces that are still to be copied; progress counts the others as done. */
  leaveOut(pieces: AsyncIterable<Piece>, signal: AbortSignal): AsyncGenerator<Piece, void, undefined> {
    const { counters } = this.#backup;
    return withoutTakenOver(pieces, this.open(signal), (plainBytes) => {
      counters.add('plainBytes', plainBytes);
      counters.add('macroblocks', 1);
    });
  }

  /** A new reading of their entries. */
  open(signal: AbortSignal): EntryStream {
    return new EntryStream(
      this.#key === undefined ? NONE : readSubTaskIndexChunks(this.#backup.medium, this.#key, signal),
    );
  }
}

const NONE: AsyncIterable<never> = {
  [Symbol.asyncIterator]: () => ({ next: async () => ({ done: true, value: undefined }) }),
};

/** The macroblock files of the set, each looked at once: an index may have outlived its file. */
class StoredFiles {
  readonly #medium: Medium;
  readonly #target: BackupTarget;
  readonly #signal: AbortSignal;
  readonly #sizes = new Map<number, Promise<number>>();

  constructor(medium: Medium, target: BackupTarget, signal: AbortSignal) {
    this.#medium = medium;
    this.#target = target;
    this.#signal = signal;
  }

  /** What the set itself has of the block; the rest is the set before's. */
  async holds(entry: MacroBlockEntry): Promise<boolean> {
    const { subTaskId, offset, storedBytes } = entry.delta ?? entry;
    const size = this.#sizes.get(subTaskId) ?? this.#sizeOf(subTaskId);
    this.#sizes.set(subTaskId, size);
    return (await size) >= offset + storedBytes;
  }

  async #sizeOf(subTaskId: number): Promise<number> {
    const { root, setKey, group } = this.#target;
    const key = tree.macroBlock(root, setKey, group, subTaskId);
    return (await this.#medium.stat(key, this.#signal))?.sizeBytes ?? 0;
  }
}

/** Counts what passes. */
class CountedEntries {
  macroblocks = 0;
  bytes = 0;
  storedBytes = 0;
  readonly #source: AsyncIterable<MacroBlockEntry>;

  constructor(source: AsyncIterable<MacroBlockEntry>) {
    this.#source = source;
  }

  async *entries(): AsyncGenerator<MacroBlockEntry, void, undefined> {
    for await (const entry of this.#source) {
      this.macroblocks += 1;
      this.bytes += entry.plainBytes;
      this.storedBytes += entry.delta?.storedBytes ?? entry.storedBytes;
      yield entry;
    }
  }
}
