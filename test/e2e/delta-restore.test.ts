/** Delta restores over directories that are there: damaged, diverged, half restored; and those that are refused. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import {
  appendFile,
  chown,
  copyFile,
  cp,
  link,
  mkdir,
  open,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CONTROL_ASIDE } from '../../agent/restore/delta.ts';
import type { RestoreRequest } from '../../agent/restore/prepare.ts';
import { type RestoreOutcome, runRestore } from '../../agent/restore/restore.ts';
import { INCOMPLETE_MARKER } from '../../agent/restore/target-directory.ts';
import { readServerState, type ServerState } from '../../cli/demo/database-state.ts';
import { startServer, stopServer } from '../../engine/postgres/server-process.ts';
import { toLsn } from '../../foundation/lsn.ts';
import { backUp, GROUP, ROOT } from '../support/backup-task.ts';
import { findDifferences } from '../support/compare.ts';
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
import { createRandom } from '../support/random.ts';
import { connectorTo } from '../support/scenario.ts';

const { signal } = new AbortController();
const CLI = join(import.meta.dirname, '../../cli/holdfast.ts');

type Source = {
  readonly server: TestServer;
  readonly directory: string;
  readonly destination: string;
  /** The live tablespace of the source. */
  readonly location: string;
};

async function makeSource(major: Major): Promise<Source> {
  const directory = await makeTestDirectory('delta');
  await using stack = new AsyncDisposableStack();
  const server = stack.use(
    await createServer({ major, settings: { wal_keep_size: "'1GB'", autovacuum: 'off' } }),
  );
  const location = join(server.directory, 'side');
  await mkdir(location);
  if (server.paths.user !== undefined) await chown(location, server.paths.user.uid, server.paths.user.gid);
  await server.query(`CREATE TABLESPACE side LOCATION '${location}'`);
  await server.query('CREATE TABLE step (n int PRIMARY KEY)');
  await server.query('CREATE TABLE big AS SELECT i, md5(i::text) AS t FROM generate_series(1, 150000) i');
  await server.query('ALTER TABLE big ADD PRIMARY KEY (i)');
  await server.query(
    'CREATE TABLE beside TABLESPACE side AS SELECT i, md5(i::text) FROM generate_series(1, 30000) i',
  );
  const destination = join(directory, 'destination');
  const backup = await backUp({ port: server.port, destination });
  await publishSet(destination, backup);
  await server.query('INSERT INTO step VALUES (1)');
  await server.query('UPDATE big SET t = upper(t) WHERE i % 1000 = 0');
  await archiveLog(server, destination, toLsn(backup.start?.lsn ?? 0n));
  stack.move();
  return { server, directory, destination, location };
}

describe.each(majors(17))('a delta restore of PostgreSQL %i', (major) => {
  let source: Source;
  let fresh: ServerState;
  let to: string;

  beforeAll(async () => {
    source = await makeSource(major);
    to = join(source.directory, 'copy');
    const outcome = await restore({ delta: false });
    fresh = await stateOf(outcome);
    await stop(to);
  }, 240_000);
  afterAll(async () => {
    await source.server[Symbol.asyncDispose]();
    await rm(source.directory, { recursive: true, force: true });
  });

  const paths = (dataDirectory: string) => ({
    binDirectory: binDirectory(major),
    dataDirectory,
    user: serverUser(),
  });
  const stop = (dataDirectory: string) => stopServer(paths(dataDirectory), 'fast', signal);
  const restore = async (change: Partial<RestoreRequest> = {}): Promise<RestoreOutcome> =>
    await runRestore(
      {
        uri: `file://${source.destination}`,
        root: ROOT,
        set: { tenantId: 1n, fullSetId: 1n, setId: 1n },
        round: 1n,
        partitionGroup: GROUP,
        target: { kind: 'endOfLog' },
        timeline: undefined,
        dataDirectory: to,
        tablespaceMap: new Map(),
        concurrency: 2,
        user: serverUser(),
        unit: undefined,
        checkUser: 'postgres',
        delta: true,
        start: true,
        binDirectory: () => binDirectory(major),
        port: freePort,
        ...change,
      },
      () => undefined,
      signal,
    );
  const stateOf = async ({ server }: RestoreOutcome) => await readServerState(connectorTo(server?.port ?? 0));
  /** Row by row, index against table, amcheck. */
  const expectFresh = async (outcome: RestoreOutcome) => {
    expect(await findDifferences(connectorTo(outcome.server?.port ?? 0), fresh)).toEqual([]);
    const left = await readdir(outcome.dataDirectory);
    expect(left).not.toContain(INCOMPLETE_MARKER);
    expect(left).not.toContain(CONTROL_ASIDE);
  };
  const relationPath = async (name: string) => {
    const [row] = await source.server.query<{ path: string }>(
      `SELECT pg_relation_filepath('${name}') AS path`,
    );
    return join(to, row?.path ?? '');
  };

  test('keeps what is right, and writes the rest', async () => {
    const outcome = await restore();
    const { kept } = outcome;
    expect(kept?.blocks).toBeGreaterThan(10 * Number(kept?.blocksWritten));
    expect(kept?.blocksWritten).toBeGreaterThan(0n); // what the first restore's log has changed
    await expectFresh(outcome);
    await stop(to);
  }, 240_000);

  test('mends a directory that was damaged in every way, and touches nothing that only looks like its own', async () => {
    const outside = join(source.directory, 'outside');
    await mkdir(outside);
    const big = await relationPath('big');
    const step = await relationPath('step');
    const beside = await relationPath('beside');
    {
      await using file = await open(big, 'r+');
      await file.write(Buffer.alloc(5000, 7), 0, 5000, 3_000_000);
    }
    await appendFile(`${big}_fsm`, Buffer.alloc(100_000, 1));
    await truncate(beside, 8192);
    await rm(step);
    await writeFile(join(outside, 'precious'), 'precious');
    await symlink(join(outside, 'precious'), step); // what would be written through
    const catalog = join(
      to,
      'global',
      (await readdir(join(to, 'global'))).find((name) => /^\d+$/.test(name)) ?? '',
    );
    await link(catalog, join(outside, 'other-name'));
    const linked = await readFile(catalog);
    await appendFile(catalog, 'changed under both names');
    await writeFile(join(to, 'base', 'stray'), 'stray');
    await mkdir(join(to, 'stray-directory', 'deep'), { recursive: true });
    await symlink(outside, join(to, 'stray-directory', 'deep', 'link'));
    await rm(join(to, 'pg_xact'), { recursive: true });
    await rename(join(to, 'pg_wal'), join(outside, 'pg_wal'));
    await symlink(join(outside, 'pg_wal'), join(to, 'pg_wal')); // another disk, or another server's
    const wal = await readdir(join(outside, 'pg_wal'));
    await writeFile(join(to, 'postmaster.pid'), '2147483646\n/nowhere\n'); // of a server that crashed
    await expect(restore()).rejects.toMatchObject({
      code: 'TARGET_NOT_EMPTY',
      hint: expect.stringContaining('remove'),
    });
    expect(existsSync(join(to, 'global', 'pg_control'))).toBe(true);
    await rm(join(to, 'postmaster.pid'));

    const outcome = await restore();
    await expectFresh(outcome);
    await stop(to);
    expect(await readFile(join(outside, 'precious'), 'utf8')).toBe('precious');
    const other = await readFile(join(outside, 'other-name'));
    expect(other.subarray(0, linked.length).equals(linked)).toBe(true);
    expect(other.length).toBeGreaterThan(linked.length);
    expect(await readdir(join(outside, 'pg_wal'))).toEqual(wal);
    expect((await readdir(to)).filter((name) => name.startsWith('stray'))).toEqual([]);
    await rm(outside, { recursive: true });
  }, 240_000);

  test('takes back what a copy has become since', async () => {
    await startServer(paths(to), { logPath: join(source.directory, 'diverge.log'), waitSeconds: 60 }, signal);
    const port = Number((await readFile(join(to, 'postmaster.pid'), 'utf8')).split('\n')[3]);
    const client = await connectorTo(port)('postgres');
    for (const sql of [
      'CREATE TABLE only_here AS SELECT generate_series(1, 50000) AS i',
      'DROP TABLE step',
      'VACUUM FULL big',
      'TRUNCATE beside',
      'INSERT INTO beside SELECT -1, md5($$x$$) FROM generate_series(1, 60000)',
      'CREATE DATABASE other',
      'CHECKPOINT',
    ])
      await client.query(sql);
    await client.end();
    await stop(to);
    const outcome = await restore();
    await expectFresh(outcome);
    expect(outcome.kept?.blocks).toBeGreaterThan(0n);
    await stop(to);
  }, 240_000);

  test('killed at any moment leaves no database, and another one ends right', async () => {
    const random = createRandom('kill delta restores');
    const kill = async (when: () => boolean | Promise<boolean>) => {
      const runAs = serverUser() === undefined ? [] : ['--run-as', 'nobody'];
      const args = ['restore', '--delta', '--from', `file://${source.destination}`, '--tenant', 'orders'];
      const child = spawn(process.execPath, [CLI, ...args, '--to', to, ...runAs], { stdio: 'ignore' });
      const { promise: ended, resolve } = Promise.withResolvers<void>();
      child.once('exit', () => resolve());
      await expect.poll(when, { timeout: 60_000, interval: 2 }).toBe(true);
      child.kill('SIGKILL');
      await ended;
      expect(await readdir(to)).toContain(INCOMPLETE_MARKER);
    };
    const isAside = () => existsSync(join(to, CONTROL_ASIDE)) && existsSync(join(to, INCOMPLETE_MARKER));
    const mess = async () => {
      await using file = await open(await relationPath('big'), 'r+');
      for (let at = 0; at < 8; at += 1) await file.write('mess', at * 2 ** 20 + random.between(0, 2 ** 19));
    };
    await mess();
    let killedAtMs = 0;
    for (const delayMs of [0, random.between(1, 30), random.between(30, 150)]) {
      killedAtMs = 0;
      await kill(() => {
        if (!isAside()) return false;
        killedAtMs ||= performance.now();
        return performance.now() - killedAtMs >= delayMs;
      });
      if (existsSync(join(to, 'postmaster.pid'))) continue; // it was quick
      if (!existsSync(join(to, 'global', 'pg_control')))
        await expect(
          startServer(paths(to), { logPath: join(source.directory, 'no.log'), waitSeconds: 20 }, signal),
        ).rejects.toThrow();
    }
    // While its server replays the log: that server is what the interrupted restore left.
    await kill(() => existsSync(join(to, 'postmaster.pid')));
    const outcome = await restore();
    await expectFresh(outcome);
    await stop(to);
  }, 300_000);

  test('does not write to the tablespace of a live server that a copied directory leads to', async () => {
    const copied = join(source.directory, 'copied');
    await cp(to, copied, { recursive: true, verbatimSymlinks: true });
    const { user } = source.server.paths;
    const [oid = ''] = await readdir(join(copied, 'pg_tblspc'));
    await rm(join(copied, 'pg_tblspc', oid));
    await symlink(source.location, join(copied, 'pg_tblspc', oid));
    if (user !== undefined) await chownAll(copied, user);
    const named = new Map([[source.location, source.location]]);
    await expect(restore({ dataDirectory: copied, tablespaceMap: named })).rejects.toMatchObject({
      code: 'TARGET_NOT_EMPTY',
      message: expect.stringContaining('a running server'),
    });
    expect(existsSync(join(copied, 'global', 'pg_control'))).toBe(true);
    const before = await listing(source.location);
    const outcome = await restore({ dataDirectory: copied });
    await expectFresh(outcome);
    await stop(copied);
    expect(await readlink(join(copied, 'pg_tblspc', oid))).toBe(join(`${copied}.tablespaces`, oid));
    expect(await listing(source.location)).toEqual(before);
    const [row] = await source.server.query<{ n: number }>('SELECT count(*)::int AS n FROM beside');
    expect(row?.n).toBe(30_000);
  }, 240_000);

  test('is refused over a running server, another database, and what is no data directory', async () => {
    const running = restore({ dataDirectory: source.server.dataDirectory });
    await expect(running).rejects.toMatchObject({
      code: 'TARGET_NOT_EMPTY',
      message: expect.stringContaining('a server runs on'),
    });
    expect(await source.server.query('SELECT 1 AS one')).toEqual([{ one: 1 }]);
    await using other = await createServer({ major });
    await other.stop();
    await expect(restore({ dataDirectory: other.dataDirectory })).rejects.toMatchObject({
      code: 'SYSTEM_IDENTIFIER_MISMATCH',
    });
    await other.start();
    expect(await other.query('SELECT 1 AS one')).toEqual([{ one: 1 }]);
    const empty = join(source.directory, 'empty');
    await mkdir(empty);
    for (const dataDirectory of [empty, join(source.directory, 'absent')])
      await expect(restore({ dataDirectory })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(await readdir(empty)).toEqual([]);
    const control = join(to, 'global', 'pg_control');
    await copyFile(control, `${control}.saved`);
    await truncate(control, 100);
    await expect(restore()).rejects.toMatchObject({ code: 'DATA_CORRUPT' });
    await rename(`${control}.saved`, control);
  }, 240_000);
});

async function listing(directory: string): Promise<readonly string[]> {
  const found: string[] = [];
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    found.push(`${path} ${(await stat(path)).size}`);
  }
  return found.toSorted();
}

async function chownAll(
  directory: string,
  user: { readonly uid: number; readonly gid: number },
): Promise<void> {
  await chown(directory, user.uid, user.gid);
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true }))
    if (!entry.isSymbolicLink()) await chown(join(entry.parentPath, entry.name), user.uid, user.gid);
}
