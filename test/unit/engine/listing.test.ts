/** The listing's rules on a made-up data directory; a real one is listed in test/e2e/backup-copy.test.ts. */
import { chmod, mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type ListingInput, listFiles } from '../../../engine/postgres/listing.ts';
import { makeTestDirectory } from '../../support/postgres.ts';

const signal = new AbortController().signal;
let directory: string;
let data: string;

beforeEach(async () => {
  directory = await makeTestDirectory('listing');
  data = join(directory, 'data');
  await make('data/PG_VERSION', 'data/global/pg_control', 'data/global/1262', 'data/base/5/1259');
  await mkdir(join(data, 'pg_tblspc'));
  await mkdir(join(data, 'pg_wal/archive_status'), { recursive: true });
});
afterEach(async () => await rm(directory, { recursive: true, force: true }));

test('files get the kind that their place and name say', async () => {
  await make('data/base/5/1259_fsm', 'data/base/5/1259_vm', 'data/base/5/PG_VERSION', 'data/pg_xact/0000');
  expect(await kinds()).toEqual({
    PG_VERSION: 'other',
    'base/5/1259': 'main',
    'base/5/1259_fsm': 'fsm',
    'base/5/1259_vm': 'vm',
    'base/5/PG_VERSION': 'other',
    'global/1262': 'main',
    'global/pg_control': 'control',
    'pg_xact/0000': 'other',
  });
});

test('a tablespace inside the data directory is listed once, as a tablespace', async () => {
  const version = 'PG_17_202406281';
  await make(`data/spaces/one/${version}/5/2000`, 'data/spaces/other');
  await symlink(join(data, 'spaces/one'), join(data, 'pg_tblspc/16400'));
  const tablespaces = [{ oid: 16_400, name: 'one', location: join(data, 'spaces/one'), inPlace: false }];
  const listing = await listFiles({ ...input(), tablespaces }, signal);
  expect(listing.files.map((file) => file.path).filter((path) => /spaces|tblspc/.test(path))).toEqual([
    `pg_tblspc/16400/${version}/5/2000`,
    'spaces/other',
  ]);
});

test('a name that is not UTF-8 is refused, not lost', async () => {
  await writeFile(Buffer.concat([Buffer.from(join(data, 'base/5/caf')), Buffer.from([0xe9])]), '');
  await expect(listFiles(input(), signal)).rejects.toMatchObject({ code: 'BACKUP_FAILED' });
});

test('what belongs to the running server is left out, its directories are kept', async () => {
  await makeInData(
    'postmaster.pid',
    'postmaster.opts',
    'backup_label',
    'backup_label.old',
    'tablespace_map',
    'recovery.signal',
    'standby.signal',
    'backup_manifest',
    'current_logfiles.tmp',
    '.DS_Store',
    'postgresql.auto.conf.tmp',
    'global/pg_internal.init',
    'base/5/pg_internal.init.123',
    'base/pgsql_tmp/pgsql_tmp1.0',
    'base/5/t3_99',
    'pg_wal/000000010000000000000001',
    'pg_notify/0000',
    'pg_replslot/one/state',
    'pg_stat_tmp/global.stat',
    'pg_subtrans/0000',
    'pg_dynshmem/x',
  );
  const listing = await listFiles(input(), signal);
  expect(listing.files.map((file) => file.path)).toEqual([
    'PG_VERSION',
    'base/5/1259',
    'global/1262',
    'global/pg_control',
  ]);
  expect(listing.directories.map((it) => it.path)).toEqual([
    'base',
    'base/5',
    'global',
    'pg_dynshmem',
    'pg_notify',
    'pg_replslot',
    'pg_stat_tmp',
    'pg_subtrans',
    'pg_tblspc',
    'pg_wal',
    'pg_wal/archive_status',
    'pg_wal/summaries',
  ]);
});

test('of an unlogged relation only the init fork is taken', async () => {
  await make(
    'data/base/5/99',
    'data/base/5/99.1',
    'data/base/5/99_fsm',
    'data/base/5/99_init',
    'data/base/5/990',
  );
  await make('data/base/6/99');
  const paths = Object.keys(await kinds()).filter((path) => path.startsWith('base/'));
  expect(paths).toEqual(['base/5/1259', 'base/5/990', 'base/5/99_init', 'base/6/99']);
});

test('of a tablespace only the directory of this version is taken, through its link or in place', async () => {
  await make(
    'fast/PG_17_202406281/5/16390',
    'fast/PG_16_202307071/5/16390',
    'fast/somebody.else',
    'data/pg_tblspc/16401/PG_17_202406281/5/16402',
  );
  await symlink(join(directory, 'fast'), join(data, 'pg_tblspc/16400'));
  const tablespaces = [
    { oid: 16400, name: 'fast', location: join(directory, 'fast'), inPlace: false },
    { oid: 16401, name: 'here', location: 'pg_tblspc/16401', inPlace: true },
  ];
  const listing = await listFiles({ ...input(), tablespaces }, signal);
  expect(listing.tablespaces).toEqual(tablespaces);
  const found = listing.files.filter((file) => file.path.startsWith('pg_tblspc/'));
  expect(found.map(({ path, kind }) => ({ path, kind }))).toEqual([
    { path: 'pg_tblspc/16400/PG_17_202406281/5/16390', kind: 'main' },
    { path: 'pg_tblspc/16401/PG_17_202406281/5/16402', kind: 'main' },
  ]);
});

test('links directly in the data directory are followed, deeper ones are not', async () => {
  await make('elsewhere/xact/0000', 'elsewhere/postgresql.conf', 'elsewhere/secret');
  await symlink(join(directory, 'elsewhere/xact'), join(data, 'pg_xact'));
  await symlink(join(directory, 'elsewhere/postgresql.conf'), join(data, 'postgresql.conf'));
  await symlink(join(directory, 'elsewhere/secret'), join(data, 'base/5/1255'));
  const listing = await listFiles(
    { ...input(), configurationFiles: [join(data, 'postgresql.conf')] },
    signal,
  );
  expect(listing.files.map((file) => file.path)).toEqual([
    'PG_VERSION',
    'base/5/1259',
    'global/1262',
    'global/pg_control',
    'pg_xact/0000',
    'postgresql.conf',
  ]);
});

test('configuration outside the data directory is listed once, under names that differ', async () => {
  await make('etc/postgresql.conf', 'etc/conf.d/postgresql.conf', 'data/pg_ident.conf');
  const configurationFiles = [
    join(directory, 'etc/postgresql.conf'),
    join(directory, 'etc/conf.d/postgresql.conf'),
    join(directory, 'etc/../etc/postgresql.conf'),
    join(directory, 'etc/gone.conf'),
    join(data, 'pg_ident.conf'),
  ];
  const { files } = await listFiles({ ...input(), configurationFiles }, signal);
  expect(files.filter((file) => file.path.startsWith('external/'))).toMatchObject([
    {
      path: 'external/postgresql.conf',
      absolutePath: join(directory, 'etc/postgresql.conf'),
      kind: 'external',
    },
    { path: 'external/postgresql.conf.2', absolutePath: join(directory, 'etc/conf.d/postgresql.conf') },
  ]);
  expect(files.some((file) => file.path === 'pg_ident.conf' && file.kind === 'other')).toBe(true);
});

test('sizes and modes are those of the files', async () => {
  await writeFile(join(data, 'base/5/1259'), Buffer.alloc(8192));
  await chmod(join(data, 'base/5/1259'), 0o640);
  const { files } = await listFiles(input(), signal);
  expect(files.find((file) => file.path === 'base/5/1259')).toMatchObject({ sizeBytes: 8192, mode: 0o640 });
});

async function kinds(): Promise<Record<string, string>> {
  const { files } = await listFiles(input(), signal);
  return Object.fromEntries(files.map(({ path, kind }) => [path, kind]));
}

function input(): ListingInput {
  return {
    dataDirectory: data,
    major: 17,
    catalogVersion: 202_406_281,
    tablespaces: [],
    configurationFiles: [],
  };
}

async function make(...paths: readonly string[]): Promise<void> {
  for (const path of paths) await makeFile(join(directory, path));
}

async function makeInData(...paths: readonly string[]): Promise<void> {
  for (const path of paths) await makeFile(join(data, path));
}

async function makeFile(path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, 'x');
}
