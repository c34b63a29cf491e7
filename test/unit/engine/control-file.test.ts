/** The control file's table of offsets, on a made-up file of every known version. Real ones: test/e2e/backup-copy.test.ts. */
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  CONTROL_FILE_BYTES,
  parseControlFile,
  readControlFile,
} from '../../../engine/postgres/control-file.ts';
import { crc32c } from '../../../storage-layout/crc32c.ts';
import { makeTestDirectory } from '../../support/postgres.ts';

const VERSIONS = [
  [1300, 288],
  [1700, 288],
  [1800, 292],
] as const;

describe.each(VERSIONS)('a control file of version %i', (version, crcOffset) => {
  test('is read field by field', () => {
    expect(parseControlFile(makeControlFile(version, crcOffset))).toMatchObject({
      systemIdentifier: 0x1122_3344_5566_7788n,
      controlVersion: version,
      catalogVersion: 202_406_281,
      state: 'in production',
      checkpointLsn: 0x5000_0080n,
      redoLsn: 0x5000_0028n,
      timeline: 7,
      blockSizeBytes: 8192,
      segmentPages: 131_072,
      walSegmentSizeBytes: 16 * 2 ** 20,
      pageChecksumVersion: 1,
    });
  });

  test('with any byte before its checksum turned is corrupt', () => {
    for (const at of [0, 12, 40, 143, 252, crcOffset - 1]) {
      const bytes = makeControlFile(version, crcOffset);
      bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
      expect(() => parseControlFile(bytes), String(at)).toThrow('wrong checksum');
    }
  });
});

test('a version that is not known is refused by name', () => {
  expect(() => parseControlFile(makeControlFile(1902, 296))).toThrow('version 1902');
});

test('a file that is cut short is corrupt', () => {
  expect(() => parseControlFile(Buffer.alloc(100))).toThrow('only 100 bytes');
});

describe('reading', () => {
  let directory: string;
  beforeAll(async () => {
    directory = await makeTestDirectory('control');
    await mkdir(join(directory, 'global'));
  });
  afterAll(async () => await rm(directory, { recursive: true, force: true }));

  test('goes on until the checksum holds', async () => {
    const path = join(directory, 'global/pg_control');
    const good = makeControlFile(1700, 288);
    const torn = Buffer.concat([good.subarray(0, 250), Buffer.alloc(CONTROL_FILE_BYTES - 250)]);
    await writeFile(path, torn);
    const reading = readControlFile(directory, new AbortController().signal);
    await writeFile(path, good);
    expect((await reading).equals(good)).toBe(true);
  });
});

function makeControlFile(version: number, crcOffset: number): Buffer {
  const bytes = Buffer.alloc(CONTROL_FILE_BYTES);
  bytes.writeBigUInt64LE(0x1122_3344_5566_7788n, 0);
  bytes.writeUInt32LE(version, 8);
  bytes.writeUInt32LE(202_406_281, 12);
  bytes.writeUInt32LE(6, 16);
  bytes.writeBigUInt64LE(0x5000_0080n, 32);
  bytes.writeBigUInt64LE(0x5000_0028n, 40);
  bytes.writeUInt32LE(7, 48);
  bytes.writeUInt32LE(8192, 216);
  bytes.writeUInt32LE(131_072, 220);
  bytes.writeUInt32LE(8192, 224);
  bytes.writeUInt32LE(16 * 2 ** 20, 228);
  bytes.writeUInt32LE(1, 252);
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, crcOffset)), crcOffset);
  return bytes;
}
