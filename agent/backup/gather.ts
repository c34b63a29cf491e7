/**
 * What was really copied, out of the workers' reports. Pure.
 *
 * A file ends where its first block is missing or shorter than listed: what another worker read behind that point was
 * read at another moment, is left out of the index, and the log brings it back. A file whose first block was gone with
 * the file itself is left out altogether; one that was emptied stays, empty. A tablespace that was made after the start is
 * not in the backup's map: it is left out, because the log makes it, and its link would lead into the source's.
 */

import type { DataListing } from '../../engine/engine.ts';
import type { Lsn } from '../../foundation/lsn.ts';
import type { PageFailure } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { combineCrc32c } from '../../storage-layout/crc32c.ts';
import {
  decodeMacroBlockEntries,
  MACROBLOCK_BYTES,
  type MacroBlockEntry,
} from '../../storage-layout/macroblock/index.ts';
import type { NumberedFile } from './plan.ts';
import type { SubTaskCopy, SuspectFound } from './worker-protocol.ts';

/** A file as it is stored. */
export type StoredDataFile = NumberedFile & {
  readonly storedBytes: number;
  readonly blockCount: number;
  /** Undefined when not all of its blocks were read whole. */
  readonly crc32c: number | undefined;
};

export type Gathered = {
  readonly files: readonly StoredDataFile[];
  readonly macroblockCount: number;
  readonly plainBytes: number;
};

/**
 * Which paths of the listing are part of the backup: all but those of linked tablespaces that `map`, the backup's
 * tablespace map, does not have.
 */
export function keptPaths(
  { tablespaces }: Pick<DataListing, 'tablespaces'>,
  map: readonly { readonly oid: number }[],
): (place: { readonly path: string }) => boolean {
  const known = new Set(map.map(({ oid }) => oid));
  const isNew = new Set(
    tablespaces.filter(({ oid, inPlace }) => !inPlace && !known.has(oid)).map(({ oid }) => String(oid)),
  );
  return ({ path }) => {
    const [first, oid] = path.split('/', 2);
    return first !== 'pg_tblspc' || oid === undefined || !isNew.has(oid);
  };
}

/** The files that are part of the backup, with their real sizes and checksums. */
export function gatherFiles(files: readonly NumberedFile[], copies: readonly SubTaskCopy[]): Gathered {
  const gone = new Set(
    copies.flatMap((copy) => copy.vanished.filter((it) => it.beginBlock === 0).map((it) => it.fileNumber)),
  );
  const extents = new Map<number, Extent>();
  for (const entry of entriesOf(copies)) {
    const extent = extents.get(entry.fileNumber) ?? { bytes: 0, blocks: 0, crc32c: 0 };
    if (!continues(extent, entry)) continue;
    extent.crc32c = combineCrc32c(extent.crc32c, entry.crc32c, entry.plainBytes);
    extent.bytes += entry.plainBytes;
    extent.blocks += 1;
    extents.set(entry.fileNumber, extent);
  }
  const stored = files
    .filter((file) => !gone.has(file.fileNumber))
    .map((file) => {
      const extent = extents.get(file.fileNumber) ?? { bytes: 0, blocks: 0, crc32c: 0 };
      return { ...file, storedBytes: extent.bytes, blockCount: extent.blocks, crc32c: extent.crc32c };
    });
  return {
    files: stored,
    macroblockCount: stored.reduce((sum, file) => sum + file.blockCount, 0),
    plainBytes: stored.reduce((sum, file) => sum + file.storedBytes, 0),
  };
}

type Extent = { bytes: number; blocks: number; crc32c: number };

/** True when `entry` begins exactly where the file's blocks so far end, all of them whole. */
function continues(extent: Extent, entry: MacroBlockEntry): boolean {
  return entry.blockNumber === extent.blocks && extent.bytes === extent.blocks * MACROBLOCK_BYTES;
}

/** The index entries of the backup, in order, those with failed pages marked. */
export function* gatherEntries(
  gathered: Gathered,
  copies: readonly SubTaskCopy[],
  failures: readonly FailedPage[],
): Generator<MacroBlockEntry> {
  const blockCounts = new Map(gathered.files.map((file) => [file.fileNumber, file.blockCount]));
  const failed = new Set(failures.map(({ suspect }) => `${suspect.fileNumber}.${suspect.macroblock}`));
  for (const entry of entriesOf(copies)) {
    if (entry.blockNumber >= (blockCounts.get(entry.fileNumber) ?? 0)) continue;
    const pageCheckFailed = failed.has(`${entry.fileNumber}.${entry.blockNumber}`);
    yield pageCheckFailed ? { ...entry, pageCheckFailed } : entry;
  }
}

export type FailedPage = {
  readonly suspect: SuspectFound;
  readonly failure: Pick<PageFailure, 'path' | 'block' | 'reason'>;
};

/** The suspect pages of the blocks that are part of the backup. */
export function gatherSuspects(gathered: Gathered, copies: readonly SubTaskCopy[]): readonly SuspectFound[] {
  const blockCounts = new Map(gathered.files.map((file) => [file.fileNumber, file.blockCount]));
  return copies
    .flatMap((copy) => copy.suspects)
    .filter((suspect) => suspect.macroblock < (blockCounts.get(suspect.fileNumber) ?? 0));
}

/**
 * Which suspect pages are damaged. One that was written since the start is mended by the log (its first change after
 * the start is logged whole); one with an older position, or one beyond the end of the log, cannot be explained that way.
 */
export function judgeSuspects(
  suspects: readonly SuspectFound[],
  start: Lsn,
  stop: Lsn,
): readonly FailedPage[] {
  return suspects
    .filter(({ pageLsn }) => pageLsn < start || pageLsn > stop)
    .map((suspect) => ({
      suspect,
      failure: {
        path: suspect.path,
        block: suspect.pageInFile,
        reason:
          suspect.pageLsn < start
            ? 'wrong checksum, last changed before the backup'
            : 'wrong checksum, position beyond the end of the log',
      },
    }));
}

function* entriesOf(copies: readonly SubTaskCopy[]): Generator<MacroBlockEntry> {
  for (const { entries, subTaskId } of copies) {
    const bytes = Buffer.from(entries.buffer, entries.byteOffset, entries.byteLength);
    yield* decodeMacroBlockEntries(bytes, 0, { file: `sub task ${subTaskId}` });
  }
}
