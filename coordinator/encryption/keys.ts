/**
 * The keys of this deployment's backups. Key records at the destination are the truth; the coordinator keeps each data key
 * that it made or opened in its catalog, encrypted under its own key, so that archiving, increments and validations go on
 * without anybody's password. A restore asks for the password or the key file all the same.
 */
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { HoldfastError } from '../../foundation/errors.ts';
import { readKeyFile } from '../../foundation/key-file.ts';
import { type DataKey as DataKeyMessage, DataKeySchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { type KeyRecord, KeyRecordSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import {
  MODE_NAMES,
  modeOf,
  type NewDataKey,
  newDataKey,
} from '../../storage-layout/encryption/key-records.ts';
import type { DataKey } from '../../storage-layout/encryption/key-ring.ts';
import type { KeySecrets } from '../../storage-layout/encryption/wrapping.ts';
import type { Queryable } from '../catalog/catalog.ts';
import { findDataKey, insertDataKey } from '../catalog/data-keys.ts';
import type { CoordinatorContext, Transaction } from '../context.ts';
import type { SecretBox } from '../parameters/secrets.ts';
import { parameterIsOn } from '../parameters/values.ts';
import type { SqlSession } from '../sql/session.ts';

type KeyStore = Pick<CoordinatorContext, 'secrets' | 'keyFile'> & { readonly catalog: Queryable };

/** All that this coordinator can open with. */
export async function keySecrets(store: KeyStore): Promise<KeySecrets> {
  return {
    passwords: [],
    fileKeys: await readFileKeys(store),
    known: async (id) => {
      const stored = await findDataKey(store.catalog, id);
      return stored === undefined
        ? undefined
        : Uint8Array.from(Buffer.from(store.secrets.decrypt(stored), 'base64'));
    },
  };
}

/** What a restore may open with: the key file, and what the session's SET DECRYPTION gave. */
export async function sessionSecrets(context: CoordinatorContext, session: SqlSession): Promise<KeySecrets> {
  return { passwords: session.decryptionPasswords, fileKeys: await readFileKeys(context) };
}

async function readFileKeys({
  keyFile,
}: Pick<CoordinatorContext, 'keyFile'>): Promise<readonly Uint8Array[]> {
  return keyFile === undefined ? [] : await readKeyFile(keyFile);
}

/** The key that wraps. Throws INVALID_CONFIG when no key file is configured, or it cannot be used. */
export async function requireFileKeys(context: Pick<CoordinatorContext, 'keyFile'>): Promise<Uint8Array> {
  const [first] = await readFileKeys(context);
  if (first !== undefined) return first;
  throw new HoldfastError('INVALID_CONFIG', 'no key file is configured', {
    hint: "Name one in the coordinator's configuration, encryption.key_file, and start it again.",
  });
}

/**
 * A new data key for a backup that `session` asked for, or for a round (no session); undefined: it is not to be encrypted.
 * A session's password opens it, and the key file does too, where there is one and the session did not say ONLY. What opens
 * it opens the carried keys.
 */
export async function newKeyFor(
  context: CoordinatorContext,
  tenantId: bigint,
  session?: Pick<SqlSession, 'encryption'>,
  carried: readonly DataKey[] = [],
): Promise<NewDataKey | undefined> {
  const given = session?.encryption;
  const isOn = await parameterIsOn(context.catalog, 'backup_encryption', tenantId);
  if (given === undefined && !isOn) return undefined;
  const byFile = given === undefined ? await requireFileKeys(context) : (await readFileKeys(context))[0];
  const wrappers = { password: given?.password, fileKey: given?.only === true ? undefined : byFile };
  return await newDataKey(wrappers, context.clock.nowUs(), carried);
}

/** Keeps a data key. */
export async function keepDataKey(
  context: CoordinatorContext,
  tx: Transaction,
  key: Pick<DataKey, 'id' | 'key'>,
): Promise<void> {
  const stored = context.secrets.encrypt(Buffer.from(key.key).toString('base64'));
  await insertDataKey(tx, { id: key.id, stored, nowUs: tx.nowUs });
}

/** As the views name it. */
export function modeName(record: KeyRecord | undefined): string {
  return MODE_NAMES[modeOf(record)] ?? 'NONE';
}

/** A key record in a job's spec: it opens nothing by itself. */
export function formatKeyRecord(record: KeyRecord): string {
  return Buffer.from(toBinary(KeyRecordSchema, record)).toString('base64');
}

export function parseKeyRecord(text: string): KeyRecord {
  return fromBinary(KeyRecordSchema, Buffer.from(text, 'base64'));
}

/** Opened keys in a task's spec: encrypted. */
export function sealDataKeys(secrets: SecretBox, keys: readonly DataKey[]): string {
  if (keys.length === 0) return '';
  return secrets.encrypt(
    JSON.stringify(keys.map((each) => ({ ...each, key: Buffer.from(each.key).toString('base64') }))),
  );
}

export function unsealDataKeys(secrets: SecretBox, sealed: string): readonly DataKey[] {
  if (sealed === '') return [];
  // What sealDataKeys made: the box refuses everything else.
  const keys = JSON.parse(secrets.decrypt(sealed)) as readonly (Omit<DataKey, 'key'> & { key: string })[];
  return keys.map((each) => ({ ...each, key: Uint8Array.from(Buffer.from(each.key, 'base64')) }));
}

/** As an agent is given them. */
export function keyMessages(keys: readonly DataKey[]): DataKeyMessage[] {
  return keys.map(({ directory, id, key, writes }) =>
    create(DataKeySchema, { directory, keyId: Buffer.from(id, 'hex'), key, writes }),
  );
}
