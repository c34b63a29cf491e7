/**
 * A destination that goes away under a real agent: as a directory that is renamed, and as one that does not answer any
 * more (a file of it becomes a pipe that nobody writes to: whoever opens it waits). What has to work without it works, and
 * what is owed then is paid when it is back.
 */
import { execFileSync } from 'node:child_process';
import { constants } from 'node:fs';
import { open, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { tree } from '../../storage-layout/tree.ts';
import { createPool, type Scenario, startArchivedShop, TENANT } from '../support/scenario.ts';

const ROOT = { clusterName: 'test', clusterId: 1n };
const TENANT_ID = 1001n;
const ROUND = `SELECT * FROM CDB_OB_BACKUP_ARCHIVELOG WHERE tenant_name = '${TENANT}'`;
/** Longer than the 60 s that NOARCHIVELOG and CANCEL wait for an agent. */
const LIMIT_MS = 150_000;

type RoundRow = { readonly status: string; readonly log_archive_round: string; readonly comment: string };

let scenario: Scenario;

beforeAll(async () => {
  scenario = await startArchivedShop();
  await createPool(scenario.deployment);
}, 300_000);
afterAll(async () => {
  await scenario[Symbol.asyncDispose]();
});

async function goAway(): Promise<() => Promise<void>> {
  const here = scenario.deployment.destinationDirectory;
  await rename(here, `${here}.away`);
  return () => rename(`${here}.away`, here);
}

/** Whoever reads the file from now on waits. The returned function puts it back, and lets go of who waits. */
async function hang(key: string): Promise<() => Promise<void>> {
  const path = join(scenario.deployment.destinationDirectory, key);
  await rename(path, `${path}.kept`);
  execFileSync('mkfifo', ['-m', '666', path]);
  return async () => {
    await rename(path, `${path}.pipe`);
    await rename(`${path}.kept`, path);
    // A reader that waits makes this succeed; without one there is nobody to let go.
    const writer = await open(`${path}.pipe`, constants.O_WRONLY | constants.O_NONBLOCK).catch(
      () => undefined,
    );
    await writer?.close();
    await rm(`${path}.pipe`);
  };
}

async function roundIs(status: string, round: number): Promise<RoundRow> {
  return await scenario.deployment.waitForRow<RoundRow>(
    ROUND,
    (row) => row.status === status && row.log_archive_round === String(round),
    LIMIT_MS,
  );
}

async function slots(): Promise<number> {
  return (await scenario.server.query("SELECT FROM pg_replication_slots WHERE slot_name LIKE 'holdfast%'"))
    .length;
}

async function startRound(round: number): Promise<void> {
  await scenario.deployment.sql(`ALTER SYSTEM ARCHIVELOG TENANT = ${TENANT}`);
  await roundIs('DOING', round);
}

describe('while the destination is gone', () => {
  test('its end and its return are told; NOARCHIVELOG works, and round_end is written when it is back', async () => {
    const { deployment, server } = scenario;
    const comeBack = await goAway();
    await server.query('CREATE TABLE away (n int)');
    const event = (name: string) => `SELECT * FROM CDB_OB_EVENT_HISTORY WHERE event = '${name}'`;
    await deployment.waitForRow(event('destination_away'), () => true);
    await comeBack();
    await deployment.waitForRow<{ message: string }>(event('destination_back'), (row) =>
      /for \d+ s/.test(row.message),
    );
    expect(await deployment.sql(event('destination_away'))).toHaveLength(1);

    const comeBackAgain = await goAway();
    await deployment.sql('ALTER SYSTEM NOARCHIVELOG');
    expect(await roundIs('STOP', 1)).toMatchObject({
      comment: expect.stringContaining('round_end is still to be written'),
    });
    expect(await slots()).toBe(0);
    await comeBackAgain();
    await deployment.waitForRow<RoundRow>(ROUND, (row) => !row.comment.includes('round_end'), LIMIT_MS);
    const key = tree.roundEnd(ROOT, { tenantId: TENANT_ID, round: 1n });
    expect((await stat(join(deployment.destinationDirectory, key))).isFile()).toBe(true);
  }, 600_000);

  test('CANCEL BACKUP and CANCEL RESTORE work; afterwards both can be done', async () => {
    const { deployment } = scenario;
    await startRound(2);
    // Slow enough to be cancelled.
    await deployment.sql("ALTER SYSTEM SET backup_net_limit = '64kB'");
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE');
    const backups = "SELECT * FROM CDB_OB_BACKUP_JOBS WHERE job_type = 'BACKUP' ORDER BY job_id DESC";
    await deployment.waitForRow<{ status: string }>(
      "SELECT * FROM CDB_OB_BACKUP_TASKS WHERE task_type = 'BACKUP' ORDER BY task_id DESC",
      (row) => row.status === 'RUNNING' || row.status === 'DOING',
    );
    let comeBack = await goAway();
    await deployment.sql('ALTER SYSTEM CANCEL BACKUP');
    await deployment.waitForRow<{ status: string }>(backups, (row) => row.status === 'CANCELLED', LIMIT_MS);
    await comeBack();
    await deployment.sql("ALTER SYSTEM SET backup_net_limit = '0'");
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');

    const files = await readdir(deployment.destinationDirectory, { recursive: true });
    const baseline = files.find(
      (name) => /macro_block_\d+\.\d+$/.test(name) && name.includes('backup_set_2'),
    );
    const release = await hang(baseline ?? 'no macroblock file');
    await deployment.sql(`ALTER SYSTEM RESTORE TENANT copy FROM ${TENANT} WITH 'pool_list=spare'`);
    const restores = "SELECT * FROM CDB_OB_RESTORE_PROGRESS WHERE tenant_name = 'copy'";
    await deployment.waitForRow<{ status: string }>(restores, (row) => row.status !== 'CREATE_TENANT');
    comeBack = await goAway();
    await deployment.sql('ALTER SYSTEM CANCEL RESTORE copy');
    await deployment.waitForRow<{ status: string }>(
      "SELECT * FROM CDB_OB_RESTORE_HISTORY WHERE tenant_name = 'copy'",
      (row) => row.status === 'CANCELLED',
      LIMIT_MS,
    );
    await comeBack();
    await release();
    await deployment.sql(`ALTER SYSTEM RESTORE TENANT copy FROM ${TENANT} WITH 'pool_list=spare' WAIT`);
  }, 600_000);
});

test('while the destination hangs: it is told, NOARCHIVELOG works, and round_end is written when it answers', async () => {
  const { deployment } = scenario;
  const [round] = await deployment.sql<RoundRow>(ROUND);
  if (round?.status !== 'DOING') await startRound(Number(round?.log_archive_round ?? 0) + 1);
  const [running] = await deployment.sql<RoundRow>(ROUND);
  const number = BigInt(running?.log_archive_round ?? 0);
  const key = { tenantId: TENANT_ID, round: number };
  const [last] = await deployment.sql<{ id: string }>('SELECT max(event_id) AS id FROM CDB_OB_EVENT_HISTORY');
  const release = await hang(tree.mountFile(ROOT, key));
  const event = await deployment.waitForRow<{ message: string }>(
    `SELECT message FROM CDB_OB_EVENT_HISTORY WHERE event = 'destination_away' AND event_id > ${last?.id}`,
    () => true,
  );
  expect(event.message).toMatch(/out of reach since .*does not answer/);
  await deployment.sql('ALTER SYSTEM NOARCHIVELOG');
  await roundIs('STOP', Number(number));
  await release();
  await deployment.waitForRow<RoundRow>(ROUND, (row) => !row.comment.includes('round_end'), 300_000);
  const end = join(deployment.destinationDirectory, tree.roundEnd(ROOT, key));
  expect((await stat(end)).isFile()).toBe(true);
}, 600_000);
