/** What an increment costs, and what makes it impossible: each reason on a real server and a real archive. */
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parseForkPath } from '../../engine/postgres/relation-files.ts';
import { parseLsn } from '../../foundation/lsn.ts';
import { BackupInfoSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { readInfo, writeOnce } from '../../storage-layout/records/info-file.ts';
import { tree } from '../../storage-layout/tree.ts';
import { ARCHIVE_GROUP, ARCHIVE_ROOT, ARCHIVE_ROUND, openArchive } from '../support/archiver.ts';
import { editChangeMaps } from '../support/change-maps.ts';
import { ArchivedServer } from '../support/increments.ts';
import { majors } from '../support/majors.ts';
import { disableChecksums, enableChecksums } from '../support/page-checksums.ts';
import { createServer, type Major, type TestServer } from '../support/postgres.ts';
import { copyStandby, promote } from '../support/replicas.ts';

const PAGE_BYTES = 8192;

/** A server with a table of some 50 MB, archived. */
async function startStage(major: Major): Promise<ArchivedServer> {
  const stage = await ArchivedServer.start({ major, settings: { wal_keep_size: "'2GB'" } });
  await stage.server.query(
    `CREATE TABLE wide AS SELECT i AS id, i % 10 AS n, repeat(md5(i::text), 6) AS body FROM generate_series(1, 220000) i`,
  );
  await stage.server.query('VACUUM (FREEZE) wide');
  return stage;
}

async function expectFull(
  stage: ArchivedServer,
  reason: RegExp,
  from?: Pick<TestServer, 'port'>,
): Promise<void> {
  await expect(stage.backUp(from)).rejects.toMatchObject({
    code: 'FULL_BACKUP_NEEDED',
    message: expect.stringMatching(reason),
  });
}

describe.each(majors(17))('PostgreSQL %i', (major) => {
  test('an increment reads the changed pages and the files that are always whole, and stores about as much', async () => {
    await using stage = await startStage(major);
    const { server } = stage;
    const full = await stage.backUp();
    const nothing = await stage.backUp();
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
      const backup = await stage.backUp();
      const changed = await changedPages(server, since); // since the whole blocks, at least
      expect(changed).toBeGreaterThan(100 * (n + 1));
      const whole = await sizeOfWholeFiles(server);
      expect(Number(backup.readBytes)).toBeLessThanOrEqual(
        2 * changed * PAGE_BYTES + whole + 64 * PAGE_BYTES,
      );
      expect(Number(backup.readBytes)).toBeLessThan(Number(backup.inputBytes) / 4);
      expect(Number(backup.outputBytes)).toBeLessThan(Number(full.outputBytes) / 2);
    }
  });

  test('log that is missing in the archive makes it a full backup', async () => {
    await using stage = await startStage(major);
    await stage.backUp();
    await stage.server.query('UPDATE wide SET n = n + 1 WHERE id < 1000');
    await stage.seal();
    await stage.server.query('UPDATE wide SET n = n + 1 WHERE id < 1000');
    await stage.seal();
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
    await using stage = await startStage(major);
    await stage.backUp();
    await using other = await createServer({ major });
    await expectFull(stage, /the server is another system/, other);
  });

  test('pages of another size make it a full backup', async () => {
    await using stage = await startStage(major);
    const { blockSizeBytes } = await stage.backUp();
    expect(blockSizeBytes).toBe(PAGE_BYTES);
    // No server of ours has other pages: it is the set before that is said to have had them.
    await claimPageSize(stage.destination, 2 * PAGE_BYTES);
    await expectFull(stage, /the server's pages have 8192 bytes, those of the backup before 16384/);
  });

  test('page checksums that were turned off make it a full backup; on again, it is none', async () => {
    await using stage = await startStage(major);
    const { server } = stage;
    await stage.backUp();
    await server.stop();
    await disableChecksums(server.dataDirectory);
    await server.start();
    await expectFull(stage, /page checksums were turned off/);
    await server.stop();
    await enableChecksums(server.dataDirectory);
    await server.start();
    expect(await server.query('SHOW data_checksums')).toEqual([{ data_checksums: 'on' }]);
    const again = await stage.backUp();
    expect(again.previousSetId).toBe(1n);
    expect(again.pageFailures).toEqual([]);
    expect(await server.query('SELECT count(*)::int AS rows FROM wide')).toEqual([{ rows: 220_000 }]);
  });

  test('a time of wal_level = minimal makes it a full backup', async () => {
    await using stage = await startStage(major);
    const { server } = stage;
    await stage.backUp();
    await stage.stopArchiver();
    const configuration = join(server.dataDirectory, 'postgresql.auto.conf');
    const settings = await readFile(configuration, 'utf8');
    await server.stop();
    await writeFile(configuration, `${settings}wal_level = minimal\nmax_wal_senders = 0\n`);
    await server.start();
    await server.query('UPDATE wide SET n = n + 1 WHERE id < 1000');
    await server.stop();
    await writeFile(configuration, settings);
    await server.start();
    stage.startArchiver();
    await expectFull(stage, /wal_level was minimal/);
  });

  test('a timeline that was left before the end of the backup before makes it a full backup', async () => {
    await using stage = await startStage(major);
    const { server } = stage;
    await server.stop();
    await using standby = await copyStandby(server);
    await server.start();
    await stage.backUp();
    await server.stop();
    await standby.start();
    await promote(standby);
    await expectFull(
      stage,
      /timeline 1 was left at 0\/[0-9A-F]+, before the end of the backup before at 0\/[0-9A-F]+/,
      standby,
    );
  });

  test('a special record of an unknown kind makes it a full backup', async () => {
    await using stage = await startStage(major);
    await stage.backUp();
    await stage.server.query('UPDATE wide SET n = n + 1 WHERE id < 1000');
    await stage.seal();
    const unknownSpecial = { count: 1, first: parseLsn('0/1234'), rmgr: 200, info: 1 };
    await editChangeMaps(stage.destination, (map) => ({ ...map, unknownSpecial }));
    await expectFull(stage, /special record of an unknown kind at 0\/1234: resource manager 200/);
  });

  test('a backup before that is damaged makes it a full backup', async () => {
    await using stage = await startStage(major);
    const full = await stage.backUp();
    const index = full.files.find(({ path }) => path.includes('macro_block_index'));
    const directory = tree.backupSetDirectory(ARCHIVE_ROOT, ARCHIVE_ROUND.tenantId, 1n);
    const path = join(stage.destination, directory, index?.path ?? '');
    const bytes = await readFile(path);
    bytes[100] = (bytes[100] ?? 0) ^ 1;
    await writeFile(path, bytes);
    await expectFull(stage, /backup set 1 cannot be gone on from/);
  });
});

/** Writes the commit point of set 1 again, as if its server had had pages of that size. */
async function claimPageSize(destination: string, blockSizeBytes: number): Promise<void> {
  await using medium = await openMedium(`file://${destination}`);
  const { tenantId } = ARCHIVE_ROUND;
  const key = tree.backupInfo(ARCHIVE_ROOT, { tenantId, fullSetId: 1n, setId: 1n });
  const info = await readInfo(medium, key, BackupInfoSchema);
  const partitionGroups = info.partitionGroups.map((group) => ({ ...group, blockSizeBytes }));
  await rm(join(destination, key));
  await writeOnce(medium, key, BackupInfoSchema, { ...info, partitionGroups });
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
