/** The SQL front end with real clients: Debian's psql, node-postgres, the CLI over gRPC. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { executeSql } from '../../coordinator/sql/admin-service.ts';
import { checkLogin } from '../../coordinator/sql/credentials.ts';
import { createPostgresqlReader } from '../../coordinator/sql/reading/postgresql-reader.ts';
import { AdminService } from '../../proto/gen/holdfast/v1/admin_pb.ts';
import { addService } from '../../proto/grpc-service.ts';
import { createServer, makeTestDirectory } from '../support/postgres.ts';
import { type FrontEndForTest, PASSWORD, psql, startFrontEnd, USER } from '../support/sql-front-end.ts';

let front: FrontEndForTest;

beforeAll(async () => {
  front = await startFrontEnd();
  await front.services.reader.serverVersion();
});
afterAll(async () => {
  await front[Symbol.asyncDispose]();
});
beforeEach(() => {
  front.queryTimeoutMs = 30_000;
  front.executed.length = 0;
});

const sql = (...args: readonly string[]) => psql(front.port, args);

async function connect(port = front.port): Promise<pg.Client> {
  const client = new pg.Client({
    host: '127.0.0.1',
    port,
    user: USER,
    password: PASSWORD,
    database: 'oceanbase',
  });
  client.on('error', () => undefined);
  await client.connect();
  return client;
}

async function withClient<T>(use: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = await connect();
  try {
    return await use(client);
  } finally {
    await client.end();
  }
}

describe('psql', () => {
  test('shows views with \\d, \\dv and \\d+', async () => {
    for (const command of ['\\d', '\\dv']) {
      const { stdout } = await sql('-At', '-c', command);
      expect(stdout).toContain('oceanbase|cdb_ob_backup_set_files|view');
    }
    const described = await sql('-c', '\\d+ cdb_ob_backup_set_files');
    expect(described.stdout).toContain('View "oceanbase.cdb_ob_backup_set_files"');
    expect(described.stdout).toMatch(/start_time\s+\| timestamp with time zone/);
  });

  test('selects from a view by its name in any case, aligned and expanded', async () => {
    expect((await sql('-At', '-c', 'SELECT * FROM CDB_OB_BACKUP_SET_FILES LIMIT 1')).stdout).toBe(
      '1|1001|123456789012345678901|2026-11-21 01:02:03.123456+00|backup_set_1_full\n',
    );
    const expanded = await psql(front.port, ['-q'], { input: '\\x\nSELECT 1 AS a;\n' });
    expect(expanded.stdout).toContain('-[ RECORD 1 ]');
  });

  test('runs a string of admin and reading statements in order', async () => {
    const all = await sql(
      '-At',
      '-c',
      'SELECT 1; ALTER SYSTEM ARCHIVELOG; SHOW PARAMETERS; SELECT tenant_name FROM dba_ob_tenants',
    );
    expect(all).toMatchObject({ code: 0, stderr: 'NOTICE:  job 7 started\n' });
    expect(all.stdout).toBe(
      '1\nALTER SYSTEM ARCHIVELOG\nbackup_concurrency|4|2026-11-21 01:05:32.000001+00\nbackup_dest||\norders\n',
    );
    expect(front.executed.map(({ kind }) => kind)).toEqual(['archiveLog', 'showParameters']);
  });

  test('a syntax error anywhere runs nothing and points at the character', async () => {
    const { code, stderr } = await sql('-c', 'ALTER SYSTEM ARCHIVELOG; ALTER SYSTEM BAKUP DATABASE');
    expect(code).toBe(1);
    expect(stderr).toContain(
      `LINE 1: ALTER SYSTEM ARCHIVELOG; ALTER SYSTEM BAKUP DATABASE\n${' '.repeat(46)}^\nHINT:  Did you mean BACKUP?`,
    );
    expect(front.executed).toEqual([]);
  });

  test("the reader's errors point into the whole string", async () => {
    const { stdout, stderr } = await sql('-At', '-c', "SELECT 'é'; SELECT nope");
    expect(stdout).toBe('é\n');
    expect(stderr).toContain(`LINE 1: SELECT 'é'; SELECT nope\n${' '.repeat(27)}^`);
  });

  test('an error of a command has code, detail, hint and SQLSTATE, and ends the string', async () => {
    const input = '\\set VERBOSITY verbose\nALTER SYSTEM NOARCHIVELOG\\; SELECT 1;\n';
    const { stderr, stdout } = await psql(front.port, ['-At'], { input });
    expect(stderr).toContain(
      'ERROR:  HY000: OB-9024 ALREADY_NO_LOG_ARCHIVE_BACKUP: log archive of tenant "orders" is STOP',
    );
    expect(stderr).toContain('DETAIL:  Round 1 ended at 0/3000148.');
    expect(stderr).toContain('HINT:  ALTER SYSTEM ARCHIVELOG;');
    expect(stdout).toBe('');
  });

  test('a wrong password and an unknown user are refused alike', async () => {
    const wrong = await psql(front.port, ['-c', 'SELECT 1'], { password: 'wrong' });
    const unknown = await psql(front.port, ['-U', 'nobody', '-c', 'SELECT 1']);
    expect([wrong.code, unknown.code]).toEqual([2, 2]);
    expect(wrong.stderr).toContain('password authentication failed for user "root"');
    expect(unknown.stderr).toContain('password authentication failed for user "nobody"');
  });

  test.for([
    'SELECT pg_sleep(600)',
    'SELECT count(*) FROM generate_series(1,1000000) a, generate_series(1,1000000) b',
    'ALTER SYSTEM BACKUP DATABASE WAIT',
  ])('Ctrl-C stops %s, and others are served meanwhile', async (slow) => {
    const running = psql(front.port, ['-c', slow], { interruptAfterMs: 2500 });
    const other = await sql('-At', '-c', 'SELECT 2; SHOW PARAMETERS');
    expect(other.stdout).toContain('2\nbackup_concurrency');
    const { code, stderr } = await running;
    expect(code).toBe(1);
    expect(stderr).toContain('QUERY_CANCELLED: canceling statement due to user request');
  });

  test('query_timeout stops a query, also one that gives rows all the time', async () => {
    front.queryTimeoutMs = 1500;
    for (const slow of [
      'SELECT pg_sleep(600)',
      'SELECT a FROM generate_series(1, 100000) a, generate_series(1, 100000) b',
    ])
      expect((await sql('-o', '/dev/null', '-c', slow)).stderr).toContain(
        'OB-4012 TIMEOUT: canceling statement: it took longer than 1500 ms',
      );
  });

  test('a session goes on after Ctrl-C with what it had set', async () => {
    const client = await connect();
    try {
      await client.query("SET TimeZone = 'Asia/Tokyo'");
      await client.query({ name: 'kept', text: 'SELECT $1::int + 1 AS sum', values: [1] });
      const slow = client.query('SELECT pg_sleep(600)');
      const refusal = expect(slow).rejects.toMatchObject({ code: '57014' });
      const killer = new pg.Client({ host: '127.0.0.1', port: front.port });
      // pg has no public way to cancel another client's query but this one.
      Reflect.apply(Reflect.get(killer, 'cancel') as (...args: unknown[]) => void, killer, [
        client,
        Reflect.get(client, '_activeQuery') ?? Reflect.get(client, 'activeQuery'),
      ]);
      await refusal;
      expect((await client.query('SHOW TimeZone')).rows).toEqual([{ TimeZone: 'Asia/Tokyo' }]);
      expect(
        (await client.query({ name: 'kept', text: 'SELECT $1::int + 1 AS sum', values: [2] })).rows,
      ).toEqual([{ sum: 3 }]);
    } finally {
      await client.end();
    }
  });
});

describe('the extended protocol', () => {
  test('takes parameters, named statements and typed results', () =>
    withClient(async (client) => {
      for (const value of [41, 42]) {
        const { rows } = await client.query({
          name: 'plus',
          text: 'SELECT $1::int + 1 AS n, $2::text AS t, path FROM cdb_ob_backup_set_files WHERE bs_key = 1',
          values: [value, 'x'],
        });
        expect(rows).toEqual([{ n: value + 1, t: 'x', path: 'backup_set_1_full' }]);
      }
      await expect(client.query('SELECT 1/$1::int', [0])).rejects.toMatchObject({ code: '22012' });
      expect((await client.query('SELECT $1::text AS again', ['yes'])).rows).toEqual([{ again: 'yes' }]);
    }));

  test('runs admin statements, with columns described before', () =>
    withClient(async (client) => {
      const { rows, fields } = await client.query({ name: 'show', text: 'SHOW PARAMETERS', values: [] });
      expect(fields.map(({ name, dataTypeID }) => [name, dataTypeID])).toEqual([
        ['name', 25],
        ['value', 20],
        ['changed', 1184],
      ]);
      expect(rows[0]).toMatchObject({ name: 'backup_concurrency', value: '4' });
      const notices: string[] = [];
      client.on('notice', ({ message }) => notices.push(message ?? ''));
      expect((await client.query({ name: 'log', text: 'ALTER SYSTEM ARCHIVELOG' })).command).toBe('ALTER');
      expect(notices).toEqual(['job 7 started']);
      await expect(client.query('ALTER SYSTEM ARCHIVELOG TENANT = t', ['x'])).rejects.toMatchObject({
        code: '08P01',
      });
      await expect(client.query('ALTER SYSTEM NOARCHIVELOG', [])).rejects.toMatchObject({ code: 'HY000' });
      await expect(client.query({ text: 'ALTER SYSTEM FOO', name: 'bad' })).rejects.toMatchObject({
        code: '42601',
        position: '14',
      });
      expect((await client.query('SELECT $1::int AS ok', [1])).rows).toEqual([{ ok: 1 }]);
    }));

  test('DISCARD ALL leaves a session as it began', () =>
    withClient(async (client) => {
      await client.query("SET TimeZone = 'Asia/Tokyo'");
      await client.query('DISCARD ALL');
      const { rows } = await client.query(
        "SELECT current_user AS u, current_setting('TimeZone') AS tz, count(*) FROM dba_ob_tenants",
      );
      expect(rows).toEqual([{ u: 'holdfast_reader', tz: 'UTC', count: '1' }]);
    }));

  test('one prepared statement holds one statement', () =>
    withClient(async (client) => {
      await expect(client.query({ name: 'two', text: 'SELECT 1; SELECT 2' })).rejects.toMatchObject({
        code: '42601',
      });
    }));

  test('a view shows the present at each statement, and one state inside a transaction', () =>
    withClient(async (client) => {
      const count = async () =>
        (
          await client.query<{ n: string }>({
            name: 'count',
            text: 'SELECT count(*) AS n FROM CDB_OB_BACKUP_SET_FILES',
          })
        ).rows[0]?.n;
      const before = Number(await count());
      front.catalog.addSet('another');
      expect(Number(await count())).toBe(before + 1);
      await client.query('BEGIN');
      front.catalog.addSet('a third');
      expect(Number(await count())).toBe(before + 1);
      await client.query('COMMIT');
      expect(Number(await count())).toBe(before + 2);
    }));

  test('only views that a statement names are read', () =>
    withClient(async (client) => {
      front.catalog.addSet('and one more');
      front.catalog.reads.length = 0;
      await client.query('SELECT 1 FROM dba_ob_tenants WHERE $1', [true]);
      expect(front.catalog.reads).toEqual(['dba_ob_tenants']);
    }));

  test('a large result arrives whole', () =>
    withClient(async (client) => {
      const result = await client.query(
        "SELECT g, repeat('x', 100) AS filler FROM generate_series(1, 20500) g",
      );
      expect(result.rowCount).toBe(20_500);
      expect(result.rows.at(-1)).toMatchObject({ g: 20_500 });
    }));
});

describe('transactions', () => {
  test('admin statements are refused inside, as PostgreSQL refuses ALTER SYSTEM; SHOW is not', () =>
    withClient(async (client) => {
      await client.query('BEGIN');
      await expect(client.query('ALTER SYSTEM ARCHIVELOG')).rejects.toMatchObject({ code: '25001' });
      expect((await client.query('SHOW PARAMETERS')).rowCount).toBe(2);
      await expect(client.query('SELECT nope')).rejects.toMatchObject({ code: '42703' });
      await expect(client.query('SELECT 1')).rejects.toMatchObject({ code: '25P02' });
      await client.query('ROLLBACK');
      expect((await client.query('ALTER SYSTEM ARCHIVELOG')).command).toBe('ALTER');
    }));
});

describe('a query cannot write', () => {
  test.for([
    'INSERT INTO dba_ob_tenants VALUES (2)',
    "UPDATE dba_ob_tenants SET tenant_name = 'x'",
    'DELETE FROM holdfast_copy.dba_ob_tenants',
    "COPY (SELECT 1) TO PROGRAM 'touch /tmp/holdfast-pwned'",
    'COPY dba_ob_tenants FROM STDIN',
    'SET ROLE postgres',
    'SET SESSION AUTHORIZATION postgres',
    "DO $$ BEGIN EXECUTE 'DROP SCHEMA oceanbase CASCADE'; END $$",
    'SELECT * INTO stolen FROM dba_ob_tenants',
    'WITH gone AS (DELETE FROM dba_ob_tenants RETURNING *) SELECT * FROM gone',
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
  ])('%s', async (statement) => {
    const { code, stderr } = await psql(front.port, ['-v', 'VERBOSITY=verbose', '-c', statement]);
    expect(code).toBe(1);
    expect(stderr).toContain('42501');
  });

  test('what passes the parser by tricks reaches only a copy that dies with the session', async () => {
    const tricks = [
      "SELECT set_config('role', 'postgres', false), set_config('session_authorization', 'postgres', false)",
      "SELECT set_config('standard_conforming_strings', 'off', false)",
      "SELECT '\\'; DELETE FROM holdfast_copy.dba_ob_tenants; SELECT '1'",
      "SELECT query_to_xml('DELETE FROM holdfast_copy.dba_ob_tenants', true, true, '')",
      "SELECT pg_read_file('/etc/hostname')",
      "SELECT lo_export(lo_from_bytea(0, 'x'), '/tmp/holdfast-pwned')",
      "SELECT lo_export(lo_from_bytea(0, 'x'), '/root/holdfast-pwned')",
      'SELECT pg_terminate_backend(pg_backend_pid())',
    ];
    await withClient(async (client) => {
      for (const trick of tricks) await client.query(trick).catch(() => undefined); // whether it fails is not the point
    });
    expect((await sql('-At', '-c', 'SELECT count(*), current_user FROM dba_ob_tenants')).stdout).toBe(
      '1|holdfast_reader\n',
    );
    expect(existsSync('/tmp/holdfast-pwned') || existsSync('/root/holdfast-pwned')).toBe(false);
  });
});

test('more clients than query processes are told so, and admin statements still run', async () => {
  const clients: pg.Client[] = [];
  try {
    for (let i = 0; i < 4; i += 1) {
      const client = await connect();
      clients.push(client);
      await client.query('SELECT 1');
    }
    const fifth = await connect();
    clients.push(fifth);
    await expect(fifth.query('SELECT 1')).rejects.toMatchObject({ code: '53300' });
    expect((await fifth.query('SHOW PARAMETERS')).rowCount).toBe(2);
  } finally {
    for (const client of clients) await client.end();
  }
  await expect.poll(async () => (await sql('-At', '-c', 'SELECT 1')).stdout, { timeout: 20_000 }).toBe('1\n');
});

describe('over gRPC', () => {
  let server: grpc.Server;
  let address: string;
  let directory: string;

  beforeAll(async () => {
    directory = await makeTestDirectory('sql-cli');
    await writeFile(join(directory, 'password'), `${PASSWORD}\n`);
    server = new grpc.Server();
    addService(server, AdminService, {
      execute: (request, signal) => executeSql(front.services, front.credentials, request, signal),
      async *watchEvents(request) {
        await checkLogin(front.credentials, request.user, request.password);
        yield {
          $typeName: 'holdfast.v1.Event',
          eventId: 1n,
          timeUs: 0n,
          module: 'backup',
          event: 'started',
          tenantId: 1001n,
          tenantName: 'orders',
          message: 'set 1',
          severity: 'INFO',
          facts: {},
        };
      },
    });
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) =>
      error === null ? resolve(port) : reject(error),
    );
    address = `127.0.0.1:${await promise}`;
  });
  afterAll(async () => {
    server.forceShutdown();
    await rm(directory, { recursive: true, force: true });
  });

  async function holdfast(...args: readonly string[]) {
    const root = join(import.meta.dirname, '..', '..');
    const child = spawn(
      process.execPath,
      [
        join(root, 'cli', 'holdfast.ts'),
        ...args,
        '--coordinator',
        address,
        '--password-file',
        join(directory, 'password'),
      ],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    const output = { stdout: '', stderr: '' };
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => (output.stdout += chunk));
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => (output.stderr += chunk));
    const { promise, resolve } = Promise.withResolvers<number | null>();
    child.once('close', resolve);
    return { code: await promise, ...output };
  }

  test('holdfast sql prints tables, tags and notices', async () => {
    const all = await holdfast(
      'sql',
      '-c',
      'ALTER SYSTEM ARCHIVELOG; SELECT tenant_id, tenant_name, now() > to_timestamp(0) AS later FROM dba_ob_tenants',
    );
    expect(all).toEqual({
      code: 0,
      stdout:
        'ALTER SYSTEM ARCHIVELOG\n tenant_id | tenant_name | later\n-----------+-------------+-------\n      1001 | orders      | t\n(1 row)\n\n',
      stderr: 'NOTICE:  job 7 started\n',
    });
    const json = await holdfast(
      'sql',
      '--format',
      'json',
      '-c',
      'SELECT bs_key, output_bytes, start_time FROM CDB_OB_BACKUP_SET_FILES WHERE bs_key = 1',
    );
    expect(JSON.parse(json.stdout)).toEqual([
      { bs_key: 1, output_bytes: '123456789012345678901', start_time: '2026-11-21T01:02:03.123456Z' },
    ]);
    expect((await holdfast('sql', '--format', 'csv', '-c', 'SHOW PARAMETERS')).stdout).toBe(
      'name,value,changed\nbackup_concurrency,4,2026-11-21 01:05:32.000001+00\nbackup_dest,,\n',
    );
  });

  test('errors have a caret and an exit code', async () => {
    const syntax = await holdfast('sql', '-c', 'ALTER SYSTEM BAKUP DATABASE');
    expect(syntax.code).toBe(2);
    expect(syntax.stderr).toContain(`LINE 1: ALTER SYSTEM BAKUP DATABASE\n${' '.repeat(21)}^`);
    const column = await holdfast('sql', '-c', 'SELECT 1; SELECT nope');
    expect(column.stdout).toContain('(1 row)');
    expect(column.stderr).toContain(`LINE 1: SELECT 1; SELECT nope\n${' '.repeat(25)}^`);
    const refused = await holdfast('sql', '-c', 'ALTER SYSTEM NOARCHIVELOG');
    expect(refused).toMatchObject({ code: 3 });
    expect(refused.stderr).toContain('OB-9024');
    expect((await holdfast('sql', '-U', 'nobody', '-c', 'SELECT 1')).stderr).toContain(
      'AUTHENTICATION_FAILED',
    );
  });

  test('holdfast events --follow prints events', async () => {
    expect((await holdfast('events', '--follow')).stdout).toBe(
      '1970-01-01 00:00:00+00 INFO    backup.started [orders] set 1\n',
    );
    const refused = await holdfast('events', '--follow', '-U', 'nobody');
    expect(refused).toMatchObject({ code: 3, stdout: '' });
    expect(refused.stderr).toContain('AUTHENTICATION_FAILED');
  });
});

test('with a PostgreSQL catalog the same statements run under the reader role', async () => {
  await using server = await createServer();
  await server.query(`CREATE SCHEMA oceanbase; CREATE SCHEMA inner_tables; CREATE TABLE inner_tables.t (a int); INSERT INTO inner_tables.t VALUES (7);
    CREATE VIEW oceanbase.cdb_t AS SELECT * FROM inner_tables.t; CREATE ROLE holdfast_reader LOGIN PASSWORD 'r'; GRANT USAGE ON SCHEMA oceanbase TO holdfast_reader; GRANT SELECT ON oceanbase.cdb_t TO holdfast_reader`);
  const login = {
    host: '127.0.0.1',
    port: server.port,
    database: 'postgres',
    user: 'holdfast_reader',
    password: 'r',
    ssl: false,
  };
  await using own = await startFrontEnd({
    reader: () => createPostgresqlReader({ login, queryTimeoutMs: () => 30_000 }),
  });
  expect((await psql(own.port, ['-At', '-c', 'SELECT * FROM CDB_T; SELECT current_user'])).stdout).toBe(
    '7\nholdfast_reader\n',
  );
  expect((await psql(own.port, ['-At', '-c', '\\dv'])).stdout).toContain('oceanbase|cdb_t|view');
  expect((await psql(own.port, ['-c', 'SELECT * FROM inner_tables.t'])).stderr).toContain(
    'permission denied',
  );
  const cancelled = await psql(own.port, ['-c', 'SELECT pg_sleep(600)'], { interruptAfterMs: 1500 });
  expect(cancelled.stderr).toContain('QUERY_CANCELLED');
  const sleeping = async () =>
    (await server.query("SELECT 1 FROM pg_stat_activity WHERE query LIKE '%sleep(600)' AND state = 'active'"))
      .length;
  await expect.poll(sleeping, { timeout: 10_000 }).toBe(0);
  const client = await connect(own.port);
  try {
    expect((await client.query('SELECT a + $1::int AS b FROM cdb_t', [1])).rows).toEqual([{ b: 8 }]);
  } finally {
    await client.end();
  }
});
