/**
 * Data keys as they stand in key records: wrapped under AES-256-GCM by a key that is made from a password (scrypt, its
 * parameters beside it) or from the key of a key file (HKDF-SHA-256). Associated data: the data key's id.
 */
import {
  createCipheriv,
  createDecipheriv,
  createHash,
  hkdfSync,
  randomBytes,
  scrypt,
  timingSafeEqual,
} from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import {
  type KeyWrapping,
  KeyWrappingSchema,
  type PasswordWrapping,
  type WrappedDataKey,
  WrappedDataKeySchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { KEY_BYTES, TAG_BYTES } from './cipher.ts';

const ALGORITHM = 'aes-256-gcm';
const NONCE_BYTES = 12;
const SALT_BYTES = 16;
const KEY_CHECK_BYTES = 8;
/** 64 MiB and a fifth of a second for each guess. */
const SCRYPT = { costLog2: 16, blockSize: 8, parallelization: 1 } as const;
/** What a record that somebody made up may cost. */
const SCRYPT_LIMIT_BYTES = 2 ** 30;
const KEY_FILE_INFO = 'holdfast data key';
const KEY_CHECK_PREFIX = 'holdfast key file';

/** What may open data keys. Never logged, never shown. */
export type KeySecrets = {
  readonly passwords: readonly string[];
  /** The keys of the key file, the one that wraps first. */
  readonly fileKeys: readonly Uint8Array[];
  /** Data keys that are known already, by their ids. */
  readonly known?: (id: string) => Promise<Uint8Array | undefined>;
};
/** What data keys are wrapped with: one of both at least. */
export type Wrappers = { readonly password: string | undefined; readonly fileKey: Uint8Array | undefined };

/**
 * Wraps one data key in every way that is asked for. Of one record, all keys are wrapped with one `salt` and `derive`, so
 * that a password is worked on once.
 */
export async function wrapDataKey(
  id: Uint8Array,
  key: Uint8Array,
  wrappers: Wrappers,
  salt: Uint8Array = newSalt(),
  derive: DeriveKey = keyOfPassword,
): Promise<WrappedDataKey> {
  const wrappings: KeyWrapping[] = [];
  if (wrappers.password !== undefined) {
    const parameters = { salt, ...SCRYPT };
    const wrappingKey = await derive(wrappers.password, parameters);
    wrappings.push(wrap({ case: 'password', value: parameters }, wrappingKey, id, key));
  }
  if (wrappers.fileKey !== undefined) {
    const value = { keyCheck: keyCheckOf(wrappers.fileKey) };
    wrappings.push(wrap({ case: 'keyFile', value }, keyOfFileKey(wrappers.fileKey, id), id, key));
  }
  return create(WrappedDataKeySchema, { keyId: id, wrappings });
}

/** The data key; undefined when none of the secrets opens it. */
export async function unwrapDataKey(
  { keyId, wrappings }: WrappedDataKey,
  secrets: KeySecrets,
  derive: DeriveKey = keyOfPassword,
): Promise<Uint8Array | undefined> {
  const known = await secrets.known?.(Buffer.from(keyId).toString('hex'));
  if (known !== undefined) return known;
  for (const wrapping of wrappings) {
    const { by } = wrapping;
    if (by.case === 'keyFile') {
      const fileKey = secrets.fileKeys.find((each) => isKeyOf(each, by.value.keyCheck));
      const key = fileKey && unwrap(wrapping, keyOfFileKey(fileKey, keyId), keyId);
      if (key !== undefined) return key;
    } else if (by.case === 'password' && isAffordable(by.value)) {
      for (const password of secrets.passwords) {
        const key = unwrap(wrapping, await derive(password, by.value), keyId);
        if (key !== undefined) return key;
      }
    }
  }
  return undefined;
}

/** Which key of a key file it is: may be shown. */
export function keyCheckOf(fileKey: Uint8Array): Buffer {
  return createHash('sha256').update(KEY_CHECK_PREFIX).update(fileKey).digest().subarray(0, KEY_CHECK_BYTES);
}

function isKeyOf(fileKey: Uint8Array, check: Uint8Array): boolean {
  return check.length === KEY_CHECK_BYTES && timingSafeEqual(keyCheckOf(fileKey), check);
}

type By =
  | { readonly case: 'password'; readonly value: Omit<PasswordWrapping, '$typeName' | '$unknown'> }
  | { readonly case: 'keyFile'; readonly value: { readonly keyCheck: Uint8Array } };

function wrap(by: By, wrappingKey: Uint8Array, id: Uint8Array, key: Uint8Array): KeyWrapping {
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv(ALGORITHM, wrappingKey, nonce);
  cipher.setAAD(id);
  const wrapped = Buffer.concat([cipher.update(key), cipher.final(), cipher.getAuthTag()]);
  return create(KeyWrappingSchema, { by, nonce, wrapped });
}

function unwrap(
  { nonce, wrapped }: KeyWrapping,
  wrappingKey: Uint8Array,
  id: Uint8Array,
): Uint8Array | undefined {
  if (nonce.length !== NONCE_BYTES || wrapped.length !== KEY_BYTES + TAG_BYTES) return undefined;
  const decipher = createDecipheriv(ALGORITHM, wrappingKey, nonce);
  decipher.setAAD(id);
  decipher.setAuthTag(wrapped.subarray(KEY_BYTES));
  const key = decipher.update(wrapped.subarray(0, KEY_BYTES));
  try {
    decipher.final();
  } catch {
    return undefined; // another password or key
  }
  return Uint8Array.from(key);
}

function keyOfFileKey(fileKey: Uint8Array, id: Uint8Array): Uint8Array {
  return new Uint8Array(hkdfSync('sha256', fileKey, id, KEY_FILE_INFO, KEY_BYTES));
}

export function newSalt(): Uint8Array {
  return randomBytes(SALT_BYTES);
}

/** The wrapping key that a password gives. */
export type DeriveKey = (password: string, parameters: ScryptParameters) => Promise<Uint8Array>;

/** Works on each password once for each salt. Not to be kept longer than one record is read or written. */
export function derivingOnce(): DeriveKey {
  const known = new Map<string, Promise<Uint8Array>>();
  return async (password, parameters) => {
    const { salt, costLog2, blockSize, parallelization } = parameters;
    const name = JSON.stringify([
      Buffer.from(salt).toString('hex'),
      costLog2,
      blockSize,
      parallelization,
      password,
    ]);
    const key = known.get(name) ?? keyOfPassword(password, parameters);
    known.set(name, key);
    return await key;
  };
}

type ScryptParameters = Pick<PasswordWrapping, 'salt' | 'costLog2' | 'blockSize' | 'parallelization'>;

async function keyOfPassword(password: string, parameters: ScryptParameters): Promise<Uint8Array> {
  const { salt, costLog2, blockSize, parallelization } = parameters;
  const options = {
    cost: 2 ** costLog2,
    blockSize,
    parallelization,
    maxmem: memoryBytes(parameters) * 2,
  };
  return await new Promise((resolve, reject) => {
    scrypt(password.normalize('NFKC'), salt, KEY_BYTES, options, (error, key) =>
      error === null ? resolve(key) : reject(error),
    );
  });
}

function isAffordable(parameters: ScryptParameters): boolean {
  const { costLog2, blockSize, parallelization } = parameters;
  if (costLog2 < 1 || costLog2 > 30 || blockSize < 1 || parallelization < 1 || parallelization > 16)
    return false;
  return memoryBytes(parameters) <= SCRYPT_LIMIT_BYTES;
}

function memoryBytes({ costLog2, blockSize, parallelization }: ScryptParameters): number {
  return 128 * blockSize * (2 ** costLog2 + parallelization);
}
