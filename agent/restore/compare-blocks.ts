/**
 * Which blocks of a job stand in their files already: a block stays only if its file has all its bytes, with the same
 * CRC-32C and, where it holds pages, the same newest page LSN. Of a block that is made of a base and a delta, or of a base
 * that was cut or has grown, no checksum is known without fetching both: it is always written.
 */
import { closeSync, constants, openSync, readSync } from 'node:fs';
import { checkExtent } from '../../engine/postgres/pages.ts';
import { crc32c } from '../../storage-layout/crc32c.ts';
import { isStoredWhole } from '../../storage-layout/macroblock/delta.ts';
import type { BlockJob, StoredBlock, TargetFile } from './block-job.ts';

export type ComparedJob = {
  /** The job without the blocks that stay; its files are all of them still. */
  readonly job: BlockJob;
  readonly keptBytes: number;
  readonly keptBlocks: number;
};

/** `buffer`: at least 2 MiB. A file that cannot be opened as a plain file has nothing to keep. */
export function compareBlocks(job: BlockJob, buffer: Buffer): ComparedJob {
  const blocks: StoredBlock[] = [];
  let keptBytes = 0;
  for (const [index, file] of job.files.entries()) {
    const own = job.blocks.filter((block) => block.file === index);
    const descriptor = own.length === 0 ? undefined : openIfThere(file);
    try {
      for (const block of own) {
        if (descriptor !== undefined && isThere(descriptor, block, buffer)) keptBytes += block.plainBytes;
        else blocks.push(block);
      }
    } finally {
      if (descriptor !== undefined) closeSync(descriptor);
    }
  }
  return { job: { files: job.files, blocks }, keptBytes, keptBlocks: job.blocks.length - blocks.length };
}

function isThere(descriptor: number, block: StoredBlock, buffer: Buffer): boolean {
  if (!isStoredWhole(block)) return false;
  const found = buffer.subarray(0, block.plainBytes);
  for (let filled = 0; filled < found.length; ) {
    const count = readSync(descriptor, found, filled, found.length - filled, block.position + filled);
    if (count === 0) return false;
    filled += count;
  }
  if (crc32c(found) !== block.crc32c) return false;
  return (
    block.newestPageLsn === undefined || checkExtent(found, 0, false).newestPageLsn === block.newestPageLsn
  );
}

function openIfThere(file: TargetFile): number | undefined {
  try {
    return openSync(file.path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? ''; // node:fs throws errno errors
    if (['ENOENT', 'ELOOP', 'ENOTDIR'].includes(code)) return undefined;
    throw error;
  }
}
