/**
 * A whole Holdfast deployment for a test: coordinator and agent as real processes on free ports, in one directory of
 * their own. Each can be killed and started again. Disposing ends them in order, then the servers that the agent restored;
 * a process that does not end when it is told to, or that is left over, fails the test.
 */
import { execFile } from 'node:child_process';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { stringify } from 'yaml';
import { type Child, ChildProcesses, describeEnd } from '../../cli/demo/child-processes.ts';
import { freePorts } from '../../cli/demo/ports.ts';
import { endProcess, identify, signalProcess, waitForEnd } from '../../cli/demo/process-identity.ts';
import { waitFor } from '../../cli/demo/wait.ts';
import { logTail, serverPid } from '../../engine/postgres/server-process.ts';
import { seedStateDirectory } from './catalog-template.ts';
import {
  binDirectory,
  createServer,
  MAJORS,
  makeTestDirectory,
  serverUser,
  type TestServer,
} from './postgres.ts';

const run = promisify(execFile);
/** A catalog that is made anew takes most of a minute on a busy machine. */
const START_LIMIT_MS = 180_000;
const ROOT = join(import.meta.dirname, '..', '..');
const CATALOG_URL = 'catalog-url';

export type DeclaredServer = {
  readonly name: string;
  /** Undefined: it belongs to nobody, and is only watched. */
  readonly tenant: string | undefined;
  readonly partitionGroup?: string;
  readonly port: number;
  /** Default `postgres`. */
  readonly user?: string;
};

export type DeploymentOptions = {
  /**
   * Where the coordinator remembers. Default: a PostgreSQL server of its own, which costs a test a third of the processor
   * time; tests of what users get without one ask for `pglite`.
   */
  readonly catalog?: 'pglite' | 'postgresql' | undefined;
  readonly servers: readonly DeclaredServer[];
  /** The coordinator's key file; default: none. */
  readonly keyFile?: string | undefined;
};

/** One process of ours that can die and come back. */
export type ManagedProcess = {
  readonly name: string;
  readonly logPath: string;
  /** Undefined while it does not run. */
  readonly pid: number | undefined;
  start(): Promise<void>;
  /** kill -9, and wait until it is gone. */
  kill(): Promise<void>;
  /** SIGTERM; throws when it does not end in order within 30 s. */
  stop(): Promise<void>;
  /** Throws, with the end of its log, when it has ended by itself. */
  assertRunning(): Promise<void>;
};

export type CommandResult = { readonly code: number; readonly stdout: string; readonly stderr: string };

export type RestoredServer = { readonly port: number; readonly dataDirectory: string };

export type Deployment = {
  readonly directory: string;
  /** The destination's directory, and its URI. */
  readonly destinationDirectory: string;
  readonly destination: string;
  readonly sqlPort: number;
  readonly coordinator: ManagedProcess;
  readonly agent: ManagedProcess;
  /** Runs a statement on the coordinator by the PostgreSQL wire; rows of the last statement in it. */
  sql<Row extends pg.QueryResultRow = pg.QueryResultRow>(statement: string): Promise<Row[]>;
  /** A connection to the coordinator; the caller ends it. */
  connect(): Promise<pg.Client>;
  /** `holdfast <args>` as a process. Never throws for an exit code. */
  holdfast(...args: readonly string[]): Promise<CommandResult>;
  /** Waits until the query's first row satisfies the condition. */
  waitForRow<Row extends pg.QueryResultRow = pg.QueryResultRow>(
    statement: string,
    condition: (row: Row) => boolean,
    timeoutMs?: number,
  ): Promise<Row>;
  /** Writes the agent's configuration anew, with these servers: they count from its next start on. */
  declare(servers: readonly DeclaredServer[]): Promise<void>;
  /** Where RESTORE put a tenant. */
  restored(tenant: string): Promise<RestoredServer>;
  [Symbol.asyncDispose](): Promise<void>;
};

/** Starts both and waits until the agent has attached and reported every declared server as its group's leader. */
export async function startDeployment(options: DeploymentOptions): Promise<Deployment> {
  const directory = await makeTestDirectory('deployment');
  const destinationDirectory = join(directory, 'destination');
  await mkdir(destinationDirectory);
  const catalogServer = await provideCatalog(directory, options.catalog ?? 'postgresql');
  const [sqlPort = 0, grpcPort = 0, firstRestorePort = 0] = await freePorts(3);
  const processes = await ChildProcesses.open(directory);
  const manage = async (name: 'coordinator' | 'agent', config: object) => {
    const configPath = join(directory, `${name}.yaml`);
    await writeFile(configPath, stringify(config));
    return manageProcess(name, configPath, directory, processes);
  };
  const coordinator = await manage('coordinator', {
    ...coordinatorConfig(directory, sqlPort, grpcPort),
    ...(catalogServer === undefined
      ? {}
      : { catalog: { kind: 'postgresql', url_file: join(directory, CATALOG_URL) } }),
    ...(options.keyFile === undefined ? {} : { encryption: { key_file: options.keyFile } }),
  });
  const configOf = (servers: readonly DeclaredServer[]) =>
    agentConfig(directory, grpcPort, firstRestorePort, servers);
  const agent = await manage('agent', configOf(options.servers));

  const connect = async () => {
    const client = new pg.Client({ host: '127.0.0.1', port: sqlPort, user: 'root', database: 'oceanbase' });
    client.on('error', () => undefined); // a killed coordinator's connections end; the next query reports it
    await client.connect();
    return client;
  };
  const idle = new Set<pg.Client>();
  const ended = new WeakSet<pg.Client>();
  /** A session that nobody uses, or a new one: each costs an embedded catalog a process of its own. */
  const takeSession = async () => {
    const [kept] = idle;
    if (kept !== undefined) {
      idle.delete(kept);
      return kept;
    }
    const client = await connect();
    client.on('end', () => {
      ended.add(client);
      idle.delete(client);
    });
    return client;
  };
  const sql = async <Row extends pg.QueryResultRow>(statement: string): Promise<Row[]> => {
    const client = await takeSession();
    try {
      const result: pg.QueryResult<Row> | pg.QueryResult<Row>[] = await client.query<Row>(statement);
      if (!ended.has(client)) idle.add(client);
      return Array.isArray(result) ? (result.at(-1)?.rows ?? []) : result.rows;
    } catch (error) {
      await client.end().catch(() => undefined); // the statement's error is the one to see
      throw error;
    }
  };
  const explain = async () =>
    `coordinator: ${await logTail(coordinator.logPath)}\nagent: ${await logTail(agent.logPath)}`;

  const deployment: Deployment = {
    directory,
    destinationDirectory,
    destination: `file://${destinationDirectory}`,
    sqlPort,
    coordinator,
    agent,
    sql,
    connect,
    holdfast,
    async waitForRow<Row extends pg.QueryResultRow>(
      statement: string,
      condition: (row: Row) => boolean,
      timeoutMs = 60_000,
    ) {
      let last: Row | undefined;
      const ask = async () => {
        last = (await sql<Row>(statement))[0];
        return last !== undefined && condition(last) ? last : undefined;
      };
      try {
        return await waitFor(ask, { what: statement, timeoutMs, intervalMs: 200 });
      } catch (cause) {
        const message = cause instanceof Error ? cause.message : String(cause);
        throw new Error(`${message}\nlast row: ${JSON.stringify(last)}\n${await explain()}`, { cause });
      }
    },
    async declare(servers) {
      await writeFile(join(directory, 'agent.yaml'), stringify(configOf(servers)));
    },
    async restored(tenant) {
      const [row] = await sql<{ svr_port: number; data_directory: string }>(
        `SELECT svr_port, data_directory FROM CDB_OB_RESTORE_HISTORY WHERE tenant_name = '${tenant}' AND status = 'SUCCESS'`,
      );
      if (row === undefined) throw new Error(`no restore of ${tenant} has succeeded\n${await explain()}`);
      return { port: row.svr_port, dataDirectory: row.data_directory };
    },
    async [Symbol.asyncDispose]() {
      const problems: unknown[] = [];
      for (const client of idle) await client.end().catch(() => undefined);
      const attempt = async (work: Promise<void>) => {
        try {
          await work;
        } catch (error) {
          problems.push(error);
        }
      };
      for (const each of [agent, coordinator]) await attempt(each.stop());
      await attempt(endCatalog(catalogServer));
      await attempt(stopServersBelow(directory));
      problems.push(...(await endLeftovers(directory)));
      await processes[Symbol.asyncDispose]();
      await rm(directory, { recursive: true, force: true });
      if (problems.length > 0) throw new AggregateError(problems, 'the deployment did not end in order');
    },
  };
  try {
    await coordinator.start();
    await agent.start();
    const groups = new Set(
      options.servers.flatMap(({ tenant, partitionGroup }) =>
        tenant === undefined ? [] : [`${tenant} ${partitionGroup ?? ''}`],
      ),
    ).size;
    await deployment.waitForRow<{ count: string }>(
      "SELECT count(*) AS count FROM DBA_OB_PARTITION_GROUPS WHERE role = 'LEADER'",
      (row) => Number(row.count) >= groups,
      START_LIMIT_MS,
    );
  } catch (error) {
    await deployment[Symbol.asyncDispose]().catch(() => undefined); // the first error is the one to see
    throw error;
  }
  return deployment;
}

/** `holdfast <args>`, as a user runs it. */
export async function holdfast(...args: readonly string[]): Promise<CommandResult> {
  try {
    const { stdout, stderr } = await run(process.execPath, [join(ROOT, 'cli', 'holdfast.ts'), ...args], {
      maxBuffer: 64 * 1024 * 1024,
    });
    return { code: 0, stdout, stderr };
  } catch (error) {
    const failed = error as { code?: number; stdout?: string; stderr?: string }; // execFile's own error shape
    if (typeof failed.code !== 'number') throw error;
    return { code: failed.code, stdout: failed.stdout ?? '', stderr: failed.stderr ?? '' };
  }
}

function manageProcess(
  name: string,
  configPath: string,
  directory: string,
  processes: ChildProcesses,
): ManagedProcess {
  const logPath = join(directory, `${name}.log`);
  let child: Child | undefined;
  return {
    name,
    logPath,
    get pid() {
      return child?.identity.pid;
    },
    async start() {
      child = await processes.start({
        name,
        command: process.execPath,
        // An embedded catalog lives for a minute here: optimizing it would cost more than it brings.
        arguments: [
          '--liftoff-only',
          join(ROOT, 'cli', 'holdfast.ts'),
          name,
          '--config',
          configPath,
          '--log-format',
          'json',
        ],
        logPath,
      });
    },
    async kill() {
      if (child === undefined) return;
      await signalProcess(child.identity, 'SIGKILL');
      await waitForEnd(child.identity, 10_000);
      child = undefined;
    },
    async stop() {
      if (child === undefined) return;
      const stopping = child;
      child = undefined;
      if (!(await endProcess(stopping.identity, 'SIGTERM', 30_000)))
        throw new Error(`the ${name} did not end within 30 s of SIGTERM:\n${await logTail(logPath)}`);
    },
    async assertRunning() {
      if (child === undefined || (await identify(child.identity.pid))?.began !== child.identity.began)
        throw child === undefined ? new Error(`the ${name} was not started`) : await describeEnd(child);
    },
  };
}

/** A server, and its URL in a file; or the state directory of an embedded catalog. */
async function provideCatalog(
  directory: string,
  kind: 'pglite' | 'postgresql',
): Promise<TestServer | undefined> {
  if (kind === 'pglite') {
    await seedStateDirectory(join(directory, 'coordinator'));
    return undefined;
  }
  const server = await createServer({ settings: { shared_buffers: "'32MB'", max_connections: '60' } });
  const url = `postgresql://postgres@127.0.0.1:${server.port}/postgres`;
  await writeFile(join(directory, CATALOG_URL), `${url}\n`, { mode: 0o600 });
  return server;
}

async function endCatalog(server: TestServer | undefined): Promise<void> {
  await server?.[Symbol.asyncDispose]();
}

function coordinatorConfig(directory: string, sqlPort: number, grpcPort: number): object {
  return {
    cluster_name: 'test',
    cluster_id: 1,
    state_directory: join(directory, 'coordinator'),
    sql: { listen: `127.0.0.1:${sqlPort}` },
    grpc: { listen: `127.0.0.1:${grpcPort}` },
  };
}

function agentConfig(
  directory: string,
  grpcPort: number,
  firstRestorePort: number,
  servers: readonly DeclaredServer[],
): object {
  return {
    coordinator: `127.0.0.1:${grpcPort}`,
    node: { ip: '127.0.0.1', zone: 'zone1' },
    state_directory: join(directory, 'agent'),
    instances: servers.map((server) => ({
      name: server.name,
      ...(server.tenant === undefined
        ? {}
        : { tenant: server.tenant, partition_group: server.partitionGroup ?? 'p0' }),
      port: server.port,
      user: server.user ?? 'postgres',
    })),
    restore: {
      directory: join(directory, 'restored'),
      bin_directories: Object.fromEntries(MAJORS.map((major) => [String(major), binDirectory(major)])),
      ...(serverUser() === undefined ? {} : { run_as: 'nobody' }),
      port_range: `${firstRestorePort}-${Math.min(firstRestorePort + 100, 65_535)}`,
    },
  };
}

/** Ends the PostgreSQL servers whose data directories lie below `directory`: those that a RESTORE started. */
export async function stopServersBelow(directory: string): Promise<void> {
  const names = (await readdir(directory, { recursive: true })).map((name) => `/${name}`);
  for (const name of names.filter((each) => each.endsWith('/postmaster.pid'))) {
    const pid = await serverPid(join(directory, dirname(name)));
    const identity = pid === undefined ? undefined : await identify(pid);
    if (identity !== undefined) await endProcess(identity, 'SIGQUIT', 30_000);
  }
}

/** Kills what still names the directory on its command line, and reports it. */
async function endLeftovers(directory: string): Promise<Error[]> {
  const leaked: Error[] = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
    const commandLine = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '');
    if (!commandLine.includes(directory)) continue;
    const identity = await identify(Number(name));
    if (identity === undefined) continue;
    await endProcess(identity, 'SIGKILL', 10_000);
    leaked.push(new Error(`process ${name} was left running: ${commandLine.replaceAll('\0', ' ')}`));
  }
  return leaked;
}
