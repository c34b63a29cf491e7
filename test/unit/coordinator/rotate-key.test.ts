/** ROTATE BACKUP KEY at a whole coordinator, over key records that are wrapped in every way. */
import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { rotateBackupKey } from '../../../coordinator/commands/rotate-key.ts';
import { createSession } from '../../../coordinator/sql/session.ts';
import {
  type KeyPlace,
  newDataKey,
  roundKeyPlace,
  setKeyPlace,
  writeFirstRecord,
} from '../../../storage-layout/encryption/key-records.ts';
import type { Wrappers } from '../../../storage-layout/encryption/wrapping.ts';
import { openMedium } from '../../../storage-layout/media/open.ts';
import type { CoordinatorInTest } from '../../support/coordinator-in-test.ts';
import { startTenant, type TenantInTest } from '../../support/tenant-in-test.ts';

const { signal } = new AbortController();
const ROOT = { clusterName: 'c', clusterId: 1n };
const TENANT = 1001n;
const TIMEOUT_MS = 120_000;

let tenant: TenantInTest | undefined;
let directory: string;
let coordinator: CoordinatorInTest;

beforeAll(async () => {
  tenant = await startTenant('rotate', { archives: false });
  ({ directory, coordinator } = tenant);
}, TIMEOUT_MS);

afterAll(async () => await tenant?.[Symbol.asyncDispose]());

/** What the statement tells. */
async function rotate(
  keyFile: string | undefined,
  passwords: { readonly old: readonly string[]; readonly new?: string },
): Promise<readonly string[]> {
  const session = createSession('root');
  session.decryptionPasswords = passwords.old;
  session.encryption = passwords.new === undefined ? undefined : { password: passwords.new, only: false };
  const told: string[] = [];
  const statement = { kind: 'rotateBackupKey', tenants: 'all' } as const;
  const context = { ...coordinator.context, keyFile };
  for await (const event of rotateBackupKey(context, statement, session, signal))
    if (event.kind === 'notice') told.push(event.message);
  return told;
}

test(
  'ROTATE BACKUP KEY names the sets and rounds that it did not renew, and those that still open as before',
  async () => {
    const keyFile = join(directory, 'backup.key');
    const fileKey = Uint8Array.from(randomBytes(32));
    await writeFile(keyFile, `${Buffer.from(fileKey).toString('hex')}\n`, { mode: 0o600 });
    await using medium = await openMedium(`file://${directory}/dest`);
    const set = (setId: bigint) => setKeyPlace(medium, ROOT, { tenantId: TENANT, fullSetId: setId, setId });
    const places: readonly (readonly [KeyPlace, Wrappers])[] = [
      [set(1n), { password: undefined, fileKey }],
      [set(2n), { password: 'old', fileKey: undefined }],
      [set(3n), { password: 'old', fileKey }],
      [set(4n), { password: 'lost', fileKey: undefined }],
      [roundKeyPlace(medium, ROOT, { tenantId: TENANT, round: 1n }), { password: undefined, fileKey }],
    ];
    for (const [place, wrappers] of places)
      await writeFirstRecord(place, (await newDataKey(wrappers, 1n)).record);
    expect(await rotate(keyFile, { old: ['old'] })).toEqual([
      'keys of tenant "orders" wrapped anew: 3; unchanged: 1; not opened: 1',
      'not wrapped anew, because nothing given opens them: backup set 4',
      'not wrapped anew, because they open with a password and the session gives no new one: backup set 2',
      'the old password still opens them, because the session gives no new one: backup set 3',
    ]);
    const [event] = (await coordinator.view('cdb_ob_event_history')).filter(
      (each) => each['event'] === 'backup_key_rotated',
    );
    expect(JSON.stringify(event)).toContain('3 backup keys of tenant');
    expect(JSON.stringify(event)).toContain('WARNING');
    expect(await rotate(undefined, { old: ['old'], new: 'new' })).toEqual([
      'keys of tenant "orders" wrapped anew: 2; unchanged: 0; not opened: 3',
      'not wrapped anew, because nothing given opens them: backup set 1, backup set 4, archive round 1',
      'their key of a key file still opens them, because none is configured: backup set 3',
    ]);
    expect(await rotate(keyFile, { old: ['new', 'lost'], new: 'newest' })).toEqual([
      'keys of tenant "orders" wrapped anew: 5; unchanged: 0; not opened: 0',
    ]);
  },
  TIMEOUT_MS,
);
