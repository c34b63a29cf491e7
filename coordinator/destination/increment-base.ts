/** From which set an increment goes on. */
import { type BackupInfo, BackupInfoSchema, EncryptionMode } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { readInfoIfThere } from '../../storage-layout/records/info-file.ts';
import { type SetKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';
import { type AgeLimit, overdueReason, pagesReadAt } from './full-age.ts';
import { readPublishedSets } from './summaries.ts';

export type IncrementBase =
  | { readonly kind: 'increment'; readonly setId: bigint; readonly fullSetId: bigint }
  | { readonly kind: 'full'; readonly reason: string };

export type WantedBase = {
  readonly round: bigint;
  /** All of them must be in it. */
  readonly groups: readonly string[];
  /** All files of a full set are encrypted, or none. */
  readonly encrypted: boolean;
};

/**
 * The newest set of the round: an increment needs all the log since, and between rounds there is a hole. A set that lacks
 * one of the tenant's partition groups is none to go on from, and neither is one whose pages were all read too long ago.
 * Whether the log since tells all changes, the agent decides. Pure.
 */
export function chooseBase(
  sets: readonly BackupInfo[],
  { round, groups, encrypted }: WantedBase,
  age?: AgeLimit,
): IncrementBase {
  const newest = newestOf(sets.filter((set) => set.round === round));
  if (newest === undefined) {
    const earlier = newestOf(sets);
    const reason =
      earlier === undefined
        ? 'there is no backup set to go on from'
        : `archive round ${round} has no backup set yet; the newest, ${earlier.backupSetId}, is of round ${earlier.round}, and its log ends there`;
    return { kind: 'full', reason };
  }
  if (encrypted !== (newest.encryptionMode !== EncryptionMode.UNSPECIFIED)) {
    const reason = `backup set ${newest.backupSetId} is ${encrypted ? 'not encrypted, and this one is' : 'encrypted, and this one is not'}`;
    return { kind: 'full', reason };
  }
  const has = new Set(newest.partitionGroups.map((group) => group.partitionGroup));
  const joined = groups.filter((group) => !has.has(group));
  if (joined.length > 0) {
    const reason = `partition group ${joined.join(', ')} has joined since backup set ${newest.backupSetId}`;
    return { kind: 'full', reason };
  }
  const readUs = pagesReadAt(sets, newest);
  const overdue = age === undefined || readUs === undefined ? undefined : overdueReason(readUs, age);
  if (overdue !== undefined) return { kind: 'full', reason: overdue };
  return { kind: 'increment', setId: newest.backupSetId, fullSetId: newest.fullSetId };
}

function newestOf(sets: readonly BackupInfo[]): BackupInfo | undefined {
  return sets.reduce<BackupInfo | undefined>(
    (best, set) => (best === undefined || set.backupSetId > best.backupSetId ? set : best),
    undefined,
  );
}

/** The published sets of a tenant that are not marked for deletion, in order of their ids. */
export async function readUsableSets(
  medium: Medium,
  root: TreeRoot,
  tenantId: bigint,
  signal: AbortSignal,
): Promise<readonly BackupInfo[]> {
  const sets: BackupInfo[] = [];
  for (const set of await readPublishedSets(medium, root, tenantId, signal))
    if (!(await isMarked(medium, root, keyOf(set), signal))) sets.push(set);
  return sets;
}

/** Why a set can no longer be gone on from; undefined: it is there. */
export async function baseProblem(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  signal: AbortSignal,
): Promise<string | undefined> {
  const info = await readInfoIfThere(medium, tree.backupInfo(root, key), BackupInfoSchema, signal);
  if (info === undefined) return `backup set ${key.setId}, from which it goes on, is gone`;
  if (!(await isMarked(medium, root, key, signal))) return undefined;
  return `backup set ${key.setId}, from which it goes on, is marked for deletion`;
}

async function isMarked(medium: Medium, root: TreeRoot, key: SetKey, signal: AbortSignal): Promise<boolean> {
  return (await medium.stat(tree.deleteMark(root, key), signal)) !== undefined;
}

function keyOf({ tenantId, fullSetId, backupSetId: setId }: BackupInfo): SetKey {
  return { tenantId, fullSetId, setId };
}
