/** The copy of a running server: what it holds, what it leaves out, what it says of damaged pages. */
import { closeSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { appendFile, chown, mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CONTROL_FILE_PATH, parseControlFile } from '../../engine/postgres/control-file.ts';
import { PAGE_BYTES } from '../../engine/postgres/pages.ts';
import { FileKind } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { crc32c } from '../../storage-layout/crc32c.ts';
import { tree } from '../../storage-layout/tree.ts';
import { backUp, ROOT, readBackup } from '../support/backup-task.ts';
import { majors } from '../support/majors.ts';
import { createServer, makeTestDirectory, type TestServer } from '../support/postgres.ts';

const LOADERS = 3;

describe.each(majors(17))('a full backup of PostgreSQL %i under load', (major) => {
  let server: TestServer;
  let directory: string;

  beforeAll(async () => {
    directory = await makeTestDirectory('backup-copy');
    server = await createServer({ major });
    const location = join(server.directory, 'a spaced directory');
    await mkdir(location);
    if (server.paths.user !== undefined) await chown(location, server.paths.user.uid, server.paths.user.gid);
    await server.query(`CREATE TABLESPACE side LOCATION '${location}'`);
    const extra = join(server.directory, 'extra.conf');
    await writeFile(extra, "work_mem = '5MB'\n");
    await appendFile(join(server.dataDirectory, 'postgresql.conf'), `\ninclude '${extra}'\n`);
    const client = await server.connect();
    await client.query('SELECT pg_reload_conf()');
    if (major >= 15) {
      await client.query('SET allow_in_place_tablespaces = on');
      await client.query("CREATE TABLESPACE here LOCATION ''");
      await client.query('CREATE TABLE in_place (id int) TABLESPACE here; INSERT INTO in_place VALUES (1)');
    }
    await client.query(
      `CREATE TABLE account (id int PRIMARY KEY, balance int, filler text);
       INSERT INTO account SELECT i, 0, repeat(md5(i::text), 4) FROM generate_series(1, 60000) i;
       CREATE TABLE beside (id int) TABLESPACE side; INSERT INTO beside SELECT generate_series(1, 1000);
       CREATE UNLOGGED TABLE scratch (id int); INSERT INTO scratch SELECT generate_series(1, 1000)`,
    );
    await client.end();
  });
  afterAll(async () => {
    await server[Symbol.asyncDispose]();
    await rm(directory, { recursive: true, force: true });
  });

  test('holds every file whole, with the right checksums, and leaves out what must be left out', async () => {
    const destination = join(directory, 'whole');
    const phases: string[] = [];
    await using load = startLoad(server);
    await load.running;
    const backup = await backUp({
      port: server.port,
      destination,
      report: ({ phase, bytesDone, bytesTotal }) => {
        if (phases.at(-1) !== phase) phases.push(phase);
        expect(bytesDone).toBeLessThanOrEqual(bytesTotal);
      },
    });
    expect(phases).toEqual(['START', 'COPY', 'STOP']);
    expect(backup.pageFailures).toEqual([]);
    expect(backup.warnings).toEqual([]);
    expect(backup.postgresMajor).toBe(major);
    const { start, stop } = backup;
    expect(start?.lsn).toBeLessThan(stop?.lsn ?? 0n);
    expect(backup.newestPageLsn).toBeLessThanOrEqual(stop?.lsn ?? 0n);
    expect(backup.newestPageLsn).toBeGreaterThan(0n);
    expect(backup.stopUs).toBeGreaterThan(backup.startUs);

    const read = await readBackup(destination, backup);
    expect(read.files.length).toBe(Number(backup.fileCount));
    expect(read.entries.length).toBe(Number(backup.macroblockCount));
    let plainBytes = 0;
    for (const file of read.files) {
      const bytes = await read.contents(file);
      expect(BigInt(bytes.length), file.path).toBe(file.sizeBytes);
      expect(crc32c(bytes), file.path).toBe(file.crc32c);
      plainBytes += bytes.length;
    }
    expect(BigInt(plainBytes)).toBe(backup.inputBytes);

    const paths = new Set(read.files.map((file) => file.path));
    expect(paths.has('PG_VERSION')).toBe(true);
    expect(paths.has('postgresql.conf')).toBe(true);
    expect(read.files.at(-1)).toMatchObject({ path: CONTROL_FILE_PATH, kind: FileKind.CONTROL });
    for (const path of paths) {
      expect(path).not.toMatch(/^pg_wal\/|postmaster\.|pg_internal\.init|backup_label|pgsql_tmp|\/t\d+_/);
    }
    for (const [table, kept] of [
      ['account', true],
      ['beside', true],
      ['scratch', false],
      ...(major >= 15 ? [['in_place', true] as const] : []),
    ] as const) {
      const [row] = await server.query<{ path: string }>(`SELECT pg_relation_filepath('${table}') AS path`);
      expect(paths.has(row?.path ?? ''), table).toBe(kept);
      if (!kept) expect(paths.has(`${row?.path}_init`)).toBe(true);
    }
    const directories = read.directories.map((it) => it.path);
    expect(directories).toContain('pg_wal/archive_status');
    expect(directories.includes('pg_wal/summaries')).toBe(major >= 17);
    expect(read.meta.tablespaces.map(({ name, inPlace }) => ({ name, inPlace }))).toEqual([
      { name: 'side', inPlace: false },
      ...(major >= 15 ? [{ name: 'here', inPlace: true }] : []),
    ]);
    const extra = join(server.directory, 'extra.conf');
    expect(read.files.filter((file) => file.kind === FileKind.EXTERNAL)).toMatchObject([
      { path: 'external/extra.conf', externalPath: extra, sizeBytes: 17n },
    ]);
    expect(Buffer.from(read.meta.backupLabel).toString()).toContain('BACKUP FROM: primary');
    expect(Buffer.from(read.meta.tablespaceMap).toString()).toContain('a spaced directory');
    expect(read.meta.settings.find((it) => it.name === 'max_connections')?.value).toBe('100');
    const control = read.files.at(-1);
    if (control === undefined) throw new Error('no files');
    const parsed = parseControlFile(await read.contents(control));
    expect(parsed.systemIdentifier).toBe(backup.systemIdentifier);
    expect(parsed.catalogVersion).toBe(read.meta.catalogVersion);
  });

  test('reports a damaged page by file and block, and accepts one torn by a write since the start', async () => {
    const destination = join(directory, 'damaged');
    const client = await server.connect();
    await client.query('CREATE TABLE victim AS SELECT * FROM account; CHECKPOINT');
    const path = await client.query<{ path: string }>(`SELECT pg_relation_filepath('victim') AS path`);
    await client.end();
    const relation = path.rows[0]?.path ?? '';
    const file = join(server.dataDirectory, relation);
    spoilPage(file, 300, undefined);
    const backup = await backUp({
      port: server.port,
      destination,
      report: ({ phase }) => {
        if (phase !== 'COPY') return;
        const control = parseControlFile(readFileSync(join(server.dataDirectory, CONTROL_FILE_PATH)));
        spoilPage(file, 5, control.redoLsn);
        spoilPage(file, 400, control.redoLsn + (1n << 40n));
      },
    });
    expect(backup.pageFailures).toMatchObject([
      { path: relation, block: 300, reason: 'wrong checksum, last changed before the backup' },
      { path: relation, block: 400, reason: 'wrong checksum, position beyond the end of the log' },
    ]);
    expect(backup.warnings).toEqual(['2 pages failed their check: see page_failures']);
    const read = await readBackup(destination, backup);
    const victim = read.files.find((it) => it.path === relation);
    const failed = read.entries.filter((entry) => entry.pageCheckFailed);
    expect(failed.map(({ fileNumber, blockNumber }) => ({ fileNumber, blockNumber }))).toEqual([
      { fileNumber: victim?.fileNumber, blockNumber: 1 },
    ]);
    await server.query('DROP TABLE victim');
  });

  test('gives the window up when it is cancelled, and a retry takes new names', async () => {
    const destination = join(directory, 'cancelled');
    const cancel = new AbortController();
    const reason = new Error('cancelled by the test');
    const attempt = backUp({
      port: server.port,
      destination,
      task: { netLimitBytesPerSecond: 200_000n },
      report: ({ macroblocksDone }) => {
        if (macroblocksDone > 0n) cancel.abort(reason);
      },
      signal: cancel.signal,
    });
    await expect(attempt).rejects.toThrow('cancelled by the test');
    await expect
      .poll(
        async () => await server.query(`SELECT 1 FROM pg_stat_activity WHERE application_name ~ '^holdfast'`),
      )
      .toEqual([]);
    await expect(backUp({ port: server.port, destination })).rejects.toMatchObject({ code: 'FILE_EXISTS' });
    const backup = await backUp({
      port: server.port,
      destination,
      task: { retry: 1, firstSubTaskId: 1000, metaTaskId: 2 },
    });
    const names = await readdir(join(destination, tree.macroDirectory(ROOT, 1n, 1n, 'main')));
    expect(names).toContain('macro_block_index_1.1');
    expect(names).toContain('macro_block_1.1000');
    expect(backup.taskId).toBe(2);
  });
});

test('a backup whose session is lost fails', async () => {
  await using server = await createServer({ major: 17 });
  const directory = await makeTestDirectory('backup-lost');
  try {
    const attempt = backUp({
      port: server.port,
      destination: join(directory, 'lost'),
      task: { netLimitBytesPerSecond: 200_000n },
      report: ({ macroblocksDone }) => {
        if (macroblocksDone > 0n) void server.kill();
      },
    });
    await expect(attempt).rejects.toMatchObject({ code: 'SERVER_UNREACHABLE' });
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
});

test('a backup of a standby is refused, and its reason says what to do', async () => {
  await using server = await createServer({ major: 17 });
  await server.stop();
  await writeFile(join(server.dataDirectory, 'standby.signal'), '');
  await server.start();
  const directory = await makeTestDirectory('backup-standby');
  try {
    const attempt = backUp({ port: server.port, destination: join(directory, 'standby') });
    await expect(attempt).rejects.toMatchObject({
      code: 'NOT_SUPPORTED',
      hint: 'Back up the primary of this partition group.',
    });
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
});

/** Concurrent transactions, a temporary table, and relations that come, shrink and go, until it is disposed. */
function startLoad(server: TestServer): AsyncDisposable & { readonly running: Promise<void> } {
  const going = { on: true };
  const { promise: running, resolve } = Promise.withResolvers<void>();
  const loaders = Array.from({ length: LOADERS }, async (_, loader) => {
    const client = await server.connect();
    await client.query('CREATE TEMP TABLE mine AS SELECT generate_series(1, 1000) AS id');
    for (let n = 0; going.on; n += 1) {
      await client.query('UPDATE account SET balance = balance + 1 WHERE id = 1 + floor(random() * 60000)');
      if (n % 20 === 0) {
        await client.query(
          `CREATE TABLE brief_${loader} AS SELECT * FROM account LIMIT 2000; TRUNCATE brief_${loader};
           DROP TABLE brief_${loader}`,
        );
        await client.query('CHECKPOINT');
      }
      if (n === 20) resolve();
    }
    await client.end();
  });
  return {
    running,
    async [Symbol.asyncDispose]() {
      going.on = false;
      await Promise.all(loaders);
      await wait(0);
    },
  };
}

/** Turns a byte of a page on disk, and sets its position when one is given. */
function spoilPage(file: string, block: number, lsn: bigint | undefined): void {
  const descriptor = openSync(file, 'r+');
  const page = Buffer.alloc(PAGE_BYTES);
  readSync(descriptor, page, 0, PAGE_BYTES, block * PAGE_BYTES);
  page.writeUInt8(page.readUInt8(5000) ^ 0xff, 5000);
  if (lsn !== undefined) {
    page.writeUInt32LE(Number(lsn >> 32n), 0);
    page.writeUInt32LE(Number(lsn & 0xffff_ffffn), 4);
  }
  writeSync(descriptor, page, 0, PAGE_BYTES, block * PAGE_BYTES);
  closeSync(descriptor);
}
