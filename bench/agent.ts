/**
 * A real deployment at work: `holdfast agent` as a process beside a coordinator, told by SQL what to do.
 *
 * - The highest resident memory of the agent in each phase: the kernel keeps the peak (VmHWM); it is reset before each.
 * - How far archiving is behind a server under pgbench, as an operator sees it: lag_seconds of CDB_OB_BACKUP_ARCHIVELOG,
 *   the age of the instant up to which everything is durable, sampled while the load runs.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';
import { type Deployment, startDeployment } from '../test/support/holdfast-processes.ts';
import type { TestServer } from '../test/support/postgres.ts';
import { beginArchiving, createPool, TENANT } from '../test/support/scenario.ts';
import type { PgBench } from './pgbench.ts';

/** An idle server's checkpoint is up to four seconds old, and nothing is behind: what counts is the lag under load. */
const WARM_UP_MS = 5000;
const SAMPLE_INTERVAL_MS = 200;
const LAG = `SELECT lag_seconds::float8 AS seconds FROM CDB_OB_BACKUP_ARCHIVELOG WHERE tenant_name = '${TENANT}'`;
const LOG_BYTES = "SELECT (pg_current_wal_lsn() - '0/0')::float8 AS bytes";

export type AgentPhase = 'attached' | 'archiving' | 'backup' | 'restore';

export type ArchiveLag = {
  readonly transactionsPerSecond: number;
  readonly logBytesPerSecond: number;
  readonly medianSeconds: number;
  readonly maxSeconds: number;
};

export type AgentFigures = {
  /** Bytes. */
  readonly peakRssBytes: ReadonlyMap<AgentPhase, number>;
  /** Undefined without pgbench. */
  readonly lag: ArchiveLag | undefined;
};

/** Archiving goes on, idle, during the backup and the restore. */
export async function measureAgent(
  server: TestServer,
  pgbench: PgBench | undefined,
  loadSeconds: number,
): Promise<AgentFigures> {
  await using deployment = await startDeployment({
    servers: [{ name: 'bench-primary', tenant: TENANT, port: server.port }],
  });
  const peakRssBytes = new Map<AgentPhase, number>([['attached', await readPeak(deployment)]]);
  const during = async <T>(phase: AgentPhase, work: () => Promise<T>): Promise<T> => {
    await writeFile(`/proc/${agentPid(deployment)}/clear_refs`, '5'); // resets VmHWM
    const result = await work();
    peakRssBytes.set(phase, await readPeak(deployment));
    return result;
  };
  const lag = await during('archiving', async () => {
    await beginArchiving(deployment);
    return pgbench === undefined ? undefined : await measureLag(server, deployment, pgbench, loadSeconds);
  });
  await createPool(deployment);
  await during('backup', () => deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT'));
  await during('restore', () =>
    deployment.sql(`ALTER SYSTEM RESTORE TENANT copy FROM ${TENANT} WITH 'pool_list=spare' WAIT`),
  );
  await deployment.restored('copy'); // throws when it has failed
  await deployment.sql(`ALTER SYSTEM NOARCHIVELOG TENANT = ${TENANT}`);
  return { peakRssBytes, lag };
}

async function measureLag(
  server: TestServer,
  deployment: Deployment,
  pgbench: PgBench,
  loadSeconds: number,
): Promise<ArchiveLag> {
  const client = await deployment.connect();
  try {
    const logPosition = async () => (await server.query<{ bytes: number }>(LOG_BYTES))[0]?.bytes ?? 0;
    const beginBytes = await logPosition();
    const ended = new AbortController();
    const load = pgbench.run(loadSeconds).finally(() => ended.abort());
    load.catch(() => undefined); // awaited below; sampling ends with it
    await wait(WARM_UP_MS);
    const lags: number[] = [];
    while (!ended.signal.aborted) {
      const { rows } = await client.query<{ seconds: number }>(LAG);
      lags.push(rows[0]?.seconds ?? Number.NaN);
      await wait(SAMPLE_INTERVAL_MS);
    }
    const transactionsPerSecond = await load;
    const sorted = lags.toSorted((a, b) => a - b);
    return {
      transactionsPerSecond,
      logBytesPerSecond: ((await logPosition()) - beginBytes) / loadSeconds,
      medianSeconds: sorted[Math.floor(sorted.length / 2)] ?? Number.NaN,
      maxSeconds: sorted.at(-1) ?? Number.NaN,
    };
  } finally {
    await client.end();
  }
}

async function readPeak(deployment: Deployment): Promise<number> {
  const status = await readFile(`/proc/${agentPid(deployment)}/status`, 'utf8');
  return Number(/^VmHWM:\s+(\d+)/m.exec(status)?.[1]) * 1024;
}

function agentPid(deployment: Deployment): number {
  const { pid } = deployment.agent;
  if (pid === undefined) throw new Error('the agent does not run');
  return pid;
}
