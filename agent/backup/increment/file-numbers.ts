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

/** The listed files in the order of their numbers, and the next free one. */
export function numberFiles(
  listed: readonly DataFile[],
  before: NumbersBefore,
  isNew: (path: string) => boolean,
): { readonly files: readonly IncrementFile[]; readonly nextFileNumber: number } {
  let nextFileNumber = before.next;
  const files = listed.map((file): IncrementFile => {
    const number = isNew(file.path) ? undefined : before.byPath.get(file.path);
    if (number !== undefined) return { ...file, fileNumber: number, isKept: true };
    nextFileNumber += 1;
    return { ...file, fileNumber: nextFileNumber - 1, isKept: false };
  });
  return { files: files.sort((a, b) => a.fileNumber - b.fileNumber), nextFileNumber };
}
