/** What stands between an agent's result and a published backup set. */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { insertJob, insertTask } from '../../../coordinator/catalog/jobs.ts';
import { openPgliteCatalog } from '../../../coordinator/catalog/pglite.ts';
import { checkFilesAreThere } from '../../../coordinator/destination/described-files.ts';
import { writeOnceOrRead } from '../../../coordinator/destination/write-once.ts';
import {
  FileDigestSchema,
  MountFileSchema,
  type PartitionGroupBackup,
  PartitionGroupBackupSchema,
} from '../../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../../../storage-layout/media/medium.ts';
import { openMedium } from '../../../storage-layout/media/open.ts';
import { tree } from '../../../storage-layout/tree.ts';
import { FaultyMedium } from '../../support/faulty-medium.ts';
import { makeTestDirectory } from '../../support/postgres.ts';

const ROOT = { clusterName: 'c', clusterId: 1n };
const SET = { tenantId: 1001n, fullSetId: 9n, setId: 9n };
const { signal } = new AbortController();

let directory: string;
let medium: Medium;

beforeEach(async () => {
  directory = await makeTestDirectory('publish');
  await mkdir(join(directory, 'destination'));
  medium = await openMedium(`file://${join(directory, 'destination')}`);
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

async function reported(set = SET, taskId = 1, retry = 0): Promise<PartitionGroupBackup> {
  const keys = [
    tree.metaFile(ROOT, set, taskId),
    tree.metaIndexFile(ROOT, set, taskId),
    tree.macroBlockIndex(ROOT, set, 'p0', retry),
  ];
  for (const key of keys) await medium.createExclusive(key, Buffer.from('four'));
  const above = `${tree.backupSetDirectory(ROOT, set.tenantId, set.fullSetId)}/`;
  const files = keys.map((key) => ({ path: key.slice(above.length), sizeBytes: 4n }));
  return create(PartitionGroupBackupSchema, { partitionGroup: 'p0', taskId, files });
}

function check(backup: PartitionGroupBackup): Promise<void> {
  return checkFilesAreThere(medium, ROOT, SET, backup, signal);
}

describe('a reported backup is published only with its own files', () => {
  test('of any attempt', async () => {
    await check(await reported());
    await check(await reported(SET, 10_001, 1));
  });

  test('not with those of another set, another attempt, or a path that leads elsewhere', async () => {
    const other = await reported({ ...SET, fullSetId: 8n, setId: 8n });
    await expect(check(other)).rejects.toMatchObject({ code: 'BACKUP_FAILED' });
    const own = await reported();
    await reported(SET, 10_001, 1);
    await expect(check({ ...own, taskId: 10_001 })).rejects.toMatchObject({ code: 'BACKUP_FAILED' });
    const [first, ...rest] = own.files;
    const path = `../backup_set_8/${first?.path}`;
    const led = { ...own, files: [create(FileDigestSchema, { path, sizeBytes: 4n }), ...rest] };
    await expect(check(led)).rejects.toMatchObject({ code: 'BACKUP_FAILED' });
  });

  test('not with one missing, short, unnamed or named twice', async () => {
    const own = await reported();
    const [first, ...rest] = own.files;
    await expect(check({ ...own, files: rest })).rejects.toMatchObject({ code: 'BACKUP_FAILED' });
    await expect(check({ ...own, files: [...own.files, ...rest] })).rejects.toThrow('it names');
    const file = create(FileDigestSchema, { path: first?.path ?? '', sizeBytes: 5n });
    const longer = { ...own, files: [file, ...rest] };
    await expect(check(longer)).rejects.toThrow('has 4 bytes, it says 5');
    await medium.deleteMany([tree.metaFile(ROOT, SET, 1)]);
    await expect(check(own)).rejects.toThrow('is not at the destination');
  });
});

test('a write-once file whose first try failed behind the write is made durable before it counts', async () => {
  const calls: string[] = [];
  const store = new FaultyMedium(medium, {
    next(call) {
      calls.push(call);
      return calls.length === 1 ? { fault: 'failAfter', delayMs: 0 } : undefined;
    },
  });
  const key = tree.mountFile(ROOT, { tenantId: 1001n, round: 1n });
  const [mine, later] = [1n, 2n].map((createdUs) => create(MountFileSchema, { round: 1n, createdUs }));
  const write = (message = mine) =>
    writeOnceOrRead(store, key, MountFileSchema, message ?? create(MountFileSchema), signal);
  await expect(write()).rejects.toMatchObject({ code: 'DESTINATION_IO' });
  expect(await write(later)).toMatchObject({ createdUs: 1n });
  expect(calls).toEqual(['createExclusive', 'createExclusive', 'makeDurable', 'read']);
});

test('task ids of a catalog that has lost its last minutes are not given again', async () => {
  const taskId = async (nowUs: bigint) => {
    const { catalog } = await openPgliteCatalog(undefined, 'test', nowUs);
    await using _held = catalog;
    const job = { kind: 'BACKUP', tenantId: 1n, tenantName: 't', state: 'PREPARE', spec: {}, nowUs } as const;
    return await catalog.transaction(async (tx) => {
      const jobId = await insertJob(tx, job);
      const ids: bigint[] = [];
      const task = { jobId, kind: 'BACKUP', tenantId: 1n, partitionGroup: 'p0', spec: {}, nowUs } as const;
      for (let n = 0; n < 50; n += 1) ids.push(await insertTask(tx, task));
      return ids;
    });
  };
  const [before, after] = [await taskId(1_800_000_000_000_000n), await taskId(1_800_000_001_000_000n)];
  expect(after[0]).toBeGreaterThan(before.at(-1) ?? 0n);
});
