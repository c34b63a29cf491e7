import { create } from '@bufbuild/protobuf';
import { expect, it } from 'vitest';
import { toLsn } from '../../../foundation/lsn.ts';
import { SubTaskIndexInfoSchema } from '../../../proto/gen/holdfast/v1/records_pb.ts';
import type { MacroBlockEntry } from '../../../storage-layout/macroblock/entry.ts';
import { EntryStream } from '../../../storage-layout/macroblock/entry-stream.ts';
import {
  readSubTaskIndexChunks,
  readSubTaskIndexHead,
  writeSubTaskIndex,
} from '../../../storage-layout/macroblock/sub-task-index.ts';
import { openTestMedium, overriding } from './support.ts';

const INFO = create(SubTaskIndexInfoSchema, {
  backupSetId: 9n,
  subTaskId: 3,
  partitionGroup: 'orders_0',
  retry: 1,
  previousSetId: 8n,
  start: { timeline: 1, lsn: 0x5000028n },
  systemIdentifier: 7n,
  postgresMajor: 17,
  blockSizeBytes: 8192,
  segmentSizeBytes: 16_777_216,
  pageChecksumVersion: 1,
});

function entry(fileNumber: number, blockNumber: number): MacroBlockEntry {
  return {
    setId: 9n,
    subTaskId: 3,
    offset: blockNumber * 1000,
    storedBytes: 1000,
    crc32c: blockNumber,
    compression: 'zstd',
    fileNumber,
    blockNumber,
    plainBytes: 8192,
    newestPageLsn: toLsn(BigInt(blockNumber)),
    pageCheckFailed: false,
  };
}

it.each([0, 1, 16, 17, 9000])('%i entries are read back, with files, ends and facts', async (count) => {
  await using opened = await openTestMedium();
  const { medium } = opened;
  const entries = Array.from({ length: count }, (_, n) => entry(4, n));
  const files = Array.from({ length: count === 0 ? 0 : 2500 }, (_, n) => ({
    fileNumber: n + 1,
    path: `base/5/${n}`,
  }));
  await writeSubTaskIndex(medium, 'i', INFO, files, entries);
  const head = await readSubTaskIndexHead(medium, 'i');
  expect(head.info).toEqual(INFO);
  expect(head.files).toEqual(files);
  expect(head.first).toEqual(count === 0 ? undefined : { fileNumber: 4, blockNumber: 0 });
  expect(head.last).toEqual(count === 0 ? undefined : { fileNumber: 4, blockNumber: count - 1 });
  const stream = new EntryStream(readSubTaskIndexChunks(medium, 'i'));
  for (const each of entries) expect(await stream.find(4, each.blockNumber)).toEqual(each);
  expect(await stream.peek()).toBeUndefined();
  await expect(writeSubTaskIndex(medium, 'i', INFO, files, entries)).rejects.toMatchObject({
    code: 'FILE_EXISTS',
  });
});

it('one that was cut anywhere, or in which a byte is wrong, is refused', async () => {
  await using opened = await openTestMedium();
  const { medium } = opened;
  await writeSubTaskIndex(
    medium,
    'i',
    INFO,
    [{ fileNumber: 4, path: 'base/5/1' }],
    [entry(4, 0), entry(4, 1)],
  );
  const bytes = await medium.read('i');
  const read = async (content: Buffer) =>
    await readSubTaskIndexHead(
      overriding(medium, { readRange: async (_, begin, end) => content.subarray(begin, end) }),
      'i',
    );
  const refused = { code: expect.stringMatching(/^(DATA_CORRUPT|FORMAT_UNKNOWN)$/) };
  for (let end = 0; end < bytes.length; end += 1)
    await expect(read(bytes.subarray(0, end)), `cut at ${end}`).rejects.toMatchObject(refused);
  for (let at = 0; at < bytes.length; at += 1) {
    const wrong = Buffer.from(bytes);
    wrong[at] = (wrong[at] ?? 0) ^ 0x10;
    await expect(read(wrong), `byte ${at}`).rejects.toMatchObject(refused);
  }
});
