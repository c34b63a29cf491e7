/** Opening what is encrypted at a destination, before anything of it is read. */
import type { Medium } from '../media/medium.ts';
import { parseTreePath, type RoundKey, type SetKey, type TreeRoot, tree } from '../tree.ts';
import { type KeyPlace, openDataKeys, roundKeyPlace, setKeyPlace } from './key-records.ts';
import type { DataKey, KeyRing } from './key-ring.ts';
import type { KeySecrets } from './wrapping.ts';

/**
 * The keys of a backup set: its own, and those of the sets of its full set before it, whose blocks it may have. Throws
 * BACKUP_INVALID_PASSWORD when one of them does not open.
 */
export async function unlockSet(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  secrets: KeySecrets,
  signal?: AbortSignal,
): Promise<readonly DataKey[]> {
  const ids = await setIdsOf(medium, root, key, signal);
  const keys: DataKey[] = [];
  for (const setId of ids)
    if (setId <= key.setId)
      keys.push(...(await openDataKeys(setKeyPlace(medium, root, { ...key, setId }), secrets, signal)));
  return keys;
}

/** The keys of an archive round. Throws BACKUP_INVALID_PASSWORD when they do not open. */
export async function unlockRound(
  medium: Medium,
  root: TreeRoot,
  key: RoundKey,
  secrets: KeySecrets,
  signal?: AbortSignal,
): Promise<readonly DataKey[]> {
  return await openDataKeys(roundKeyPlace(medium, root, key), secrets, signal);
}

/** The keys of whatever backup or round the file is of, as far as `secrets` opens them. */
export async function unlockFor(
  medium: Medium,
  file: string,
  secrets: KeySecrets,
  signal?: AbortSignal,
): Promise<readonly DataKey[]> {
  const path = parseTreePath(file);
  if (path === undefined) return [];
  if ('fullSetId' in path) {
    const whole = { tenantId: path.tenantId, fullSetId: path.fullSetId, setId: GREATEST_ID };
    return await unlockSet(medium, path.root, whole, secrets, signal);
  }
  if ('round' in path) return await unlockRound(medium, path.root, path, secrets, signal);
  return [];
}

/** A ring that opens what it is asked for, when it is. */
export function unlockingRing(medium: Medium, secrets: KeySecrets): KeyRing {
  const known = new Map<string, Promise<readonly DataKey[]>>();
  return {
    keysFor: async (file, signal) => {
      const scope = scopeOf(file);
      if (scope === undefined) return [];
      const opening = known.get(scope) ?? unlockFor(medium, file, secrets, signal);
      known.set(scope, opening);
      opening.catch(() => known.delete(scope)); // whoever waits for it sees the error
      return await opening;
    },
  };
}

/** The directory whose files have the same keys; undefined: nothing there is encrypted. */
export function scopeOf(file: string): string | undefined {
  const path = parseTreePath(file);
  if (path === undefined) return undefined;
  if ('fullSetId' in path) return tree.backupSetDirectory(path.root, path.tenantId, path.fullSetId);
  return 'round' in path ? tree.roundDirectory(path.root, path) : undefined;
}

/** Every place of the cluster where key records may be: of each tenant's backups and rounds. */
export async function findKeyPlaces(
  medium: Medium,
  root: TreeRoot,
  tenantId: bigint,
  signal?: AbortSignal,
): Promise<readonly KeyPlace[]> {
  const places: KeyPlace[] = [];
  for (const fullSetId of idsIn(await medium.listNames(tree.dataDirectory(root, tenantId), signal), SET_NAME))
    for (const setId of await setIdsOf(medium, root, { tenantId, fullSetId }, signal))
      places.push(setKeyPlace(medium, root, { tenantId, fullSetId, setId }));
  for (const round of idsIn(await medium.listNames(tree.clogDirectory(root, tenantId), signal), ROUND_NAME))
    places.push(roundKeyPlace(medium, root, { tenantId, round }));
  return places;
}

const GREATEST_ID = 2n ** 64n - 1n;
const SET_NAME = /^backup_set_([1-9][0-9]*)$/;
const BACKUP_NAME = /^backup_([1-9][0-9]*)$/;
const ROUND_NAME = /^([1-9][0-9]*)$/;

async function setIdsOf(
  medium: Medium,
  root: TreeRoot,
  { tenantId, fullSetId }: Pick<SetKey, 'tenantId' | 'fullSetId'>,
  signal: AbortSignal | undefined,
): Promise<readonly bigint[]> {
  const directory = tree.backupSetDirectory(root, tenantId, fullSetId);
  return idsIn(await medium.listNames(directory, signal), BACKUP_NAME);
}

/** In ascending order. */
function idsIn(names: readonly string[], pattern: RegExp): readonly bigint[] {
  return names
    .flatMap((name) => pattern.exec(name)?.[1] ?? [])
    .map(BigInt)
    .sort((a, b) => (a < b ? -1 : 1));
}
