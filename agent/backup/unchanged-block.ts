/**
 * Blocks that an increment reads whole, because the log does not say what becomes of them, and that are nevertheless what
 * they were: the free space map of a table that nobody writes to, transaction status. They are not stored again. A checksum
 * of 32 bits alone is no proof of that, so the block of before is fetched and compared byte for byte.
 */
import { type ErrorCode, isError } from '../../foundation/errors.ts';
import { crc32c } from '../../storage-layout/crc32c.ts';
import type { FileCiphers } from '../../storage-layout/encryption/key-ring.ts';
import { isStoredWhole } from '../../storage-layout/macroblock/delta.ts';
import type { MacroBlockEntry } from '../../storage-layout/macroblock/index.ts';
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

/** Where the set before is, and what it is read with. */
export type BeforeContext = {
  readonly medium: Medium;
  readonly ciphers: FileCiphers;
  readonly root: TreeRoot;
  readonly setKey: SetKey;
  readonly group: string;
  readonly throttle: Throttle;
};

/** Whether the block is worth a comparison when it is read again. Pure. */
export function isWorthComparing(before: MacroBlockEntry): boolean {
  return before.storedBytes >= SMALLEST_STORED_BYTES && !before.pageCheckFailed && isStoredWhole(before);
}

/**
 * True when `extent` is what the set before has for the block. False too when that cannot be read, or is damaged: then the
 * block is stored anew. Throws when `signal` fires.
 */
export async function isAsBefore(
  context: BeforeContext,
  extent: Buffer,
  before: MacroBlockEntry,
  signal: AbortSignal,
): Promise<boolean> {
  if (extent.length !== before.plainBytes || crc32c(extent) !== before.crc32c) return false;
  const { medium, ciphers, root, setKey, group, throttle } = context;
  const key = tree.macroBlock(root, { ...setKey, setId: before.setId }, group, before.subTaskId);
  await throttle.spend(before.storedBytes, signal);
  try {
    const end = before.offset + before.storedBytes;
    const stored = await medium.readRange(key, before.offset, end, undefined, signal);
    const into = Buffer.allocUnsafe(before.plainBytes);
    return decodeMacroBlock(stored, before, into, key, await ciphers.of(key)).equals(extent);
  } catch (error) {
    signal.throwIfAborted();
    if (isError(error, ...UNREADABLE)) return false;
    throw error;
  }
}
