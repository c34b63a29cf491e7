/**
 * Where the demo plays: everything lies below one directory, and every process below it is recorded there.
 *
 *   source/         the PostgreSQL server of the shop, and its tablespace
 *   coordinator/    the coordinator's catalog
 *   agent/          the agent's state, and the servers that it restores
 *   destination/    the backups
 *   *.yaml, *.log   configuration and log of coordinator and agent
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Client } from 'pg';
import { logTail } from '../../engine/postgres/server-process.ts';
import { connectClient } from './admin-client.ts';
import { type Child, type ChildProcesses, describeEnd } from './child-processes.ts';
import type { Narrator } from './narrator.ts';
import { freePorts } from './ports.ts';
import { packagedBinDirectory, type SourceServer, startSourceServer } from './source-server.ts';
import { waitFor } from './wait.ts';

export type Stage = {
  readonly directory: string;
  readonly processes: ChildProcesses;
  readonly source: SourceServer;
  /** A directory for the shop's tablespace. */
  readonly tablespaceDirectory: string;
  readonly destinationDirectory: string;
  /** The coordinator's PostgreSQL wire port. */
  readonly sqlPort: number;
  readonly adminUser: string;
};

const MAJOR = 17;

/** Starts server, coordinator and agent; when it resolves the agent has attached and reports the server healthy. */
export async function setStage(
  root: string,
  directory: string,
  processes: ChildProcesses,
  narrator: Narrator,
  signal: AbortSignal,
): Promise<Stage> {
  const [sourcePort = 0, sqlPort = 0, grpcPort = 0, firstRestorePort = 0] = await freePorts(4);
  const binDirectory = packagedBinDirectory(root, MAJOR);
  const tablespaceDirectory = join(directory, 'source', 'archive-disk');
  const destinationDirectory = join(directory, 'destination');
  for (const path of [tablespaceDirectory, destinationDirectory]) await mkdir(path, { recursive: true });

  narrator.step(`A PostgreSQL ${MAJOR} server to lose data on`);
  const source = await startSourceServer(
    { binDirectory, directory: join(directory, 'source'), port: sourcePort },
    processes,
    signal,
  );
  narrator.say(`127.0.0.1:${sourcePort}, data in ${source.paths.dataDirectory}`);

  narrator.step('A coordinator and an agent, as processes of their own');
  const files = {
    coordinator: coordinatorYaml(join(directory, 'coordinator'), sqlPort, grpcPort),
    agent: agentYaml({
      directory: join(directory, 'agent'),
      grpcPort,
      sourcePort,
      firstRestorePort,
      binDirectory,
    }),
  };
  const children: Child[] = [];
  for (const [name, yaml] of Object.entries(files)) {
    const config = join(directory, `${name}.yaml`);
    await writeFile(config, yaml);
    narrator.say(`$ holdfast ${name} --config ${config}`);
    children.push(
      await processes.start({
        name,
        command: process.execPath,
        arguments: [...process.execArgv, join(root, 'cli', 'holdfast.ts'), name, '--config', config],
        logPath: join(directory, `${name}.log`),
      }),
    );
  }
  const stage = {
    directory,
    processes,
    source,
    tablespaceDirectory,
    destinationDirectory,
    sqlPort,
    adminUser: ADMIN,
  };
  await waitUntilAttached(stage, children, signal);
  narrator.say(
    `The agent has attached. The coordinator speaks SQL: psql -h 127.0.0.1 -p ${sqlPort} -U ${ADMIN}`,
  );
  return stage;
}

const ADMIN = 'root';
export const TENANT = 'shop';

/** A connection to the coordinator. */
export async function connectAdmin(stage: Pick<Stage, 'sqlPort' | 'adminUser'>): Promise<Client> {
  return await connectClient({ port: stage.sqlPort, user: stage.adminUser, database: 'oceanbase' });
}

async function waitUntilAttached(
  stage: Stage,
  children: readonly Child[],
  signal: AbortSignal,
): Promise<void> {
  const given = new AbortController();
  const died = Promise.race(children.map(async (child) => Promise.reject(await describeEnd(child))));
  const attached = waitFor(
    async () => {
      const client = await connectAdmin(stage);
      try {
        const { rows } = await client.query(
          `SELECT 1 FROM DBA_OB_PARTITION_GROUPS WHERE tenant_name = '${TENANT}' AND role = 'LEADER'`,
        );
        return rows[0];
      } finally {
        await client.end();
      }
    },
    {
      what: 'the agent to attach',
      timeoutMs: 60_000,
      intervalMs: 200,
      explain: async () =>
        (await Promise.all(children.map((child) => logTail(child.logPath, 2000)))).join('\n'),
    },
    AbortSignal.any([signal, given.signal]),
  );
  try {
    await Promise.race([attached, died]);
  } finally {
    given.abort();
    await attached.catch(() => undefined); // the race has told what happened
  }
}

function coordinatorYaml(directory: string, sqlPort: number, grpcPort: number): string {
  return `# The demo's coordinator. Every key is explained in docs/configuration.md.
cluster_name: demo
cluster_id: 1
state_directory: ${directory}
sql:
  listen: 127.0.0.1:${sqlPort}
grpc:
  listen: 127.0.0.1:${grpcPort}
`;
}

type AgentNumbers = {
  readonly directory: string;
  readonly grpcPort: number;
  readonly sourcePort: number;
  readonly firstRestorePort: number;
  readonly binDirectory: string;
};

function agentYaml(numbers: AgentNumbers): string {
  const { directory, grpcPort, sourcePort, firstRestorePort, binDirectory } = numbers;
  return `# The demo's agent. Every key is explained in docs/configuration.md.
coordinator: 127.0.0.1:${grpcPort}
node:
  ip: 127.0.0.1
  zone: zone1
state_directory: ${join(directory, 'state')}
instances:
  - name: shop-primary
    tenant: ${TENANT}
    partition_group: p0
    host: 127.0.0.1
    port: ${sourcePort}
    user: postgres
restore:
  directory: ${join(directory, 'restored')}
  bin_directories:
    "${MAJOR}": ${binDirectory}
  port_range: ${firstRestorePort}-${Math.min(firstRestorePort + 20, 65_535)}
`;
}
