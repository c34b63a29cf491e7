import { randomBytes } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { describe, expect, it } from 'vitest';
import { TenantDiagnoseInfoSchema } from '../../../proto/gen/holdfast/v1/records_pb.ts';
import { type DataKey, ringOf } from '../../../storage-layout/encryption/key-ring.ts';
import type { Medium } from '../../../storage-layout/media/medium.ts';
import { withKeys } from '../../../storage-layout/media/with-keys.ts';
import { RECORD } from '../../../storage-layout/records/framing.ts';
import { readBytes, readInfo, writeBytesOnce, writeOnce } from '../../../storage-layout/records/info-file.ts';
import { openTestMedium, overriding } from './support.ts';

const HISTORY = Buffer.from('1\t0/3000148\tat restore point "a marker that nobody may find"\n');

function keyed(medium: Medium, directory: string): Medium {
  const key: DataKey = {
    directory,
    id: randomBytes(16).toString('hex'),
    key: Uint8Array.from(randomBytes(32)),
    writes: true,
  };
  return withKeys(medium, ringOf([key]));
}

const read = async (medium: Medium) => await readBytes(medium, 'r/h', RECORD.timelineHistory);

describe('a timeline history where files are encrypted', () => {
  it('is given back to whoever has the key, and shows nothing', async () => {
    await using opened = await openTestMedium();
    const medium = keyed(opened.medium, 'r');
    await writeBytesOnce(medium, 'r/h', RECORD.timelineHistory, HISTORY);
    expect(await read(medium)).toEqual(HISTORY);
    expect((await opened.medium.read('r/h')).includes('marker')).toBe(false);
    await expect(read(opened.medium)).rejects.toMatchObject({ code: 'BACKUP_INVALID_PASSWORD' });
    await expect(read(keyed(opened.medium, 'r'))).rejects.toMatchObject({ code: 'DATA_CORRUPT' });
  });

  it('has every flipped byte, every cut, and a plain one in its place detected', async () => {
    await using opened = await openTestMedium();
    const medium = keyed(opened.medium, 'r');
    await writeBytesOnce(medium, 'r/h', RECORD.timelineHistory, HISTORY);
    const whole = await opened.medium.read('r/h');
    await writeBytesOnce(opened.medium, 'plain', RECORD.timelineHistory, HISTORY);
    const damaged = [await opened.medium.read('plain'), Buffer.concat([whole, Buffer.from([0])])];
    for (let at = 0; at < whole.length; at += 1) {
      const flipped = Buffer.from(whole);
      flipped.writeUInt8(flipped.readUInt8(at) ^ 0x20, at);
      damaged.push(flipped, whole.subarray(0, at));
    }
    for (const bytes of damaged) {
      const seen = overriding(medium, { read: async () => await Promise.resolve(bytes) });
      await expect(read(seen)).rejects.toMatchObject({
        code: expect.stringMatching(/DATA_CORRUPT|FORMAT_UNKNOWN/) as string,
      });
    }
  });
});

it("a set's settings are encrypted where its files are", async () => {
  await using opened = await openTestMedium();
  const medium = keyed(opened.medium, 's');
  const info = create(TenantDiagnoseInfoSchema, { settings: [{ name: 'marker', value: 'marker' }] });
  await writeOnce(medium, 's/d', TenantDiagnoseInfoSchema, info);
  expect(await readInfo(medium, 's/d', TenantDiagnoseInfoSchema)).toEqual(info);
  expect((await opened.medium.read('s/d')).includes('marker')).toBe(false);
});
