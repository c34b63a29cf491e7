/**
 * The numbers of an increment's files (docs/format.md): a file that is the same creation as in the backup before keeps its
 * number, any other gets one that was never given in the full set. Pure.
 */
import type { DataFile } from '../../../engine/engine.ts';
import type { NumberedFile } from '../plan.ts';

/** What the backup before says of file numbers. */
export type NumbersBefore = {
  readonly byPath: ReadonlyMap<string, number>;
  /** Greater than every number that was given. */
  readonly next: number;
};

/** `isKept`: the index of the backup before has entries of this very file. */
export type IncrementFile = NumberedFile & { readonly isKept: boolean };

/** What an earlier attempt of the same backup says: its numbers, for files that are the same creation as it read. */
export type NumbersOfAttempt = { readonly next: number; numberOf(path: string): number | undefined };

/**
 * The listed files in the order of their numbers, and the next free one. A file that the backup before does not have, but
 * an earlier attempt of this one, keeps the number that it was given there. Main forks get greater numbers than the small
 * files that every increment reads whole: these lie together, so that it can compare many at a time. The control file, which
 * is copied last, gets the last number of those that are given.
 */
export function numberFiles(
  listed: readonly DataFile[],
  before: NumbersBefore,
  isNew: (path: string) => boolean,
  attempt?: NumbersOfAttempt,
): { readonly files: readonly IncrementFile[]; readonly nextFileNumber: number } {
  let nextFileNumber = Math.max(before.next, attempt?.next ?? 0);
  const inOrder = listed.toSorted((a, b) => rankOf(a) - rankOf(b));
  const files = inOrder.map((file): IncrementFile => {
    const number = isNew(file.path) ? undefined : before.byPath.get(file.path);
    if (number !== undefined) return { ...file, fileNumber: number, isKept: true };
    const given = attempt?.numberOf(file.path);
    if (given !== undefined) return { ...file, fileNumber: given, isKept: false };
    nextFileNumber += 1;
    return { ...file, fileNumber: nextFileNumber - 1, isKept: false };
  });
  return { files: files.sort((a, b) => a.fileNumber - b.fileNumber), nextFileNumber };
}

function rankOf({ kind }: DataFile): number {
  if (kind === 'control') return 2;
  return kind === 'main' ? 1 : 0;
}
