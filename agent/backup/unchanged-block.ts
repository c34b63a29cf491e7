/**
 * Blocks that an increment reads whole, because the log does not say what becomes of them, and that are nevertheless what
 * they were: the free space map of a table that nobody writes to, transaction status. They are not stored again. A checksum
 * of 32 bits alone is no proof of that, so the block of before is fetched and compared byte for byte.
 */
import { type ErrorCode, isError } from '../../foundation/errors.ts';
import { crc32c } from '../../storage-layout/crc32c.ts';
import { FileCiphers } from '../../storage-layout/encryption/key-ring.ts';
import { isStoredWhole } from '../../storage-layout/macroblock/delta.ts';
import type { MacroBlockEntry } from '../../storage-layout/macroblock/entry.ts';
import { decodeMacroBlock } from '../../storage-layout/macroblock/reader.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { type SetKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';
import type { Throttle } from './throttle.ts';

/** To store less than that again costs less than to fetch it. */
const SMALLEST_STORED_BYTES = 4096;

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

/** Whether the block is worth a comparison when it is read again. Pure. */
export function isWorthComparing(before: MacroBlockEntry): boolean {
  return before.storedBytes >= SMALLEST_STORED_BYTES && !before.pageCheckFailed && isStoredWhole(before);
}

/** Reads blocks of earlier sets of the full set; its buffers are kept from block to block. */
export class BlocksBefore {
  readonly #medium: Medium;
  readonly #ciphers: FileCiphers;
  #stored: Buffer = NOTHING;
  #plain: Buffer = NOTHING;

  constructor(medium: Medium) {
    this.#medium = medium;
    this.#ciphers = new FileCiphers(medium);
  }

  /**
   * True when `extent` is what the set before has for the block. False too when that cannot be read, or is damaged: then the
   * block is stored anew. Throws when `signal` fires.
   */
  async isSame(
    { root, setKey, group, throttle }: Place,
    extent: Buffer,
    before: MacroBlockEntry,
    signal: AbortSignal,
  ): Promise<boolean> {
    if (extent.length !== before.plainBytes || crc32c(extent) !== before.crc32c) return false;
    const { setId, subTaskId, offset, storedBytes, plainBytes } = before;
    const key = tree.macroBlock(root, { ...setKey, setId }, group, subTaskId);
    await throttle.spend(storedBytes, signal);
    try {
      if (this.#stored.length < storedBytes) this.#stored = Buffer.allocUnsafeSlow(storedBytes);
      if (this.#plain.length < plainBytes) this.#plain = Buffer.allocUnsafeSlow(plainBytes);
      const stored = await this.#medium.readRange(key, offset, offset + storedBytes, this.#stored, signal);
      const cipher = await this.#ciphers.of(key, signal);
      return decodeMacroBlock(stored, before, this.#plain, key, cipher).equals(extent);
    } catch (error) {
      signal.throwIfAborted();
      if (isError(error, ...UNREADABLE)) return false;
      throw error;
    }
  }
}

const NOTHING = Buffer.alloc(0);
