/**
 * How much of the database an increment had to read, found out without its change maps: every page of every relation is
 * looked at, and the LSN in its header says whether it was changed since a backup began. What counts is, of each
 * macroblock that changed since the set before, the pages changed since its whole block was copied; and the files that are
 * always copied whole.
 */
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { openSourceSet, readFileBlocks } from '../agent/restore/backup-set.ts';
import type { Lsn } from '../foundation/lsn.ts';
import { FileKind } from '../proto/gen/holdfast/v1/records_pb.ts';
import { MACROBLOCK_BYTES } from '../storage-layout/macroblock/entry.ts';
import { openMedium } from '../storage-layout/media/open.ts';
import { ARCHIVE_GROUP, ARCHIVE_ROOT, ARCHIVE_ROUND } from '../test/support/archiver.ts';
import { FULL_SET } from './holdfast-set.ts';

const PAGE_BYTES = 8192;

export type NeededBytes = {
  /** Of the pages that were changed since their whole blocks. */
  readonly changedBytes: number;
  readonly alwaysCopiedBytes: number;
};

/** Of the increment `setId`, at once after it. `starts`: where the log of each set begins, from FULL_SET on. */
export async function neededBytes(
  destination: string,
  dataDirectory: string,
  setId: bigint,
  starts: readonly Lsn[],
): Promise<NeededBytes> {
  const signal = new AbortController().signal;
  await using medium = await openMedium(`file://${destination}`);
  const key = { tenantId: ARCHIVE_ROUND.tenantId, fullSetId: FULL_SET, setId: setId - 1n };
  const before = await openSourceSet(medium, ARCHIVE_ROOT, key, ARCHIVE_GROUP, signal);
  const startOf = (id: bigint): bigint => starts[Number(id - FULL_SET)] ?? 0n;
  const buffer = Buffer.allocUnsafe(MACROBLOCK_BYTES);
  let changedBytes = 0;
  let alwaysCopiedBytes = 0;
  for await (const { file, blocks } of readFileBlocks(before, signal)) {
    const path = join(dataDirectory, file.path);
    if (file.kind !== FileKind.RELATION_MAIN) {
      alwaysCopiedBytes += (await readFile(path).catch(() => Buffer.alloc(0))).length;
      continue;
    }
    await using data = await open(path);
    for (const { blockNumber, setId: wholeSetId } of blocks) {
      const { bytesRead } = await data.read(buffer, 0, MACROBLOCK_BYTES, blockNumber * MACROBLOCK_BYTES);
      const block = buffer.subarray(0, bytesRead);
      if (pagesSince(block, startOf(setId - 1n)) > 0)
        changedBytes += pagesSince(block, startOf(wholeSetId)) * PAGE_BYTES;
    }
  }
  return { changedBytes, alwaysCopiedBytes };
}

/** Pages whose LSN is at or behind `lsn`. */
export function pagesSince(block: Buffer, lsn: bigint): number {
  let count = 0;
  for (let at = 0; at + PAGE_BYTES <= block.length; at += PAGE_BYTES) {
    const pageLsn = (BigInt(block.readUInt32LE(at)) << 32n) | BigInt(block.readUInt32LE(at + 4));
    if (pageLsn >= lsn) count += 1;
  }
  return count;
}
