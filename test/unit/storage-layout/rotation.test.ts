import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import {
  newDataKey,
  readKeyRecord,
  rotateDataKeys,
  setKeyPlace,
  writeFirstRecord,
} from '../../../storage-layout/encryption/key-records.ts';
import { unlockSet } from '../../../storage-layout/encryption/unlock.ts';
import type { KeySecrets, Wrappers } from '../../../storage-layout/encryption/wrapping.ts';
import type { Medium } from '../../../storage-layout/media/medium.ts';
import { tree } from '../../../storage-layout/tree.ts';
import { openTestMedium, ROOT } from './support.ts';

const SET = { tenantId: 1001n, fullSetId: 8n, setId: 8n };
const fileKey = () => Uint8Array.from(randomBytes(32));
const password = (text: string): KeySecrets => ({ passwords: [text], fileKeys: [] });
const keyFile = (...fileKeys: Uint8Array[]): KeySecrets => ({ passwords: [], fileKeys });

/** The set's first record, wrapped so; its data key. */
async function wrap(medium: Medium, wrappers: Wrappers): Promise<Uint8Array> {
  const made = await newDataKey(wrappers, 1n);
  await writeFirstRecord(setKeyPlace(medium, ROOT, SET), made.record);
  return made.key;
}

/** Which of the secrets open the set's key. */
async function openedBy(medium: Medium, key: Uint8Array, secrets: readonly KeySecrets[]): Promise<boolean[]> {
  const opens = async (each: KeySecrets) =>
    await unlockSet(medium, ROOT, SET, each).then(
      ([found]) => Buffer.compare(found?.key ?? Buffer.of(), key) === 0,
      () => false,
    );
  return await Promise.all(secrets.map(opens));
}

const recordsOf = async (medium: Medium) => await medium.listNames(tree.backupDirectory(ROOT, SET));

test('a rotation wraps data keys anew: the old password and key open nothing any more', async () => {
  await using opened = await openTestMedium();
  const { medium } = opened;
  const [old, young] = [fileKey(), fileKey()];
  const key = await wrap(medium, { password: 'old', fileKey: old });
  const place = setKeyPlace(medium, ROOT, SET);
  const both = { passwords: ['old'], fileKeys: [young, old] };
  expect(await rotateDataKeys(place, both, { password: 'new', fileKey: young }, 2n)).toBe('rotated');
  expect((await readKeyRecord(place))?.ordinal).toBe(2);
  expect(await recordsOf(medium)).toEqual(['key_2']);
  const secrets = [password('old'), keyFile(old), password('new'), keyFile(young)];
  expect(await openedBy(medium, key, secrets)).toEqual([false, false, true, true]);
});

test('what does not open, and what is not encrypted, is left alone', async () => {
  await using opened = await openTestMedium();
  const { medium } = opened;
  const [old, young] = [fileKey(), fileKey()];
  await wrap(medium, { password: 'old', fileKey: young });
  const place = setKeyPlace(medium, ROOT, SET);
  const wrong = { passwords: ['wrong'], fileKeys: [old] };
  expect(await rotateDataKeys(place, wrong, { password: 'x', fileKey: old }, 2n)).toBe('unopened');
  const plain = setKeyPlace(medium, ROOT, { ...SET, setId: 9n });
  const wrappers = { password: 'n', fileKey: undefined };
  expect(await rotateDataKeys(plain, password('old'), wrappers, 2n)).toBe('unencrypted');
  expect(await recordsOf(medium)).toEqual(['key_1']);
});

test('one that gives nothing new for the way in which a key is wrapped changes nothing, and says so', async () => {
  await using opened = await openTestMedium();
  const { medium } = opened;
  await wrap(medium, { password: 'old', fileKey: undefined });
  const secrets = { passwords: ['old'], fileKeys: [fileKey()] };
  const wrappers = { password: undefined, fileKey: secrets.fileKeys[0] };
  const place = setKeyPlace(medium, ROOT, SET);
  expect(await rotateDataKeys(place, secrets, wrappers, 2n)).toBe('unchanged');
  expect(await recordsOf(medium)).toEqual(['key_1']);
});

test('one that renews one of two ways says which of them still opens as before', async () => {
  await using opened = await openTestMedium();
  const { medium } = opened;
  const [old, young] = [fileKey(), fileKey()];
  const key = await wrap(medium, { password: 'old', fileKey: old });
  const place = setKeyPlace(medium, ROOT, SET);
  const byFile = { password: undefined, fileKey: young };
  expect(await rotateDataKeys(place, keyFile(young, old), byFile, 2n)).toBe('passwordKept');
  const secrets = [password('old'), keyFile(old), password('new'), keyFile(young)];
  expect(await openedBy(medium, key, secrets)).toEqual([true, false, false, true]);
  const byPassword = { password: 'new', fileKey: undefined };
  expect(await rotateDataKeys(place, password('old'), byPassword, 3n)).toBe('keyFileKept');
  expect(await openedBy(medium, key, secrets)).toEqual([false, false, true, true]);
});
