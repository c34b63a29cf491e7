/**
 * A backup's index: the entries of what was copied, or taken over from an earlier attempt, and for every other block
 * the entry of the backup before. All come as streams in the order of the index, and so does the result: its memory does not grow with the number of blocks.
 *
 * A file ends where a worker found its end, or at its first block that is shorter than a macroblock: what another worker
 * read behind that point was read at another moment, is left out, and the log brings it back. A file that was gone is left
 * out altogether: the log drops it too. One that was emptied stays, empty.
 */
import { assert } from '../../../foundation/assert.ts';
import { type Lsn, toLsn } from '../../../foundation/lsn.ts';
import { combineCrc32c } from '../../../storage-layout/crc32c.ts';
import { isStoredWhole } from '../../../storage-layout/macroblock/delta.ts';
import { MACROBLOCK_BYTES, type MacroBlockEntry } from '../../../storage-layout/macroblock/entry.ts';
import type { EntryStream } from '../../../storage-layout/macroblock/entry-stream.ts';
import { isBasedOnBefore } from '../copy-delta.ts';
import type { StoredDataFile } from '../gather.ts';
import { NamedFiles } from '../named-files.ts';
import { blockCount } from '../plan.ts';
import type { IncrementFile } from './file-numbers.ts';
import { blockBytes } from './plan.ts';

export type MergeInput = {
  /** In the order of their numbers, the control file among them. */
  readonly files: readonly IncrementFile[];
  readonly before: EntryStream;
  readonly copied: EntryStream;
  /** From an earlier attempt. */
  readonly takenOver?: Pick<EntryStream, 'find'> | undefined;
  /** The control file's entries: they were copied last. */
  readonly control: readonly MacroBlockEntry[];
  /** Numbers of files that were gone. */
  readonly gone: ReadonlySet<number>;
  /** Where workers found files to end, in macroblocks. */
  readonly ends: ReadonlyMap<number, number>;
  /** Whether the pages of what was copied were checked. */
  readonly pagesAreChecked: boolean;
  /** Whether a page of the block failed its check. */
  readonly hasFailed: (fileNumber: number, blockNumber: number) => boolean;
};

/** Yields the index and gathers what is known at its end. */
export class IndexMerge {
  readonly files: StoredDataFile[] = [];
  newestPageLsn: Lsn = toLsn(0n);
  macroblockCount = 0;
  plainBytes = 0;
  readonly named = new NamedFiles();
  readonly #input: MergeInput;

  constructor(input: MergeInput) {
    this.#input = input;
  }

  /** Every entry of the new index, in order; `files` is whole when they all were taken. */
  async *entries(): AsyncGenerator<MacroBlockEntry, void, undefined> {
    for (const file of this.#input.files) {
      if (!this.#input.gone.has(file.fileNumber)) yield* this.#entriesOf(file);
    }
  }

  async *#entriesOf(file: IncrementFile): AsyncGenerator<MacroBlockEntry, void, undefined> {
    const listed = blockCount(file.sizeBytes);
    const end = Math.min(this.#input.ends.get(file.fileNumber) ?? listed, listed);
    let bytes = 0;
    let blocks = 0;
    let crc32c: number | undefined = 0;
    for (; blocks < end && bytes === blocks * MACROBLOCK_BYTES; blocks += 1) {
      const entry = await this.#entryOf(file, blocks);
      bytes += entry.plainBytes;
      crc32c = isStoredWhole(entry) ? appendCrc(crc32c, entry) : undefined;
      if (entry.newestPageLsn > this.newestPageLsn) this.newestPageLsn = entry.newestPageLsn;
      this.named.add(entry);
      yield entry;
    }
    this.macroblockCount += blocks;
    this.plainBytes += bytes;
    this.files.push({ ...file, storedBytes: bytes, blockCount: blocks, crc32c });
  }

  async #entryOf(file: IncrementFile, block: number): Promise<MacroBlockEntry> {
    const { before, copied, takenOver, control, hasFailed, pagesAreChecked } = this.#input;
    if (file.kind === 'control') {
      const entry = control[block];
      assert(entry !== undefined, 'the control file was copied');
      return entry;
    }
    const old = file.isKept ? await before.find(file.fileNumber, block) : undefined;
    const own =
      (await copied.find(file.fileNumber, block)) ?? (await takenOver?.find(file.fileNumber, block));
    if (own !== undefined) {
      const entry = isBasedOnBefore(own) ? onBase(own, old) : own;
      // What failed once and was not looked at again has not become right by that.
      const hasFailedBefore = !pagesAreChecked && old?.pageCheckFailed === true;
      return hasFailedBefore || hasFailed(file.fileNumber, block)
        ? { ...entry, pageCheckFailed: true }
        : entry;
    }
    assert(old !== undefined && file.kind === 'main', `macroblock ${block} of ${file.path} was copied`);
    return keep(old, blockBytes(file, block));
  }
}

/** A copied delta's entry, its base where the backup before has it. */
function onBase(own: MacroBlockEntry, old: MacroBlockEntry | undefined): MacroBlockEntry {
  assert(old !== undefined, 'a delta has a base');
  const { setId, subTaskId, offset, storedBytes, crc32c, compression } = old;
  const newestPageLsn = own.newestPageLsn > old.newestPageLsn ? own.newestPageLsn : old.newestPageLsn;
  return {
    ...own,
    setId,
    subTaskId,
    offset,
    storedBytes,
    crc32c,
    compression,
    newestPageLsn,
    ...wholeBytes(old, own.plainBytes),
  };
}

/** An entry of the backup before for a block that was not changed, but may have been cut. */
function keep(old: MacroBlockEntry, plainBytes: number): MacroBlockEntry {
  if (plainBytes === old.plainBytes) return old;
  assert(plainBytes < old.plainBytes, 'a block that has grown was copied');
  return { ...old, plainBytes, ...wholeBytes(old, plainBytes) };
}

function wholeBytes(old: MacroBlockEntry, plainBytes: number): { readonly wholeBytes?: number } {
  const stored = old.wholeBytes ?? old.plainBytes;
  return stored === plainBytes ? {} : { wholeBytes: stored };
}

function appendCrc(crc: number | undefined, entry: MacroBlockEntry): number | undefined {
  return crc === undefined ? undefined : combineCrc32c(crc, entry.crc32c, entry.plainBytes);
}
