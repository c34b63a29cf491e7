/** RESTORE … UNTIL XID and NAME, INCLUSIVE and EXCLUSIVE, from the statement to the restored rows. */
import { dirname } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { stopServersBelow } from '../support/holdfast-processes.ts';
import {
  clockUs,
  connectorTo,
  createPool,
  DATABASE,
  type Scenario,
  startArchivedShop,
  TENANT,
} from '../support/scenario.ts';

describe('restoring to a transaction or a restore point by SQL', () => {
  let scenario: Scenario;
  /** The transactions that inserted 1, 2, 3 into `step`; a restore point stands behind each. */
  const xids: string[] = [];
  /** Of one more transaction: its own id, and its subtransaction's. */
  let outer = '';
  let inner = '';

  beforeAll(async () => {
    scenario = await startArchivedShop();
    const { server, deployment } = scenario;
    await createPool(deployment);
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
    const client = await server.connect(DATABASE);
    await client.query('CREATE TABLE step (n int)');
    for (const n of [1, 2, 3]) {
      const { rows } = await client.query<{ xid: string }>(
        'INSERT INTO step VALUES ($1) RETURNING pg_current_xact_id()::text AS xid',
        [n],
      );
      xids.push(rows[0]?.xid ?? '');
      await client.query(`SELECT pg_create_restore_point('behind ${n}')`);
    }
    await client.query('BEGIN');
    outer =
      (await client.query<{ xid: string }>('SELECT pg_current_xact_id()::text AS xid')).rows[0]?.xid ?? '';
    await client.query('SAVEPOINT s');
    inner =
      (await client.query<{ xid: string }>('INSERT INTO step VALUES (4) RETURNING xmin::text AS xid')).rows[0]
        ?.xid ?? '';
    await client.query('RELEASE s');
    await client.query('COMMIT');
    await client.end();
    const us = await clockUs(server);
    await deployment.waitForRow<{ us: string }>(
      'SELECT extract(epoch FROM checkpoint_time) * 1000000 AS us FROM CDB_OB_BACKUP_ARCHIVELOG',
      (row) => Number(row.us) > Number(us),
    );
  }, 180_000);
  afterAll(async () => await scenario?.[Symbol.asyncDispose]());

  let copies = 0;
  async function restore(until: string): Promise<number> {
    const { deployment } = scenario;
    copies += 1;
    await deployment.sql(
      `ALTER SYSTEM RESTORE TENANT copy${copies} FROM ${TENANT} UNTIL ${until} WITH 'pool_list=spare' WAIT`,
    );
    const { port, dataDirectory } = await deployment.restored(`copy${copies}`);
    const copy = await connectorTo(port)(DATABASE);
    const { rows } = await copy.query<{ n: number }>('SELECT coalesce(max(n), 0) AS n FROM step');
    await copy.end();
    await stopServersBelow(dirname(dataDirectory));
    return rows[0]?.n ?? -1;
  }

  test('a transaction is there with INCLUSIVE, and not with EXCLUSIVE', async () => {
    expect(await restore(`XID = ${xids[1]}`)).toBe(2);
    expect(await restore(`XID = ${xids[1]} INCLUSIVE`)).toBe(2);
    expect(await restore(`XID = ${xids[1]} EXCLUSIVE`)).toBe(1);
  }, 180_000);

  test('what lies before a restore point is there, with INCLUSIVE and with EXCLUSIVE', async () => {
    expect(await restore(`NAME = 'behind 2'`)).toBe(2);
    expect(await restore(`NAME = 'behind 1' INCLUSIVE`)).toBe(1);
    expect(await restore(`NAME = 'behind 3' EXCLUSIVE`)).toBe(3);
  }, 180_000);

  test('a subtransaction is refused by the name of its transaction, which restores it', async () => {
    expect(inner).not.toBe(outer);
    await expect(restore(`XID = ${inner}`)).rejects.toMatchObject({
      message: expect.stringMatching(
        new RegExp(`TARGET_NOT_RESTORABLE.*transaction ${inner} is a subtransaction of ${outer}\\b`),
      ),
    });
    expect(await restore(`XID = ${outer}`)).toBe(4);
    await expect(restore('XID = 2000000000')).rejects.toMatchObject({
      message: expect.stringMatching(/not in the archived log/),
    });
  }, 180_000);
});
