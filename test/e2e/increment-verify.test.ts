/** What PostgreSQL's own pg_verifybackup says of an increment that was laid down, and what its server holds. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { create } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { runRestore } from '../../agent/restore/restore.ts';
import { readServerState } from '../../cli/demo/database-state.ts';
import { stopServer } from '../../engine/postgres/server-process.ts';
import { type Lsn, toLsn } from '../../foundation/lsn.ts';
import { type PartitionGroupBackup, RoundBeginSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { writeOnce } from '../../storage-layout/records/info-file.ts';
import { tree } from '../../storage-layout/tree.ts';
import {
  ARCHIVE_GROUP,
  ARCHIVE_ROOT,
  ARCHIVE_ROUND,
  openArchive,
  startArchiver,
  writeMountFile,
} from '../support/archiver.ts';
import { findDifferences } from '../support/compare.ts';
import { backUpArchived } from '../support/increments.ts';
import { binDirectory, createServer, freePort, makeTestDirectory, serverUser } from '../support/postgres.ts';
import { connectorTo } from '../support/scenario.ts';

const VERIFY = '/usr/lib/postgresql/15/bin/pg_verifybackup';
const MAJOR = 15;
const SEGMENT_BYTES = 16_777_216;
const STEPS = [
  ['UPDATE wide SET n = n + 1 WHERE id % 900 = 7'],
  ['DELETE FROM wide WHERE id > 50000', 'VACUUM wide', 'DELETE FROM wide WHERE id % 999 = 1'],
] as const;

test('an increment with deltas and cut files is right, and pg_verifybackup finds it so', async () => {
  const destination = await makeTestDirectory('verify');
  await using server = await createServer({ major: MAJOR });
  await writeMountFile(destination);
  const archiver = startArchiver({ port: server.port, destination, epoch: 1, fresh: true });
  await server.query('CREATE DATABASE shop');
  await server.query(
    'CREATE TABLE wide AS SELECT i AS id, i % 10 AS n, repeat(md5(i::text), 6) AS body FROM generate_series(1, 60000) i',
  );
  await server.query('ALTER TABLE wide ADD PRIMARY KEY (id)');
  await server.query('VACUUM (FREEZE) wide');
  const full = await backUpArchived(server, destination, archiver, 1n);
  await writeRoundBegin(destination, full);
  let stop = 0n;
  for (const [n, statements] of STEPS.entries()) {
    for (const sql of statements) await server.query(sql);
    const backup = await backUpArchived(server, destination, archiver, BigInt(n + 2));
    expect(backup.readBytes).toBeLessThan(backup.inputBytes / 2n);
    stop = backup.stop?.lsn ?? 0n;
  }
  const state = await readServerState((database) => server.connect(database));
  archiver.flush(toLsn(stop), true);
  await expect.poll(async () => await isSealed(destination, toLsn(stop)), { timeout: 60_000 }).toBe(true);

  const request = {
    uri: `file://${destination}`,
    root: ARCHIVE_ROOT,
    set: { tenantId: ARCHIVE_ROUND.tenantId, fullSetId: 1n, setId: 3n },
    round: ARCHIVE_ROUND.round,
    partitionGroup: ARCHIVE_GROUP,
    target: { kind: 'immediate' },
    timeline: undefined,
    tablespaceMap: new Map(),
    concurrency: 2,
    user: serverUser(),
    unit: undefined,
    checkUser: 'postgres',
    binDirectory: () => binDirectory(MAJOR),
    port: freePort,
  } as const;
  const { signal } = new AbortController();
  const laid = join(server.directory, 'laid');
  await runRestore({ ...request, dataDirectory: laid, start: false }, () => undefined, signal);
  if (existsSync(VERIFY)) {
    // The settings of the copy and the log stand beside what was backed up.
    const { stdout } = await promisify(execFile)(VERIFY, [
      '-n',
      '-i',
      'postgresql.auto.conf',
      '-i',
      'pg_wal',
      laid,
    ]);
    expect(stdout).toContain('successfully verified');
  }
  const to = join(server.directory, 'copy');
  const { server: copy } = await runRestore(
    { ...request, dataDirectory: to, start: true },
    () => undefined,
    signal,
  );
  try {
    expect(await findDifferences(connectorTo(copy?.port ?? 0), state)).toEqual([]);
  } finally {
    const paths = { binDirectory: binDirectory(MAJOR), dataDirectory: to, user: serverUser() };
    await stopServer(paths, 'immediate', signal);
  }
  archiver.abort();
  await archiver.result.catch(() => undefined);
  await rm(destination, { recursive: true, force: true });
});

async function isSealed(destination: string, lsn: Lsn): Promise<boolean> {
  return (await openArchive(destination)).files.some((file) => file.hasIndex && file.end >= lsn);
}

/** What the coordinator writes when a round begins. */
async function writeRoundBegin(destination: string, full: PartitionGroupBackup): Promise<void> {
  await using medium = await openMedium(`file://${destination}`);
  const first = (await openArchive(destination)).files[0];
  const group = {
    partitionGroup: ARCHIVE_GROUP,
    systemIdentifier: full.systemIdentifier,
    start: { timeline: 1, lsn: first?.begin ?? 0n },
    segmentSizeBytes: SEGMENT_BYTES,
    postgresMajor: MAJOR,
    startUs: full.startUs,
  };
  const begin = create(RoundBeginSchema, {
    ...ARCHIVE_ROUND,
    tenantName: 'orders',
    beginUs: full.startUs,
    groups: [group],
  });
  await writeOnce(medium, tree.roundBegin(ARCHIVE_ROOT, ARCHIVE_ROUND), RoundBeginSchema, begin);
}
