import { createHash } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { expect, it } from 'vitest';
import {
  BackupInfoSchema,
  DataBackupInfoListSchema,
  MountFileSchema,
} from '../../../proto/gen/holdfast/v1/records_pb.ts';
import { RECORD } from '../../../storage-layout/records/framing.ts';
import {
  readBytes,
  readInfo,
  readInfoIfThere,
  replaceSummary,
  writeBytesOnce,
  writeOnce,
} from '../../../storage-layout/records/info-file.ts';
import {
  type FileFacts,
  RecordFileWriter,
  readRecordFile,
} from '../../../storage-layout/records/record-file.ts';
import { collect, openTestMedium, sampleBytes } from './support.ts';

it('a write-once file is written once and read back', async () => {
  await using opened = await openTestMedium();
  const { medium } = opened;
  const message = create(BackupInfoSchema, { tenantId: 1001n, backupSetId: 9n, tenantName: 'orders' });
  await writeOnce(medium, 'x/backup_info', BackupInfoSchema, message);
  expect(await readInfo(medium, 'x/backup_info', BackupInfoSchema)).toEqual(message);
  await expect(writeOnce(medium, 'x/backup_info', BackupInfoSchema, message)).rejects.toMatchObject({
    code: 'FILE_EXISTS',
  });
});

it('a summary is replaced, also when it is long enough to be compressed', async () => {
  await using opened = await openTestMedium();
  const { medium } = opened;
  for (const count of [1, 500]) {
    const backups = Array.from({ length: count }, (_, n) => ({
      backupSetId: BigInt(n),
      tenantName: 'orders',
    }));
    const message = create(DataBackupInfoListSchema, { backups });
    await replaceSummary(medium, 's', DataBackupInfoListSchema, message);
    expect(await readInfo(medium, 's', DataBackupInfoListSchema)).toEqual(message);
  }
  expect((await medium.stat('s'))?.sizeBytes).toBeLessThan(4096);
});

it('a missing file is undefined or FILE_NOT_FOUND, as asked', async () => {
  await using opened = await openTestMedium();
  expect(await readInfoIfThere(opened.medium, 'none', MountFileSchema)).toBeUndefined();
  await expect(readInfo(opened.medium, 'none', MountFileSchema)).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
  });
});

it('a file of another kind, with more behind it, or with damage is DATA_CORRUPT', async () => {
  await using opened = await openTestMedium();
  const { medium } = opened;
  await writeOnce(medium, 'f', MountFileSchema, create(MountFileSchema, { round: 1n }));
  await expect(readInfo(medium, 'f', BackupInfoSchema)).rejects.toThrow(/mountFile.*backupInfo/);
  const bytes = await medium.read('f');
  await medium.replace('f', Buffer.concat([bytes, Buffer.from('x')]));
  await expect(readInfo(medium, 'f', MountFileSchema)).rejects.toMatchObject({ code: 'DATA_CORRUPT' });
  await medium.replace('f', bytes.subarray(0, -1));
  await expect(readInfoIfThere(medium, 'f', MountFileSchema)).rejects.toMatchObject({ code: 'DATA_CORRUPT' });
  await writeBytesOnce(medium, 'm', RECORD.mountFile, Buffer.from([0xff, 0xff]));
  await expect(readInfo(medium, 'm', MountFileSchema)).rejects.toThrow(/holdfast\.v1\.MountFile/);
});

it('bytes that are no message are kept as they are', async () => {
  await using opened = await openTestMedium();
  await writeBytesOnce(opened.medium, 'h', RECORD.timelineHistory, Buffer.from('1\t0/3000000\tx\n'));
  expect((await readBytes(opened.medium, 'h', RECORD.timelineHistory)).toString()).toBe('1\t0/3000000\tx\n');
});

it('a record file gives back its records, their places and its digest', async () => {
  await using opened = await openTestMedium();
  const { medium } = opened;
  const payloads = [0, 5, 600, 1_000_000, 2_500_000, 1].map((size, n) => sampleBytes(size, n + 1));
  const places = [];
  let facts: FileFacts;
  {
    await using writer = await RecordFileWriter.create(medium, 'f', RECORD.fileList);
    for (const payload of payloads) places.push(await writer.append(RECORD.fileList, payload));
    facts = await writer.close();
  }
  const records = await collect(readRecordFile(medium, 'f', RECORD.fileList));
  expect(records.map((record) => record.offset)).toEqual(places.map((place) => place.offset));
  for (const [n, record] of records.entries())
    expect(record.payload.equals(payloads[n] ?? Buffer.alloc(0))).toBe(true);
  const bytes = await medium.read('f');
  expect(BigInt(bytes.length)).toBe(facts.sizeBytes);
  expect(createHash('sha256').update(bytes).digest()).toEqual(facts.sha256);
  await expect(collect(readRecordFile(medium, 'f', RECORD.backupMeta))).rejects.toThrow(
    /fileList.*backupMeta/,
  );
});

it('a record file cut at any offset, or with anything behind its end mark, is DATA_CORRUPT', async () => {
  await using opened = await openTestMedium();
  const { medium } = opened;
  {
    await using writer = await RecordFileWriter.create(medium, 'f', RECORD.fileList);
    await writer.append(RECORD.fileList, Buffer.from('one'));
    await writer.append(RECORD.fileList, Buffer.from('two'));
    await writer.close();
  }
  const bytes = await medium.read('f');
  for (let length = 0; length <= bytes.length + 1; length += 1) {
    if (length === bytes.length) continue;
    await medium.replace('f', Buffer.concat([bytes, bytes]).subarray(0, length));
    await expect(collect(readRecordFile(medium, 'f', RECORD.fileList))).rejects.toMatchObject({
      code: 'DATA_CORRUPT',
    });
  }
});
