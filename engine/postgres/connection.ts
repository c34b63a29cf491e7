/**
 * Connections to a PostgreSQL instance, for SQL and for the replication protocol, and the translation of what goes
 * wrong on them: every error says which instance, what was being done and what to change.
 */
import type { Socket } from 'node:net';
import pg from 'pg';
import { HoldfastError } from '../../foundation/errors.ts';
import type { InstanceConfig } from '../engine.ts';

const CONNECT_TIMEOUT_MS = 10_000;
const STATEMENT_TIMEOUT_MS = 30_000;
const KEEPALIVE_IDLE_MS = 10_000;

/** Of every session, and so the name of the log stream in synchronous_standby_names: never change it. */
export const APPLICATION_NAME = 'holdfast';

export type ConnectionKind = 'sql' | 'replication';

/**
 * Opens a connection; the caller ends it. `sql` sessions have a statement timeout of 30 s and UTC time. Throws
 * SERVER_UNREACHABLE (may be retried) or PRIVILEGE.
 */
export async function connectClient(
  config: InstanceConfig,
  kind: ConnectionKind,
  signal: AbortSignal,
): Promise<pg.Client> {
  signal.throwIfAborted();
  const password = config.password === undefined ? undefined : await config.password();
  const options: pg.ClientConfig & { replication?: string } = {
    host: config.host,
    port: config.port,
    user: config.user,
    // PostgreSQL ignores the name on a physical replication connection, but pg wants one.
    database: config.database,
    application_name: APPLICATION_NAME,
    keepAlive: true,
    keepAliveInitialDelayMillis: KEEPALIVE_IDLE_MS,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    ...(password === undefined ? {} : { password }),
    ...(kind === 'replication'
      ? { replication: 'true' }
      : { statement_timeout: STATEMENT_TIMEOUT_MS, options: '-c TimeZone=UTC' }),
  };
  const client = new pg.Client(options);
  // A lost connection fails the query that runs or the next one; without a listener it would end the process.
  client.on('error', () => undefined);
  const abort = () => clientSocket(client).destroy();
  signal.addEventListener('abort', abort, { once: true });
  try {
    await client.connect();
  } catch (error) {
    clientSocket(client).destroy();
    signal.throwIfAborted();
    throw translateServerError(error, config, kind === 'sql' ? 'connect' : 'open a replication connection');
  } finally {
    signal.removeEventListener('abort', abort);
  }
  return client;
}

/** The socket below a client: for cutting a connection that no longer answers. */
export function clientSocket(client: pg.Client): Socket {
  // pg.Client has had `connection.stream` since its first version, but its types leave it out.
  return (client as unknown as { connection: { stream: Socket } }).connection.stream;
}

/** Ends the session, at once when it is stuck. Never throws. */
export async function closeClient(client: pg.Client): Promise<void> {
  const socket = clientSocket(client);
  const timer = setTimeout(() => socket.destroy(), 2000);
  try {
    await client.end();
  } catch {
    socket.destroy(); // it is over either way
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Runs `work` on the client; when the signal fires the connection is cut, since PostgreSQL would go on otherwise, and the
 * signal's reason is thrown. Errors are translated; `doing` completes "cannot …".
 */
export async function withClient<T>(
  client: pg.Client,
  config: InstanceConfig,
  doing: string,
  signal: AbortSignal,
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  signal.throwIfAborted();
  const abort = () => clientSocket(client).destroy();
  signal.addEventListener('abort', abort, { once: true });
  try {
    return await work(client);
  } catch (error) {
    signal.throwIfAborted();
    throw translateServerError(error, config, doing);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

type Translation = { readonly code: ConstructorParameters<typeof HoldfastError>[0]; readonly hint?: string };

/** Any error of `pg` or of the socket below it as a HoldfastError that names the instance. */
export function translateServerError(error: unknown, config: InstanceConfig, doing: string): HoldfastError {
  if (error instanceof HoldfastError) return error;
  const text = error instanceof Error ? describeError(error) : String(error);
  const sqlState = error instanceof pg.DatabaseError ? error.code : undefined;
  const { code, hint } =
    sqlState === undefined ? translateSocketError(text, config) : translateSqlState(sqlState, text, config);
  const where = `${config.host}:${config.port}`;
  return new HoldfastError(code, `instance "${config.name}" (${where}): cannot ${doing}: ${text}`, {
    cause: error,
    ...(hint === undefined ? {} : { hint }),
    ...(error instanceof pg.DatabaseError && error.detail !== undefined ? { detail: error.detail } : {}),
  });
}

/** Node reports a refused connection to a name with several addresses as an AggregateError without a message. */
function describeError(error: Error): string {
  if (error.message !== '') return error.message;
  if (error instanceof AggregateError)
    return error.errors.map((one: unknown) => (one instanceof Error ? one.message : String(one))).join('; ');
  return error.name;
}

function translateSocketError(text: string, config: InstanceConfig): Translation {
  return {
    code: 'SERVER_UNREACHABLE',
    hint: /ECONNREFUSED|ENOENT/.test(text)
      ? `Is the server running, and does it listen on ${config.host}:${config.port}? See listen_addresses and port in postgresql.conf.`
      : `See host and port of instance "${config.name}" in the agent's configuration, and the server's log.`,
  };
}

function translateSqlState(sqlState: string, text: string, config: InstanceConfig): Translation {
  if (/pg_hba\.conf/.test(text)) {
    const database = /replication/.test(text) ? 'replication' : config.database;
    return {
      code: 'PRIVILEGE',
      hint: `Add "host ${database} ${config.user} <address of the agent>/32 scram-sha-256" to pg_hba.conf, then SELECT pg_reload_conf().`,
    };
  }
  if (sqlState.startsWith('28')) {
    return {
      code: 'PRIVILEGE',
      hint: `See user and password_file of instance "${config.name}" in the agent's configuration.`,
    };
  }
  if (sqlState === '42501') {
    return {
      code: 'PRIVILEGE',
      hint: `Grant role ${config.user} what it needs: ALTER ROLE ${config.user} REPLICATION; GRANT pg_read_all_settings TO ${config.user}; GRANT EXECUTE on the backup functions.`,
    };
  }
  if (sqlState === '53300') {
    return {
      code: 'SERVER_UNREACHABLE',
      hint: 'Raise max_connections, or max_wal_senders for replication connections; both need a restart.',
    };
  }
  if (sqlState === '53400') {
    return {
      code: 'SERVER_PRECHECK_FAILED',
      hint: 'Raise max_replication_slots (needs a restart), or drop slots that nobody uses.',
    };
  }
  if (/recovery is in progress/.test(text)) {
    return {
      code: 'LOG_ARCHIVE_LEADER_CHANGED',
      hint: `Instance "${config.name}" is a standby now: only a primary's log is archived.`,
    };
  }
  if (sqlState === '57014') return { code: 'TIMEOUT' };
  if (sqlState === '55006')
    return { code: 'SERVER_UNREACHABLE', hint: 'Another session still holds it; it is tried again.' };
  if (/^(08|57P|53)/.test(sqlState)) return { code: 'SERVER_UNREACHABLE' };
  if (sqlState === '3D000') {
    return {
      code: 'INVALID_CONFIG',
      hint: `See database of instance "${config.name}" in the agent's configuration.`,
    };
  }
  return { code: 'INTERNAL' };
}
