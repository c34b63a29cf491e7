/** Validation of real sets and real log at a destination: what is whole passes, whatever is damaged is named. */
import { rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Finding, formatFinding } from '../../agent/validate/findings.ts';
import type { ValidationStep } from '../../agent/validate/progress.ts';
import { runValidation, type Validated, type Validation } from '../../agent/validate/validate.ts';
import { segmentStart, toLsn } from '../../foundation/lsn.ts';
import {
  BackupInfoSchema,
  type PartitionGroupBackup,
  PartitionGroupListSchema,
  TenantDiagnoseInfoSchema,
  TenantLocalityInfoSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { readInfo, writeOnce } from '../../storage-layout/records/info-file.ts';
import { tree } from '../../storage-layout/tree.ts';
import { backUp, GROUP, ROOT, readBackup } from '../support/backup-task.ts';
import { type Damage, damage, filesOfKind } from '../support/damage.ts';
import { archiveLog, publishSet } from '../support/hand-archive.ts';
import { majors } from '../support/majors.ts';
import { createServer, type Major, makeTestDirectory } from '../support/postgres.ts';

const SET = { tenantId: 1n, fullSetId: 1n, setId: 1n };
const SEGMENT_BYTES = 16 * 2 ** 20;
const { signal } = new AbortController();

type Made = {
  readonly destination: string;
  readonly directory: string;
  /** Of table `big`, which has blocks of its own. */
  readonly bigPath: string;
  readonly bigOid: number;
  readonly databaseOid: number;
  readonly blockCount: bigint;
  readonly inputBytes: bigint;
};

/** A server with a table of several macroblocks, backed up, its log archived behind the backup too. */
async function makeDestination(major: Major): Promise<Made> {
  const directory = await makeTestDirectory('validate');
  const destination = join(directory, 'destination');
  await using server = await createServer({ major, settings: { wal_keep_size: "'1GB'" } });
  await server.query('CREATE TABLE big AS SELECT i, md5(i::text) AS t FROM generate_series(1, 150000) i');
  await server.query('CREATE INDEX ON big (i)');
  const backup = await backUp({ port: server.port, destination });
  await publishSet(destination, backup);
  await using medium = await openMedium(`file://${destination}`);
  await writeOnce(medium, tree.pgList(ROOT, SET), PartitionGroupListSchema, create(PartitionGroupListSchema));
  await writeOnce(
    medium,
    tree.localityInfo(ROOT, SET),
    TenantLocalityInfoSchema,
    create(TenantLocalityInfoSchema),
  );
  await writeOnce(
    medium,
    tree.diagnoseInfo(ROOT, SET),
    TenantDiagnoseInfoSchema,
    create(TenantDiagnoseInfoSchema),
  );
  for (let n = 0; n < 4; n += 1)
    await server.query('INSERT INTO big SELECT i, repeat(md5(i::text), 4) FROM generate_series(1, 40000) i');
  await archiveLog(server, destination, toLsn(backup.start?.lsn ?? 0n));
  const [row] = await server.query<{ path: string; oid: number; database: number }>(
    `SELECT pg_relation_filepath('big') AS path, pg_relation_filenode('big')::int AS oid,
            (SELECT oid::int FROM pg_database WHERE datname = current_database()) AS database`,
  );
  return {
    destination,
    directory,
    bigPath: row?.path ?? '',
    bigOid: row?.oid ?? 0,
    databaseOid: row?.database ?? 0,
    blockCount: backup.macroblockCount,
    inputBytes: backup.inputBytes,
  };
}

describe.each(majors(17))('a validation of what PostgreSQL %i left', (major) => {
  let made: Made;
  beforeAll(async () => {
    made = await makeDestination(major);
  });
  afterAll(async () => await rm(made.directory, { recursive: true, force: true }));

  const common = () => ({
    uri: `file://${made.destination}`,
    root: ROOT,
    tenantId: 1n,
    partitionGroup: GROUP,
    concurrency: 2,
  });
  const validateSet = async (): Promise<Validated> =>
    await run({ ...common(), subject: { kind: 'set', key: SET } });
  const validateLog = async (): Promise<Validated> =>
    await run({ ...common(), subject: { kind: 'log', round: 1n, checked: [], until: undefined } });
  const run = async (validation: Validation) => await runValidation(validation, () => undefined, signal);
  const one = async (kind: Parameters<typeof filesOfKind>[1], which = 0): Promise<string> =>
    (await filesOfKind(made.destination, kind)).at(which) ?? '';
  const keyOf = (path: string) => path.slice(made.destination.length + 1);

  test('finds nothing in a whole set, and has read all of it', async () => {
    const found = await validateSet();
    expect(found.findings).toEqual([]);
    expect(found.findingCount).toBe(0);
    expect(found.blockCount).toBe(made.blockCount);
    expect(found.bytes).toBe(made.inputBytes);
    expect(found.logBytes).toBeGreaterThan(0n);
  });

  test('says from the beginning how much there is to read of a set, its log included, and gets there', async () => {
    const steps: ValidationStep[] = [];
    const validation = { ...common(), subject: { kind: 'set', key: SET } } as const;
    await runValidation(validation, (step) => steps.push(step), signal);
    const { start, stop } = await backupOf(made.destination);
    const log = (stop?.lsn ?? 0n) - segmentStart(start?.lsn ?? 0n, SEGMENT_BYTES);
    const counted = steps.filter(({ phase }) => phase !== 'META');
    expect(new Set(counted.map(({ bytesTotal, logBytesTotal }) => bytesTotal + logBytesTotal))).toEqual(
      new Set([made.inputBytes + log]),
    );
    const done = counted.map(({ bytesDone, logBytesDone }) => bytesDone + logBytesDone);
    expect(done).toEqual(done.toSorted((a, b) => (a < b ? -1 : a > b ? 1 : 0)));
    expect(done.at(-1)).toBe(made.inputBytes + log);
  });

  test('finds nothing in a whole log, and says how far it is right', async () => {
    const found = await validateLog();
    expect(found.findings).toEqual([]);
    expect(found.logs).toHaveLength(1);
    expect(found.logBytes).toBe((found.logs[0]?.end ?? 0n) - (found.logs[0]?.begin ?? 0n));
  });

  test('names the relation whose block was changed by one bit', async () => {
    const read = await readBackup(made.destination, await backupOf(made.destination));
    const file = read.files.find(({ path }) => path === made.bigPath);
    const entry = read.entries.find(
      ({ fileNumber, blockNumber }) => fileNumber === file?.fileNumber && blockNumber === 1,
    );
    if (entry === undefined) throw new Error('table big has no second macroblock');
    const path = join(made.destination, tree.macroBlock(ROOT, SET, GROUP, entry.subTaskId));
    await using _ = await damage(path, 'flip', await placeIn(path, entry.offset + 1000));
    const { findings } = await validateSet();
    expect(findings).toEqual([
      {
        code: 'DATA_CORRUPT',
        key: keyOf(path),
        offset: entry.offset,
        message: expect.stringContaining('checksum'),
        files: [
          {
            path: made.bigPath,
            databaseOid: made.databaseOid,
            databaseName: 'postgres',
            relFileNumber: made.bigOid,
            blockCount: 1,
          },
        ],
        fileCount: 1,
        setIds: [1n],
        shortenedSetIds: [],
      },
    ]);
    expect(formatFinding(findings[0] as Finding)).toContain(`${made.bigPath} (database "postgres"`);
  });

  test.each<[Damage, string]>([
    ['flip', 'DATA_CORRUPT'],
    ['truncate', 'DATA_CORRUPT'],
    ['delete', 'BACKUP_FILE_NOT_EXIST'],
  ])('names the object at the destination after %s, of every kind of object', async (how, code) => {
    for (const kind of [
      'backupInfo',
      'pgList',
      'localityInfo',
      'diagnoseInfo',
      'metaFile',
      'metaIndexFile',
      'macroBlock',
      'macroBlockIndex',
      'roundBegin',
    ] as const) {
      const path = await one(kind);
      await using _ = await damage(path, how);
      const { findings, findingCount } = await validateSet();
      expect([kind, findings.map((finding) => [finding.code, finding.key])]).toEqual([
        kind,
        [[code, keyOf(path)]],
      ]);
      expect(findingCount).toBe(1);
      expect([kind, findings[0]?.setIds]).toEqual([kind, [1n]]);
    }
  });

  test('says which relations a lost macroblock file held, and finds all damage, not the first only', async () => {
    const paths = await filesOfKind(made.destination, 'macroBlock');
    expect(paths.length).toBeGreaterThanOrEqual(3);
    const [third = '', first = '', second = ''] = paths; // the control file's stands before the others
    await using stack = new AsyncDisposableStack();
    stack.use(await damage(first, 'delete'));
    stack.use(await damage(second, 'truncate', 0.5));
    stack.use(await damage(third, 'flip', 0.5));
    const { findings } = await validateSet();
    expect(new Set(findings.map(({ key }) => key))).toEqual(new Set([first, second, third].map(keyOf)));
    for (const finding of findings) expect(finding.files.length).toBeGreaterThan(0);
    expect(findings.filter(({ key }) => key === keyOf(first))).toHaveLength(1);
    expect(findings.find(({ key }) => key === keyOf(first))?.fileCount).toBeGreaterThan(1);
  });

  test.each([0, 0.999_999])(
    'finds a flipped bit in the frame of a macroblock file, at %d of it',
    async (place) => {
      const path = await one('macroBlock');
      await using _ = await damage(path, 'flip', place);
      expect((await validateSet()).findings.map(({ key }) => key)).toEqual([keyOf(path)]);
    },
  );

  test.each<[Damage, string]>([
    ['flip', 'DATA_CORRUPT'],
    ['truncate', 'DATA_CORRUPT'],
    ['delete', 'BACKUP_FILE_NOT_EXIST'],
  ])('names a log file and its index after %s, and the sets that need it', async (how, code) => {
    for (const kind of ['logData', 'logIndex'] as const) {
      for (const which of [0, 1]) {
        const path = await one(kind, which);
        await using _ = await damage(path, how);
        const { findings } = await validateLog();
        const found = findings.map((finding) => [finding.code, finding.key]);
        expect([kind, which, found]).toEqual([kind, which, [[code, keyOf(path)]]]);
        if (kind === 'logData' && which === 1) expect(findings[0]?.shortenedSetIds).toEqual([1n]);
      }
    }
  });

  test("finds damage to the set's own log, and says that the set needs it", async () => {
    const path = await one('logData');
    for (const how of ['flip', 'delete'] as const) {
      await using _ = await damage(path, how, 0.01);
      const { findings } = await validateSet();
      expect(findings.map(({ key, setIds }) => [key, setIds])).toEqual([[keyOf(path), [1n]]]);
    }
  });

  test('names the range of a log file that is gone with its index', async () => {
    await using stack = new AsyncDisposableStack();
    stack.use(await damage(await one('logData', 1), 'delete'));
    stack.use(await damage(await one('logIndex', 1), 'delete'));
    const { findings } = await validateLog();
    expect(findings.map(({ code }) => code)).toEqual(['LOG_GAP']);
    expect(findings[0]?.message).toMatch(/lacks 0\/[0-9A-F]+ to 0\/[0-9A-F]+ of timeline 1/);
  });

  test('does not read again what is said to be right, and does read the rest', async () => {
    const whole = await validateLog();
    const [right] = whole.logs;
    if (right === undefined) throw new Error('no log');
    const path = await one('logData', 0);
    await using _ = await damage(path, 'flip');
    const subject = { kind: 'log', round: 1n, checked: [right], until: undefined } as const;
    expect(await run({ ...common(), subject })).toMatchObject({ findingCount: 0, logBytes: 0n });
    const half = { ...right, begin: toLsn(right.begin + 1n) };
    const again = await run({ ...common(), subject: { ...subject, checked: [half] } });
    expect(again.findings.map(({ key }) => key)).toEqual([keyOf(path)]);
  });
});

async function backupOf(destination: string): Promise<PartitionGroupBackup> {
  await using medium = await openMedium(`file://${destination}`);
  const info = await readInfo(medium, tree.backupInfo(ROOT, SET), BackupInfoSchema);
  const [backup] = info.partitionGroups;
  if (backup === undefined) throw new Error('no partition group');
  return backup;
}

async function placeIn(path: string, offset: number): Promise<number> {
  return (offset + 0.5) / (await stat(path)).size;
}
