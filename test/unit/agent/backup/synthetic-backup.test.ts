/** A synthetic full of a hand-made set: what becomes of its files and blocks, and what it is refused for. */
import { createHash } from 'node:crypto';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { StoredDataFile } from '../../../../agent/backup/gather.ts';
import { writeMetaFiles } from '../../../../agent/backup/meta-files.ts';
import { runBackupTask } from '../../../../agent/backup/run-backup-task.ts';
import {
  openSourceSet,
  readBackupMeta,
  readFileBlocks,
  readFiles,
} from '../../../../agent/restore/backup-set.ts';
import { keyMessages } from '../../../../coordinator/encryption/keys.ts';
import { toLsn } from '../../../../foundation/lsn.ts';
import { type BackupTask, BackupTaskSchema } from '../../../../proto/gen/holdfast/v1/agent_pb.ts';
import {
  BackupInfoSchema,
  BackupMetaSchema,
  FileDigestSchema,
  LogPositionSchema,
  type PartitionGroupBackup,
} from '../../../../proto/gen/holdfast/v1/records_pb.ts';
import { crc32c } from '../../../../storage-layout/crc32c.ts';
import { type DataKey, readFileCipher } from '../../../../storage-layout/encryption/key-ring.ts';
import { isStoredWhole } from '../../../../storage-layout/macroblock/delta.ts';
import { MACROBLOCK_BYTES, type MacroBlockEntry } from '../../../../storage-layout/macroblock/entry.ts';
import { nameMacroBlockFile } from '../../../../storage-layout/macroblock/file-name.ts';
import { writeMacroBlockIndex } from '../../../../storage-layout/macroblock/index.ts';
import { addPages, emptyPageMap } from '../../../../storage-layout/macroblock/page-map.ts';
import { decodeMacroBlock } from '../../../../storage-layout/macroblock/reader.ts';
import { MacroBlockFileWriter } from '../../../../storage-layout/macroblock/writer.ts';
import type { Medium } from '../../../../storage-layout/media/medium.ts';
import { openMedium } from '../../../../storage-layout/media/open.ts';
import { withDataKeys } from '../../../../storage-layout/media/with-keys.ts';
import { decodeFileHeader, decodeRecord } from '../../../../storage-layout/records/framing.ts';
import { writeOnce } from '../../../../storage-layout/records/info-file.ts';
import { tree } from '../../../../storage-layout/tree.ts';
import { taskContext } from '../../../support/backup-task.ts';
import { damage } from '../../../support/damage.ts';
import { makeTestDirectory } from '../../../support/postgres.ts';

const ROOT = { clusterName: 'c', clusterId: 1n };
const SOURCE = { tenantId: 1001n, fullSetId: 1n, setId: 2n };
const TARGET = { tenantId: 1001n, fullSetId: 3n, setId: 3n };
const LABEL = Buffer.from('START WAL LOCATION: 0/2000 (file 000000010000000000000000)\n');
const { signal } = new AbortController();

let directory: string;
let medium: Medium;
/** Of the task; none: it knows nothing encrypted. */
let keys: readonly DataKey[];
/** What the set restores, by path. */
let wanted: Map<string, Buffer>;

beforeEach(async () => {
  directory = await makeTestDirectory('synthetic-files');
  await mkdir(join(directory, 'destination'));
  medium = await openMedium(`file://${join(directory, 'destination')}`);
  keys = [];
});
afterEach(async () => await rm(directory, { recursive: true, force: true }));

/** Pages that compress badly, each with position `lsn`. */
function pages(count: number, lsn: number): Buffer {
  const bytes = Buffer.alloc(count * 8192);
  for (let at = 0; at < bytes.length; at += 4) bytes.writeUInt32LE(((at + lsn) * 2_654_435_761) >>> 0, at);
  for (let page = 0; page < bytes.length; page += 8192) {
    bytes.fill(0, page, page + 24);
    bytes.writeUInt32LE(lsn, page + 4);
    bytes.writeUInt16LE(24, page + 12);
    bytes.writeUInt16LE(8192, page + 14);
    bytes.writeUInt16LE(8192, page + 16);
    bytes.writeUInt16LE(8192 + 4, page + 18);
  }
  return bytes;
}

const position = (lsn: bigint) => create(LogPositionSchema, { timeline: 1, lsn });

type Written = Omit<MacroBlockEntry, 'fileNumber' | 'blockNumber' | 'newestPageLsn' | 'pageCheckFailed'>;

/** `blocks`: each with the numbers of its file and of itself. */
async function writeFileOf(
  setId: bigint,
  subTaskId: number,
  blocks: readonly (readonly [number, number, Buffer])[],
): Promise<Written[]> {
  const key = tree.macroBlock(ROOT, { ...SOURCE, setId }, 'p0', subTaskId);
  const name = nameMacroBlockFile(setId, subTaskId, 'p0');
  await using writer = await MacroBlockFileWriter.create(medium, key, name, 'zstd:1');
  const written: Written[] = [];
  for (const [fileNumber, blockNumber, block] of blocks)
    written.push(await writer.append(block, { fileNumber, blockNumber }));
  await writer.close();
  return written;
}

/**
 * Full set 1 in two macroblock files, the second of them mostly dead; increment 2 with a delta, a block that was cut and one
 * that is new.
 */
async function publishSource(
  more: Partial<Omit<PartitionGroupBackup, '$typeName' | '$unknown'>> = {},
  failed = false,
): Promise<void> {
  const table = [pages(256, 0x1000), pages(256, 0x1100), pages(256, 0x1200)];
  const [cut, text] = [pages(200, 0x1300), Buffer.from('port = 1\n')];
  const live = await writeFileOf(1n, 1, [
    [1, 0, table[0] ?? text],
    [1, 1, table[1] ?? text],
    [3, 0, text],
  ]);
  const old = await writeFileOf(1n, 2, [
    [1, 0, pages(256, 0x1050)],
    [1, 2, table[2] ?? text],
    [1, 1, pages(256, 0x1060)],
    [2, 0, cut],
  ]);
  const changed = pages(3, 0x1900);
  const control = pages(1, 0x1950);
  const own = await writeFileOf(2n, 1, [
    [1, 2, changed],
    [4, 0, control],
  ]);
  const map = emptyPageMap();
  addPages(map, 10, 13);
  const merged = Buffer.from(table[2] ?? text);
  changed.copy(merged, 10 * 8192);
  wanted = new Map([
    ['base/5/16384', Buffer.concat([...table.slice(0, 2), merged])],
    ['base/5/16385', cut.subarray(0, 100 * 8192)],
    ['postgresql.conf', text],
    ['global/pg_control', control],
  ]);
  const at = (
    written: Written | undefined,
    fileNumber: number,
    blockNumber: number,
    lsn: number,
  ): MacroBlockEntry => {
    if (written === undefined) throw new Error('a block that was not written');
    return {
      ...written,
      fileNumber,
      blockNumber,
      newestPageLsn: toLsn(BigInt(lsn)),
      pageCheckFailed: failed,
    };
  };
  const entries: MacroBlockEntry[] = [
    at(live[0], 1, 0, 0x1000),
    at(live[1], 1, 1, 0x1100),
    { ...at(old[1], 1, 2, 0x1900), delta: { ...at(own[0], 1, 2, 0), pages: map } },
    { ...at(old[3], 2, 0, 0x1300), plainBytes: 100 * 8192, wholeBytes: 200 * 8192 },
    at(live[2], 3, 0, 0),
    at(own[1], 4, 0, 0),
  ];
  const indexKey = tree.macroBlockIndex(ROOT, SOURCE, 'p0', 0);
  await writeMacroBlockIndex(medium, indexKey, entries, signal);
  const files = [...wanted].map(
    ([path, bytes], index): StoredDataFile => ({
      path,
      absolutePath: '',
      kind: path.startsWith('base') ? 'main' : path === 'global/pg_control' ? 'control' : 'other',
      sizeBytes: bytes.length,
      mode: 0o600,
      modifiedMs: 0,
      fileNumber: index + 1,
      storedBytes: bytes.length,
      blockCount: Math.ceil(bytes.length / MACROBLOCK_BYTES),
      crc32c: undefined,
    }),
  );
  const meta = create(BackupMetaSchema, { backupLabel: LABEL, nextFileNumber: 77 });
  const directories = [{ path: 'base', mode: 0o700 }];
  await writeMetaFiles(medium, ROOT, SOURCE, 1, { meta, files, directories }, signal);
  const above = `${tree.backupSetDirectory(ROOT, SOURCE.tenantId, SOURCE.fullSetId)}/`;
  const digests = [];
  for (const file of [indexKey, tree.metaFile(ROOT, SOURCE, 1), tree.metaIndexFile(ROOT, SOURCE, 1)]) {
    const bytes = await medium.read(file);
    const sha256 = createHash('sha256').update(bytes).digest();
    const path = file.slice(above.length);
    digests.push(create(FileDigestSchema, { path, sizeBytes: BigInt(bytes.length), sha256 }));
  }
  const inputBytes = BigInt(files.reduce((sum, file) => sum + file.sizeBytes, 0));
  const info = create(BackupInfoSchema, {
    partitionGroups: [
      {
        partitionGroup: 'p0',
        previousSetId: 1n,
        readBytes: 5n,
        start: position(0x2000n),
        stop: position(0x3000n),
        files: digests,
        fileCount: BigInt(files.length),
        macroblockCount: BigInt(entries.length),
        inputBytes,
        ...more,
      },
    ],
  });
  await writeOnce(medium, tree.backupInfo(ROOT, SOURCE), BackupInfoSchema, info, signal);
}

async function make(more: Partial<BackupTask> = {}): Promise<PartitionGroupBackup> {
  const { $typeName: _, $unknown: __, ...changes } = more;
  const task = create(BackupTaskSchema, {
    destination: { uri: `file://${join(directory, 'destination')}`, ...ROOT, keys: keyMessages(keys) },
    tenantId: TARGET.tenantId,
    backupSetId: TARGET.setId,
    fullSetId: TARGET.fullSetId,
    sourceSetId: SOURCE.setId,
    sourceFullSetId: SOURCE.fullSetId,
    partitionGroup: 'p0',
    firstSubTaskId: 1,
    metaTaskId: 1,
    compression: 'zstd:1',
    concurrency: 1,
    ...changes,
  });
  const context = taskContext(1);
  const { backup } = await runBackupTask(context, task, () => undefined, signal);
  if (backup === undefined) throw new Error('a task without a result');
  return backup;
}

/** Everything the made set restores, each block checked, by path. */
async function readMade(backup: PartitionGroupBackup): Promise<ReadonlyMap<string, Buffer>> {
  const info = create(BackupInfoSchema, { partitionGroups: [backup] });
  await writeOnce(medium, tree.backupInfo(ROOT, TARGET), BackupInfoSchema, info, signal);
  const source = await openSourceSet(medium, ROOT, TARGET, 'p0', signal);
  expect(Buffer.from((await readBackupMeta(source, signal)).backupLabel)).toEqual(LABEL);
  expect((await readBackupMeta(source, signal)).nextFileNumber).toBe(77);
  const made = new Map<string, Buffer>();
  for await (const { file, blocks } of readFileBlocks(source, signal)) {
    const parts = [made.get(file.path) ?? Buffer.alloc(0)];
    for (const block of blocks) {
      expect(isStoredWhole(block)).toBe(true);
      expect(block.setId).toBe(TARGET.setId);
      const key = tree.macroBlock(ROOT, TARGET, 'p0', block.subTaskId);
      const stored = await medium.readRange(key, block.offset, block.offset + block.storedBytes);
      const cipher = await readFileCipher(medium, key);
      parts.push(Buffer.from(decodeMacroBlock(stored, block, Buffer.alloc(MACROBLOCK_BYTES), key, cipher)));
    }
    made.set(file.path, Buffer.concat(parts));
  }
  for await (const file of readFiles(source, signal)) {
    expect(file.withoutCrc32c, file.path).toBe(false);
    expect(file.crc32c, file.path).toBe(crc32c(made.get(file.path) ?? Buffer.alloc(0)));
  }
  return made;
}

const sourceFile = (setId: bigint, subTaskId: number): string =>
  join(directory, 'destination', tree.macroBlock(ROOT, { ...SOURCE, setId }, 'p0', subTaskId));

test('copies the file that is mostly live, merges and writes anew the rest, and is whole by itself', async () => {
  await publishSource();
  const backup = await make({ concurrency: 2 });
  expect(backup).toMatchObject({
    sourceSetId: 2n,
    previousSetId: 0n,
    readBytes: 0n,
    start: { lsn: 0x2000n },
    stop: { lsn: 0x3000n },
    newestPageLsn: 0x1900n,
    macroblockCount: 6n,
  });
  const live = await medium.read(tree.macroBlock(ROOT, { ...SOURCE, setId: 1n }, 'p0', 1));
  expect((await medium.read(tree.macroBlock(ROOT, TARGET, 'p0', 1))).equals(live)).toBe(true);
  await rm(join(directory, 'destination', tree.backupSetDirectory(ROOT, 1001n, 1n)), { recursive: true });
  const made = await readMade(backup);
  expect([...made.keys()]).toEqual([...wanted.keys()]);
  for (const [path, bytes] of wanted) expect(made.get(path)?.equals(bytes), path).toBe(true);
});

const dataKey = (id: string, fullSetId: bigint, writes = false): DataKey => ({
  directory: tree.backupSetDirectory(ROOT, TARGET.tenantId, fullSetId),
  id: id.repeat(16),
  key: Buffer.alloc(32, id, 'hex'),
  writes,
});
const SOURCE_KEY = dataKey('a1', 1n, true);
const OWN_KEY = dataKey('b2', 3n, true);
const CARRIED_KEY = dataKey('a1', 3n);

/** The ids of the data keys of the made set's macroblock files, by sub task; undefined: it is plain. */
async function keyIdsOfMade(): Promise<readonly (string | undefined)[]> {
  const files = await medium.listNames(tree.macroDirectory(ROOT, 1001n, 3n, 'p0'));
  const ids: (string | undefined)[] = [];
  for (let task = 1; files.includes(`macro_block_3.${task}`); task += 1) {
    const file = tree.macroBlock(ROOT, TARGET, 'p0', task);
    const header = decodeFileHeader(decodeRecord(await medium.read(file), 0, { file }), { file });
    ids.push(header.keyId && Buffer.from(header.keyId).toString('hex'));
  }
  return ids;
}

test.each([
  [
    'whole with its key, encrypts the rest under its own',
    SOURCE_KEY,
    [OWN_KEY, CARRIED_KEY],
    [CARRIED_KEY, OWN_KEY],
  ],
  ['not whole when its key is not carried along', SOURCE_KEY, [OWN_KEY], [OWN_KEY]],
  ['not whole when it is plain and the new set encrypted', undefined, [OWN_KEY], [OWN_KEY]],
  ['not whole when it is encrypted and the new set plain', SOURCE_KEY, [], [undefined]],
] as const)('copies a file %s', async (_name, sourceKey, ownKeys, ids) => {
  const plainMedium = medium;
  keys = [...(sourceKey === undefined ? [] : [sourceKey]), ...ownKeys];
  medium = withDataKeys(plainMedium, keys);
  await publishSource();
  const backup = await make();
  const made = await keyIdsOfMade();
  expect(made).toEqual(ids.map((each) => each?.id));
  await rm(join(directory, 'destination', tree.backupSetDirectory(ROOT, 1001n, 1n)), { recursive: true });
  medium = withDataKeys(plainMedium, ownKeys); // all that the new set has
  const read = await readMade(backup);
  for (const [path, bytes] of wanted) expect(read.get(path)?.equals(bytes), path).toBe(true);
});

test('an attempt that died is in no way of the next, which takes other names', async () => {
  await publishSource();
  await make();
  await expect(make()).rejects.toMatchObject({ code: 'FILE_EXISTS' });
  const backup = await make({ retry: 1, firstSubTaskId: 1001, metaTaskId: 2 });
  const names = await readdir(join(directory, 'destination', tree.macroDirectory(ROOT, 1001n, 3n, 'p0')));
  expect(names).toContain('macro_block_index_3.1');
  const made = await readMade(backup);
  for (const [path, bytes] of wanted) expect(made.get(path)?.equals(bytes), path).toBe(true);
});

test('is refused by name when the index says that a page failed its check', async () => {
  await publishSource({}, true);
  await expect(make()).rejects.toMatchObject({ code: 'SYNTHETIC_BACKUP_REFUSED' });
});

test('is refused by name when a page fails its check now', async () => {
  await publishSource({ pageChecksumVersion: 1 });
  await expect(make()).rejects.toMatchObject({
    code: 'SYNTHETIC_BACKUP_REFUSED',
    message: expect.stringContaining('of base/5/1638') as string,
  });
});

test.each([
  ['of a copied file', 1n, 1],
  ['of a base', 1n, 2],
  ['of a delta', 2n, 1],
] as const)('a damaged record %s fails it, and a missing file does', async (_name, setId, subTaskId) => {
  await publishSource();
  {
    await using _ = await damage(sourceFile(setId, subTaskId), 'flip', 0.3);
    await expect(make()).rejects.toMatchObject({ code: 'DATA_CORRUPT' });
  }
  await rm(sourceFile(setId, subTaskId));
  const attempt = make({ retry: 1, firstSubTaskId: 1001, metaTaskId: 2 });
  await expect(attempt).rejects.toMatchObject({ code: 'BACKUP_FILE_NOT_EXIST' });
});

test('pages behind the end of the backup fail it', async () => {
  await publishSource({ stop: position(0x18ffn) });
  await expect(make()).rejects.toMatchObject({ code: 'DATA_CORRUPT' });
});
