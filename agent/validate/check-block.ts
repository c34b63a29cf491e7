/**
 * One stored macroblock, checked in every way: framing, lengths, both checksums, decompression, and the pages in it.
 * Damage is told, not thrown. Pure but for the buffer that it decodes into.
 */
import { checkExtent, PAGE_BYTES } from '../../engine/postgres/pages.ts';
import { firstBlockOf } from '../../engine/postgres/relation-files.ts';
import { isError } from '../../foundation/errors.ts';
import { formatLsn, type Lsn } from '../../foundation/lsn.ts';
import { MACROBLOCK_BYTES } from '../../storage-layout/macroblock/index.ts';
import { decodeMacroBlock } from '../../storage-layout/macroblock/reader.ts';
import type { BlockFinding, CheckedBlock, CheckedFile, CheckWorkerData } from './check-job.ts';

const PAGES_PER_MACROBLOCK = MACROBLOCK_BYTES / PAGE_BYTES;

type Limits = Pick<CheckWorkerData, 'pageChecksums' | 'start' | 'stop'>;

/** `stored`: the block's record; `into`: at least 2 MiB. */
export function checkBlock(
  key: string,
  stored: Buffer,
  file: CheckedFile,
  block: CheckedBlock,
  limits: Limits,
  into: Buffer,
): readonly BlockFinding[] {
  try {
    const plain = decodeMacroBlock(stored, block, into, key);
    return file.hasPages ? checkPages(key, plain, file, block, limits) : [];
  } catch (error) {
    if (!isError(error, 'DATA_CORRUPT', 'FORMAT_UNKNOWN')) throw error;
    const { code, message } = error;
    return [{ code, key, offset: block.offset, message, whole: false, path: file.path }];
  }
}

/**
 * A wrong checksum counts as when the backup was taken: a page that was changed since the start is mended by the log.
 * No page that passes may be newer than the end of the backup.
 */
function checkPages(
  key: string,
  plain: Buffer,
  file: CheckedFile,
  block: CheckedBlock,
  { pageChecksums, start, stop }: Limits,
): readonly BlockFinding[] {
  const first = block.blockNumber * PAGES_PER_MACROBLOCK;
  const { newestPageLsn, suspects } = checkExtent(plain, firstBlockOf(file.path) + first, pageChecksums);
  const found = (message: string): BlockFinding => ({
    code: 'DATA_CORRUPT',
    key,
    offset: block.offset,
    message: `${key} at offset ${block.offset}: ${message}`,
    whole: false,
    path: file.path,
  });
  const bad = suspects.filter(({ pageLsn }) => pageLsn < start || pageLsn > stop);
  const pages = bad.map(({ pageNo }) => first + pageNo);
  return [
    ...(bad.length === 0 ? [] : [found(pageMessage(file.path, pages, block.pageCheckFailed))]),
    ...(newestPageLsn <= stop ? [] : [found(tooNewMessage(file.path, newestPageLsn, stop))]),
  ];
}

function pageMessage(path: string, pages: readonly number[], wasKnown: boolean): string {
  const named =
    pages.length === 1 ? `page ${pages[0]}` : `${pages.length} pages, the first is page ${pages[0]},`;
  const since = wasKnown ? ': they were so in the database when the backup was taken' : '';
  return `${named} of ${path} failed the page check${since}`;
}

function tooNewMessage(path: string, newest: Lsn, stop: Lsn): string {
  return `a page of ${path} has position ${formatLsn(newest)}, behind the end of the backup at ${formatLsn(stop)}`;
}
