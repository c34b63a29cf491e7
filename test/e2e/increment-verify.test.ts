/**
 * Increments with deltas and cut files: what PostgreSQL's own pg_verifybackup says of one that was laid down, what its
 * server holds, what a validation reads and names, and what a delta restore writes.
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chown, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { RestoreRequest } from '../../agent/restore/prepare.ts';
import type { RestoreOutcome } from '../../agent/restore/restore.ts';
import { runValidation, type Validated } from '../../agent/validate/validate.ts';
import { readServerState, type ServerState } from '../../cli/demo/database-state.ts';
import { stopServer } from '../../engine/postgres/server-process.ts';
import { toLsn } from '../../foundation/lsn.ts';
import type { PartitionGroupBackup } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { MACROBLOCK_BYTES, type MacroBlockEntry } from '../../storage-layout/macroblock/entry.ts';
import { readMacroBlockIndex } from '../../storage-layout/macroblock/index.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { tree } from '../../storage-layout/tree.ts';
import {
  ARCHIVE_GROUP,
  ARCHIVE_ROOT,
  ARCHIVE_ROUND,
  startArchiver,
  writeMountFile,
} from '../support/archiver.ts';
import { findDifferences } from '../support/compare.ts';
import { damage } from '../support/damage.ts';
import { backUpArchived, restoreArchived, sealUpTo, writeRoundBegin } from '../support/increments.ts';
import {
  binDirectory,
  createServer,
  makeTestDirectory,
  serverUser,
  type TestServer,
} from '../support/postgres.ts';
import { connectorTo } from '../support/scenario.ts';

const VERIFY = '/usr/lib/postgresql/15/bin/pg_verifybackup';
const MAJOR = 15;
const STEPS = [
  ['UPDATE wide SET n = n + 1 WHERE id % 900 = 7'],
  ['DELETE FROM wide WHERE id > 50000', 'VACUUM wide', 'DELETE FROM wide WHERE id % 999 = 1'],
] as const;

const LAST_SET = BigInt(STEPS.length + 1);
const { signal } = new AbortController();

let server: TestServer;
let destination: string;
let to: string;
let state: ServerState;
/** A file that is none of the server's: two macroblocks, of which the first is changed before the last backup. */
const STRANGER = 'stranger';
const STRANGER_TAIL_BYTES = 12_345;
const stranger = randomBytes(MACROBLOCK_BYTES + STRANGER_TAIL_BYTES);
let last: PartitionGroupBackup;

beforeAll(async () => {
  destination = await makeTestDirectory('verify');
  server = await createServer({ major: MAJOR });
  to = join(server.directory, 'copy');
  await writeMountFile(destination);
  const archiver = startArchiver({ port: server.port, destination, epoch: 1, fresh: true });
  await server.query(
    'CREATE TABLE wide AS SELECT i AS id, i % 10 AS n, repeat(md5(i::text), 6) AS body FROM generate_series(1, 60000) i',
  );
  await server.query('ALTER TABLE wide ADD PRIMARY KEY (id)');
  await server.query('VACUUM (FREEZE) wide');
  await writeStranger();
  last = await backUpArchived(server, destination, archiver, 1n);
  await writeRoundBegin(destination, last);
  for (const [n, statements] of STEPS.entries()) {
    for (const sql of statements) await server.query(sql);
    if (n === STEPS.length - 1) {
      stranger.writeUInt8(stranger.readUInt8(77) ^ 1, 77);
      await writeStranger();
    }
    last = await backUpArchived(server, destination, archiver, BigInt(n + 2));
    expect(last.readBytes).toBeLessThan(last.inputBytes / 2n);
  }
  state = await readServerState((database) => server.connect(database));
  await sealUpTo(destination, archiver, toLsn(last.stop?.lsn ?? 0n));
  archiver.abort();
  await archiver.result.catch(() => undefined);
}, 300_000);

afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
  if (destination !== undefined) await rm(destination, { recursive: true, force: true });
});

async function writeStranger(): Promise<void> {
  const path = join(server.dataDirectory, STRANGER);
  await writeFile(path, stranger);
  const user = serverUser();
  if (user !== undefined) await chown(path, user.uid, user.gid);
}

async function restore(change: Partial<RestoreRequest>): Promise<RestoreOutcome> {
  return await restoreArchived({ destination, major: MAJOR, setId: LAST_SET, dataDirectory: to }, change);
}

/** Compares the restored server with the source, and stops it. */
async function expectRestored({ server: copy }: RestoreOutcome): Promise<void> {
  try {
    expect(await findDifferences(connectorTo(copy?.port ?? 0), state)).toEqual([]);
  } finally {
    const paths = { binDirectory: binDirectory(MAJOR), dataDirectory: to, user: serverUser() };
    await stopServer(paths, 'fast', signal);
  }
}

test('an increment with deltas and cut files is right, and pg_verifybackup finds it so', async () => {
  const laid = join(server.directory, 'laid');
  await restore({ dataDirectory: laid, start: false });
  if (existsSync(VERIFY)) {
    // The settings of the copy and the log stand beside what was backed up.
    const names = ['-i', 'postgresql.auto.conf', '-i', 'pg_wal'];
    const { stdout } = await promisify(execFile)(VERIFY, ['-n', ...names, laid]);
    expect(stdout).toContain('successfully verified');
  }
  expect((await readFile(join(laid, STRANGER))).equals(stranger)).toBe(true);
  await expectRestored(await restore({}));
});

test('a file that is read whole is stored again only where it was changed', async () => {
  const index = await indexOf(LAST_SET);
  const tail = index.find(({ plainBytes }) => plainBytes === STRANGER_TAIL_BYTES);
  const head = index.find(
    ({ fileNumber, blockNumber }) => fileNumber === tail?.fileNumber && blockNumber === 0,
  );
  expect([head?.setId, tail?.setId]).toEqual([LAST_SET, 1n]);
});

test('a delta restore over a directory that went on lays deltas too, and keeps what is right', async () => {
  const outcome = await restore({ delta: true });
  await expectRestored(outcome);
  expect(outcome.kept?.blocks).toBeGreaterThan(0n);
  expect(outcome.kept?.blocksWritten).toBeGreaterThan(0n);
});

test('a delta restore from the full set to the increment writes every delta', async () => {
  const full = { tenantId: ARCHIVE_ROUND.tenantId, fullSetId: 1n, setId: 1n };
  await restore({ delta: true, set: full, start: false });
  await expectRestored(await restore({ delta: true }));
});

async function validate(setId: bigint): Promise<Validated> {
  const { tenantId } = ARCHIVE_ROUND;
  return await runValidation(
    {
      uri: `file://${destination}`,
      root: ARCHIVE_ROOT,
      tenantId,
      partitionGroup: ARCHIVE_GROUP,
      concurrency: 2,
      subject: { kind: 'set', key: { tenantId, fullSetId: 1n, setId } },
    },
    () => undefined,
    signal,
  );
}

/** Pieces beside the commit points that only a coordinator writes are not here; that is found, and no damage to data. */
function inData({ findings }: Validated) {
  return findings.filter(({ key }) => key.includes('macro_block'));
}

async function indexOf(setId: bigint): Promise<readonly MacroBlockEntry[]> {
  await using medium = await openMedium(`file://${destination}`);
  const key = { tenantId: ARCHIVE_ROUND.tenantId, fullSetId: 1n, setId };
  const entries: MacroBlockEntry[] = [];
  for await (const chunk of readMacroBlockIndex(
    medium,
    tree.macroBlockIndex(ARCHIVE_ROOT, key, ARCHIVE_GROUP, 0),
  ))
    entries.push(...chunk);
  return entries;
}

test('a validation of each set reads all blocks that the set names, wherever they are, and finds nothing', async () => {
  for (let setId = 1n; setId <= LAST_SET; setId += 1n) {
    const found = await validate(setId);
    expect(inData(found)).toEqual([]);
    expect(found.findings.filter(({ code }) => code !== 'BACKUP_FILE_NOT_EXIST')).toEqual([]);
    if (setId < LAST_SET) continue;
    expect(found.blockCount).toBe(last.macroblockCount);
    expect(found.bytes).toBe(last.inputBytes);
  }
});

test('a validation names a damaged delta for its set, and a damaged base for each set that has it', async () => {
  const entry = (await indexOf(LAST_SET)).find(({ delta }) => delta?.setId === LAST_SET);
  if (entry?.delta === undefined) throw new Error('the last set has no delta of its own');
  const sharing: bigint[] = [];
  for (let setId = 1n; setId <= LAST_SET; setId += 1n)
    if ((await indexOf(setId)).some((other) => isSamePlace(other, entry))) sharing.push(setId);
  expect(sharing.length).toBeGreaterThan(1);
  for (const [place, sets] of [
    [entry.delta, [LAST_SET]],
    [entry, sharing],
  ] as const) {
    const key = { tenantId: ARCHIVE_ROUND.tenantId, fullSetId: 1n, setId: place.setId };
    const object = tree.macroBlock(ARCHIVE_ROOT, key, ARCHIVE_GROUP, place.subTaskId);
    const path = join(destination, object);
    const middle = place.offset + Math.floor(place.storedBytes / 2);
    await using _ = await damage(path, 'flip', (middle + 0.5) / (await stat(path)).size);
    expect(inData(await validate(LAST_SET))).toMatchObject([
      { code: 'DATA_CORRUPT', key: object, offset: place.offset, fileCount: 1, setIds: sets },
    ]);
  }
});

test('a validation names every set that needs what is behind the end of a file that was cut off', async () => {
  const first = (await indexOf(LAST_SET)).find(({ setId }) => setId === 1n);
  if (first === undefined) throw new Error('the last set has nothing of the first');
  const { subTaskId } = first;
  const full = { tenantId: ARCHIVE_ROUND.tenantId, fullSetId: 1n, setId: 1n };
  const object = tree.macroBlock(ARCHIVE_ROOT, full, ARCHIVE_GROUP, subTaskId);
  await using _ = await damage(join(destination, object), 'truncate', 0.1);
  const offset = (await stat(join(destination, object))).size;
  const needing: bigint[] = [];
  for (let setId = 1n; setId <= LAST_SET; setId += 1n)
    if (
      (await indexOf(setId)).some(
        (place) =>
          place.setId === 1n && place.subTaskId === subTaskId && place.offset + place.storedBytes > offset,
      )
    )
      needing.push(setId);
  expect(needing).toHaveLength(Number(LAST_SET));
  expect(inData(await validate(LAST_SET))).toMatchObject([{ key: object, offset, setIds: needing }]);
});

function isSamePlace(a: MacroBlockEntry, b: MacroBlockEntry): boolean {
  return a.setId === b.setId && a.subTaskId === b.subTaskId && a.offset === b.offset;
}
