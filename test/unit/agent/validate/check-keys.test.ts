/** A key record that is lost or damaged is a finding: nothing else can say so any more. */
import { randomBytes } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { checkKeyRecord } from '../../../../agent/validate/check-keys.ts';
import { Findings } from '../../../../agent/validate/findings.ts';
import { EncryptionMode } from '../../../../proto/gen/holdfast/v1/records_pb.ts';
import {
  type KeyPlace,
  newDataKey,
  roundKeyPlace,
  writeFirstRecord,
} from '../../../../storage-layout/encryption/key-records.ts';
import { unlockRoundToValidate } from '../../../../storage-layout/encryption/unlock.ts';
import type { Medium } from '../../../../storage-layout/media/medium.ts';
import { openMedium } from '../../../../storage-layout/media/open.ts';
import { makeTestDirectory } from '../../../support/postgres.ts';

const ROOT = { clusterName: 'c', clusterId: 1n };
const ROUND = { tenantId: 1001n, round: 3n };
const FILE_KEY = Uint8Array.from(randomBytes(32));
const SECRETS = { passwords: [], fileKeys: [FILE_KEY] };
const { signal } = new AbortController();

let directory: string;
let medium: Medium;
let place: KeyPlace;
let file: string;

beforeEach(async () => {
  directory = await makeTestDirectory('check-keys');
  await mkdir(join(directory, 'destination'));
  medium = await openMedium(`file://${join(directory, 'destination')}`);
  place = roundKeyPlace(medium, ROOT, ROUND);
  await writeFirstRecord(place, (await newDataKey({ password: undefined, fileKey: FILE_KEY }, 1n)).record);
  file = join(directory, 'destination', place.directory, 'key_1');
});
afterEach(async () => await rm(directory, { recursive: true, force: true }));

async function check(mode: EncryptionMode) {
  const findings = new Findings();
  const isThere = await checkKeyRecord(place, mode, findings, signal);
  const none = () => ({ setIds: [], shortenedSetIds: [] });
  return { isThere, codes: findings.list(new Map(), none).map(({ code, key }) => [code, key]) };
}

test('one that is whole opens, and is no finding', async () => {
  expect(await check(EncryptionMode.KEY_FILE)).toEqual({ isThere: true, codes: [] });
  expect(await unlockRoundToValidate(medium, ROOT, ROUND, SECRETS)).toHaveLength(1);
});

test('one that is lost is named, but where nothing is encrypted', async () => {
  await rm(file);
  const key = `${place.directory}/key_1`;
  expect(await check(EncryptionMode.KEY_FILE)).toEqual({
    isThere: false,
    codes: [['BACKUP_FILE_NOT_EXIST', key]],
  });
  expect(await check(EncryptionMode.UNSPECIFIED)).toEqual({ isThere: true, codes: [] });
  expect(await unlockRoundToValidate(medium, ROOT, ROUND, SECRETS)).toEqual([]);
});

test('one that is damaged is named, and keeps nobody from looking at the rest', async () => {
  await writeFile(file, Buffer.from('no record at all'));
  expect(await check(EncryptionMode.DUAL)).toEqual({
    isThere: false,
    codes: [['DATA_CORRUPT', `${place.directory}/key_1`]],
  });
  expect(await unlockRoundToValidate(medium, ROOT, ROUND, SECRETS)).toEqual([]);
});
