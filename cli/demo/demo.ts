/**
 * The demo: a shop's database is archived and backed up while customers buy, loses its orders to a slip of the hand, and is
 * restored to the last instant before it, into a second server, where every row is compared with what was there.
 */
import { setTimeout as wait } from 'node:timers/promises';
import type { Client } from 'pg';
import { serverPid } from '../../engine/postgres/server-process.ts';
import { defined } from '../../foundation/assert.ts';
import { formatSize } from '../../foundation/units.ts';
import { connectClient, tell } from './admin-client.ts';
import type { ChildProcesses } from './child-processes.ts';
import { compareStates, readServerState, type ServerState, summarize } from './database-state.ts';
import { drawTree } from './directory-tree.ts';
import { compareIndexScans } from './index-scans.ts';
import type { Narrator } from './narrator.ts';
import { createShop, DEMO_SIZE } from './shop.ts';
import { connectAdmin, type Stage, setStage, TENANT } from './stage.ts';
import { waitFor } from './wait.ts';
import { startWorkload } from './workload.ts';

export type DemoOptions = {
  /** The checkout. */
  readonly root: string;
  /** `.demo/`: exists, empty, ours. */
  readonly directory: string;
  readonly processes: ChildProcesses;
  readonly narrator: Narrator;
};

export type DemoResult = {
  /** Empty: restored exactly. */
  readonly differences: readonly string[];
  readonly tables: number;
  readonly rows: number;
  /** The instant that was restored to, as the server wrote it. */
  readonly restoredTo: string;
  readonly stage: Stage;
  readonly restoredPort: number;
};

const DATABASE = 'shop';
const CLIENTS = 4;
const RESTORED_TENANT = 'shop_before';
/** How long customers go on buying after the backup, so that there is log to replay. */
const WORKLOAD_AFTER_BACKUP_MS = 3_000;

export async function runDemo(options: DemoOptions, signal: AbortSignal): Promise<DemoResult> {
  const { narrator } = options;
  const stage = await setStage(options.root, options.directory, options.processes, narrator, signal);
  const admin = await connectAdmin(stage);
  // Destroys the connection at once when a statement is running on it.
  signal.addEventListener('abort', () => void admin.end());
  try {
    await loadShop(stage, narrator);
    await beginArchiving(stage, admin, narrator, signal);
    await backUpUnderLoad(stage, admin, narrator, signal);
    const before = await recordState(stage, narrator);
    await accident(stage, narrator);
    const restoredPort = await restore(stage, admin, before.instant, narrator);
    const differences = await compare(before.state, restoredPort, narrator);
    await showDestination(stage, admin, narrator);
    return { differences, ...summarize(before.state), restoredTo: before.instant, stage, restoredPort };
  } finally {
    await admin.end();
  }
}

async function loadShop(stage: Stage, narrator: Narrator): Promise<void> {
  narrator.step('A shop: customers, orders, a large object, a tablespace of its own for events');
  const maintenance = await connectSource(stage, 'postgres');
  await maintenance.query(`CREATE DATABASE ${DATABASE}`);
  await maintenance.end();
  const client = await connectSource(stage);
  try {
    await createShop(client, DEMO_SIZE, stage.tablespaceDirectory);
    const { rows } = await client.query<{ size: string; lines: string }>(
      `SELECT pg_database_size('${DATABASE}') AS size, (SELECT sum(reltuples::bigint) FROM pg_class
         WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace) AS lines`,
    );
    const { size, lines } = defined(rows[0], 'a row');
    narrator.say(`${formatSize(Number(size))}, about ${lines} rows`);
  } finally {
    await client.end();
  }
}

const PROMPT = 'holdfast=>';

async function beginArchiving(
  stage: Stage,
  admin: Client,
  narrator: Narrator,
  signal: AbortSignal,
): Promise<void> {
  narrator.step('Archive its log: from now on every commit reaches the destination within about a second');
  await tell(
    admin,
    PROMPT,
    `ALTER SYSTEM SET backup_dest = 'file://${stage.destinationDirectory}'`,
    narrator,
  );
  await tell(admin, PROMPT, `ALTER SYSTEM ARCHIVELOG TENANT = ${TENANT}`, narrator);
  await waitFor(
    async () => (await archiveState(admin)).status === 'DOING' || undefined,
    {
      what: 'the archive round to begin',
      timeoutMs: 60_000,
      explain: async () => JSON.stringify(await archiveState(admin)),
    },
    signal,
  );
  const sql = 'SELECT status, checkpoint_lsn, checkpoint_time, lag_seconds FROM CDB_OB_BACKUP_ARCHIVELOG';
  const rows = await tell(admin, PROMPT, sql, narrator);
  narrator.answer(formatRows(rows));
}

async function archiveState(admin: Client): Promise<{ status?: string; comment?: string }> {
  const { rows } = await admin.query<{ status: string; comment: string }>(
    `SELECT status, comment FROM CDB_OB_BACKUP_ARCHIVELOG WHERE tenant_name = '${TENANT}'`,
  );
  return rows[0] ?? {};
}

async function backUpUnderLoad(
  stage: Stage,
  admin: Client,
  narrator: Narrator,
  signal: AbortSignal,
): Promise<void> {
  narrator.step(`Back it up while ${CLIENTS} customers at a time buy`);
  await using workload = await startWorkload({ connect: () => connectSource(stage), clients: CLIENTS });
  await tell(admin, PROMPT, 'ALTER SYSTEM BACKUP DATABASE WAIT', narrator);
  const during = workload.committed();
  await wait(WORKLOAD_AFTER_BACKUP_MS, undefined, { signal });
  await workload.stop();
  narrator.say(
    `${during} transactions committed during the backup, ${workload.committed() - during} after it.`,
  );
}

async function recordState(
  stage: Stage,
  narrator: Narrator,
): Promise<{ readonly state: ServerState; readonly instant: string }> {
  narrator.step('Write down what is there: every row of every table of every database, as digests');
  const state = await readServerState((database) => connectSource(stage, database));
  const { tables, rows } = summarize(state);
  narrator.say(`${tables} tables, ${rows} rows`);
  const client = await connectSource(stage);
  try {
    const result = await client.query<{ instant: string }>('SELECT clock_timestamp()::text AS instant');
    return { state, instant: defined(result.rows[0], 'a row').instant };
  } finally {
    await client.end();
  }
}

async function accident(stage: Stage, narrator: Narrator): Promise<void> {
  narrator.step('The accident');
  const client = await connectSource(stage);
  try {
    await tell(client, 'shop=#', 'DELETE FROM orders', narrator);
    await tell(client, 'shop=#', 'DROP TABLE customers CASCADE', narrator);
  } finally {
    await client.end();
  }
}

/** Returns the port of the restored server. */
async function restore(stage: Stage, admin: Client, instant: string, narrator: Narrator): Promise<number> {
  narrator.step(`Restore to ${instant}, the last instant before it, into a second server`);
  for (const statement of [
    `CREATE RESOURCE UNIT small MAX_MEMORY '512M', MAX_SESSION_NUM 50`,
    `CREATE RESOURCE POOL spare UNIT = 'small', UNIT_NUM = 1, ZONE_LIST = ('zone1')`,
    `ALTER SYSTEM RESTORE TENANT ${RESTORED_TENANT} FROM ${TENANT} UNTIL TIME = '${instant}' WITH 'pool_list=spare' WAIT`,
  ])
    await tell(admin, PROMPT, statement, narrator);
  const sql =
    'SELECT status, svr_port, reached_lsn, last_commit_time, bytes_done FROM CDB_OB_RESTORE_HISTORY';
  const rows = await tell(admin, PROMPT, sql, narrator);
  narrator.answer(formatRows(rows));
  const { rows: servers } = await admin.query<{ svr_port: number; data_directory: string }>(
    `SELECT svr_port, data_directory FROM CDB_OB_RESTORE_HISTORY WHERE tenant_name = '${RESTORED_TENANT}'`,
  );
  const restored = defined(servers[0], 'the row of a restore that has ended');
  const pid = await serverPid(restored.data_directory);
  if (pid !== undefined) await stage.processes.adopt('PostgreSQL, restored', pid);
  return restored.svr_port;
}

async function compare(expected: ServerState, port: number, narrator: Narrator): Promise<string[]> {
  narrator.step('Compare it, row for row, with what was written down; then every index with its table');
  const connect = (database: string) => connectClient({ port, user: 'postgres', database });
  const differences = compareStates(expected, await readServerState(connect));
  if (differences.length === 0) narrator.say('All tables, rows, large objects and definitions are the same.');
  const client = await connect(DATABASE);
  try {
    const scans = await compareIndexScans(client);
    narrator.say(
      scans.differences.length === 0
        ? `Forced index-only scans of ${scans.scanned} indexes tell the same as the tables.`
        : `${scans.differences.length} indexes differ from their tables.`,
    );
    return [...differences, ...scans.differences];
  } finally {
    await client.end();
  }
}

async function showDestination(stage: Stage, admin: Client, narrator: Narrator): Promise<void> {
  narrator.step('The destination, which alone is enough to restore from');
  for (const sql of [
    'SELECT backup_set_id, status, input_bytes_display, output_bytes_display, min_restore_lsn FROM CDB_OB_BACKUP_SET_FILES',
    'SELECT tenant_name, status, from_time, until_time FROM CDB_OB_RESTORE_WINDOWS',
  ]) {
    const rows = await tell(admin, PROMPT, sql, narrator);
    narrator.answer(formatRows(rows));
  }
  narrator.say(`${stage.destinationDirectory}/`);
  narrator.say((await drawTree(stage.destinationDirectory)).join('\n'));
}

function connectSource(stage: Stage, database = DATABASE): Promise<Client> {
  return connectClient({ port: stage.source.port, user: 'postgres', database });
}

/** Rows as `column = value` lines, one row per line. */
function formatRows(rows: readonly Readonly<Record<string, unknown>>[]): string {
  return rows
    .map((row) =>
      Object.entries(row)
        .map(([name, value]) => `${name} = ${value instanceof Date ? value.toISOString() : String(value)}`)
        .join(', '),
    )
    .join('\n');
}
