/** What a restore believes of a set whose files have the right digests: a destination may be hostile. */
import { createHash } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { StoredDataFile } from '../../../../agent/backup/gather.ts';
import { writeMetaFiles } from '../../../../agent/backup/meta-files.ts';
import { openSourceSet, readFileBlocks } from '../../../../agent/restore/backup-set.ts';
import { toLsn } from '../../../../foundation/lsn.ts';
import {
  BackupInfoSchema,
  BackupMetaSchema,
  FileDigestSchema,
} from '../../../../proto/gen/holdfast/v1/records_pb.ts';
import { MACROBLOCK_BYTES, type MacroBlockEntry } from '../../../../storage-layout/macroblock/entry.ts';
import { writeMacroBlockIndex } from '../../../../storage-layout/macroblock/index.ts';
import type { Medium } from '../../../../storage-layout/media/medium.ts';
import { openMedium } from '../../../../storage-layout/media/open.ts';
import { writeOnce } from '../../../../storage-layout/records/info-file.ts';
import { tree } from '../../../../storage-layout/tree.ts';
import { makeTestDirectory } from '../../../support/postgres.ts';

const ROOT = { clusterName: 'c', clusterId: 1n };
const SET = { tenantId: 1001n, fullSetId: 1n, setId: 1n };
const { signal } = new AbortController();

let directory: string;
let medium: Medium;

beforeEach(async () => {
  directory = await makeTestDirectory('hostile');
  await mkdir(join(directory, 'destination'));
  medium = await openMedium(`file://${join(directory, 'destination')}`);
});
afterEach(async () => await rm(directory, { recursive: true, force: true }));

function file(fileNumber: number, path: string, storedBytes: number): StoredDataFile {
  const blockCount = Math.ceil(storedBytes / MACROBLOCK_BYTES);
  const kind = path === 'global/pg_control' ? 'control' : 'main';
  const listed = { absolutePath: '', kind, sizeBytes: storedBytes, mode: 0o600, modifiedMs: 0 } as const;
  return { ...listed, fileNumber, path, storedBytes, blockCount, crc32c: 0 };
}

function block(fileNumber: number, blockNumber: number, plainBytes: number): MacroBlockEntry {
  const place = { setId: 1n, subTaskId: 1, offset: 106, storedBytes: plainBytes + 32, crc32c: 0 };
  const facts = { newestPageLsn: toLsn(0n), pageCheckFailed: false, compression: 'none' } as const;
  return { ...place, ...facts, fileNumber, blockNumber, plainBytes };
}

const CONTROL = file(9, 'global/pg_control', 8192);
const CONTROL_BLOCK = block(9, 0, 8192);

/** Publishes a set with these lists and reads it as a restore does; the paths, with how many blocks each. */
async function readBack(
  files: readonly StoredDataFile[],
  entries: readonly MacroBlockEntry[],
): Promise<string[]> {
  const indexKey = tree.macroBlockIndex(ROOT, SET, 'p0', 0);
  await writeMacroBlockIndex(medium, indexKey, entries, signal);
  const content = { meta: create(BackupMetaSchema), files, directories: [] };
  await writeMetaFiles(medium, ROOT, SET, 1, content, signal);
  const keys = [indexKey, tree.metaFile(ROOT, SET, 1), tree.metaIndexFile(ROOT, SET, 1)];
  const above = `${tree.backupSetDirectory(ROOT, SET.tenantId, SET.fullSetId)}/`;
  const digests = keys.map(async (key) => {
    const bytes = await medium.read(key);
    const sha256 = createHash('sha256').update(bytes).digest();
    return create(FileDigestSchema, {
      path: key.slice(above.length),
      sizeBytes: BigInt(bytes.length),
      sha256,
    });
  });
  const info = create(BackupInfoSchema, {
    partitionGroups: [{ partitionGroup: 'p0', files: await Promise.all(digests) }],
  });
  await writeOnce(medium, tree.backupInfo(ROOT, SET), BackupInfoSchema, info, signal);
  const source = await openSourceSet(medium, ROOT, SET, 'p0', signal);
  const found: string[] = [];
  for await (const part of readFileBlocks(source, signal))
    found.push(`${part.file.path} ${part.blocks.length}`);
  return found;
}

describe('the file list and the block index', () => {
  test('agree when every byte of every file has its block', async () => {
    const files = [file(1, 'base/5/1', 2 * MACROBLOCK_BYTES + 10), file(2, 'base/5/2', 0), CONTROL];
    const whole = [block(1, 0, MACROBLOCK_BYTES), block(1, 1, MACROBLOCK_BYTES), block(1, 2, 10)];
    expect(await readBack(files, [...whole, CONTROL_BLOCK])).toEqual([
      'base/5/1 3',
      'base/5/2 0',
      'global/pg_control 1',
    ]);
  });

  test.each<[string, StoredDataFile[], MacroBlockEntry[]]>([
    ['a hole', [file(1, 'base/5/1', MACROBLOCK_BYTES + 5)], [block(1, 1, 5)]],
    ['a file without its blocks', [{ ...file(1, 'base/5/1', 8192), blockCount: 0 }], []],
    ['a file of an absurd size', [{ ...file(1, 'base/5/1', 2 ** 52), blockCount: 0 }], []],
    ['a short block', [file(1, 'base/5/1', 2 * 8192)], [block(1, 0, 8192)]],
    ['a block behind the end', [file(1, 'base/5/1', 8192)], [block(1, 0, 8192), block(1, 1, 8192)]],
    ['a block that is too long', [file(1, 'base/5/1', 8192)], [block(1, 0, 8193)]],
    ['a block of no file', [file(2, 'base/5/2', 8192)], [block(1, 0, 8192), block(2, 0, 8192)]],
    [
      'a block of gigabytes as stored',
      [file(1, 'base/5/1', 8192)],
      [{ ...block(1, 0, 8192), storedBytes: 2 ** 31 }],
    ],
    ['a file number twice', [file(1, 'base/5/1', 0), file(1, 'base/5/2', 0)], []],
    ['a second control file', [{ ...file(1, 'global/pg_control', 0), kind: 'other' }], []],
    ['a control file elsewhere', [{ ...file(1, 'base/5/1', 0), kind: 'control' }], []],
    ['a path that leads out', [file(1, 'pg_tblspc/1/../../../x', 0)], []],
    ['a name of the restore', [file(1, 'HOLDFAST_RESTORE_INCOMPLETE', 0)], []],
  ])('are refused with %s', async (_, files, entries) => {
    await expect(readBack([...files, CONTROL], [...entries, CONTROL_BLOCK])).rejects.toMatchObject({
      code: 'DATA_CORRUPT',
    });
  });
});
