/**
 * The key records of backups and rounds (`key_<n>`): making a data key, opening it, wrapping it anew. The record with the
 * greatest number counts; rotation writes the next one, reads it back, and then deletes the ones before it, which the old
 * password or key would still open. Data is never written again.
 */
import { randomBytes } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { HoldfastError, isError } from '../../foundation/errors.ts';
import {
  EncryptionMode,
  type KeyRecord,
  KeyRecordSchema,
  type KeyWrapping,
  type WrappedDataKey,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../media/medium.ts';
import { readInfo, writeOnce } from '../records/info-file.ts';
import { type RoundKey, type SetKey, type TreeRoot, tree } from '../tree.ts';
import { KEY_BYTES } from './cipher.ts';
import { DATA_KEY_ID_BYTES, type DataKey } from './key-ring.ts';
import {
  derivingOnce,
  type KeySecrets,
  newSalt,
  unwrapDataKey,
  type Wrappers,
  wrapDataKey,
} from './wrapping.ts';

/** How often a number is tried that somebody else took. */
const ATTEMPTS = 16;

/** How the views name the ways to open a data key: OceanBase's names. */
export const MODE_NAMES: Readonly<Record<EncryptionMode, string>> = {
  [EncryptionMode.UNSPECIFIED]: 'NONE',
  [EncryptionMode.PASSWORD]: 'PASSWORD_ENCRYPTION',
  [EncryptionMode.KEY_FILE]: 'TRANSPARENT_ENCRYPTION',
  [EncryptionMode.DUAL]: 'DUAL_MODE_ENCRYPTION',
};

/** NONE for a name that is none of them. */
export function modeOfName(name: string): EncryptionMode {
  const modes = [EncryptionMode.PASSWORD, EncryptionMode.KEY_FILE, EncryptionMode.DUAL];
  return modes.find((mode) => MODE_NAMES[mode] === name) ?? EncryptionMode.UNSPECIFIED;
}

/** Where the key records of one backup or round stand, and which files their keys are for. */
export type KeyPlace = {
  readonly medium: Medium;
  /** Of the key records. */
  readonly directory: string;
  /** Of the files. */
  readonly covers: string;
  /** For messages. */
  readonly name: string;
};

/** The data keys of a backup are for all files of its full set: each file says which one it is under. */
export function setKeyPlace(medium: Medium, root: TreeRoot, key: SetKey): KeyPlace {
  return {
    medium,
    directory: tree.backupDirectory(root, key),
    covers: tree.backupSetDirectory(root, key.tenantId, key.fullSetId),
    name: `backup set ${key.setId}`,
  };
}

export function roundKeyPlace(medium: Medium, root: TreeRoot, key: RoundKey): KeyPlace {
  const directory = tree.roundDirectory(root, key);
  return { medium, directory, covers: directory, name: `archive round ${key.round}` };
}

/** A data key that nothing is encrypted under yet, and its first record. */
export type NewDataKey = { readonly id: string; readonly key: Uint8Array; readonly record: KeyRecord };

/** `carried`: data keys of files that are copied whole from elsewhere; they are wrapped in the same ways. */
export async function newDataKey(
  wrappers: Wrappers,
  nowUs: bigint,
  carried: readonly Pick<DataKey, 'id' | 'key'>[] = [],
): Promise<NewDataKey> {
  const id = randomBytes(DATA_KEY_ID_BYTES);
  const key = Uint8Array.from(randomBytes(KEY_BYTES));
  const all = [{ id, key }, ...carried.map((each) => ({ id: Buffer.from(each.id, 'hex'), key: each.key }))];
  const [salt, derive] = [newSalt(), derivingOnce()];
  const keys: WrappedDataKey[] = [];
  for (const each of all) keys.push(await wrapDataKey(each.id, each.key, wrappers, salt, derive));
  return { id: id.toString('hex'), key, record: create(KeyRecordSchema, { createdUs: nowUs, keys }) };
}

/** Writes a place's first key record, durably: before anything is encrypted under its key. Throws FILE_EXISTS. */
export async function writeFirstRecord(
  { medium, directory }: KeyPlace,
  record: KeyRecord,
  signal?: AbortSignal,
): Promise<void> {
  await writeOnce(medium, `${directory}/key_1`, KeyRecordSchema, record, signal);
}

/** What a place's newest key record says; undefined: nothing there is encrypted. */
export async function readKeyRecord(
  place: KeyPlace,
  signal?: AbortSignal,
): Promise<{ readonly ordinal: number; readonly record: KeyRecord } | undefined> {
  for (let attempt = 1; ; attempt += 1) {
    const ordinal = (await ordinalsOf(place, signal)).at(-1);
    if (ordinal === undefined) return undefined;
    try {
      const file = `${place.directory}/key_${ordinal}`;
      return { ordinal, record: await readInfo(place.medium, file, KeyRecordSchema, signal) };
    } catch (error) {
      // A rotation has just put the next in its place.
      if (!isError(error, 'FILE_NOT_FOUND') || attempt === ATTEMPTS) throw error;
    }
  }
}

/**
 * The data keys of a place, the first of which is that of new files; empty when nothing there is encrypted. Throws BACKUP_INVALID_PASSWORD
 * when one of them is opened by none of the secrets.
 */
export async function openDataKeys(
  place: KeyPlace,
  secrets: KeySecrets,
  signal?: AbortSignal,
): Promise<readonly DataKey[]> {
  const found = await readKeyRecord(place, signal);
  const keys: DataKey[] = [];
  const derive = derivingOnce();
  for (const wrapped of found?.record.keys ?? []) {
    const key = await unwrapDataKey(wrapped, secrets, derive);
    if (key === undefined) throw doesNotOpen(place, wrapped, secrets);
    keys.push({ directory: place.covers, id: idOf(wrapped), key, writes: keys.length === 0 });
  }
  return keys;
}

/** What opens the data keys of a record. */
export function modeOf(record: KeyRecord | undefined): EncryptionMode {
  const ways = new Set(record?.keys[0]?.wrappings.map(({ by }) => by.case));
  if (ways.has('password')) return ways.has('keyFile') ? EncryptionMode.DUAL : EncryptionMode.PASSWORD;
  return ways.has('keyFile') ? EncryptionMode.KEY_FILE : EncryptionMode.UNSPECIFIED;
}

/**
 * Leaves only these of a place's carried keys in its record. Throws BACKUP_FAILED when one of them is not in it. A rotation
 * that comes between wins: then the others stay, which costs nothing but their bytes.
 */
export async function keepCarriedKeys(
  place: KeyPlace,
  ids: ReadonlySet<string>,
  nowUs: bigint,
  signal?: AbortSignal,
): Promise<void> {
  const found = await readKeyRecord(place, signal);
  const keys = found?.record.keys ?? [];
  const lost = [...ids].find((id) => !keys.some((key) => idOf(key) === id));
  if (lost !== undefined)
    throw new HoldfastError(
      'BACKUP_FAILED',
      `${place.name} has files of the data key ${lost}, and not that key`,
    );
  const kept = keys.filter((key, index) => index === 0 || ids.has(idOf(key)));
  if (found === undefined || kept.length === keys.length) return;
  try {
    const record = create(KeyRecordSchema, { createdUs: nowUs, keys: kept });
    await replaceRecord(place, found.ordinal, record, signal);
  } catch (error) {
    if (!isError(error, 'FILE_EXISTS')) throw error;
  }
}

/**
 * `passwordKept`, `keyFileKept`: the other way is renewed, and what opened the keys in this way still does. `unchanged`:
 * neither is, and the record stays.
 */
export type Rotation = 'rotated' | 'passwordKept' | 'keyFileKept' | 'unchanged' | 'unencrypted' | 'unopened';

/**
 * Wraps a place's data keys anew: by a password where a password is given and one opens them now, by the key file's first
 * key where a key file opens them now. A wrapping for which nothing new is given stays as it is, which the result tells.
 */
export async function rotateDataKeys(
  place: KeyPlace,
  secrets: KeySecrets,
  wrappers: Wrappers,
  nowUs: bigint,
  signal?: AbortSignal,
): Promise<Rotation> {
  const found = await readKeyRecord(place, signal);
  if (found === undefined) return 'unencrypted';
  const keys: WrappedDataKey[] = [];
  const kept: KeyWrapping[] = [];
  let renewedCount = 0;
  const [salt, derive] = [newSalt(), derivingOnce()];
  for (const wrapped of found.record.keys) {
    const key = await unwrapDataKey(wrapped, secrets, derive);
    if (key === undefined) return 'unopened';
    const ways = new Set(wrapped.wrappings.map(({ by }) => by.case));
    const wanted = {
      password: ways.has('password') ? wrappers.password : undefined,
      fileKey: ways.has('keyFile') ? wrappers.fileKey : undefined,
    };
    const made = await wrapDataKey(wrapped.keyId, key, wanted, salt, derive);
    const renewed = new Set(made.wrappings.map(({ by }) => by.case));
    const old = wrapped.wrappings.filter(({ by }) => !renewed.has(by.case));
    keys.push({ ...made, wrappings: [...old, ...made.wrappings] });
    kept.push(...old);
    renewedCount += renewed.size;
  }
  if (renewedCount === 0) return 'unchanged';
  await replaceRecord(place, found.ordinal, create(KeyRecordSchema, { createdUs: nowUs, keys }), signal);
  if (kept.some(({ by }) => by.case === 'password')) return 'passwordKept';
  return kept.length > 0 ? 'keyFileKept' : 'rotated';
}

/** Writes the next record, proves that it is the one that is read, and deletes those before it. */
async function replaceRecord(
  place: KeyPlace,
  before: number,
  record: KeyRecord,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { medium, directory } = place;
  const ordinal = before + 1;
  await writeOnce(medium, `${directory}/key_${ordinal}`, KeyRecordSchema, record, signal);
  const newest = await readKeyRecord(place, signal);
  if (newest === undefined || newest.ordinal < ordinal)
    throw new HoldfastError(
      'DESTINATION_IO',
      `${medium.displayUri} does not list ${directory}/key_${ordinal}`,
    );
  const older = (await ordinalsOf(place, signal)).filter((each) => each < newest.ordinal);
  await medium.deleteMany(
    older.map((each) => `${directory}/key_${each}`),
    signal,
  );
}

/** In ascending order. */
async function ordinalsOf(place: KeyPlace, signal: AbortSignal | undefined): Promise<readonly number[]> {
  const names = await place.medium.listNames(place.directory, signal);
  return names
    .map((name) => Number(/^key_([1-9][0-9]{0,8})$/.exec(name)?.[1] ?? 0))
    .filter((ordinal) => ordinal > 0)
    .sort((a, b) => a - b);
}

function doesNotOpen(
  { name }: KeyPlace,
  { wrappings }: WrappedDataKey,
  { passwords, fileKeys }: KeySecrets,
): HoldfastError {
  const ways = wrappings.map(({ by }) => by);
  const checks = ways.flatMap((by) =>
    by.case === 'keyFile' ? [Buffer.from(by.value.keyCheck).toString('hex')] : [],
  );
  const byPassword = ways.some((by) => by.case === 'password');
  const tried =
    passwords.length + fileKeys.length === 0
      ? 'no password or key was given'
      : 'what was given does not open it';
  return new HoldfastError('BACKUP_INVALID_PASSWORD', `${name} is encrypted: ${tried}`, {
    detail: [
      ...(byPassword ? ['It opens with a password.'] : []),
      ...checks.map((check) => `It opens with the key ${check} of a key file.`),
    ].join(' '),
    hint: byPassword
      ? "SET DECRYPTION IDENTIFIED BY '<password>'; or, on the command line, --password-file."
      : 'Give the key file that it was made with: encryption.key_file of the coordinator, or --key-file.',
  });
}

function idOf({ keyId }: WrappedDataKey): string {
  return Buffer.from(keyId).toString('hex');
}
