import { create } from '@bufbuild/protobuf';
import { expect, it } from 'vitest';
import { toLsn, toTimeline } from '../../../foundation/lsn.ts';
import { BackupInfoSchema, BackupMetaSchema, BackupType } from '../../../proto/gen/holdfast/v1/records_pb.ts';
import { writeLogIndex } from '../../../storage-layout/clog/index.ts';
import { LogFileWriter } from '../../../storage-layout/clog/writer.ts';
import { describeFile } from '../../../storage-layout/describe.ts';
import { nameMacroBlockFile } from '../../../storage-layout/macroblock/file-name.ts';
import { writeMacroBlockIndex } from '../../../storage-layout/macroblock/index.ts';
import { MacroBlockFileWriter } from '../../../storage-layout/macroblock/writer.ts';
import { RECORD } from '../../../storage-layout/records/framing.ts';
import { writeOnce } from '../../../storage-layout/records/info-file.ts';
import { RecordFileWriter } from '../../../storage-layout/records/record-file.ts';
import { tree } from '../../../storage-layout/tree.ts';
import { GROUP, openTestMedium, ROOT, ROUND, sampleBytes } from './support.ts';

it('a backup_info is shown with positions, times and names that people read', async () => {
  await using opened = await openTestMedium();
  const key = tree.backupInfo(ROOT, { tenantId: 1001n, fullSetId: 8n, setId: 9n });
  const message = create(BackupInfoSchema, {
    tenantId: 1001n,
    tenantName: 'orders',
    type: BackupType.INCREMENTAL,
    startUs: 1_700_000_000_123_456n,
    partitionGroups: [
      {
        partitionGroup: GROUP,
        systemIdentifier: 0x6000_0000_0000_0000n,
        stop: { timeline: 1, lsn: 0x3000148n },
        files: [{ path: 'backup_9/meta_file_1', sizeBytes: 5n, sha256: Buffer.from([0xff, 1]) }],
      },
    ],
  });
  await writeOnce(opened.medium, key, BackupInfoSchema, message);
  const described = await describeFile(opened.medium, key);
  expect(described).toMatchObject({
    contents: 'backupInfo',
    path: { kind: 'backupInfo' },
    problem: undefined,
  });
  expect(described.records[0]?.value).toEqual({
    tenant_id: '1001',
    tenant_name: 'orders',
    type: 'BACKUP_TYPE_INCREMENTAL',
    start_us: '2023-11-14T22:13:20.123456Z',
    partition_groups: [
      {
        partition_group: GROUP,
        system_identifier: '6917529027641081856',
        stop: { timeline: 1, lsn: '0/3000148' },
        files: [{ path: 'backup_9/meta_file_1', size_bytes: '5', sha256: 'ff01' }],
      },
    ],
  });
  expect(JSON.parse(JSON.stringify(described.records))).toEqual(described.records);
});

it('a file copied out of its tree is described by its records alone', async () => {
  await using opened = await openTestMedium();
  const { medium } = opened;
  {
    await using writer = await RecordFileWriter.create(medium, 'copied', RECORD.backupMeta);
    await writer.appendMessage(
      BackupMetaSchema,
      create(BackupMetaSchema, { backupLabel: Buffer.from('START WAL LOCATION: 0/3000028\n') }),
    );
    await writer.close();
  }
  const described = await describeFile(medium, 'copied');
  expect(described.path).toBeUndefined();
  expect(described.contents).toBe('backupMeta');
  expect(described.records.map((record) => record.type)).toEqual(['fileHeader', 'backupMeta', 'fileEnd']);
  expect(described.records[1]?.value).toEqual({ backup_label: 'START WAL LOCATION: 0/3000028\n' });
});

it('a macroblock file and its index are described, long lists cut', async () => {
  await using opened = await openTestMedium();
  const { medium } = opened;
  const place = { fileNumber: 1, newestPageLsn: toLsn(0x16_b374d848n), pageCheckFailed: false };
  const entries = [];
  {
    await using file = await MacroBlockFileWriter.create(
      medium,
      'm',
      nameMacroBlockFile(8n, 1, GROUP),
      'zstd:1',
    );
    for (let n = 0; n < 5; n += 1)
      entries.push({
        ...(await file.append(sampleBytes(10_000), { fileNumber: 1, blockNumber: n })),
        ...place,
        blockNumber: n,
      });
    await file.close();
  }
  await writeMacroBlockIndex(medium, 'i', entries);
  const file = await describeFile(medium, 'm');
  expect(file.contents).toBe('macroBlock');
  expect(file.records).toHaveLength(8);
  expect(file.records[1]?.value).toEqual({ backup_set_id: '8', sub_task_id: 1, partition_group: GROUP });
  const index = await describeFile(medium, 'i', undefined, 2);
  expect(index.records[1]?.value).toMatchObject({
    count: 5,
    shown: [{ blockNumber: 0, newestPageLsn: '16/B374D848', setId: '8' }, { blockNumber: 1 }],
  });
});

it('a log file and its index are described, a torn tail is told', async () => {
  await using opened = await openTestMedium();
  const { medium } = opened;
  const begin = toLsn(0x3000000n);
  await using writer = await LogFileWriter.create(medium, ROOT, ROUND, GROUP, {
    fileId: 1n,
    epoch: 2n,
    timeline: toTimeline(1),
    begin,
    segmentSizeBytes: 2 ** 24,
    systemIdentifier: 1n,
    compression: 'none',
  });
  await writer.appendBlock({ begin, data: [sampleBytes(100)], lastCommitUs: 1n });
  await writer.appendCheckpoint({ lsn: writer.end, timeUs: 2n });
  await writeLogIndex(medium, ROOT, ROUND, GROUP, { ...writer.facts(), checkpoints: [], restorePoints: [] });
  const key = tree.logData(ROOT, ROUND, GROUP, 1n, 2n);
  const described = await describeFile(medium, key);
  expect(described.records.map((record) => record.type)).toEqual([
    'fileHeader',
    'logFile',
    'logBlock',
    'logCheckpoint',
  ]);
  expect(described.records[2]?.value).toEqual({
    timeline: 1,
    begin: '0/3000000',
    end: '0/3000064',
    epoch: '2',
    lastCommit: '1970-01-01T00:00:00.000001Z',
  });
  const index = await describeFile(medium, tree.logIndex(ROOT, ROUND, GROUP, 1n, 2n));
  expect(index.records[2]?.value).toMatchObject([{ begin: '0/3000000', plainBytes: 100 }]);
  await medium.replace(key, (await medium.read(key)).subarray(0, -3));
  const torn = await describeFile(medium, key);
  expect(torn.records).toHaveLength(3);
  expect(torn.problem).toMatchObject({
    code: 'DATA_CORRUPT',
    message: expect.stringContaining(key) as string,
  });
});

it('what is no file of the format is told, what is not there is an error', async () => {
  await using opened = await openTestMedium();
  await opened.medium.replace('text', Buffer.from('this is some other file altogether'));
  expect(await describeFile(opened.medium, 'text')).toMatchObject({
    records: [],
    contents: undefined,
    problem: { code: 'DATA_CORRUPT' },
  });
  await expect(describeFile(opened.medium, 'none')).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
});
