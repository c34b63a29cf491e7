/**
 * The page check of what was read: the database writes meanwhile, so a page may be torn. A suspect one is read again a
 * few times, and reported if it stays bad.
 */
import type { ExtentFacts } from '../../engine/engine.ts';
import { checkExtent, PAGE_BYTES } from '../../engine/postgres/pages.ts';
import { firstBlockOf } from '../../engine/postgres/relation-files.ts';
import type { Clock } from '../../foundation/clock.ts';
import type { Piece } from './plan.ts';
import { readExtent } from './source-file.ts';

/** A page is written in one system call: whoever sees half of it sees all of it very soon. */
const REREAD_DELAYS_MS = [5, 10, 20, 50, 100, 200] as const;

/** Checks `extent`, which begins with page `pageInFile` of the file; suspect pages are read again into it. */
export async function checkUntilStill(
  context: { readonly pageChecksums: boolean; readonly clock: Clock },
  piece: Piece,
  pageInFile: number,
  extent: Buffer,
  descriptor: number,
  signal: AbortSignal,
): Promise<ExtentFacts> {
  const firstPage = firstBlockOf(piece.path) + pageInFile;
  let facts = checkExtent(extent, firstPage, context.pageChecksums);
  for (const delayMs of REREAD_DELAYS_MS) {
    if (facts.suspects.length === 0) return facts;
    await context.clock.sleep(delayMs, signal);
    for (const { pageNo } of facts.suspects) {
      const page = extent.subarray(pageNo * PAGE_BYTES, (pageNo + 1) * PAGE_BYTES);
      const read = readExtent(piece, descriptor, (pageInFile + pageNo) * PAGE_BYTES, page);
      page.fill(0, read.length); // truncated meanwhile: the log will say so too
    }
    facts = checkExtent(extent, firstPage, context.pageChecksums);
  }
  return facts;
}
