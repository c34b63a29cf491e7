/** Restores from a destination alone: real servers, a set and a log as agents write them. */
import { execFile, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chown, mkdir, open, readdir, readFile, readlink, rm, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { removeInterrupted } from '../../agent/restore/interrupted.ts';
import type { RestoreRequest } from '../../agent/restore/prepare.ts';
import type { RestoreStep } from '../../agent/restore/progress.ts';
import { runRestore } from '../../agent/restore/restore.ts';
import { readSettings } from '../../engine/postgres/restore/config-text.ts';
import { startServer, stopServer } from '../../engine/postgres/server-process.ts';
import { systemClock } from '../../foundation/clock.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { type Lsn, parseLsn, toLsn } from '../../foundation/lsn.ts';
import { backUp, GROUP, ROOT } from '../support/backup-task.ts';
import { archiveLog, publishSet } from '../support/hand-archive.ts';
import { majors } from '../support/majors.ts';
import {
  binDirectory,
  createServer,
  freePort,
  type Major,
  makeTestDirectory,
  serverUser,
  type TestServer,
} from '../support/postgres.ts';

const run = promisify(execFile);
const SET = { tenantId: 1n, fullSetId: 1n, setId: 1n };
const VERIFY = '/usr/lib/postgresql/15/bin/pg_verifybackup';

type Source = {
  readonly server: TestServer;
  readonly directory: string;
  readonly destination: string;
  readonly location: string;
  /** Positions and times after each of three transactions, and the end of the log. */
  readonly marks: readonly { readonly lsn: Lsn; readonly us: bigint; readonly xid: number }[];
  readonly end: Lsn;
  /** Where the backup began. */
  readonly start: Lsn;
};

/** A server with a table and a tablespace, backed up, then changed three times, its log archived. */
async function makeSource(major: Major): Promise<Source> {
  const directory = await makeTestDirectory('restore');
  await using stack = new AsyncDisposableStack();
  const server = stack.use(
    await createServer({ major, settings: { wal_keep_size: "'1GB'", max_connections: '37' } }),
  );
  const location = join(server.directory, 'a spaced place');
  await mkdir(location);
  if (server.paths.user !== undefined) await chown(location, server.paths.user.uid, server.paths.user.gid);
  await server.query(`CREATE TABLESPACE side LOCATION '${location}'`);
  await server.query('CREATE TABLE step (n int PRIMARY KEY)');
  await server.query('CREATE TABLE big AS SELECT i, md5(i::text) AS t FROM generate_series(1, 120000) i');
  await server.query('CREATE TABLE beside TABLESPACE side AS SELECT generate_series(1, 5000) AS i');
  const destination = join(directory, 'destination');
  const backup = await backUp({ port: server.port, destination });
  await publishSet(destination, backup);
  const marks: { lsn: Lsn; us: bigint; xid: number }[] = [];
  for (let n = 1; n <= 3; n++) {
    const [inserted] = await server.query<{ xid: string }>(
      'INSERT INTO step VALUES ($1) RETURNING xmin::text AS xid',
      [n],
    );
    await server.query(`SELECT pg_create_restore_point('after step ${n}')`);
    await server.query('INSERT INTO big SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 30000) i');
    await server.query('INSERT INTO beside SELECT generate_series(1, 1000)');
    const [row] = await server.query<{ lsn: string; us: string }>(
      `SELECT pg_current_wal_insert_lsn()::text AS lsn,
              (extract(epoch FROM clock_timestamp()) * 1000000)::bigint::text AS us`,
    );
    if (row !== undefined)
      marks.push({ lsn: parseLsn(row.lsn), us: BigInt(row.us), xid: Number(inserted?.xid ?? 0) });
  }
  const start = toLsn(backup.start?.lsn ?? 0n);
  const { end } = await archiveLog(server, destination, start);
  stack.move();
  return { server, directory, destination, location, marks, end, start };
}

async function disposeSource(source: Source): Promise<void> {
  await source.server[Symbol.asyncDispose]();
  await rm(source.directory, { recursive: true, force: true });
}

function request(source: Source, name: string, change: Partial<RestoreRequest> = {}): RestoreRequest {
  return {
    uri: `file://${source.destination}`,
    root: ROOT,
    set: SET,
    round: 1n,
    partitionGroup: GROUP,
    target: { kind: 'endOfLog' },
    timeline: undefined,
    dataDirectory: join(source.directory, name),
    tablespaceMap: new Map(),
    concurrency: 2,
    user: serverUser(),
    unit: undefined,
    checkUser: 'postgres',
    delta: false,
    start: true,
    binDirectory: () => binDirectory(source.server.major),
    port: freePort,
    ...change,
  };
}

type Restored = AsyncDisposable & {
  readonly port: number;
  readonly dataDirectory: string;
  query(sql: string): Promise<Record<string, unknown>[]>;
};

/** Restores and keeps the server until it is disposed. */
async function restored(
  asked: RestoreRequest,
  major: Major,
  report: (step: RestoreStep) => void = () => undefined,
): Promise<Restored> {
  const outcome = await runRestore(asked, report, new AbortController().signal);
  const port = outcome.server?.port ?? 0;
  const paths = {
    binDirectory: binDirectory(major),
    dataDirectory: outcome.dataDirectory,
    user: serverUser(),
  };
  return {
    port,
    dataDirectory: outcome.dataDirectory,
    query: (sql) => queryAt(port, sql),
    async [Symbol.asyncDispose]() {
      await stopServer(paths, 'immediate', new AbortController().signal);
    },
  };
}

async function queryAt(port: number, sql: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ host: '127.0.0.1', port, user: 'postgres', database: 'postgres' });
  await client.connect();
  try {
    return (await client.query<Record<string, unknown>>(sql)).rows;
  } finally {
    await client.end();
  }
}

async function leftIn(source: Source, name: string): Promise<readonly string[]> {
  return (await readdir(source.directory)).filter((entry) => entry.startsWith(name));
}

describe.each(majors(17))('a restore of PostgreSQL %i', (major) => {
  let source: Source;
  beforeAll(async () => {
    source = await makeSource(major);
  });
  afterAll(async () => await disposeSource(source));

  test('to the end of the log has everything, and a quiet copy on its own port', async () => {
    const phases: string[] = [];
    await using copy = await restored(request(source, 'end'), major, ({ phase }) => {
      if (phases.at(-1) !== phase) phases.push(phase);
    });
    expect(phases).toEqual(['CREATE', 'SYSTEM_DATA', 'USER_DATA', 'LOG', 'CHECK']);
    expect(await copy.query('SELECT count(*)::int AS n FROM step')).toEqual([{ n: 3 }]);
    expect(await copy.query('SELECT count(*)::int AS n FROM big')).toEqual([{ n: 210_000 }]);
    const settings = await copy.query(
      `SELECT name, setting FROM pg_settings WHERE name IN ('archive_mode', 'max_connections', 'listen_addresses',
         'restore_command', 'recovery_target_lsn', 'max_logical_replication_workers') ORDER BY 1`,
    );
    expect(settings).toEqual([
      { name: 'archive_mode', setting: 'off' },
      { name: 'listen_addresses', setting: '127.0.0.1' },
      { name: 'max_connections', setting: '37' },
      { name: 'max_logical_replication_workers', setting: '0' },
      { name: 'recovery_target_lsn', setting: '' },
      { name: 'restore_command', setting: '' },
    ]);
    const left = await readdir(copy.dataDirectory);
    expect(left).not.toContain('HOLDFAST_RESTORE_INCOMPLETE');
    expect(left).not.toContain('recovery.signal');
    expect(left).not.toContain('tablespace_map');
  });

  test('to a time or a position has what was committed before it and nothing after', async () => {
    const [, second] = source.marks;
    if (second === undefined) throw new Error('no mark');
    for (const [name, target] of [
      ['time', { kind: 'time', timeUs: second.us, inclusive: true }],
      ['lsn', { kind: 'lsn', lsn: second.lsn, inclusive: false }],
    ] as const) {
      await using copy = await restored(request(source, name, { target }), major);
      expect(await copy.query('SELECT max(n) AS n FROM step')).toEqual([{ n: 2 }]);
      expect(await copy.query('SELECT count(*)::int AS n FROM big')).toEqual([{ n: 180_000 }]);
      expect(await copy.query('SELECT count(*)::int AS n FROM beside')).toEqual([{ n: 7000 }]);
    }
  });

  test('beside its source writes to its own tablespace, and both stay right', async () => {
    await using copy = await restored(request(source, 'beside'), major);
    const oids = await readdir(join(copy.dataDirectory, 'pg_tblspc'));
    const link = await readlink(join(copy.dataDirectory, 'pg_tblspc', oids[0] ?? ''));
    expect(link).toBe(join(source.directory, 'beside.tablespaces', oids[0] ?? ''));
    const ours = await copy.query('SELECT sum(i)::int AS sum, count(*)::int AS n FROM beside');
    expect(ours).toEqual(
      await source.server.query('SELECT sum(i)::int AS sum, count(*)::int AS n FROM beside'),
    );
    await copy.query('INSERT INTO beside SELECT -1 FROM generate_series(1, 3000); CHECKPOINT');
    await source.server.query('INSERT INTO beside SELECT 0 FROM generate_series(1, 5000)');
    await source.server.query('CHECKPOINT');
    await source.server.stop();
    await source.server.start();
    expect(await copy.query('SELECT count(*)::int AS n FROM beside WHERE i = 0')).toEqual([{ n: 0 }]);
    expect(await copy.query('SELECT count(*)::int AS n FROM beside WHERE i = -1')).toEqual([{ n: 3000 }]);
    const [live] = await source.server.query<{ n: number; zero: number }>(
      'SELECT count(*) FILTER (WHERE i = -1)::int AS n, count(*) FILTER (WHERE i = 0)::int AS zero FROM beside',
    );
    expect(live).toEqual({ n: 0, zero: 5000 });
  });

  test('puts a tablespace where it is told, and not over what is there', async () => {
    const directory = join(source.directory, 'mapped');
    const tablespaceMap = new Map([[source.location, directory]]);
    await using copy = await restored(request(source, 'with-map', { tablespaceMap }), major);
    expect(await copy.query('SELECT count(*)::int AS n FROM beside')).toEqual([{ n: 8000 }]);
    expect((await readdir(directory)).length).toBe(1);
    const original = new Map([[source.location, source.location]]);
    await expect(restored(request(source, 'over', { tablespaceMap: original }), major)).rejects.toMatchObject(
      { code: 'TARGET_NOT_EMPTY' },
    );
    expect(await leftIn(source, 'over')).toEqual([]);
  });

  test('to the end of a transaction or a restore point stops behind or before it, as asked', async () => {
    const [, second] = source.marks;
    if (second === undefined) throw new Error('no mark');
    for (const [name, target, steps] of [
      ['xid', { kind: 'xid', xid: second.xid, inclusive: true }, 2],
      ['xid-exclusive', { kind: 'xid', xid: second.xid, inclusive: false }, 1],
      ['name', { kind: 'name', name: 'after step 2', inclusive: true }, 2],
      ['name-exclusive', { kind: 'name', name: 'after step 3', inclusive: false }, 3],
    ] as const) {
      await using copy = await restored(request(source, name, { target }), major);
      expect([name, await copy.query('SELECT max(n) AS n FROM step')]).toEqual([name, [{ n: steps }]]);
    }
  });

  test('refuses a transaction or restore point that is not in the archived log behind the set', async () => {
    for (const target of [
      { kind: 'xid', xid: 2_000_000_000, inclusive: true },
      { kind: 'name', name: 'never made', inclusive: true },
    ] as const) {
      await expect(
        runRestore(request(source, 'refused', { target }), () => undefined, new AbortController().signal),
      ).rejects.toMatchObject({
        code: 'TARGET_NOT_RESTORABLE',
        message: expect.stringContaining('not in the archived log'),
      });
    }
    expect(await leftIn(source, 'refused')).toEqual([]);
  });

  test('without start gives a directory that recovers by itself', async () => {
    const [first] = source.marks;
    if (first === undefined) throw new Error('no mark');
    const asked = request(source, 'no-start', {
      start: false,
      target: { kind: 'time', timeUs: first.us, inclusive: true },
    });
    const outcome = await runRestore(asked, () => undefined, new AbortController().signal);
    expect(outcome.server).toBeUndefined();
    expect(await leftIn(source, 'no-start.holdfast')).toEqual([]);
    const manifest = JSON.parse(await readFile(join(asked.dataDirectory, 'backup_manifest'), 'utf8'));
    expect(manifest['PostgreSQL-Backup-Manifest-Version']).toBe(major >= 17 ? 2 : 1);
    if (existsSync(VERIFY) && major < 17) await run(VERIFY, ['-n', asked.dataDirectory]);
    const paths = {
      binDirectory: binDirectory(major),
      dataDirectory: asked.dataDirectory,
      user: serverUser(),
    };
    const signal = new AbortController().signal;
    await startServer(
      paths,
      { logPath: join(source.server.directory, 'by-hand.log'), waitSeconds: 60 },
      signal,
    );
    try {
      const text = await readFile(join(asked.dataDirectory, 'postgresql.auto.conf'), 'utf8');
      const port = Number(readSettings(text).get('port'));
      const rows = () => queryAt(port, 'SELECT max(n) AS n FROM step').catch(() => 'not yet');
      await expect.poll(rows, { timeout: 60_000 }).toEqual([{ n: 1 }]);
    } finally {
      await stopServer(paths, 'immediate', signal);
    }
  });
});

describe('a damaged or unsuitable destination', () => {
  let source: Source;
  beforeAll(async () => {
    source = await makeSource(15);
  });
  afterAll(async () => await disposeSource(source));

  test("PostgreSQL's own pg_verifybackup accepts the baseline", async () => {
    const asked = request(source, 'verify', { start: false });
    await runRestore(asked, () => undefined, new AbortController().signal);
    if (!existsSync(VERIFY)) return;
    const { stdout } = await run(VERIFY, ['-n', asked.dataDirectory]);
    expect(stdout).toContain('successfully verified');
  });

  test('a directory that is not empty is refused and left as it was', async () => {
    const directory = join(source.directory, 'taken');
    await mkdir(directory);
    await (await open(join(directory, 'mine'), 'w')).close();
    await expect(restored(request(source, 'taken'), 15)).rejects.toMatchObject({ code: 'TARGET_NOT_EMPTY' });
    expect(await readdir(directory)).toEqual(['mine']);
  });

  test('a corrupt block stops the restore, names file and offset, and leaves no directory', async () => {
    const macros = join(source.destination, 'test/1/incarnation_1/1/data/backup_set_1/data/main');
    const file = (await readdir(macros)).find((name) => name === 'macro_block_1.2') ?? '';
    const path = join(macros, file);
    const original = await readFile(path);
    await using handle = await open(path, 'r+');
    await handle.write(Buffer.from([(original[100_000] ?? 0) ^ 0xff]), 0, 1, 100_000);
    await expect(restored(request(source, 'corrupt'), 15)).rejects.toMatchObject({
      code: 'DATA_CORRUPT',
      message: expect.stringMatching(/macro_block_1\.2.*offset \d+/),
    });
    expect(await leftIn(source, 'corrupt')).toEqual([]);
    await handle.write(original, 0, original.length, 0);
    await truncate(path, original.length - 100_000);
    await expect(restored(request(source, 'cut'), 15)).rejects.toMatchObject({
      code: 'DATA_CORRUPT',
      message: expect.stringMatching(/macro_block_1\.2.*offset \d+/),
    });
    expect(await leftIn(source, 'cut')).toEqual([]);
    await handle.write(original, 0, original.length, 0);
  });

  test('a hole in the log stops the restore before anything is made', async () => {
    const data = join(source.destination, 'test/1/incarnation_1/1/clog/1/data/main');
    const index = join(source.destination, 'test/1/incarnation_1/1/clog/1/index/main');
    const size = (await stat(join(data, '1.1'))).size;
    const original = await readFile(join(data, '1.1'));
    await truncate(join(data, '1.1'), Math.floor(size / 4));
    const asked = request(source, 'hole', { target: { kind: 'lsn', lsn: source.end, inclusive: true } });
    await expect(restored(asked, 15)).rejects.toMatchObject({ code: 'TARGET_NOT_RESTORABLE' });
    expect(await leftIn(source, 'hole')).toEqual([]);
    await using handle = await open(join(data, '1.1'), 'r+');
    await handle.write(original, 0, original.length, 0);
    expect((await readdir(index)).length).toBeGreaterThan(1);
    // All that was archived is more than what lies before the hole.
    await truncate(join(data, '1.1'), size - 1);
    await expect(restored(request(source, 'hole'), 15)).rejects.toMatchObject({
      code: 'DATA_CORRUPT',
      message: expect.stringMatching(/1\.1 at offset \d+: the file ends here/) as string,
    });
    await handle.write(original, 0, original.length, 0);
    expect(await leftIn(source, 'hole')).toEqual([]);
  });

  test('a corrupt log block stops the server and the restore, and leaves no directory', async () => {
    const data = join(source.destination, 'test/1/incarnation_1/1/clog/1/data/main');
    const path = join(data, '2.1');
    const original = await readFile(path);
    await using handle = await open(path, 'r+');
    const at = Math.floor(original.length / 2);
    await handle.write(Buffer.from([(original[at] ?? 0) ^ 0xff]), 0, 1, at);
    await expect(restored(request(source, 'bad-log'), 15)).rejects.toMatchObject({
      code: 'DATA_CORRUPT',
      message: expect.stringMatching(/data\/main\/2\.1.*offset \d+/),
    });
    expect(await leftIn(source, 'bad-log')).toEqual([]);
    await handle.write(original, 0, original.length, 0);
  });

  test('a tablespace that the log creates elsewhere on this host is refused', async () => {
    const location = join(source.server.directory, 'later');
    await mkdir(location);
    const { user } = source.server.paths;
    if (user !== undefined) await chown(location, user.uid, user.gid);
    await source.server.query(`CREATE TABLESPACE later LOCATION '${location}'`);
    await source.server.query('CREATE TABLE in_later TABLESPACE later AS SELECT 1 AS i');
    await archiveLog(source.server, source.destination, source.start, 2n);
    await expect(restored(request(source, 'later', { round: 2n }), 15)).rejects.toMatchObject({
      code: 'RESTORE_FAILED',
      message: expect.stringContaining(location),
    });
    expect(await leftIn(source, 'later')).toEqual([]);
    expect(await source.server.query('SELECT i FROM in_later')).toEqual([{ i: 1 }]);
  });

  test('an interrupted restore removes what it made', async () => {
    const interrupt = new AbortController();
    const report = ({ phase }: RestoreStep) => {
      if (phase === 'LOG') interrupt.abort(new HoldfastError('CANCELLED', 'enough'));
    };
    await expect(runRestore(request(source, 'stopped'), report, interrupt.signal)).rejects.toThrow();
    expect(await leftIn(source, 'stopped')).toEqual([]);
  });

  test('a restore whose process was killed leaves no copy that is mistaken for a good one', async () => {
    const to = join(source.directory, 'killed');
    const runAs = serverUser() === undefined ? [] : ['--run-as', 'nobody'];
    const uri = `file://${source.destination}`;
    const cli = join(import.meta.dirname, '../../cli/holdfast.ts');
    const args = [cli, 'restore', '--from', uri, '--tenant', 'orders', '--to', to, ...runAs];
    const child = spawn(process.execPath, args, { stdio: 'ignore' });
    const { promise: ended, resolve } = Promise.withResolvers<void>();
    child.once('exit', () => resolve());
    await expect
      .poll(() => existsSync(join(to, 'postmaster.pid')), { timeout: 60_000, interval: 5 })
      .toBe(true);
    child.kill('SIGKILL');
    await ended;
    expect(await readdir(to)).toContain('HOLDFAST_RESTORE_INCOMPLETE');
    await expect(restored(request(source, 'killed'), 15)).rejects.toMatchObject({ code: 'TARGET_NOT_EMPTY' });
    const signal = new AbortController().signal;
    const pid = Number.parseInt(await readFile(join(to, 'postmaster.pid'), 'utf8'), 10);
    expect(await removeInterrupted(to, systemClock, signal)).toBe(true);
    expect(await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).toBe(''); // gone, or not reaped yet
    expect(await leftIn(source, 'killed')).toEqual([]);
    expect(await removeInterrupted(to, systemClock, signal)).toBe(false);
  });

  test('the command line restores and inspects', async () => {
    const to = join(source.directory, 'by-command');
    const uri = `file://${source.destination}`;
    const holdfast = async (...args: string[]) =>
      (await run(process.execPath, [join(import.meta.dirname, '../../cli/holdfast.ts'), ...args])).stdout;
    expect(await holdfast('inspect', uri)).toMatch(/Tenant orders[^]*Backup set 1[^]*Archive round 1/);
    const runAs = serverUser() === undefined ? [] : ['--run-as', 'nobody'];
    const output = await holdfast('restore', '--from', uri, '--tenant', 'orders', '--to', to, ...runAs);
    try {
      const port = Number(/listens on 127\.0\.0\.1, port (\d+)/.exec(output)?.[1]);
      expect(await queryAt(port, 'SELECT max(n) AS n FROM step')).toEqual([{ n: 3 }]);
    } finally {
      const paths = { binDirectory: binDirectory(15), dataDirectory: to, user: serverUser() };
      await stopServer(paths, 'immediate', new AbortController().signal);
    }
  });
});
