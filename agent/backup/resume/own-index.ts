/** The index that a sub task leaves beside its macroblock file (storage-layout/macroblock/sub-task-index.ts). */
import type { MacroBlockEntry } from '../../../storage-layout/macroblock/entry.ts';
import { type NamedFile, writeSubTaskIndex } from '../../../storage-layout/macroblock/sub-task-index.ts';
import type { Medium } from '../../../storage-layout/media/medium.ts';
import { type SetKey, type TreeRoot, tree } from '../../../storage-layout/tree.ts';
import type { SubTask } from '../plan.ts';
import type { SuspectFound } from '../worker-protocol.ts';
import { type Attempt, infoOf } from './attempt.ts';

export type OwnIndexPlace = {
  readonly medium: Medium;
  readonly root: TreeRoot;
  readonly setKey: SetKey;
  readonly group: string;
};

/** Writes it when it has something to say; the sub task's macroblock file must be durable. */
export async function writeOwnIndex(
  { medium, root, setKey, group }: OwnIndexPlace,
  attempt: Attempt,
  subTask: SubTask,
  copied: { readonly entries: readonly MacroBlockEntry[]; readonly suspects: readonly SuspectFound[] },
  signal: AbortSignal,
): Promise<void> {
  const { files, entries } = reusableBlocks(subTask, copied);
  if (entries.length === 0) return;
  const key = tree.subTaskIndex(root, setKey, group, subTask.subTaskId);
  await writeSubTaskIndex(medium, key, infoOf(attempt, subTask.subTaskId, false), files, entries, signal);
}

/**
 * Which blocks another attempt may take over: those of relations' main forks, because what the log says of other files is
 * not all that happens to them (correctness 6, 7), and none with a suspect page. Pure.
 */
export function reusableBlocks(
  { pieces }: SubTask,
  copied: { readonly entries: readonly MacroBlockEntry[]; readonly suspects: readonly SuspectFound[] },
): { readonly files: readonly NamedFile[]; readonly entries: readonly MacroBlockEntry[] } {
  const paths = new Map(
    pieces.filter(({ kind }) => kind === 'main').map(({ fileNumber, path }) => [fileNumber, path]),
  );
  const suspect = new Set(copied.suspects.map(({ fileNumber, macroblock }) => `${fileNumber}.${macroblock}`));
  const entries = copied.entries.filter(
    ({ fileNumber, blockNumber }) => paths.has(fileNumber) && !suspect.has(`${fileNumber}.${blockNumber}`),
  );
  const named = new Set(entries.map(({ fileNumber }) => fileNumber));
  const files = [...paths]
    .filter(([fileNumber]) => named.has(fileNumber))
    .map(([fileNumber, path]) => ({ fileNumber, path }));
  return { files, entries };
}
