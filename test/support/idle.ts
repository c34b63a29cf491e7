/**
 * An idle database, watched: its restorable windows must end close to now all the time, by the view and by what is at the
 * destination, and its log must grow by no more than that of an identical server which has no Holdfast beside it.
 */
import { setTimeout as wait } from 'node:timers/promises';
import type pg from 'pg';
import { waitFor } from '../../cli/demo/wait.ts';
import type { TestServer } from './postgres.ts';
import { DATABASE, startArchivedShop, startShop } from './scenario.ts';

export type IdleReport = {
  readonly seconds: number;
  readonly looks: number;
  /** How far behind now a window ended at most, in milliseconds. */
  readonly viewLagMs: number;
  readonly destinationLagMs: number;
  /** By how much the log grew. */
  readonly logBytes: bigint;
  readonly logBytesWithout: bigint;
};

/** When autovacuum comes, and to which of the two first, is chance. */
const SETTINGS = { autovacuum: 'off' };
const QUIET_MS = 20_000;
const SETTLE_LIMIT_MS = 300_000;
const LOOK_INTERVAL_MS = 1000;

/** Both servers live through the same time; the watching begins when neither has anything of its own left to write. */
export async function watchIdleDatabase(seconds: number): Promise<IdleReport> {
  await using scenario = await startArchivedShop({ settings: SETTINGS });
  const { server, deployment } = scenario;
  const { server: other } = await startShop({ settings: SETTINGS });
  try {
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
    for (const each of [server, other]) await tidy(each);
    await settle([server, other]);
    const before = await Promise.all([logEnd(server), logEnd(other)]);
    const client = await deployment.connect();
    try {
      const looks = await look(client, seconds);
      const after = await Promise.all([logEnd(server), logEnd(other)]);
      return { ...looks, seconds, logBytes: after[0] - before[0], logBytesWithout: after[1] - before[1] };
    } finally {
      await client.end();
    }
  } finally {
    await other[Symbol.asyncDispose]();
  }
}

/** Once a second. A window's end is held against the time just before it was asked for. */
async function look(
  client: pg.Client,
  seconds: number,
): Promise<Pick<IdleReport, 'looks' | 'viewLagMs' | 'destinationLagMs'>> {
  const untilMs = performance.now() + seconds * 1000;
  let [looks, viewLagMs, destinationLagMs] = [0, 0, 0];
  while (performance.now() < untilMs) {
    const nextMs = performance.now() + LOOK_INTERVAL_MS;
    viewLagMs = Math.max(
      viewLagMs,
      await lag(client, 'SELECT status, until_time FROM CDB_OB_RESTORE_WINDOWS'),
    );
    destinationLagMs = Math.max(destinationLagMs, await lag(client, 'SHOW RESTORE WINDOWS'));
    looks += 1;
    await wait(Math.max(0, nextMs - performance.now()));
  }
  return { looks, viewLagMs, destinationLagMs };
}

async function lag(client: pg.Client, statement: string): Promise<number> {
  const nowMs = Date.now();
  const { rows } = await client.query<{ status: string; until_time: Date | string }>(statement);
  const [window] = rows;
  if (rows.length !== 1 || window?.status !== 'RESTORABLE')
    throw new Error(`one window was due: ${JSON.stringify(rows)}`);
  return nowMs - new Date(window.until_time).getTime();
}

/** Leaves nothing to autovacuum. */
async function tidy(server: TestServer): Promise<void> {
  const client = await server.connect(DATABASE);
  try {
    await client.query('VACUUM (ANALYZE)');
    await client.query('CHECKPOINT');
  } finally {
    await client.end();
  }
}

async function settle(servers: readonly TestServer[]): Promise<void> {
  let ends: readonly bigint[] = [];
  let sinceMs = performance.now();
  await waitFor(
    async () => {
      const now = await Promise.all(servers.map(logEnd));
      if (now.some((end, index) => end !== ends[index])) {
        ends = now;
        sinceMs = performance.now();
      }
      return performance.now() - sinceMs >= QUIET_MS ? true : undefined;
    },
    { what: 'two quiet servers', timeoutMs: SETTLE_LIMIT_MS, intervalMs: 1000 },
  );
}

async function logEnd(server: TestServer): Promise<bigint> {
  const [row] = await server.query<{ bytes: string }>(
    "SELECT (pg_current_wal_insert_lsn() - '0/0')::text AS bytes",
  );
  return BigInt(row?.bytes ?? 0);
}
