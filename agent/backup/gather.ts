/**
 * What was really copied, out of the workers' reports. Pure.
 *
 * A tablespace that was made after the start is not in the backup's map: it is left out, because the log makes it, and its
 * link would lead into the source's.
 */
import type { DataListing } from '../../engine/engine.ts';
import type { Lsn } from '../../foundation/lsn.ts';
import type { PageFailure } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { NumberedFile } from './plan.ts';
import type { SuspectFound } from './worker-protocol.ts';

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

export type FailedPage = {
  readonly suspect: SuspectFound;
  readonly failure: Pick<PageFailure, 'path' | 'block' | 'reason'>;
};

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
