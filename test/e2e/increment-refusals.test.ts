/** What an increment costs, and what makes it impossible: each reason on a real server and a real archive. */
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fromBinary, toBinary } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { parseForkPath } from '../../engine/postgres/relation-files.ts';
import { parseLsn } from '../../foundation/lsn.ts';
import { LogIndexInfoSchema, type PartitionGroupBackup } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { encodeFileEnd, encodeRecord, RECORD } from '../../storage-layout/records/framing.ts';
import { readRecords } from '../../storage-layout/records/record-file.ts';
import { tree } from '../../storage-layout/tree.ts';
import {
  ARCHIVE_GROUP,
  ARCHIVE_ROOT,
  ARCHIVE_ROUND,
  ARCHIVE_SLOT,
  openArchive,
  type RunningArchiver,
  startArchiver,
  writeMountFile,
} from '../support/archiver.ts';
import { backUpArchived, disableChecksums } from '../support/increments.ts';
import { createServer, makeTestDirectory, type TestServer } from '../support/postgres.ts';

const PAGE_BYTES = 8192;

type Stage = AsyncDisposable & {
  readonly server: TestServer;
  readonly destination: string;
  readonly full: PartitionGroupBackup;
  archiver: RunningArchiver;
  /** The next increment. */
  increment(server?: Pick<TestServer, 'port'>): Promise<PartitionGroupBackup>;
};

/** A server with a table of some 50 MB, archived and backed up once. */
async function startStage(): Promise<Stage> {
  const destination = await makeTestDirectory('increments');
  const server = await createServer({ settings: { wal_keep_size: "'2GB'" } });
  await writeMountFile(destination);
  let archiver = startArchiver({ port: server.port, destination, epoch: 1, fresh: true });
  let setId = 1n;
  const next = async (from: Pick<TestServer, 'port'>) => {
    const backup = await backUpArchived(
      from,
      destination,
      { flush: (...args) => archiver.flush(...args) },
      setId,
    );
    setId += 1n;
    return backup;
  };
  await server.query(
    `CREATE TABLE wide AS SELECT i AS id, i % 10 AS n, repeat(md5(i::text), 6) AS body FROM generate_series(1, 220000) i`,
  );
  await server.query('VACUUM (FREEZE) wide');
  const full = await next(server);
  return {
    server,
    destination,
    full,
    get archiver() {
      return archiver;
    },
    set archiver(started) {
      archiver = started;
    },
    increment: (from = server) => next(from),
    async [Symbol.asyncDispose]() {
      archiver.abort();
      await archiver.result.catch(() => undefined);
      await server[Symbol.asyncDispose]();
      await rm(destination, { recursive: true, force: true });
    },
  };
}

async function expectFull(stage: Stage, reason: RegExp, server?: Pick<TestServer, 'port'>): Promise<void> {
  await expect(stage.increment(server)).rejects.toMatchObject({
    code: 'FULL_BACKUP_NEEDED',
    message: expect.stringMatching(reason),
  });
}

test('an increment reads the changed pages and the files that are always whole, and stores about as much', async () => {
  await using stage = await startStage();
  const { server, full } = stage;
  const nothing = await stage.increment();
  expect(nothing.previousSetId).toBe(1n);
  expect(nothing.macroblockCount).toBeGreaterThan(0n);
  const always = await sizeOfWholeFiles(server);
  expect(Number(nothing.readBytes)).toBeLessThan(always + 64 * PAGE_BYTES);
  let since = parseLsn('0/0');
  for (let n = 0; n < 3; n += 1) {
    const [row] = await server.query<{ lsn: string }>('SELECT pg_current_wal_insert_lsn()::text AS lsn');
    if (n === 0) since = parseLsn(row?.lsn ?? '');
    await server.query(`UPDATE wide SET n = n + 1 WHERE id % 2000 = ${n * 600}`);
    await server.query('CHECKPOINT');
    const backup = await stage.increment();
    const changed = await changedPages(server, since); // since the whole blocks, at least
    expect(changed).toBeGreaterThan(100 * (n + 1));
    const whole = await sizeOfWholeFiles(server);
    expect(Number(backup.readBytes)).toBeLessThanOrEqual(2 * changed * PAGE_BYTES + whole + 64 * PAGE_BYTES);
    expect(Number(backup.readBytes)).toBeLessThan(Number(backup.inputBytes) / 4);
    expect(Number(backup.outputBytes)).toBeLessThan(Number(full.outputBytes) / 2);
  }
});

test('log that is missing in the archive makes it a full backup', async () => {
  await using stage = await startStage();
  await stage.server.query('UPDATE wide SET n = n + 1 WHERE id < 1000');
  await sealNow(stage);
  await stage.server.query('UPDATE wide SET n = n + 1 WHERE id < 1000');
  await sealNow(stage);
  const { files } = await openArchive(stage.destination);
  const sealed = files.filter((file) => file.hasIndex);
  const lost = sealed.at(-1);
  expect(sealed.length).toBeGreaterThan(2);
  if (lost === undefined) throw new Error('no sealed file');
  await rm(join(stage.destination, lost.key));
  await rm(
    join(
      stage.destination,
      tree.logIndex(ARCHIVE_ROOT, ARCHIVE_ROUND, ARCHIVE_GROUP, lost.fileId, lost.epoch),
    ),
  );
  await expectFull(stage, /the archive lacks log of timeline 1 between/);
});

test('another server makes it a full backup', async () => {
  await using stage = await startStage();
  await using other = await createServer();
  await expectFull(stage, /the server is another system/, other);
});

test('page checksums that were turned off make it a full backup', async () => {
  await using stage = await startStage();
  const { server } = stage;
  await server.stop();
  await disableChecksums(server.dataDirectory);
  await server.start();
  await expectFull(stage, /page checksums were turned off/);
});

test('a time of wal_level = minimal makes it a full backup', async () => {
  await using stage = await startStage();
  const { server, destination } = stage;
  stage.archiver.abort();
  await stage.archiver.result.catch(() => undefined);
  const configuration = join(server.dataDirectory, 'postgresql.auto.conf');
  const settings = await readFile(configuration, 'utf8');
  await expect
    .poll(async () => (await server.query('SELECT 1 FROM pg_replication_slots WHERE active')).length, {
      timeout: 60_000,
    })
    .toBe(0);
  await server.query(`SELECT pg_drop_replication_slot('${ARCHIVE_SLOT}')`);
  await server.stop();
  await writeFile(configuration, `${settings}wal_level = minimal\nmax_wal_senders = 0\n`);
  await server.start();
  await server.query('UPDATE wide SET n = n + 1 WHERE id < 1000');
  await server.stop();
  await writeFile(configuration, settings);
  await server.start();
  stage.archiver = startArchiver({ port: server.port, destination, epoch: 2, fresh: false });
  await expectFull(stage, /wal_level was minimal/);
});

test('a special record of an unknown kind makes it a full backup', async () => {
  await using stage = await startStage();
  await stage.server.query('UPDATE wide SET n = n + 1 WHERE id < 1000');
  await sealNow(stage);
  const { files } = await openArchive(stage.destination);
  const file = files.findLast((each) => each.hasIndex);
  if (file === undefined) throw new Error('no sealed file');
  const key = tree.logIndex(ARCHIVE_ROOT, ARCHIVE_ROUND, ARCHIVE_GROUP, file.fileId, file.epoch);
  await noteUnknownSpecial(stage.destination, key);
  await expectFull(stage, /special record of an unknown kind at 0\/1234: resource manager 200/);
});

test('a backup before that is damaged makes it a full backup', async () => {
  await using stage = await startStage();
  const index = stage.full.files.find(({ path }) => path.includes('macro_block_index'));
  const directory = tree.backupSetDirectory(ARCHIVE_ROOT, ARCHIVE_ROUND.tenantId, 1n);
  const path = join(stage.destination, directory, index?.path ?? '');
  const bytes = await readFile(path);
  bytes[100] = (bytes[100] ?? 0) ^ 1;
  await writeFile(path, bytes);
  await expectFull(stage, /backup set 1 cannot be gone on from/);
});

/** Waits until all that the server has written is in sealed files. */
async function sealNow({ server, archiver, destination }: Stage): Promise<void> {
  const [row] = await server.query<{ lsn: string }>('SELECT pg_current_wal_flush_lsn()::text AS lsn');
  const lsn = parseLsn(row?.lsn ?? '');
  archiver.flush(lsn, true);
  await expect
    .poll(
      async () => (await openArchive(destination)).files.some((file) => file.hasIndex && file.end >= lsn),
      {
        timeout: 60_000,
        interval: 100,
      },
    )
    .toBe(true);
}

/** Writes the index again, its summary saying that the log holds such a record. */
async function noteUnknownSpecial(destination: string, key: string): Promise<void> {
  const records: Buffer[] = [];
  const bytes = await readFile(join(destination, key));
  {
    await using medium = await openMedium(`file://${destination}`);
    for await (const record of readRecords(medium, key)) {
      if (record.type === RECORD.fileEnd) break;
      if (record.type !== RECORD.logIndex) {
        records.push(
          bytes.subarray(record.offset, record.offset + record.header.headerBytes + record.header.codedBytes),
        );
        continue;
      }
      const info = fromBinary(LogIndexInfoSchema, record.payload);
      if (info.changes === undefined) throw new Error('an index without a change map');
      info.changes.unknownSpecial = {
        $typeName: 'holdfast.v1.LogUnknownSpecial',
        count: 1n,
        first: BigInt(parseLsn('0/1234')),
        rmgr: 200,
        info: 1,
      };
      records.push(encodeRecord({ type: RECORD.logIndex, payload: toBinary(LogIndexInfoSchema, info) }));
    }
  }
  const body = Buffer.concat(records);
  const end = encodeFileEnd({ recordCount: records.length, sizeBytes: body.length });
  await writeFile(join(destination, key), Buffer.concat([body, end]));
}

/** Pages of relations' main forks whose position is behind `since`. */
async function changedPages(server: TestServer, since: bigint): Promise<number> {
  let count = 0;
  for (const { path, isCompared } of await relationFiles(server)) {
    if (!isCompared) continue;
    const bytes = await readFile(join(server.dataDirectory, path));
    for (let at = 0; at + PAGE_BYTES <= bytes.length; at += PAGE_BYTES) {
      const lsn = (BigInt(bytes.readUInt32LE(at)) << 32n) | BigInt(bytes.readUInt32LE(at + 4));
      if (lsn > since) count += 1;
    }
  }
  return count;
}

/** Bytes of all that an increment copies whole. */
async function sizeOfWholeFiles(server: TestServer): Promise<number> {
  let sizeBytes = 0;
  for (const { path, isCompared } of await relationFiles(server))
    if (!isCompared) sizeBytes += (await readFile(join(server.dataDirectory, path))).length;
  return sizeBytes;
}

async function relationFiles(
  server: TestServer,
): Promise<readonly { readonly path: string; readonly isCompared: boolean }[]> {
  const entries = await readdir(server.dataDirectory, { recursive: true, withFileTypes: true });
  return entries.flatMap((entry) => {
    const path = join(entry.parentPath, entry.name).slice(server.dataDirectory.length + 1);
    if (!entry.isFile() || path.startsWith('pg_wal')) return [];
    return [{ path, isCompared: parseForkPath(path)?.fork.fork === 0 }];
  });
}
