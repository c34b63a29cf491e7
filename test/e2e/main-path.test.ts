import { readdir, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readServerState, type ServerState } from '../../cli/demo/database-state.ts';
import { startWorkload } from '../../cli/demo/workload.ts';
import { findDifferences } from '../support/compare.ts';
import type { RestoredServer } from '../support/holdfast-processes.ts';
import { majors } from '../support/majors.ts';
import {
  clockUs,
  connectorTo,
  createPool,
  DATABASE,
  formatInstant,
  type Scenario,
  startArchivedShop,
  TENANT,
} from '../support/scenario.ts';

/**
 * One story per version, told once and looked at from many sides: a shop is archived and backed up while customers buy, a
 * database is made, a table truncated and one dropped meanwhile; then everything is lost and restored to the instant before.
 */
describe.each(majors(14, 15, 16, 17, 18))('PostgreSQL %i', (major) => {
  let scenario: Scenario;
  let before: ServerState;
  let copy: RestoredServer;

  beforeAll(async () => {
    // What users get by default, once.
    scenario = await startArchivedShop({ major }, undefined, {
      catalog: major === 17 ? 'pglite' : 'postgresql',
    });
    const { server, deployment } = scenario;
    await createPool(deployment);
    await prepareChanges(scenario);
    {
      await using workload = await startWorkload({ connect: () => server.connect(DATABASE), clients: 4 });
      const backup = deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
      await changeThingsDuringBackup(scenario);
      await backup;
      await wait(500); // so that there is log behind the backup
      await workload.stop();
    }
    before = await readServerState((database) => server.connect(database));
    const instant = formatInstant(await clockUs(server));
    const client = await server.connect(DATABASE);
    await client.query('DELETE FROM orders');
    await client.query('DROP TABLE customers CASCADE');
    await client.end();
    await deployment.sql(
      `ALTER SYSTEM RESTORE TENANT copy FROM ${TENANT} UNTIL TIME = '${instant}' WITH 'pool_list=spare' WAIT`,
    );
    copy = await deployment.restored('copy');
  }, 240_000);

  afterAll(async () => {
    await scenario?.[Symbol.asyncDispose]();
  });

  test('the set is shown complete, and the restore as succeeded', async () => {
    expect(await scenario.deployment.sql('SELECT status, file_status FROM CDB_OB_BACKUP_SET_FILES')).toEqual([
      { status: 'SUCCESS', file_status: 'AVAILABLE' },
    ]);
    expect(await scenario.deployment.sql('SELECT status FROM CDB_OB_BACKUP_PROGRESS')).toEqual([
      { status: 'COMPLETED' },
    ]);
  });

  test('every row is as it was, indexes agree with tables, and amcheck finds nothing', async () => {
    expect(await findDifferences(connectorTo(copy.port), before)).toEqual([]);
  });

  test('an unlogged table is there and empty', async () => {
    const client = await connectorTo(copy.port)(DATABASE);
    try {
      expect((await client.query('SELECT * FROM carts')).rows).toEqual([]);
      await client.query("INSERT INTO carts VALUES (1, '{}')");
    } finally {
      await client.end();
    }
  });

  test('source and copy write to the tablespace, each to its own', async () => {
    const link = async (dataDirectory: string) => {
      const [oid = ''] = await readdir(join(dataDirectory, 'pg_tblspc'));
      return await readlink(join(dataDirectory, 'pg_tblspc', oid));
    };
    expect(await link(scenario.server.dataDirectory)).toBe(scenario.tablespaceDirectory);
    expect(await link(copy.dataDirectory)).not.toBe(scenario.tablespaceDirectory);
    const ends = [
      { connect: () => scenario.server.connect(DATABASE), kind: 'written to the source' },
      { connect: () => connectorTo(copy.port)(DATABASE), kind: 'written to the copy' },
    ];
    for (const { connect, kind } of ends) {
      const client = await connect();
      await client.query(
        `INSERT INTO events (kind, payload, at) SELECT '${kind}', '{}', now() FROM generate_series(1, 5000)`,
      );
      await client.query('CHECKPOINT');
      await client.end();
    }
    for (const { connect, kind } of ends) {
      const client = await connect();
      const { rows } = await client.query<{ kind: string; count: string }>(
        "SELECT kind, count(*) AS count FROM events WHERE kind LIKE 'written%' GROUP BY kind",
      );
      expect(rows).toEqual([{ kind, count: '5000' }]);
      await client.end();
    }
  });

  test('the copy does not act on the world', async () => {
    const client = await connectorTo(copy.port)('postgres');
    try {
      const { rows } = await client.query<{ name: string; setting: string }>(
        `SELECT name, setting FROM pg_settings
         WHERE name IN ('archive_mode', 'synchronous_standby_names', 'primary_conninfo') ORDER BY name`,
      );
      expect(rows).toEqual([
        { name: 'archive_mode', setting: 'off' },
        { name: 'primary_conninfo', setting: '' },
        { name: 'synchronous_standby_names', setting: '' },
      ]);
      expect((await client.query('SELECT pg_is_in_recovery() AS recovering')).rows).toEqual([
        { recovering: false },
      ]);
    } finally {
      await client.end();
    }
  });

  test('the archive goes on, and its checkpoint follows the clock while nobody writes', async () => {
    const now = await clockUs(scenario.server);
    await scenario.deployment.waitForRow<{ status: string; us: string }>(
      `SELECT status, extract(epoch FROM checkpoint_time) * 1000000 AS us FROM CDB_OB_BACKUP_ARCHIVELOG
       WHERE tenant_name = '${TENANT}'`,
      (row) => row.status === 'DOING' && BigInt(Math.trunc(Number(row.us))) > now,
      30_000,
    );
  });
});

/** Tables that the backup will find in one state and the log will change. */
async function prepareChanges({ server }: Scenario): Promise<void> {
  const client = await server.connect(DATABASE);
  for (const table of ['truncated', 'dropped', 'rewritten'])
    await client.query(
      `CREATE TABLE ${table} AS SELECT i AS id, md5(i::text) AS text FROM generate_series(1, 20000) i`,
    );
  await client.query('ALTER TABLE rewritten ADD PRIMARY KEY (id)');
  await client.end();
}

/** Everything that changes files, not only pages, while they are copied. */
async function changeThingsDuringBackup({ server }: Scenario): Promise<void> {
  const client = await server.connect(DATABASE);
  await client.query('CREATE DATABASE made_meanwhile');
  await client.query('TRUNCATE truncated');
  await client.query('INSERT INTO truncated SELECT 1, $$after$$');
  await client.query('DROP TABLE dropped');
  await client.query('VACUUM FULL rewritten');
  await client.query('ALTER TABLE rewritten SET TABLESPACE shop_archive');
  await client.end();
  const made = await server.connect('made_meanwhile');
  await made.query('CREATE TABLE things AS SELECT i AS id FROM generate_series(1, 1000) i');
  await made.end();
}
