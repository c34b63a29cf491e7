/** A delta restore's files, without a server: whatever a directory has become, it ends as the set says, and no further. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmod,
  copyFile,
  lstat,
  mkdir,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { StoredDataFile } from '../../../../agent/backup/gather.ts';
import { writeMetaFiles } from '../../../../agent/backup/meta-files.ts';
import { openSourceSet, type SourceSet } from '../../../../agent/restore/backup-set.ts';
import {
  type BaselinePlace,
  type BaselineProgress,
  BaselineThreads,
  layControlFile,
  layDirectories,
  layFiles,
} from '../../../../agent/restore/baseline.ts';
import {
  beginDelta,
  CONTROL_ASIDE,
  checkDeltaTarget,
  endDelta,
  sweep,
} from '../../../../agent/restore/delta.ts';
import { INCOMPLETE_MARKER, removeMarker, writeMarker } from '../../../../agent/restore/target-directory.ts';
import { systemClock } from '../../../../foundation/clock.ts';
import { toLsn } from '../../../../foundation/lsn.ts';
import {
  BackupInfoSchema,
  BackupMetaSchema,
  FileDigestSchema,
} from '../../../../proto/gen/holdfast/v1/records_pb.ts';
import { crc32c } from '../../../../storage-layout/crc32c.ts';
import { MACROBLOCK_BYTES, type MacroBlockEntry } from '../../../../storage-layout/macroblock/entry.ts';
import { nameMacroBlockFile } from '../../../../storage-layout/macroblock/file-name.ts';
import { writeMacroBlockIndex } from '../../../../storage-layout/macroblock/index.ts';
import { MacroBlockFileWriter } from '../../../../storage-layout/macroblock/writer.ts';
import type { Medium } from '../../../../storage-layout/media/medium.ts';
import { openMedium } from '../../../../storage-layout/media/open.ts';
import { writeOnce } from '../../../../storage-layout/records/info-file.ts';
import { tree } from '../../../../storage-layout/tree.ts';
import { makeTestDirectory } from '../../../support/postgres.ts';

const ROOT = { clusterName: 'c', clusterId: 1n };
const SET = { tenantId: 1001n, fullSetId: 1n, setId: 1n };
const SYSTEM = 0x1122_3344_5566_7788n;
const { signal } = new AbortController();

let directory: string;
let medium: Medium;
let source: SourceSet;
let place: BaselinePlace;
/** Path → content, as the set says. */
let wanted: Map<string, Buffer>;

beforeEach(async () => {
  directory = await makeTestDirectory('delta-files');
  await mkdir(join(directory, 'destination'));
  medium = await openMedium(`file://${join(directory, 'destination')}`);
  wanted = new Map([
    ['base/5/16384', pattern(2 * MACROBLOCK_BYTES + 8192, 1)],
    ['base/5/16385', pattern(3 * 8192, 2)],
    ['base/5/PG_VERSION', Buffer.from('17\n')],
    ['global/1260', pattern(8192, 3)],
    ['pg_tblspc/17000/PG_17_1/5/24576', pattern(2 * 8192, 4)],
    ['postgresql.conf', Buffer.from('port = 1\n')],
    ['global/pg_control', controlFile(SYSTEM)],
  ]);
  source = await publish();
  place = {
    dataDirectory: join(directory, 'data'),
    externalDirectory: join(directory, 'external'),
    tablespaces: [{ oid: 17_000, location: '/old', directory: join(directory, 'data.tablespaces', '17000') }],
    delta: true,
    user: undefined,
    concurrency: 1,
    uri: `file://${join(directory, 'destination')}`,
  };
});
afterEach(async () => await rm(directory, { recursive: true, force: true }));

function pattern(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; at += 64) bytes.writeUInt32LE((at * 2_654_435_761 + seed) >>> 0, at);
  return bytes;
}

function controlFile(systemIdentifier: bigint): Buffer {
  const bytes = Buffer.alloc(8192);
  bytes.writeBigUInt64LE(systemIdentifier, 0);
  bytes.writeUInt32LE(1700, 8);
  bytes.writeUInt32LE(1, 48);
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, 288)), 288);
  return bytes;
}

async function publish(): Promise<SourceSet> {
  const key = tree.macroBlock(ROOT, SET, 'p0', 1);
  await using writer = await MacroBlockFileWriter.create(
    medium,
    key,
    nameMacroBlockFile(1n, 1, 'p0'),
    'zstd:1',
  );
  const entries: MacroBlockEntry[] = [];
  const files: StoredDataFile[] = [];
  for (const [index, [path, bytes]] of [...wanted].entries()) {
    const kind = path === 'global/pg_control' ? 'control' : 'other';
    const blockCount = Math.ceil(bytes.length / MACROBLOCK_BYTES);
    const listed = { absolutePath: '', kind, sizeBytes: bytes.length, mode: 0o600, modifiedMs: 0 } as const;
    const fileNumber = index + 1;
    files.push({ ...listed, fileNumber, path, storedBytes: bytes.length, blockCount, crc32c: crc32c(bytes) });
    for (let blockNumber = 0; blockNumber < blockCount; blockNumber += 1) {
      const begin = blockNumber * MACROBLOCK_BYTES;
      const appended = await writer.append(bytes.subarray(begin, begin + MACROBLOCK_BYTES), {
        fileNumber,
        blockNumber,
      });
      entries.push({
        ...appended,
        fileNumber,
        blockNumber,
        newestPageLsn: toLsn(0n),
        pageCheckFailed: false,
      });
    }
  }
  await writer.close();
  const indexKey = tree.macroBlockIndex(ROOT, SET, 'p0', 0);
  await writeMacroBlockIndex(medium, indexKey, entries, signal);
  const directories = [
    'base',
    'base/5',
    'global',
    'pg_wal',
    'pg_wal/archive_status',
    'pg_tblspc',
    'pg_tblspc/17000',
    'pg_tblspc/17000/PG_17_1',
    'pg_tblspc/17000/PG_17_1/5',
    'pg_notify',
  ].map((path) => ({ path, mode: 0o700 }));
  await writeMetaFiles(medium, ROOT, SET, 1, { meta: create(BackupMetaSchema), files, directories }, signal);
  const above = `${tree.backupSetDirectory(ROOT, SET.tenantId, SET.fullSetId)}/`;
  const digests = [];
  for (const file of [indexKey, tree.metaFile(ROOT, SET, 1), tree.metaIndexFile(ROOT, SET, 1)]) {
    const bytes = await medium.read(file);
    const sha256 = createHash('sha256').update(bytes).digest();
    digests.push(
      create(FileDigestSchema, { path: file.slice(above.length), sizeBytes: BigInt(bytes.length), sha256 }),
    );
  }
  const group = { partitionGroup: 'p0', systemIdentifier: SYSTEM, files: digests };
  const info = create(BackupInfoSchema, { partitionGroups: [group] });
  await writeOnce(medium, tree.backupInfo(ROOT, SET), BackupInfoSchema, info, signal);
  return await openSourceSet(medium, ROOT, SET, 'p0', signal);
}

/** A directory that is what the set says, and log and other things of a server's own. */
async function layDown(): Promise<void> {
  const { dataDirectory, tablespaces } = place;
  for (const [path, bytes] of wanted) {
    const full = join(dataDirectory, path);
    if (path.startsWith('pg_tblspc/')) continue;
    await mkdir(dirname(full), { recursive: true });
    await writeFile(full, bytes);
  }
  const inside = join(tablespaces[0]?.directory ?? '', 'PG_17_1', '5');
  await mkdir(inside, { recursive: true });
  await writeFile(join(inside, '24576'), wanted.get('pg_tblspc/17000/PG_17_1/5/24576') ?? '');
  await mkdir(join(dataDirectory, 'pg_tblspc'));
  await symlink(tablespaces[0]?.directory ?? '', join(dataDirectory, 'pg_tblspc', '17000'));
  await mkdir(join(dataDirectory, 'pg_wal', 'archive_status'), { recursive: true });
  await writeFile(join(dataDirectory, 'pg_wal', '000000010000000000000001'), 'log');
}

/** A process that looks like a server's: its name is postgres, and it works in the directory. */
async function postgresIn(workingDirectory: string): Promise<AsyncDisposable> {
  const program = join(directory, 'postgres');
  await copyFile('/bin/sleep', program);
  await chmod(program, 0o755);
  return await running(program, ['600'], workingDirectory);
}

async function running(
  program: string,
  args: readonly string[],
  cwd: string,
): Promise<AsyncDisposable & { readonly pid: number }> {
  const child = spawn(program, [...args], { cwd, stdio: 'ignore' });
  const started = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<void>();
  child.once('spawn', () => started.resolve());
  child.once('exit', () => ended.resolve());
  await started.promise;
  return {
    pid: child.pid ?? 0,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await ended.promise;
    },
  };
}

const deltaPlace = () => ({ dataDirectory: place.dataDirectory, tablespaces: place.tablespaces, source });

/** As restore.ts does, up to the control file. */
async function restore(): Promise<BaselineProgress> {
  await checkDeltaTarget(deltaPlace(), systemClock, signal);
  await beginDelta(place.dataDirectory);
  expect(await names(join(place.dataDirectory, 'global'))).not.toContain('pg_control');
  await sweep(deltaPlace(), signal);
  await layDirectories(source, place, signal);
  let progress: BaselineProgress = { bytesDone: 0n, blocksDone: 0n, bytesKept: 0n, blocksKept: 0n };
  await using threads = new BaselineThreads(place);
  const control = await layFiles(
    source,
    place,
    threads,
    (done) => {
      progress = done;
    },
    signal,
  );
  await layControlFile(source, place, control, signal);
  await endDelta(place.dataDirectory);
  await removeMarker(place.dataDirectory);
  return progress;
}

async function names(path: string): Promise<string[]> {
  return (await readdir(path)).toSorted();
}

/** Every file and nothing else, link for link. */
async function expectAsWanted(): Promise<void> {
  const { dataDirectory, tablespaces } = place;
  for (const [path, bytes] of wanted)
    expect([path, (await readFile(join(dataDirectory, path))).equals(bytes)]).toEqual([path, true]);
  const found: string[] = [];
  for (const entry of await readdir(dataDirectory, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) found.push(join(entry.parentPath, entry.name).slice(dataDirectory.length + 1));
  const inData = [...wanted.keys()].filter((path) => !path.startsWith('pg_tblspc/'));
  expect(found.toSorted()).toEqual(inData.toSorted());
  expect(await readlink(join(dataDirectory, 'pg_tblspc', '17000'))).toBe(tablespaces[0]?.directory);
  expect((await lstat(join(dataDirectory, 'pg_wal'))).isDirectory()).toBe(true);
  expect(await names(join(dataDirectory, 'pg_wal'))).toEqual(['archive_status']);
  expect(await names(dataDirectory)).toContain('pg_notify');
}

describe('over a directory that is there, a delta restore', () => {
  test('keeps every block of what is right, and empties pg_wal', async () => {
    await layDown();
    expect(await restore()).toMatchObject({ blocksDone: 8n, blocksKept: 8n });
    await expectAsWanted();
  });

  test('writes the blocks that differ, and no others', async () => {
    await layDown();
    const big = join(place.dataDirectory, 'base/5/16384');
    const bytes = await readFile(big);
    bytes[MACROBLOCK_BYTES + 5] = (bytes[MACROBLOCK_BYTES + 5] ?? 0) ^ 1;
    await writeFile(big, Buffer.concat([bytes, Buffer.alloc(70_000, 1)]));
    await truncate(join(place.dataDirectory, 'base/5/16385'), 100);
    await rm(join(place.dataDirectory, 'global/1260'));
    expect(await restore()).toMatchObject({ blocksDone: 8n, blocksKept: 5n });
    await expectAsWanted();
  });

  test('removes what the set does not have, whatever it is, and follows no link', async () => {
    await layDown();
    const { dataDirectory } = place;
    const outside = join(directory, 'outside');
    await mkdir(outside);
    await writeFile(join(outside, 'precious'), 'precious');
    await mkdir(join(dataDirectory, 'base/9/deep'), { recursive: true });
    await symlink(outside, join(dataDirectory, 'base/9/deep/link'));
    await rm(join(dataDirectory, 'base/5/PG_VERSION'));
    await symlink(join(outside, 'precious'), join(dataDirectory, 'base/5/PG_VERSION'));
    await rm(join(dataDirectory, 'postgresql.conf'));
    await mkdir(join(dataDirectory, 'postgresql.conf')); // a directory where a file is to be
    await rename(join(dataDirectory, 'pg_wal'), join(outside, 'pg_wal'));
    await symlink(join(outside, 'pg_wal'), join(dataDirectory, 'pg_wal'));
    await symlink(outside, join(dataDirectory, 'pg_tblspc', '17999'));
    await writeFile(join(place.tablespaces[0]?.directory ?? '', 'PG_17_1', '5', 'stray'), 'stray');
    for (const name of ['backup_label', 'recovery.signal', 'standby.signal'])
      await writeFile(join(dataDirectory, name), '');
    await restore();
    await expectAsWanted();
    expect(await readFile(join(outside, 'precious'), 'utf8')).toBe('precious');
    expect(await names(join(outside, 'pg_wal'))).toEqual(['000000010000000000000001', 'archive_status']);
    expect(await names(join(place.tablespaces[0]?.directory ?? '', 'PG_17_1', '5'))).toEqual(['24576']);
  });

  test('goes on wherever an earlier one was stopped', async () => {
    await layDown();
    const { dataDirectory } = place;
    await beginDelta(dataDirectory);
    expect(await names(dataDirectory)).toEqual(expect.arrayContaining([CONTROL_ASIDE, INCOMPLETE_MARKER]));
    await writeFile(join(dataDirectory, 'base/5/16384'), 'half written');
    await restore();
    await expectAsWanted();
    // The set's control file was laid down, and changed by a recovery that did not end.
    await beginDelta(dataDirectory);
    await writeFile(join(dataDirectory, 'global/pg_control'), controlFile(9n));
    await writeFile(join(dataDirectory, 'postmaster.pid'), '2147483646\n'); // of the server that it started
    await restore();
    await expectAsWanted();
  });

  test('leaves a tablespace alone that its link leads to elsewhere, and lays its own', async () => {
    await layDown();
    const elsewhere = join(directory, 'elsewhere');
    await rename(place.tablespaces[0]?.directory ?? '', elsewhere);
    await rm(join(place.dataDirectory, 'pg_tblspc', '17000'));
    await symlink(elsewhere, join(place.dataDirectory, 'pg_tblspc', '17000'));
    await writeFile(join(elsewhere, 'another'), 'another server');
    await mkdir(place.tablespaces[0]?.directory ?? '', { recursive: true });
    expect(await restore()).toMatchObject({ blocksKept: 7n });
    await expectAsWanted();
    expect(await names(elsewhere)).toEqual(['PG_17_1', 'another']);
  });
});

describe('a delta restore is refused', () => {
  const check = () => checkDeltaTarget(deltaPlace(), systemClock, signal);

  test('over what is no data directory', async () => {
    await expect(check()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await mkdir(join(place.dataDirectory, 'global'), { recursive: true });
    await expect(check()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await writeFile(join(place.dataDirectory, 'global/pg_control'), Buffer.alloc(8192));
    await expect(check()).rejects.toMatchObject({ code: 'FORMAT_UNKNOWN' });
  });

  test('over another database, over a damaged control file, and where global is a link', async () => {
    await layDown();
    const control = join(place.dataDirectory, 'global/pg_control');
    await writeFile(control, controlFile(SYSTEM + 1n));
    await expect(check()).rejects.toMatchObject({ code: 'SYSTEM_IDENTIFIER_MISMATCH' });
    await truncate(control, 300);
    await expect(check()).rejects.toMatchObject({ code: 'DATA_CORRUPT' });
    await writeFile(control, controlFile(SYSTEM));
    await rename(join(place.dataDirectory, 'global'), join(directory, 'global-elsewhere'));
    await symlink(join(directory, 'global-elsewhere'), join(place.dataDirectory, 'global'));
    await expect(check()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });

  test('while a server works in the directory', async () => {
    await layDown();
    await using server = await postgresIn(place.dataDirectory);
    await expect(check()).rejects.toMatchObject({
      code: 'TARGET_NOT_EMPTY',
      message: expect.stringContaining('a server runs on'),
    });
    await server[Symbol.asyncDispose]();
    await check();
  });

  test('over a postmaster.pid, whose server may be in another container or on another machine', async () => {
    await layDown();
    const pidFile = join(place.dataDirectory, 'postmaster.pid');
    // A process that is not seen here, one that works elsewhere, and a file that tells nothing.
    for (const text of ['2147483646\n', `${process.pid}\n`, '']) {
      await writeFile(pidFile, text);
      await expect(check()).rejects.toMatchObject({
        code: 'TARGET_NOT_EMPTY',
        message: expect.stringContaining('a server may run on'),
        hint: expect.stringContaining(`remove ${pidFile}`),
      });
    }
    await writeMarker(place.dataDirectory, 'restore'); // of an interrupted restore that was no delta restore
    await expect(check()).rejects.toMatchObject({ code: 'TARGET_NOT_EMPTY' });
    await rm(pidFile);
    await check();
  });

  test('when a server is started meanwhile, which gets its control file back', async () => {
    await layDown();
    const { dataDirectory } = place;
    await writeFile(join(dataDirectory, 'postmaster.pid'), '2147483646\n');
    await expect(beginDelta(dataDirectory)).rejects.toMatchObject({ code: 'TARGET_NOT_EMPTY' });
    expect(await names(join(dataDirectory, 'global'))).toContain('pg_control');
    const left = await names(dataDirectory);
    expect([left.includes(CONTROL_ASIDE), left.includes(INCOMPLETE_MARKER)]).toEqual([false, false]);
  });

  test('where a running server, on another data directory, has a tablespace', async () => {
    await layDown();
    const other = join(directory, 'other');
    await mkdir(join(other, 'pg_tblspc'), { recursive: true });
    await symlink(place.tablespaces[0]?.directory ?? '', join(other, 'pg_tblspc', '5'));
    await check();
    await using _ = await postgresIn(other);
    await expect(check()).rejects.toMatchObject({
      code: 'TARGET_NOT_EMPTY',
      message: expect.stringContaining('has a tablespace in'),
    });
  });

  test('where a tablespace would go over what is not its own', async () => {
    await layDown();
    await rm(join(place.dataDirectory, 'pg_tblspc', '17000'));
    await expect(check()).rejects.toMatchObject({
      code: 'TARGET_NOT_EMPTY',
      message: expect.stringContaining("not the directory's own"),
    });
  });

  test('while another one is at the directory', async () => {
    await layDown();
    await beginDelta(place.dataDirectory);
    const marker = join(place.dataDirectory, INCOMPLETE_MARKER);
    const text = await readFile(marker, 'utf8');
    expect(text).toContain(`Process ${process.pid} is at it`);
    await check(); // its own
    await expectRefusedFor('restore', marker, text);
    await writeFile(marker, text.replace(String(process.pid), '2147483646'));
    await check(); // it is gone
    const done = ['-e', 'setInterval(() => {}, 1000)', 'restored'];
    await using another = await running(process.execPath, done, directory);
    await writeFile(marker, text.replace(String(process.pid), String(another.pid)));
    await check(); // its number is another's by now
  });

  test.each(['restore', 'agent'])('while a plain restore, of `holdfast %s`, is at it', async (command) => {
    await layDown();
    await writeMarker(place.dataDirectory, 'restore');
    const marker = join(place.dataDirectory, INCOMPLETE_MARKER);
    const text = await readFile(marker, 'utf8');
    await expectRefusedFor(command, marker, text);
    await writeFile(marker, text.replace(String(process.pid), '2147483646'));
    await check(); // it was interrupted
  });

  /** With a process of that command in the marker. */
  async function expectRefusedFor(command: string, marker: string, text: string): Promise<void> {
    const args = ['-e', 'setInterval(() => {}, 1000)', command];
    await using other = await running(process.execPath, args, directory);
    await writeFile(marker, text.replace(String(process.pid), String(other.pid)));
    await expect(check()).rejects.toMatchObject({
      code: 'TARGET_NOT_EMPTY',
      message: expect.stringContaining('another restore is at'),
    });
  }
});
