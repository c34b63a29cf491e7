/**
 * Encryption from end to end: what a database holds is nowhere to be read at the destination, the right password or key
 * file gives it back, a wrong one is refused before anything is fetched, and damage is found.
 */
import { randomBytes } from 'node:crypto';
import { readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readServerState, type ServerState } from '../../cli/demo/database-state.ts';
import { stopServer } from '../../engine/postgres/server-process.ts';
import { findDifferences } from '../support/compare.ts';
import { damage, filesOfKind } from '../support/damage.ts';
import { type CommandResult, holdfast } from '../support/holdfast-processes.ts';
import { majors } from '../support/majors.ts';
import { binDirectory, makeTestDirectory, serverUser } from '../support/postgres.ts';
import {
  connectorTo,
  createPool,
  DATABASE,
  type Scenario,
  startArchivedShop,
  TENANT,
} from '../support/scenario.ts';

const MARKER = 'MARKER-3f9a-in-the-clear';
const PASSWORD = 'correct horse';
/** Several restores each, on a busy machine. */
const BUSY_MS = 1_800_000;

describe.each(majors(17))('an encrypted destination of PostgreSQL %i', (major) => {
  let scenario: Scenario;
  let keyFile: string;
  let passwordFile: string;
  let wrongFile: string;
  const [oldKey, newKey] = [randomBytes(32).toString('hex'), randomBytes(32).toString('hex')];
  const states = new Map<bigint, ServerState>();
  let copies = 0;

  beforeAll(async () => {
    const directory = await makeTestDirectory('keys');
    keyFile = join(directory, 'backup.key');
    passwordFile = join(directory, 'passwords');
    wrongFile = join(directory, 'wrong.key');
    await writeFile(keyFile, `# made for this test\n${oldKey}\n`, { mode: 0o600 });
    await writeFile(passwordFile, `not this one\n${PASSWORD}\n`, { mode: 0o600 });
    await writeFile(wrongFile, `${randomBytes(32).toString('hex')}\n`, { mode: 0o600 });
    scenario = await startArchivedShop({ major }, undefined, { keyFile });
    await scenario.server.query(`CREATE DATABASE "${MARKER}"`);
    await write('CREATE TABLE secrets (id int PRIMARY KEY, text text)');
    await write(`INSERT INTO secrets SELECT n, '${MARKER}' || n FROM generate_series(1, 2000) n`);
    await write(`SELECT pg_create_restore_point('${MARKER}')`);
    await backUp('DATABASE');
    await write(`UPDATE secrets SET text = text || '${MARKER}' WHERE id % 7 = 0`);
    await backUp('INCREMENTAL DATABASE');
    await write(`INSERT INTO secrets VALUES (0, 'in the log alone: ${MARKER}')`);
  }, 600_000);

  afterAll(async () => await scenario?.[Symbol.asyncDispose]());

  test('shows nothing of the database anywhere', async () => {
    await sealLog();
    let read = 0;
    for (const path of await filesBelow(scenario.deployment.destinationDirectory)) {
      const bytes = await readFile(path);
      read += bytes.length;
      expect([path, bytes.includes(MARKER), path.includes(MARKER)]).toEqual([path, false, false]);
      expect([path, bytes.includes(oldKey), bytes.includes(Buffer.from(oldKey, 'hex'))]).toEqual([
        path,
        false,
        false,
      ]);
    }
    expect(read).toBeGreaterThan(2 ** 20);
  });

  test('says so in the views, and keeps keys and passwords out of catalog views and logs', async () => {
    const { deployment } = scenario;
    const sets = await deployment.sql<{ encryption_mode: string; backup_type: string }>(
      'SELECT encryption_mode, backup_type FROM CDB_OB_BACKUP_SET_FILES ORDER BY backup_set_id',
    );
    expect(sets).toEqual([
      { encryption_mode: 'TRANSPARENT_ENCRYPTION', backup_type: 'D' },
      { encryption_mode: 'TRANSPARENT_ENCRYPTION', backup_type: 'I' },
    ]);
    const [round] = await deployment.sql('SELECT encryption_mode FROM CDB_OB_BACKUP_ARCHIVELOG_SUMMARY');
    expect(round).toEqual({ encryption_mode: 'TRANSPARENT_ENCRYPTION' });
    for (const { logPath } of [deployment.coordinator, deployment.agent])
      expect((await readFile(logPath, 'utf8')).includes(oldKey)).toBe(false);
  });

  test('restores each set and the end of the log with the key file, from the destination alone', async () => {
    for (const [setId, state] of states) {
      const { code, stderr, stdout } = await restore(['--set', String(setId), '--immediate'], keyFile);
      expect([code, stderr]).toEqual([0, expect.anything()]);
      await using copy = copyOf(stdout);
      expect(await findDifferences(connectorTo(copy.port), state), `set ${setId}`).toEqual([]);
    }
    const state = await readServerState((database) => scenario.server.connect(database));
    await sealLog();
    const { code, stdout } = await restore([], keyFile);
    expect(code).toBe(0);
    await using copy = copyOf(stdout);
    expect(await findDifferences(connectorTo(copy.port), state)).toEqual([]);
  });

  test('refuses a wrong key file, or none, before anything is fetched', async () => {
    for (const key of [wrongFile, undefined]) {
      const { code, stderr, to } = await restore([], key);
      expect([code, stderr]).toEqual([3, expect.stringMatching(/BACKUP_INVALID_PASSWORD.*is encrypted/)]);
      expect(stderr).not.toContain(oldKey);
      expect(await stat(to).catch(() => undefined)).toBeUndefined();
    }
    const validated = await holdfast(
      'validate',
      '--from',
      scenario.deployment.destination,
      '--key-file',
      wrongFile,
    );
    expect([validated.code, validated.stderr]).toEqual([
      3,
      expect.stringContaining('BACKUP_INVALID_PASSWORD'),
    ]);
  });

  test('is read by inspect, log and validate with the key file', async () => {
    const { destination, destinationDirectory } = scenario.deployment;
    const [meta = ''] = await filesOfKind(destinationDirectory, 'metaFile');
    const opened = await holdfast('inspect', meta, '--key-file', keyFile);
    expect([opened.code, opened.stdout]).toEqual([0, expect.stringContaining('fileList')]);
    const closed = await holdfast('inspect', meta);
    expect([closed.code, `${closed.stdout}${closed.stderr}`]).toEqual([
      4,
      expect.stringContaining('encrypted'),
    ]);
    const opening = ['--from', destination, '--key-file', keyFile];
    const log = await holdfast('log', 'list', ...opening);
    expect([log.code, log.stdout]).toEqual([0, expect.stringMatching(/timeline .*commit/is)]);
    expect(log.stdout).toContain(MARKER); // the restore point
    expect((await holdfast('log', 'show', ...opening)).code).toBe(0);
    const [{ name } = { name: '' }] = await scenario.server.query<{ name: string }>(
      'SELECT pg_walfile_name(pg_switch_wal() - 1) AS name',
    );
    await sealLog();
    const fetched = join(scenario.server.directory, 'fetched');
    expect((await holdfast('log', 'fetch', name, fetched, ...opening)).code).toBe(0);
    const own = await readFile(join(scenario.server.dataDirectory, 'pg_wal', name));
    expect((await readFile(fetched)).equals(own)).toBe(true);
    expect((await holdfast('log', 'fetch', name, fetched, '--from', destination)).code).not.toBe(0);
    const checked = await holdfast('validate', '--from', destination, '--key-file', keyFile);
    expect([checked.code, checked.stdout]).toEqual([0, expect.stringContaining('Nothing is wrong')]);
  });

  test('has a flipped byte of any kind of file found by VALIDATE', async () => {
    const { destination, destinationDirectory } = scenario.deployment;
    // One run finds several; what only an index leads to is damaged in another run than that.
    for (const kinds of [
      ['macroBlock', 'metaFile', 'logData'] as const,
      ['macroBlockIndex', 'logIndex'] as const,
    ])
      for (const place of [0.3, 0.999]) {
        await using damages = new AsyncDisposableStack();
        const damaged: string[] = [];
        for (const kind of kinds) {
          const [file = ''] = await filesOfKind(destinationDirectory, kind);
          damages.use(await damage(file, 'flip', place));
          damaged.push(relative(destinationDirectory, file));
        }
        const { code, stdout } = await holdfast('validate', '--from', destination, '--key-file', keyFile);
        expect([place, code]).toEqual([place, 1]);
        for (const file of damaged) expect([place, stdout]).toEqual([place, expect.stringContaining(file)]);
      }
  });

  test('has a lost index of its log made anew, encrypted', async () => {
    const { destination, destinationDirectory } = scenario.deployment;
    const [index = ''] = await filesOfKind(destinationDirectory, 'logIndex');
    const before = await readFile(index);
    await rm(index);
    const opening = ['--from', destination, '--key-file', keyFile];
    expect((await holdfast('repair', 'clog', ...opening)).code).toBe(0);
    const after = await readFile(index);
    expect([after.length, after.includes(MARKER)]).toEqual([before.length, false]);
    expect(after.equals(before)).toBe(false); // another file id, so another key
    expect((await holdfast('validate', ...opening)).code).toBe(0);
  });

  test(
    'in a synthetic full keeps files with their keys; it, its increment and a delta restore need nothing of its source',
    async () => {
      const { deployment } = scenario;
      await deployment.sql("ALTER SYSTEM SET backup_encryption = 'off'");
      await expect(deployment.sql('ALTER SYSTEM BACKUP SYNTHETIC DATABASE')).rejects.toThrow(
        /SYNTHETIC_BACKUP_REFUSED.*is encrypted/,
      );
      await deployment.sql("ALTER SYSTEM SET backup_encryption = 'on'");
      await backUp('SYNTHETIC DATABASE');
      const [source = '', synthetic = ''] = (await setIds()).slice(-2);
      const made = states.get(BigInt(source)) ?? never();
      expect(await keyIdsOf(synthetic)).toEqual(
        new Set([...(await keyIdsOf('1')), ...(await keyIdsOf(synthetic))]),
      );
      expect((await keyIdsOf(synthetic)).size).toBe(2);
      await write(`UPDATE secrets SET text = 'again ${MARKER}' WHERE id % 11 = 0`);
      await backUp('INCREMENTAL DATABASE');
      const last = (await setIds()).at(-1) ?? '';
      const [first = ''] = await filesOfKind(scenario.deployment.destinationDirectory, 'backupInfo');
      const fullSet = dirname(dirname(first));
      expect(fullSet).toMatch(/backup_set_1$/);
      await rename(fullSet, `${fullSet}.hidden`);
      try {
        const whole = await restore(['--set', synthetic, '--immediate'], keyFile);
        expect([whole.code, whole.stderr]).toEqual([0, expect.anything()]);
        {
          await using copy = copyOf(whole.stdout);
          expect(await findDifferences(connectorTo(copy.port), made)).toEqual([]);
        }
        const delta = ['--set', last, '--immediate', '--delta'];
        const { code, stdout, stderr } = await restore(delta, keyFile, whole.to);
        expect([code, stderr]).toEqual([0, expect.anything()]);
        await using copy = copyOf(stdout);
        const wanted = states.get(BigInt(last)) ?? never();
        expect(await findDifferences(connectorTo(copy.port), wanted)).toEqual([]);
      } finally {
        await rename(`${fullSet}.hidden`, fullSet);
      }
      await scenario.deployment.sql(`ALTER SYSTEM VALIDATE TENANT = ${TENANT} WAIT`);
    },
    BUSY_MS,
  );

  test(
    'with a password opens by it: in the session that restores, and nowhere else',
    async () => {
      const { deployment } = scenario;
      const session = await deployment.connect();
      try {
        await session.query(`SET ENCRYPTION ON IDENTIFIED BY '${PASSWORD}' ONLY`);
        await session.query('ALTER SYSTEM BACKUP DATABASE WAIT');
      } finally {
        await session.end();
      }
      const [last] = await deployment.sql<{ backup_set_id: string; encryption_mode: string }>(
        'SELECT backup_set_id, encryption_mode FROM CDB_OB_BACKUP_SET_FILES ORDER BY backup_set_id DESC LIMIT 1',
      );
      expect(last?.encryption_mode).toBe('PASSWORD_ENCRYPTION');
      await createPool(deployment);
      const wanted = `ALTER SYSTEM RESTORE copy FROM ${TENANT} BACKUPSET = ${last?.backup_set_id} UNTIL IMMEDIATE WITH 'pool_list=spare' WAIT`;
      await expect(deployment.sql(wanted)).rejects.toThrow(/OB-9047 BACKUP_INVALID_PASSWORD/);
      const wrong = await deployment.connect();
      try {
        await wrong.query("SET DECRYPTION IDENTIFIED BY 'wrong'");
        await expect(wrong.query(wanted)).rejects.toThrow(/OB-9047 BACKUP_INVALID_PASSWORD/);
        await wrong.query(`SET DECRYPTION IDENTIFIED BY 'wrong', '${PASSWORD}'`);
        await wrong.query(wanted);
      } finally {
        await wrong.end();
      }
      const state = await readServerState((database) => scenario.server.connect(database));
      const { port } = await deployment.restored('copy');
      expect(await findDifferences(connectorTo(port), state)).toEqual([]);
      // From the destination alone, the password from a file; the log opens with the key file.
      const alone = ['--set', String(last?.backup_set_id), '--immediate', '--password-file', passwordFile];
      const { code, stdout } = await restore(alone, keyFile);
      expect(code).toBe(0);
      await copyOf(stdout)[Symbol.asyncDispose]();
      // The deployment goes on from it and validates it without being told the password again.
      await deployment.sql(`ALTER SYSTEM VALIDATE TENANT = ${TENANT} WAIT`);
      for (const { logPath } of [deployment.coordinator, deployment.agent])
        expect((await readFile(logPath, 'utf8')).includes(PASSWORD)).toBe(false);
    },
    BUSY_MS,
  );

  test(
    'is opened by the new key and password after rotation, by the old ones no more, and no data is written',
    async () => {
      const { deployment } = scenario;
      const before = await dataFiles();
      await writeFile(keyFile, `${newKey}\n${oldKey}\n`, { mode: 0o600 });
      const session = await deployment.connect();
      const notices: string[] = [];
      session.on('notice', ({ message }) => notices.push(message ?? ''));
      try {
        await session.query(`SET DECRYPTION IDENTIFIED BY '${PASSWORD}'`);
        await session.query("SET ENCRYPTION ON IDENTIFIED BY 'young' ONLY");
        await session.query('ALTER SYSTEM ROTATE BACKUP KEY');
      } finally {
        await session.end();
      }
      expect(notices).toEqual([
        `keys of tenant "${TENANT}" wrapped anew: 6; unchanged: 0; not opened: 0`,
        'keys of tenant "copy" wrapped anew: 0; unchanged: 0; not opened: 0',
      ]);
      for (const [path, size] of before)
        expect([path, (await stat(path)).size >= size]).toEqual([path, true]);
      const old = join(keyFile, '..', 'old.key');
      await writeFile(old, `${oldKey}\n`, { mode: 0o600 });
      await writeFile(keyFile, `${newKey}\n`, { mode: 0o600 });
      const [full] = states.keys();
      const refused = await restore(['--set', String(full), '--immediate'], old);
      expect([refused.code, refused.stderr]).toEqual([3, expect.stringContaining('BACKUP_INVALID_PASSWORD')]);
      const { code, stdout } = await restore(['--set', String(full), '--immediate'], keyFile);
      expect(code).toBe(0);
      await using copy = copyOf(stdout);
      expect(await findDifferences(connectorTo(copy.port), states.get(full ?? 0n) ?? never())).toEqual([]);
      const last = String(Math.max(...(await setIds()).map(Number)));
      const oldPassword = await restore(
        ['--set', last, '--immediate', '--password-file', passwordFile],
        keyFile,
      );
      expect([oldPassword.code, oldPassword.stderr]).toEqual([
        3,
        expect.stringContaining('BACKUP_INVALID_PASSWORD'),
      ]);
      await writeFile(passwordFile, 'young\n', { mode: 0o600 });
      const young = await restore(['--set', last, '--immediate', '--password-file', passwordFile], keyFile);
      expect(young.code).toBe(0);
      await copyOf(young.stdout)[Symbol.asyncDispose]();
      // Archiving and increments go on, also after a restart with the new key alone.
      await deployment.coordinator.kill();
      await deployment.coordinator.start();
      await deployment.agent.stop();
      await deployment.agent.start();
      await deployment.waitForRow<{ status: string }>(
        'SELECT status FROM DBA_OB_SERVERS',
        ({ status }) => status === 'ACTIVE',
      );
      await write(`INSERT INTO secrets VALUES (-1, 'after the rotation: ${MARKER}')`);
      await sealLog();
      await backUp('INCREMENTAL DATABASE');
      const [newest] = await deployment.sql<{ encryption_mode: string; backup_type: string }>(
        'SELECT encryption_mode, backup_type FROM CDB_OB_BACKUP_SET_FILES ORDER BY backup_set_id DESC LIMIT 1',
      );
      expect(newest).toEqual({ encryption_mode: 'TRANSPARENT_ENCRYPTION', backup_type: 'I' });
      // What a running backup is going to write is wrapped already.
      await deployment.sql("ALTER SYSTEM SET backup_net_limit = '200KB'");
      await deployment.sql('ALTER SYSTEM BACKUP DATABASE');
      await expect(deployment.sql('ALTER SYSTEM ROTATE BACKUP KEY')).rejects.toThrow(/BACKUP_IN_PROGRESS/);
      await deployment.sql('ALTER SYSTEM CANCEL BACKUP');
    },
    BUSY_MS,
  );

  async function write(sql: string): Promise<void> {
    const client = await scenario.server.connect(DATABASE);
    await client.query(sql);
    await client.end();
  }

  async function backUp(what: string): Promise<void> {
    const { server, deployment } = scenario;
    await deployment.sql(`ALTER SYSTEM BACKUP ${what} WAIT`);
    const last = (await setIds()).at(-1);
    states.set(BigInt(last ?? 0), await readServerState((database) => server.connect(database)));
  }

  async function setIds(): Promise<readonly string[]> {
    const rows = await scenario.deployment.sql<{ backup_set_id: string }>(
      'SELECT backup_set_id FROM CDB_OB_BACKUP_SET_FILES ORDER BY backup_set_id',
    );
    return rows.map((row) => row.backup_set_id);
  }

  /** The data keys of a set's macroblock files. */
  async function keyIdsOf(setId: string): Promise<ReadonlySet<string>> {
    const ids = new Set<string>();
    for (const path of await filesOfKind(scenario.deployment.destinationDirectory, 'macroBlock'))
      if (path.includes(`/macro_block_${setId}.`))
        ids.add((await readFile(path)).subarray(0x38, 0x48).toString('hex'));
    return ids;
  }

  /** Waits until what was written so far is at the destination. */
  async function sealLog(): Promise<void> {
    const [row] = await scenario.server.query<{ lsn: string }>('SELECT pg_switch_wal() AS lsn');
    await scenario.deployment.waitForRow<{ done: boolean }>(
      `SELECT checkpoint_lsn::pg_lsn >= '${row?.lsn}' AS done FROM CDB_OB_BACKUP_ARCHIVELOG_PROGRESS`,
      ({ done }) => done,
    );
  }

  async function dataFiles(): Promise<ReadonlyMap<string, number>> {
    const files = new Map<string, number>();
    for (const kind of ['macroBlock', 'macroBlockIndex', 'metaFile', 'logData'] as const)
      for (const path of await filesOfKind(scenario.deployment.destinationDirectory, kind))
        files.set(path, (await stat(path)).size);
    return files;
  }

  async function restore(
    more: readonly string[],
    key: string | undefined,
    to = join(scenario.server.directory, `copy-${(copies += 1)}`),
  ): Promise<CommandResult & { readonly to: string }> {
    const runAs = serverUser() === undefined ? [] : ['--run-as', 'nobody'];
    const place = ['--from', scenario.deployment.destination, '--tenant', TENANT, '--to', to];
    const bin = ['--bin-directory', binDirectory(major)];
    const keys = key === undefined ? [] : ['--key-file', key];
    return { ...(await holdfast('restore', ...place, ...bin, ...runAs, ...keys, ...more)), to };
  }

  function copyOf(stdout: string): AsyncDisposable & { readonly port: number } {
    const dataDirectory = join(scenario.server.directory, `copy-${copies}`);
    const paths = { binDirectory: binDirectory(major), dataDirectory, user: serverUser() };
    return {
      port: Number(/listens on 127\.0\.0\.1, port (\d+)/.exec(stdout)?.[1]),
      async [Symbol.asyncDispose]() {
        await stopServer(paths, 'immediate', new AbortController().signal);
      },
    };
  }
});

async function filesBelow(directory: string): Promise<readonly string[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
}

function never(): never {
  throw new Error('the set was recorded');
}
