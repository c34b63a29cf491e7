/** Opening what is encrypted at a destination, before anything of it is read. */
import { type ErrorCode, isError } from '../../foundation/errors.ts';
import type { Medium } from '../media/medium.ts';
import { parseTreePath, type RoundKey, type SetKey, type TreeRoot, tree } from '../tree.ts';
import { type KeyPlace, openDataKeys, roundKeyPlace, setKeyPlace } from './key-records.ts';
import type { DataKey, KeyRing } from './key-ring.ts';
import type { KeySecrets } from './wrapping.ts';

/**
 * The keys of a backup set: its own, and those of the complete sets of its full set before it, whose blocks it may have.
 * Throws BACKUP_INVALID_PASSWORD when one of them does not open.
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
  for (const setId of ids) {
    if (setId > key.setId || !(await isNeeded(medium, root, key, setId, signal))) continue;
    const own = await openDataKeys(setKeyPlace(medium, root, { ...key, setId }), secrets, signal);
    keys.push(...own.map((each) => ({ ...each, writes: each.writes && setId === key.setId })));
  }
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

/** A set's keys, and those of the round whose log belongs to it. Throws BACKUP_INVALID_PASSWORD. */
export async function unlockWithLog(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  round: bigint,
  secrets: KeySecrets,
  signal?: AbortSignal,
): Promise<readonly DataKey[]> {
  return [
    ...(await unlockSet(medium, root, key, secrets, signal)),
    ...(await unlockRound(medium, root, { tenantId: key.tenantId, round }, secrets, signal)),
  ];
}

/**
 * What a validation of the set reads: of all sets of its full set, whose indexes tell which of them need a block. Those of
 * which the key record is damaged have none, and later sets that do not open: the validation says so of the first, and has
 * no need of the others.
 */
export async function unlockToValidate(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  round: bigint,
  secrets: KeySecrets,
  signal?: AbortSignal,
): Promise<readonly DataKey[]> {
  const keys = [...(await unlockRoundToValidate(medium, root, { ...key, round }, secrets, signal))];
  for (const setId of await setIdsOf(medium, root, key, signal)) {
    if (!(await isNeeded(medium, root, key, setId, signal))) continue;
    const place = setKeyPlace(medium, root, { ...key, setId });
    keys.push(...(await openUnless(place, secrets, setId > key.setId ? NOT_NEEDED : DAMAGE, signal)));
  }
  return keys;
}

/** The same of a round. */
export async function unlockRoundToValidate(
  medium: Medium,
  root: TreeRoot,
  key: RoundKey,
  secrets: KeySecrets,
  signal?: AbortSignal,
): Promise<readonly DataKey[]> {
  return await openUnless(roundKeyPlace(medium, root, key), secrets, DAMAGE, signal);
}

/** A set that was begun and never completed has no blocks that another needs; its password may be anybody's. */
async function isNeeded(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  setId: bigint,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  if (setId === key.setId) return true;
  return (await medium.stat(tree.backupInfo(root, { ...key, setId }), signal)) !== undefined;
}

const DAMAGE = ['DATA_CORRUPT', 'FORMAT_UNKNOWN'] as const;
const NOT_NEEDED = [...DAMAGE, 'BACKUP_INVALID_PASSWORD'] as const;

async function openUnless(
  place: KeyPlace,
  secrets: KeySecrets,
  codes: readonly ErrorCode[],
  signal: AbortSignal | undefined,
): Promise<readonly DataKey[]> {
  try {
    return await openDataKeys(place, secrets, signal);
  } catch (error) {
    if (isError(error, ...codes)) return [];
    throw error;
  }
}

/** The keys of the backup or round that the file is of. Throws BACKUP_INVALID_PASSWORD when they do not open. */
export async function unlockFor(
  medium: Medium,
  file: string,
  secrets: KeySecrets,
  signal?: AbortSignal,
): Promise<readonly DataKey[]> {
  const path = parseTreePath(file);
  if (path === undefined) return [];
  if ('setId' in path) return await openDataKeys(setKeyPlace(medium, path.root, path), secrets, signal);
  if ('round' in path) return await unlockRound(medium, path.root, path, secrets, signal);
  return [];
}

/**
 * A ring that opens what it is asked for, when it is. A round has its key before its first file, so what was found of it
 * holds; a full set may have another backup with its own.
 */
export function unlockingRing(medium: Medium, secrets: () => Promise<KeySecrets>): KeyRing {
  const rounds = new Map<string, Promise<readonly DataKey[]>>();
  return {
    keysFor: async (file, signal) => {
      const path = parseTreePath(file);
      if (path === undefined) return [];
      if (!('round' in path)) return await unlockFor(medium, file, await secrets(), signal);
      const directory = tree.roundDirectory(path.root, path);
      const opening =
        rounds.get(directory) ?? secrets().then((given) => unlockFor(medium, file, given, signal));
      rounds.set(directory, opening);
      opening.catch(() => rounds.delete(directory)); // whoever waits for it sees the error
      return await opening;
    },
  };
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
