/**
 * One stored macroblock, checked in every way: framing, lengths, both checksums, decompression, and the pages in it. Of an
 * increment's block, its delta is checked like it, and the pages are those of the block that both make (delta.ts). Damage
 * is told, not thrown, at the record that it is in. Pure but for the buffer that a block is decoded into.
 */
import { checkExtent, PAGE_BYTES } from '../../engine/postgres/pages.ts';
import { firstBlockOf } from '../../engine/postgres/relation-files.ts';
import { isError } from '../../foundation/errors.ts';
import { formatLsn, type Lsn } from '../../foundation/lsn.ts';
import type { FileCipher } from '../../storage-layout/encryption/cipher.ts';
import { applyDelta, baseBytes, deltaBytes } from '../../storage-layout/macroblock/delta.ts';
import {
  MACROBLOCK_BYTES,
  type MacroBlockName,
  type MacroBlockPlace,
} from '../../storage-layout/macroblock/entry.ts';
import { hasPage } from '../../storage-layout/macroblock/page-map.ts';
import { decodeMacroBlock } from '../../storage-layout/macroblock/reader.ts';
import type { BlockFinding, CheckedBlock, CheckedFile, CheckWorkerData } from './check-job.ts';

const PAGES_PER_MACROBLOCK = MACROBLOCK_BYTES / PAGE_BYTES;

type Limits = Pick<CheckWorkerData, 'pageChecksums' | 'start' | 'stop'>;

/** A record at the destination. */
type Place = { readonly key: string; readonly offset: number };

/** A delta that is right, with its plain bytes. */
export type DecodedDelta = Place & { readonly pages: Uint8Array; readonly bytes: Buffer };

/** What opens the records of the file; throws what is wrong with its header. */
export type CipherOfFile = () => FileCipher | undefined;
const plainFile: CipherOfFile = () => undefined;

/** The delta of a block out of its record `stored`, or what is wrong with it. */
export function checkDelta(
  key: string,
  stored: Buffer,
  file: CheckedFile,
  delta: MacroBlockPlace & MacroBlockName & { readonly pages: Uint8Array },
  cipher: CipherOfFile = plainFile,
): DecodedDelta | BlockFinding {
  const plainBytes = deltaBytes(delta.pages);
  const place = { key, offset: delta.offset };
  try {
    const into = Buffer.allocUnsafe(plainBytes);
    const bytes = decodeMacroBlock(stored, { ...delta, plainBytes }, into, key, cipher());
    return { ...place, pages: delta.pages, bytes };
  } catch (error) {
    return damageOf(error, place, file);
  }
}

/**
 * `stored`: the record of the whole block; `delta`: what belongs on it, 'lost' when that cannot be read: pages are not
 * checked then; `into`: at least 2 MiB.
 */
export function checkBlock(
  key: string,
  stored: Buffer,
  file: CheckedFile,
  block: CheckedBlock,
  delta: DecodedDelta | 'lost' | undefined,
  limits: Limits,
  into: Buffer,
  cipher: CipherOfFile = plainFile,
): readonly BlockFinding[] {
  const base = { key, offset: block.offset };
  try {
    decodeMacroBlock(stored, { ...block, plainBytes: baseBytes(block) }, into, key, cipher());
  } catch (error) {
    return [damageOf(error, base, file)];
  }
  if (delta === 'lost' || !file.hasPages) return [];
  return checkPages(applyDelta(into, block, delta), file, block, base, delta, limits);
}

/** Throws what is no damage. */
function damageOf(error: unknown, { key, offset }: Place, { path }: CheckedFile): BlockFinding {
  if (!isError(error, 'DATA_CORRUPT', 'FORMAT_UNKNOWN')) throw error;
  const { code, message } = error;
  return { code, key, offset, message, whole: false, path };
}

/**
 * A wrong checksum counts as when the backup was taken: a page that was changed since the start is mended by the log.
 * No page that passes may be newer than the end of the backup. What is wrong is so in the record that the page is of.
 */
function checkPages(
  plain: Buffer,
  file: CheckedFile,
  block: CheckedBlock,
  base: Place,
  delta: DecodedDelta | undefined,
  { pageChecksums, start, stop }: Limits,
): readonly BlockFinding[] {
  const first = block.blockNumber * PAGES_PER_MACROBLOCK;
  const firstInRelation = firstBlockOf(file.path) + first;
  const { newestPageLsn, suspects } = checkExtent(plain, firstInRelation, pageChecksums);
  const placeOf = (pageNo: number): Place =>
    delta !== undefined && hasPage(delta.pages, pageNo) ? delta : base;
  const found = ({ key, offset }: Place, message: string): BlockFinding => ({
    code: 'DATA_CORRUPT',
    key,
    offset,
    message: `${key} at offset ${offset}: ${message}`,
    whole: false,
    path: file.path,
  });
  const bad = suspects.filter(({ pageLsn }) => pageLsn < start || pageLsn > stop);
  const findings = [...Map.groupBy(bad, ({ pageNo }) => placeOf(pageNo))].map(([place, pages]) => {
    const numbers = pages.map(({ pageNo }) => first + pageNo);
    return found(place, pageMessage(file.path, numbers, block.pageCheckFailed));
  });
  if (newestPageLsn <= stop) return findings;
  const newest = findPage(plain, firstInRelation, pageChecksums, newestPageLsn);
  return [...findings, found(placeOf(newest), tooNewMessage(file.path, newestPageLsn, stop))];
}

/** The page of the block that passes and has the position. */
function findPage(plain: Buffer, firstInRelation: number, pageChecksums: boolean, pageLsn: Lsn): number {
  for (let pageNo = 0; ; pageNo += 1) {
    const page = plain.subarray(pageNo * PAGE_BYTES, (pageNo + 1) * PAGE_BYTES);
    if (page.length < PAGE_BYTES) return 0;
    if (checkExtent(page, firstInRelation + pageNo, pageChecksums).newestPageLsn === pageLsn) return pageNo;
  }
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
