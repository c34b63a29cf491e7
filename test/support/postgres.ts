/** Real PostgreSQL servers for tests: 14 to 18 from npm, one directory each, stopped and removed when disposed. */
import { chmod, chown, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { freePort } from '../../cli/demo/ports.ts';
import { waitFor } from '../../cli/demo/wait.ts';
import {
  initializeCluster,
  type ServerPaths,
  type ServerUser,
  serverPid,
  startServer,
  stopServer,
} from '../../engine/postgres/server-process.ts';

export { freePort };

export type Major = 14 | 15 | 16 | 17 | 18;
export const MAJORS: readonly Major[] = [14, 15, 16, 17, 18];

export type TestServerOptions = {
  readonly major?: Major;
  /** Lines of postgresql.conf beyond the defaults below. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Page checksums; default on. */
  readonly checksums?: boolean;
  readonly walSegmentSizeMegabytes?: number;
};

export type TestServer = AsyncDisposable & {
  readonly major: Major;
  readonly port: number;
  readonly directory: string;
  readonly paths: ServerPaths;
  readonly dataDirectory: string;
  /** A new connected client; the caller ends it. */
  connect(database?: string): Promise<pg.Client>;
  /** One statement on a fresh connection. */
  query<Row extends pg.QueryResultRow = pg.QueryResultRow>(
    sql: string,
    values?: readonly unknown[],
  ): Promise<Row[]>;
  start(): Promise<void>;
  stop(mode?: 'fast' | 'immediate'): Promise<void>;
  /** kill -9 of the postmaster. */
  kill(): Promise<void>;
};

/** `HOLDFAST_TEST_POSTGRES` is set by scripts/test.ts where the servers' user cannot enter the checkout. */
export function binDirectory(major: Major): string {
  const elsewhere = process.env['HOLDFAST_TEST_POSTGRES'];
  if (elsewhere !== undefined) return join(elsewhere, String(major), 'bin');
  return join(import.meta.dirname, '..', '..', 'node_modules', `postgres-${major}`, 'native', 'bin');
}

/** The user that servers run as when we are root: nobody. */
export function serverUser(): ServerUser | undefined {
  return userInfo().uid === 0 ? { uid: 65_534, gid: 65_534 } : undefined;
}

/** A directory that the servers' user owns; the caller removes it. */
export async function makeTestDirectory(name: string): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), `holdfast-${name}-`));
  await chmod(directory, 0o755);
  const user = serverUser();
  if (user !== undefined) await chown(directory, user.uid, user.gid);
  return directory;
}

/** Makes, starts and returns a server that allows replication from 127.0.0.1. */
export async function createServer(options: TestServerOptions = {}): Promise<TestServer> {
  const major = options.major ?? 17;
  const directory = await makeTestDirectory(`pg${major}`);
  const paths = serverPaths(directory, major);
  const signal = new AbortController().signal;
  const initdbOptions = [
    ...(options.checksums === false ? (major >= 18 ? ['--no-data-checksums'] : []) : ['--data-checksums']),
    ...(options.walSegmentSizeMegabytes === undefined
      ? []
      : [`--wal-segsize=${options.walSegmentSizeMegabytes}`]),
  ];
  await initializeCluster(paths, initdbOptions, signal);
  const port = await freePort();
  const settings: Record<string, string> = {
    port: String(port),
    listen_addresses: "'127.0.0.1'",
    unix_socket_directories: "''",
    shared_buffers: "'64MB'",
    max_wal_size: "'1GB'",
    wal_level: 'replica',
    // Processes die in tests, machines do not: what a server has written outlives it.
    fsync: 'off',
    log_checkpoints: 'on',
    ...options.settings,
  };
  const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}`);
  await writeFile(join(paths.dataDirectory, 'postgresql.auto.conf'), `${lines.join('\n')}\n`);
  const server = serverIn(directory, major, port);
  await server.start();
  return server;
}

/** Starts a server that was killed. The dead postmaster's children hold its shared memory until they notice: a start before that is refused. */
export async function startAgain(server: TestServer): Promise<void> {
  await waitFor(async () => (await server.start(), true), {
    what: 'PostgreSQL to start again',
    timeoutMs: 60_000,
    intervalMs: 200,
  });
}

/** The server whose data directory is `data` in `directory`; not started. Disposing removes the directory. */
export function serverIn(directory: string, major: Major, port: number): TestServer {
  const paths = serverPaths(directory, major);
  const signal = new AbortController().signal;
  const connect = async (database = 'postgres') => {
    const client = new pg.Client({ host: '127.0.0.1', port, user: 'postgres', database });
    client.on('error', () => undefined); // a killed server's connections end; the next query reports it
    await client.connect();
    return client;
  };
  return {
    major,
    port,
    directory,
    paths,
    dataDirectory: paths.dataDirectory,
    connect,
    async query<Row extends pg.QueryResultRow>(sql: string, values: readonly unknown[] = []) {
      const client = await connect();
      try {
        return (await client.query<Row>(sql, [...values])).rows;
      } finally {
        await client.end();
      }
    },
    start: () => startServer(paths, { logPath: join(directory, 'server.log'), waitSeconds: 60 }, signal),
    stop: (mode = 'fast') => stopServer(paths, mode, signal),
    async kill() {
      const pid = await serverPid(paths.dataDirectory);
      if (pid !== undefined) process.kill(pid, 'SIGKILL');
    },
    async [Symbol.asyncDispose]() {
      if ((await serverPid(paths.dataDirectory)) !== undefined)
        await stopServer(paths, 'immediate', signal).catch(() => undefined);
      await rm(directory, { recursive: true, force: true });
    },
  };
}

function serverPaths(directory: string, major: Major): ServerPaths {
  return {
    binDirectory: binDirectory(major),
    dataDirectory: join(directory, 'data'),
    user: serverUser(),
  };
}
