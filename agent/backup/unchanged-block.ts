/**
 * Blocks that an increment reads whole, because the log does not say what becomes of them, and that are nevertheless what
 * they were: the free space map of a table that nobody writes to, transaction status. They are not stored again. A checksum
 * of 32 bits alone is no proof of that, so the block of before is fetched and compared byte for byte; blocks that lie near
 * each other in one macroblock file are fetched together.
 */
import { type ErrorCode, isError } from '../../foundation/errors.ts';
import { crc32c } from '../../storage-layout/crc32c.ts';
import type { FileCipher } from '../../storage-layout/encryption/cipher.ts';
import { FileCiphers } from '../../storage-layout/encryption/key-ring.ts';
import { isStoredWhole } from '../../storage-layout/macroblock/delta.ts';
import type { MacroBlockEntry } from '../../storage-layout/macroblock/entry.ts';
import { decodeMacroBlock, type PlannedRead, planReads } from '../../storage-layout/macroblock/reader.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { type SetKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';
import type { Throttle } from './throttle.ts';

/** To store less than that again costs less than a request for it. */
const SMALLEST_RUN_BYTES = 1024;
/** What lies between two blocks of a run is fetched for nothing. Full backups have such blocks side by side (file-numbers.ts). */
const LARGEST_GAP_BYTES = 2048;
/** A run ends behind this; a block that is longer is one by itself. */
const RUN_BYTES = 512 * 1024;
/** Runs in as many macroblock files may take turns: none is fetched twice, what is left of the oldest is stored anew. */
const RUNS_KEPT = 8;

const UNREADABLE: readonly ErrorCode[] = [
  'DATA_CORRUPT',
  'FORMAT_UNKNOWN',
  'FILE_NOT_FOUND',
  'DESTINATION_IO',
  'BACKUP_INVALID_PASSWORD',
];

type Place = {
  readonly root: TreeRoot;
  /** Of the set that is made: the one before has the same full set. */
  readonly setKey: SetKey;
  readonly group: string;
  readonly throttle: Throttle;
};

type Run = PlannedRead<MacroBlockEntry>;

/** Whether the block can be compared when it is read again. Pure. */
export function isComparable(before: MacroBlockEntry): boolean {
  return !before.pageCheckFailed && isStoredWhole(before);
}

/** What is to be fetched for each of the blocks; those that are not worth it are left out. Pure. */
export function planRuns(blocks: readonly MacroBlockEntry[]): Map<MacroBlockEntry, Run> {
  const files = Map.groupBy(blocks, ({ setId, subTaskId }) => `${setId}/${subTaskId}`);
  const runs = new Map<MacroBlockEntry, Run>();
  for (const inFile of files.values()) {
    const sorted = inFile.toSorted((a, b) => a.offset - b.offset);
    for (const run of planReads(sorted, LARGEST_GAP_BYTES, RUN_BYTES)) {
      const savedBytes = run.entries.reduce((sum, { storedBytes }) => sum + storedBytes, 0);
      if (savedBytes >= SMALLEST_RUN_BYTES) for (const block of run.entries) runs.set(block, run);
    }
  }
  return runs;
}

type Fetched = { run: Run | undefined; buffer: Buffer; bytes: Buffer };

/** Reads blocks of earlier sets of the full set; its buffers are kept from block to block. */
export class BlocksBefore {
  readonly #medium: Medium;
  readonly #ciphers: FileCiphers;
  #runs = new Map<MacroBlockEntry, Run>();
  /** The one that was asked for last is the first. */
  readonly #fetched: Fetched[] = [];
  #plain: Buffer = NOTHING;

  constructor(medium: Medium) {
    this.#medium = medium;
    this.#ciphers = new FileCiphers(medium);
  }

  /** Says which blocks `isSame` will be asked for. */
  expect(blocks: readonly MacroBlockEntry[]): void {
    this.#runs = planRuns(blocks);
  }

  /**
   * True when `extent` is what the set before has for the block. False too when that cannot be read, is damaged, or is not
   * worth being fetched: then the block is stored anew. Throws when `signal` fires.
   */
  async isSame(place: Place, extent: Buffer, before: MacroBlockEntry, signal: AbortSignal): Promise<boolean> {
    const run = this.#runs.get(before);
    if (run === undefined || extent.length !== before.plainBytes || crc32c(extent) !== before.crc32c)
      return false;
    const { root, setKey, group } = place;
    const { setId, subTaskId, offset, storedBytes, plainBytes } = before;
    const key = tree.macroBlock(root, { ...setKey, setId }, group, subTaskId);
    let stored: Buffer;
    let cipher: FileCipher | undefined;
    try {
      const bytes = await this.#fetch(place, key, run, signal);
      stored = bytes.subarray(offset - run.begin, offset - run.begin + storedBytes);
      cipher = await this.#ciphers.of(key, signal);
    } catch (error) {
      this.#giveUp(run); // the file is not asked for once per block
      return asUnreadable(error, signal);
    }
    try {
      if (this.#plain.length < plainBytes) this.#plain = Buffer.allocUnsafeSlow(plainBytes);
      return decodeMacroBlock(stored, before, this.#plain, key, cipher).equals(extent);
    } catch (error) {
      return asUnreadable(error, signal);
    }
  }

  /** The bytes of the run; fewer when the file is cut. */
  async #fetch({ throttle }: Place, key: string, run: Run, signal: AbortSignal): Promise<Buffer> {
    // When none has it, the one that was asked for longest ago gives its buffer.
    const known = this.#fetched.findIndex((each) => each.run === run);
    const [fetched = { run: undefined, buffer: NOTHING, bytes: NOTHING }] =
      known >= 0 ? this.#fetched.splice(known, 1) : this.#fetched.splice(RUNS_KEPT - 1);
    if (fetched.run !== run) {
      const runBytes = run.end - run.begin;
      if (fetched.run !== undefined) this.#giveUp(fetched.run);
      fetched.run = undefined;
      await throttle.spend(runBytes, signal);
      if (fetched.buffer.length < runBytes) fetched.buffer = Buffer.allocUnsafeSlow(runBytes);
      fetched.bytes = await this.#medium.readRange(key, run.begin, run.end, fetched.buffer, signal);
      fetched.run = run;
    }
    this.#fetched.unshift(fetched);
    return fetched.bytes;
  }

  /** Its blocks are stored anew from now on. */
  #giveUp(run: Run): void {
    for (const block of run.entries) this.#runs.delete(block);
  }
}

/** False for what keeps a block of before from being read; throws what is none of that. */
function asUnreadable(error: unknown, signal: AbortSignal): false {
  signal.throwIfAborted();
  if (isError(error, ...UNREADABLE)) return false;
  throw error;
}

const NOTHING = Buffer.alloc(0);
