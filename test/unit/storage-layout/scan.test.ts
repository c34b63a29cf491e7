/** Log files without an index: what of them counts. */
import { appendFile, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { toLsn, toTimeline } from '../../../foundation/lsn.ts';
import { scanLogFile } from '../../../storage-layout/clog/scan.ts';
import { LogFileWriter } from '../../../storage-layout/clog/writer.ts';
import { tree } from '../../../storage-layout/tree.ts';
import { GROUP, openTestMedium, ROOT, ROUND, sampleBytes } from './support.ts';

const KEY = tree.logData(ROOT, ROUND, GROUP, 1n, 1n);
const BEGIN = toLsn(0x1000000n);

test.each([0, 1])('a beginning that stands there twice ends a log file of %d blocks', async (blocks) => {
  await using place = await openTestMedium();
  const { medium, directory } = place;
  await using writer = await LogFileWriter.create(medium, ROOT, ROUND, GROUP, {
    fileId: 1n,
    epoch: 1n,
    timeline: toTimeline(1),
    begin: BEGIN,
    segmentSizeBytes: 16 * 2 ** 20,
    systemIdentifier: 42n,
    compression: 'zstd:1',
  });
  const path = join(directory, KEY);
  const beginning = await readFile(path);
  if (blocks > 0)
    await writer.appendBlock({
      begin: BEGIN,
      data: [sampleBytes(1000)],
      firstCommitUs: undefined,
      lastCommitUs: undefined,
    });
  const { size } = await stat(path);
  await appendFile(path, beginning);
  const { facts, ignored } = await scanLogFile(medium, KEY);
  expect(facts).toMatchObject({ acceptedBytes: size, blocks: { length: blocks } });
  expect(ignored).toMatchObject({ offset: size, reason: expect.stringContaining('once more') });
});
