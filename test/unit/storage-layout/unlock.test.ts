import { randomBytes } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { expect, it } from 'vitest';
import { BackupInfoSchema, TenantDiagnoseInfoSchema } from '../../../proto/gen/holdfast/v1/records_pb.ts';
import { newDataKey, setKeyPlace, writeFirstRecord } from '../../../storage-layout/encryption/key-records.ts';
import { unlockingRing, unlockSet, unlockToValidate } from '../../../storage-layout/encryption/unlock.ts';
import type { Medium } from '../../../storage-layout/media/medium.ts';
import { withKeys } from '../../../storage-layout/media/with-keys.ts';
import { readInfo, writeOnce } from '../../../storage-layout/records/info-file.ts';
import { tree } from '../../../storage-layout/tree.ts';
import { openTestMedium, ROOT } from './support.ts';

const FULL = { tenantId: 1001n, fullSetId: 8n, setId: 8n };

/** A set of full set 8; its data key's id. */
async function beginSet(medium: Medium, setId: bigint, fileKey: Uint8Array): Promise<string> {
  const made = await newDataKey({ password: undefined, fileKey }, 1n);
  await writeFirstRecord(setKeyPlace(medium, ROOT, { ...FULL, setId }), made.record);
  return made.id;
}

async function complete(medium: Medium, setId: bigint): Promise<void> {
  const info = create(BackupInfoSchema, { backupSetId: setId });
  await writeOnce(medium, tree.backupInfo(ROOT, { ...FULL, setId }), BackupInfoSchema, info);
}

it('a set opens with its own key and those of the complete sets before it, not of one that was given up', async () => {
  await using opened = await openTestMedium();
  const { medium } = opened;
  const [ours, another] = [Uint8Array.from(randomBytes(32)), Uint8Array.from(randomBytes(32))];
  const full = await beginSet(medium, 8n, ours);
  await complete(medium, 8n);
  await beginSet(medium, 9n, another);
  const own = await beginSet(medium, 10n, ours);
  await beginSet(medium, 11n, another);
  const secrets = { passwords: [], fileKeys: [ours] };
  const set = { ...FULL, setId: 10n };
  for (const keys of [
    await unlockSet(medium, ROOT, set, secrets),
    await unlockToValidate(medium, ROOT, set, 1n, secrets),
  ])
    expect(keys.map(({ id }) => id)).toEqual([full, own]);
  expect((await unlockSet(medium, ROOT, set, secrets)).map(({ writes }) => writes)).toEqual([false, true]);
  await complete(medium, 9n); // now set 10 may have blocks of it
  await expect(unlockSet(medium, ROOT, set, secrets)).rejects.toMatchObject({
    code: 'BACKUP_INVALID_PASSWORD',
    message: 'backup set 9 is encrypted: what was given does not open it',
  });
});

it('a ring that opens what it is asked for writes and reads the sealed files of a set', async () => {
  await using opened = await openTestMedium();
  const fileKey = Uint8Array.from(randomBytes(32));
  const secrets = async () => await Promise.resolve({ passwords: [], fileKeys: [fileKey] });
  const medium = withKeys(opened.medium, unlockingRing(opened.medium, secrets));
  await beginSet(medium, 8n, fileKey);
  await beginSet(medium, 9n, fileKey);
  for (const setId of [8n, 9n]) {
    const file = tree.diagnoseInfo(ROOT, { ...FULL, setId });
    const info = create(TenantDiagnoseInfoSchema, { holdfastVersion: 'a marker' });
    await writeOnce(medium, file, TenantDiagnoseInfoSchema, info);
    expect(await readInfo(medium, file, TenantDiagnoseInfoSchema)).toEqual(info);
    expect((await opened.medium.read(file)).includes('marker')).toBe(false);
  }
});
