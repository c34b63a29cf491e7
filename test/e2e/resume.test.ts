/**
 * Backups that are interrupted and go on: the agent, the server or the coordinator is killed, or the destination goes away,
 * while some sub tasks are durable and others are not. What is taken over and what is copied again, and that the set is as
 * right as any other: restored, it holds row for row what the server held.
 */
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readServerState, type ServerState } from '../../cli/demo/database-state.ts';
import { waitFor } from '../../cli/demo/wait.ts';
import { startWorkload } from '../../cli/demo/workload.ts';
import { stopServer } from '../../engine/postgres/server-process.ts';
import { readMacroBlockIndex } from '../../storage-layout/macroblock/index.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { tree } from '../../storage-layout/tree.ts';
import { findDifferences } from '../support/compare.ts';
import { holdfast } from '../support/holdfast-processes.ts';
import { beginSlowBackup, durable, finishBackup, subTaskFiles } from '../support/interrupted-backup.ts';
import { binDirectory, serverUser } from '../support/postgres.ts';
import {
  clockUs,
  connectorTo,
  DATABASE,
  formatInstant,
  type Scenario,
  startArchivedShop,
  TENANT,
} from '../support/scenario.ts';

const ROOT = { clusterName: 'test', clusterId: 1n };
const MAJOR = 17;
const WAITING =
  "SELECT status, waiting_for FROM CDB_OB_BACKUP_TASKS WHERE task_type = 'BACKUP' ORDER BY task_id DESC";
const TABLES = 6;
/** Copied by one worker: one sub task is being read while another is made durable. */
const IN_HAND = 2;

let scenario: Scenario;
let firstId = 1;

beforeAll(async () => {
  scenario = await startArchivedShop({ major: MAJOR });
  await scenario.deployment.sql('ALTER SYSTEM SET backup_concurrency = 1');
  for (let n = 1; n <= TABLES; n += 1) await createBulk(`bulk_${n}`);
}, 300_000);

afterAll(async () => {
  await scenario?.[Symbol.asyncDispose]();
});

test('the agent is killed in a full backup, under load and DDL, and killed again in the attempt that goes on', async () => {
  const { server, deployment } = scenario;
  await using workload = await startWorkload({
    connect: () => server.connect(DATABASE),
    clients: 2,
    thinkMs: 10,
  });
  const setId = await beginSlowBackup(scenario, 'DATABASE', 4);
  await deployment.agent.kill();
  const first = await subTaskFiles(scenario, setId, 0);
  await changeEverything();
  await deployment.agent.start();
  await durable(scenario, setId, 1, 2); // what was taken over, and one sub task of its own
  await deployment.agent.kill();
  const second = await subTaskFiles(scenario, setId, 1);
  await shop('UPDATE bulk_6 SET n = n + 1 WHERE id % 5 = 0', 'TRUNCATE bulk_5');
  await deployment.agent.start();
  const task = await finishBackup(scenario);
  await workload.stop();
  firstId = 1_000_000;

  expect(task).toMatchObject({ status: 'SUCCEEDED', attempt: 3, resume_comment: null });
  expect(Number(task.resume_macro_block_count)).toBeGreaterThan(10);
  expect(await told('backup_resumed')).toBeGreaterThanOrEqual(2);
  // All that was in hand, and no more, was not durable: what has no index is that, or has nothing that could be taken over.
  for (const { blocks, indexes } of [first, second])
    expect(blocks.filter((id) => !indexes.includes(id)).length).toBeLessThanOrEqual(IN_HAND);
  await expectRestores(setId, 'busy');
}, 600_000);

test('an increment on top of it is right', async () => {
  await shop('UPDATE bulk_1 SET n = n + 1 WHERE id % 500 = 0', 'DELETE FROM bulk_4 WHERE id % 3 = 0');
  await scenario.deployment.sql('ALTER SYSTEM BACKUP INCREMENTAL DATABASE WAIT');
  await expectRestores(await newestSet(), 'quiet');
}, 300_000);

test('the agent is killed in an increment: what that had copied is taken over', async () => {
  const { deployment } = scenario;
  await shop(
    ...['bulk_1', 'bulk_2', 'bulk_4', 'bulk_6'].map(
      (table) => `UPDATE ${table} SET n = n + 7 WHERE id % 2 = 0`,
    ),
    'UPDATE bulk_3 SET n = n + 1 WHERE id % 900 = 0', // a few pages: deltas
  );
  const setId = await beginSlowBackup(scenario, 'INCREMENTAL DATABASE', 3);
  await deployment.agent.kill();
  await shop('UPDATE bulk_1 SET n = n + 1 WHERE id % 777 = 0', 'VACUUM FULL bulk_4', 'DROP TABLE bulk_2');
  await createBulk('bulk_2');
  await deployment.agent.start();
  const task = await finishBackup(scenario);
  expect(task).toMatchObject({ status: 'SUCCEEDED', attempt: 2, resume_comment: null });
  expect(Number(task.resume_macro_block_count)).toBeGreaterThan(0);
  await expectRestores(setId, 'quiet');
}, 600_000);

test('the server is killed: the session is dead, the agent goes on in a new one', async () => {
  const { server } = scenario;
  await using workload = await startWorkload({
    connect: () => server.connect(DATABASE),
    clients: 2,
    firstId,
    onLostConnection: 'reconnect',
    thinkMs: 10,
  });
  const setId = await beginSlowBackup(scenario, 'DATABASE', 2, '2MB');
  await server.kill();
  await waitFor(async () => (await server.start(), true), {
    what: 'PostgreSQL to start again',
    timeoutMs: 60_000,
    intervalMs: 200,
  });
  await shop('UPDATE bulk_1 SET n = n + 1 WHERE id % 300 = 0', 'TRUNCATE bulk_6');
  const task = await finishBackup(scenario);
  await workload.stop();
  firstId += 1_000_000;
  expect(task).toMatchObject({ status: 'SUCCEEDED', resume_comment: null });
  expect(task.attempt).toBeGreaterThan(1);
  expect(Number(task.resume_macro_block_count)).toBeGreaterThan(0);
  await expectRestores(setId, 'busy');
}, 600_000);

test('the coordinator is killed, then the destination is away: the attempt and its window go on, and copy little twice', async () => {
  const { deployment } = scenario;
  const setId = await beginSlowBackup(scenario, 'DATABASE', 1, '1MB');
  // The coordinator takes its time to come back; the agent must have heard of it before.
  await deployment.sql("ALTER SYSTEM SET backup_net_limit = '200KB'");
  await wait(5000);
  await deployment.coordinator.kill();
  await durable(scenario, setId, 0, 2); // meanwhile
  await deployment.coordinator.start();
  await deployment.waitForRow<{ status: string }>(WAITING, ({ status }) => status === 'RUNNING');

  const here = deployment.destinationDirectory;
  await rename(here, `${here}.away`);
  await deployment.waitForRow<{ waiting_for: string | null }>(WAITING, (row) => row.waiting_for !== null);
  await rename(`${here}.away`, here);
  await deployment.waitForRow<{ waiting_for: string | null }>(WAITING, (row) => row.waiting_for === null);

  const task = await finishBackup(scenario);
  expect(task).toMatchObject({ status: 'SUCCEEDED', attempt: 1, resume_macro_block_count: '0' });
  const { blocks } = await subTaskFiles(scenario, setId, 0);
  const again = blocks.filter((id) => id > 900_000); // under ids from the end of the attempt's
  const first = blocks.filter((id) => id <= 900_000);
  expect(again.length).toBeGreaterThan(0);
  expect(first.length).toBeGreaterThan(1);
  // Every sub task of the plan is there once, but for those that were in hand.
  const used = await usedSubTasks(setId);
  expect(blocks.filter((id) => !used.has(id)).length).toBeLessThanOrEqual(IN_HAND);
  await expectRestores(setId, 'quiet');
}, 600_000);

async function createBulk(table: string): Promise<void> {
  await shop(
    `CREATE TABLE ${table} AS SELECT i AS id, i % 10 AS n,
       (SELECT string_agg(md5((i * 31 + j)::text), '') FROM generate_series(1, 24) j WHERE i = i) AS body
     FROM generate_series(1, 16000) i`,
    `ALTER TABLE ${table} ADD PRIMARY KEY (id)`,
  );
}

/** All that a block which was read before must not be taken over for. */
async function changeEverything(): Promise<void> {
  await shop(
    'UPDATE bulk_1 SET n = n + 1 WHERE id % 400 = 0',
    'TRUNCATE bulk_2',
    'DROP TABLE bulk_3',
    'VACUUM FULL bulk_4',
    'DELETE FROM bulk_5 WHERE id > 12000',
    'VACUUM bulk_5',
    'CREATE TABLE late AS SELECT i AS id FROM generate_series(1, 50000) i',
  );
  await createBulk('bulk_3');
  await shop('INSERT INTO bulk_2 SELECT id, n, body FROM bulk_3 WHERE id <= 9000');
}

async function shop(...statements: readonly string[]): Promise<void> {
  const client = await scenario.server.connect(DATABASE);
  try {
    for (const statement of statements) await client.query(statement);
  } finally {
    await client.end();
  }
}

async function told(event: string): Promise<number> {
  const rows = await scenario.deployment.sql(`SELECT 1 FROM CDB_OB_EVENT_HISTORY WHERE event = '${event}'`);
  return rows.length;
}

/** Those that the index of a full set, made by one attempt, names. */
async function usedSubTasks(setId: bigint): Promise<ReadonlySet<number>> {
  await using medium = await openMedium(scenario.deployment.destination);
  const [row] = await scenario.deployment.sql<{ tenant_id: string; partition_group: string }>(
    `SELECT tenant_id, partition_group FROM CDB_OB_BACKUP_SET_FILES WHERE backup_set_id = ${setId}`,
  );
  const key = { tenantId: BigInt(row?.tenant_id ?? 0), fullSetId: setId, setId };
  const index = tree.macroBlockIndex(ROOT, key, row?.partition_group ?? '', 0);
  const used = new Set<number>();
  for await (const entries of readMacroBlockIndex(medium, index))
    for (const { subTaskId } of entries) used.add(subTaskId);
  return used;
}

async function newestSet(): Promise<bigint> {
  const [row] = await scenario.deployment.sql<{ id: string }>(
    'SELECT max(backup_set_id) AS id FROM CDB_OB_BACKUP_SET_FILES',
  );
  return BigInt(row?.id ?? 0);
}

/** Now, when it is archived. */
async function archivedInstant(): Promise<string> {
  const { deployment, server } = scenario;
  const instant = formatInstant(await clockUs(server));
  await server.query('SELECT pg_current_xact_id()'); // a commit behind it, which the destination shows by itself
  await server.query('SELECT pg_switch_wal()');
  const behind = formatInstant(await clockUs(server));
  await deployment.waitForRow<{ is_there: boolean }>(
    `SELECT checkpoint_time >= '${behind}' AS is_there FROM CDB_OB_BACKUP_ARCHIVELOG WHERE tenant_name = '${TENANT}'`,
    (row) => row.is_there,
  );
  return instant;
}

/** `busy`: the set was made under load, so it is compared at an instant behind its end. */
async function expectRestores(setId: bigint, kind: 'quiet' | 'busy'): Promise<void> {
  const { deployment, server } = scenario;
  const state: ServerState = await readServerState((database) => server.connect(database));
  const until = kind === 'quiet' ? ['--immediate'] : ['--until', await archivedInstant()];
  const to = join(server.directory, `copy-of-${setId}`);
  const runAs = serverUser() === undefined ? [] : ['--run-as', 'nobody'];
  const place = ['--from', deployment.destination, '--tenant', TENANT, '--to', to, '--set', String(setId)];
  const bin = ['--bin-directory', binDirectory(MAJOR)];
  const { code, stdout, stderr } = await holdfast('restore', ...place, ...until, ...runAs, ...bin);
  expect([code, stderr]).toEqual([0, expect.anything()]);
  const port = Number(/listens on 127\.0\.0\.1, port (\d+)/.exec(stdout)?.[1]);
  try {
    expect(await findDifferences(connectorTo(port), state), `set ${setId}`).toEqual([]);
  } finally {
    const paths = { binDirectory: binDirectory(MAJOR), dataDirectory: to, user: serverUser() };
    await stopServer(paths, 'immediate', new AbortController().signal);
  }
}
