import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Deployment, startDeployment } from '../support/holdfast-processes.ts';
import { createServer, type TestServer } from '../support/postgres.ts';
import {
  beginArchiving,
  clockUs,
  createPool,
  formatInstant,
  type Scenario,
  startShop,
  TENANT,
} from '../support/scenario.ts';

type Refusal = {
  readonly message: string;
  readonly detail: string;
  readonly hint: string;
  readonly code: string;
  readonly position: string | undefined;
};

/** What the coordinator says to a statement that it must refuse. */
async function refusal(deployment: Deployment, statement: string): Promise<Refusal> {
  try {
    await deployment.sql(statement);
  } catch (error) {
    if (error instanceof pg.DatabaseError)
      return {
        message: error.message,
        detail: error.detail ?? '',
        hint: error.hint ?? '',
        code: error.code ?? '',
        position: error.position,
      };
    throw error;
  }
  throw new Error(`accepted: ${statement}`);
}

describe('a deployment with an archived shop', () => {
  let scenario: Scenario;
  beforeAll(async () => {
    const { server, tablespaceDirectory } = await startShop();
    const deployment = await startDeployment({
      servers: [{ name: 'orders-primary', tenant: TENANT, port: server.port }],
    });
    scenario = {
      server,
      tablespaceDirectory,
      deployment,
      async [Symbol.asyncDispose]() {
        try {
          await deployment[Symbol.asyncDispose]();
        } finally {
          await server[Symbol.asyncDispose]();
        }
      },
    };
  });
  afterAll(async () => {
    await scenario?.[Symbol.asyncDispose]();
  });
  const refused = (statement: string) => refusal(scenario.deployment, statement);

  test('a malformed statement is refused at the character', async () => {
    const found = await refused('ALTER SYSTEM ARCHVELOG');
    expect(found.code).toBe('42601');
    expect(found.position).toBe('14');
  });

  test('NOARCHIVELOG is refused with OB-9024 while nothing is archived', async () => {
    expect((await refused('ALTER SYSTEM NOARCHIVELOG')).message).toContain('OB-9024');
  });

  test('BACKUP is refused with OB-9040 while nothing is archived, with the statement that mends it', async () => {
    await scenario.deployment.sql(`ALTER SYSTEM SET backup_dest = '${scenario.deployment.destination}'`);
    const found = await refused('ALTER SYSTEM BACKUP DATABASE');
    expect(found.message).toContain('OB-9040');
    expect(found.hint).toContain('ARCHIVELOG');
  });

  test("a destination that cannot be written is refused with OB-9026 and the store's own error", async () => {
    const file = join(scenario.deployment.directory, 'a-file');
    await writeFile(file, 'not a directory');
    const found = await refused(`ALTER SYSTEM SET backup_dest = 'file://${file}/below'`);
    expect(found.message).toContain('OB-9026');
    expect(`${found.message} ${found.detail}`).toMatch(/ENOTDIR|not a directory/i);
  });

  test('a destination that holds something foreign is refused with OB-9026', async () => {
    const foreign = join(scenario.deployment.directory, 'foreign');
    await mkdir(foreign);
    await writeFile(join(foreign, 'thesis.doc'), 'precious');
    expect((await refused(`ALTER SYSTEM SET backup_dest = 'file://${foreign}'`)).message).toContain(
      'OB-9026',
    );
    expect(await readdir(foreign)).toEqual(['thesis.doc']);
  });

  test('an unknown tenant is refused by name', async () => {
    const found = await refused('ALTER SYSTEM ARCHIVELOG TENANT = nobody_knows');
    expect(found.message).toContain('OB-5160');
    expect(found.message).toContain('nobody_knows');
  });

  test('ARCHIVELOG twice is refused with OB-9023', async () => {
    await beginArchiving(scenario.deployment);
    expect((await refused(`ALTER SYSTEM ARCHIVELOG TENANT = ${TENANT}`)).message).toContain('OB-9023');
  });

  test('a second backup of a tenant at the same time is refused with OB-9036', async () => {
    await scenario.deployment.sql('ALTER SYSTEM BACKUP DATABASE');
    expect((await refused('ALTER SYSTEM BACKUP DATABASE')).message).toContain('OB-9036');
    await scenario.deployment.waitForRow<{ status: string }>(
      'SELECT status FROM CDB_OB_BACKUP_PROGRESS ORDER BY bs_key DESC LIMIT 1',
      (row) => row.status === 'COMPLETED',
    );
  });

  test('a time in the future, or before the first set, is refused with the windows that there are', async () => {
    await createPool(scenario.deployment);
    const restore = (time: string) =>
      `ALTER SYSTEM RESTORE TENANT copy FROM ${TENANT} UNTIL TIME = '${time}' WITH 'pool_list=spare' WAIT`;
    for (const time of ['2099-01-01 00:00:00+00', '2001-01-01 00:00:00+00']) {
      const found = await refused(restore(time));
      expect(found.message).toContain('TARGET_NOT_RESTORABLE');
      expect(`${found.detail} ${found.hint}`).toMatch(/20\d\d-\d\d-\d\d/);
    }
  });

  test('a restore into a tenant name in use is refused with OB-5156', async () => {
    const now = formatInstant(await clockUs(scenario.server));
    const found = await refused(
      `ALTER SYSTEM RESTORE TENANT ${TENANT} FROM ${TENANT} UNTIL TIME = '${now}' WITH 'pool_list=spare'`,
    );
    expect(found.message).toContain('OB-5156');
  });

  test('a stand-alone restore into an existing directory is refused, and touches nothing there', async () => {
    const target = join(scenario.deployment.directory, 'occupied');
    await mkdir(target);
    await writeFile(join(target, 'precious'), 'x');
    const source = ['--from', scenario.deployment.destination, '--tenant', TENANT];
    const result = await scenario.deployment.holdfast('restore', ...source, '--to', target);
    expect(result.stderr).toContain('TARGET_NOT_EMPTY');
    expect(result.code).toBe(3);
    expect(await readdir(target)).toEqual(['precious']);
  });
});

describe('a server that cannot be archived', () => {
  const cases: readonly {
    readonly what: string;
    readonly settings: Readonly<Record<string, string>>;
    readonly names: RegExp;
  }[] = [
    {
      what: 'wal_level = minimal',
      settings: { wal_level: 'minimal', max_wal_senders: '0' },
      names: /wal_level/,
    },
    { what: 'max_wal_senders = 0', settings: { max_wal_senders: '0' }, names: /max_wal_senders/ },
    {
      what: 'no limit on what a slot may retain',
      settings: { max_slot_wal_keep_size: '-1' },
      names: /max_slot_wal_keep_size/,
    },
  ];
  test.each(cases)('$what is refused, and what to change is named', async ({ settings, names }) => {
    await using server = await createServer({ settings });
    const found = await refuseArchiving(server, 'postgres');
    expect(`${found.message} ${found.detail} ${found.hint}`).toMatch(names);
  });

  test('a user without the right to replicate is refused, and the right is named', async () => {
    await using server = await createServer({ settings: { max_slot_wal_keep_size: "'4GB'" } });
    await server.query('CREATE ROLE limited LOGIN');
    const found = await refuseArchiving(server, 'limited');
    expect(`${found.message} ${found.detail} ${found.hint}`).toMatch(/REPLICATION/i);
  });

  async function refuseArchiving(server: TestServer, user: string): Promise<Refusal> {
    await using deployment = await startDeployment({
      servers: [{ name: 'orders-primary', tenant: TENANT, port: server.port, user }],
    });
    await deployment.sql(`ALTER SYSTEM SET backup_dest = '${deployment.destination}'`);
    return await refusal(deployment, `ALTER SYSTEM ARCHIVELOG TENANT = ${TENANT}`);
  }
});
