/**
 * One restored server from its start to its promotion: launched with hot_standby off, watched until it accepts
 * connections (then it is promoted: a server without hot standby refuses them before), and asked.
 *
 *   launched ──pid file says ready──► promoted ──answers in every database──► verified
 *      └────────process ends──────► failed, with the end of its log
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { HoldfastError } from '../../../foundation/errors.ts';
import { type Lsn, parseLsn, type Timeline, toTimeline } from '../../../foundation/lsn.ts';
import { type LaunchedServer, logTail, type ServerEnd } from '../server-process.ts';

const POLL_MS = 100;
const CONNECT_TIMEOUT_MS = 30_000;
/** Line 8 of postmaster.pid (pidfile.h, LOCK_FILE_LINE_PM_STATUS). */
const STATUS_LINE = 7;

/**
 * Waits until the server accepts connections. Throws RESTORE_FAILED with the end of its log when it ends instead, and
 * what `signal` was aborted with. `watch` is called at every poll, for progress.
 */
export async function awaitPromotion(
  server: LaunchedServer,
  dataDirectory: string,
  logPath: string,
  signal: AbortSignal,
  watch: () => void = () => undefined,
): Promise<void> {
  for (;;) {
    signal.throwIfAborted();
    const end = server.end();
    if (end !== undefined) throw await serverEnded(end, logPath);
    if ((await serverStatus(dataDirectory)) === 'ready') return;
    watch();
    await sleep(POLL_MS, undefined, { signal });
  }
}

export type RecoveredServer = {
  readonly serverVersion: string;
  readonly timeline: Timeline;
  /** End of the last record that was replayed; undefined when the server was started again since. */
  readonly replayed: Lsn | undefined;
  /** Commit time of the last transaction that was replayed, microseconds; undefined: none. */
  readonly lastCommitUs: bigint | undefined;
  readonly systemIdentifier: bigint;
};

export type CheckLogin = { readonly socketDirectory: string; readonly port: number; readonly user: string };

/**
 * Asks the promoted server who it is, and reads every database's catalog. Throws RESTORE_FAILED when it is still in
 * recovery or does not answer.
 */
export async function verifyServer(login: CheckLogin, signal: AbortSignal): Promise<RecoveredServer> {
  try {
    const found = await withClient(login, 'postgres', signal, askServer);
    for (const database of found.databases) {
      await withClient(login, database, signal, async (client) => {
        await client.query('SELECT count(*) FROM pg_catalog.pg_class');
      });
    }
    return found.server;
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof HoldfastError) throw error;
    throw new HoldfastError(
      'RESTORE_FAILED',
      `the restored server does not answer: ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    );
  }
}

async function askServer(
  client: pg.Client,
): Promise<{ readonly server: RecoveredServer; readonly databases: readonly string[] }> {
  const { rows } = await client.query<{
    recovering: boolean;
    version: string;
    wal_file: string;
    replayed: string | null;
    commit_us: string | null;
    system_identifier: string;
    databases: string[];
  }>(`
    SELECT pg_is_in_recovery() AS recovering,
           current_setting('server_version') AS version,
           CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_lsn()) END AS wal_file,
           pg_last_wal_replay_lsn()::text AS replayed,
           (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint::text AS commit_us,
           (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
           (SELECT coalesce(array_agg(datname::text), '{}') FROM pg_database WHERE datallowconn AND datconnlimit <> -2) AS databases`);
  const row = rows[0];
  if (row === undefined || row.recovering)
    throw new HoldfastError('RESTORE_FAILED', 'the restored server is still in recovery');
  return {
    server: {
      serverVersion: row.version,
      timeline: toTimeline(Number.parseInt(row.wal_file.slice(0, 8), 16)),
      replayed: row.replayed === null ? undefined : parseLsn(row.replayed),
      lastCommitUs: row.commit_us === null ? undefined : BigInt(row.commit_us),
      systemIdentifier: BigInt(row.system_identifier),
    },
    databases: row.databases,
  };
}

async function withClient<T>(
  login: CheckLogin,
  database: string,
  signal: AbortSignal,
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  signal.throwIfAborted();
  const client = new pg.Client({
    host: login.socketDirectory,
    port: login.port,
    user: login.user,
    database,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    query_timeout: CONNECT_TIMEOUT_MS * 4,
  });
  client.on('error', () => undefined); // the query that runs reports a lost connection
  try {
    await client.connect();
    return await work(client);
  } finally {
    await client.end();
  }
}

async function serverEnded(end: ServerEnd, logPath: string): Promise<HoldfastError> {
  const tail = await logTail(logPath);
  const fatal = tail.split('\n').findLast((line) => /(FATAL|PANIC):/.test(line));
  const how = end.signal === null ? `exit code ${end.code}` : end.signal;
  return new HoldfastError(
    'RESTORE_FAILED',
    `the restored server ended before it was promoted (${how})${fatal === undefined ? '' : `: ${fatal.trim()}`}`,
    { detail: tail.trim() },
  );
}

/** `starting`, `ready`, `standby`, `stopping`; undefined while there is no postmaster.pid. */
async function serverStatus(dataDirectory: string): Promise<string | undefined> {
  try {
    const text = await readFile(join(dataDirectory, 'postmaster.pid'), 'utf8');
    return text.split('\n')[STATUS_LINE]?.trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined; // node:fs throws errno errors
    throw error;
  }
}
