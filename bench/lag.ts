/**
 * How long an acknowledged commit waits until it is durable at the destination, at an interval, while pgbench runs.
 *
 * The server is asked, some 50 times a second, where its log ends (a commit acknowledged by then lies before that) and how
 * far the agent has reported its log durable: pg_stat_replication's flush_lsn, which moves when the agent has synced the
 * destination's file. The lag of a sample is the time until the reported position has passed its end of log.
 */
import { setTimeout as wait } from 'node:timers/promises';
import { startDeployment } from '../test/support/holdfast-processes.ts';
import type { TestServer } from '../test/support/postgres.ts';
import { beginArchiving, TENANT } from '../test/support/scenario.ts';
import type { PgBench } from './pgbench.ts';

const SAMPLE_INTERVAL_MS = 20;
/** After the load's end, for the last samples. */
const DRAIN_LIMIT_MS = 10_000;
/** The first seconds fill caches. */
const WARM_UP_MS = 2000;

const POSITIONS = `
  SELECT (pg_current_wal_flush_lsn() - '0/0')::float8 AS end_bytes,
         (SELECT (min(flush_lsn) - '0/0')::float8 FROM pg_stat_replication) AS durable_bytes`;

/** In bytes of log and milliseconds: the answer is of some time between the two; `durableBytes` null: no agent is there. */
export type Sample = {
  readonly askedMs: number;
  readonly answeredMs: number;
  readonly endBytes: number;
  readonly durableBytes: number | null;
};

export type LagFigures = {
  readonly interval: string;
  readonly transactionsPerSecond: number;
  readonly logBytesPerSecond: number;
  readonly samples: number;
  readonly p50Seconds: number;
  readonly p99Seconds: number;
  readonly maxSeconds: number;
};

/** At each interval in turn, one deployment for all. */
export async function measureLags(
  server: TestServer,
  pgbench: PgBench,
  intervals: readonly string[],
  loadSeconds: number,
): Promise<readonly LagFigures[]> {
  await using deployment = await startDeployment({
    servers: [{ name: 'bench-primary', tenant: TENANT, port: server.port }],
  });
  const figures: LagFigures[] = [];
  for (const interval of intervals) {
    await deployment.sql(`ALTER SYSTEM SET log_archive_checkpoint_interval = '${interval}'`);
    if (figures.length === 0) await beginArchiving(deployment);
    else await restartRound();
    figures.push(await measureLag(server, pgbench, interval, loadSeconds));
  }
  await deployment.sql(`ALTER SYSTEM NOARCHIVELOG TENANT = ${TENANT}`);
  return figures;

  /** A round keeps the interval that it began with. */
  async function restartRound(): Promise<void> {
    const status = (wanted: string) =>
      deployment.waitForRow<{ status: string }>(
        `SELECT * FROM CDB_OB_BACKUP_ARCHIVELOG WHERE tenant_name = '${TENANT}'`,
        (row) => row.status === wanted,
      );
    await deployment.sql(`ALTER SYSTEM NOARCHIVELOG TENANT = ${TENANT}`);
    await status('STOP');
    await deployment.sql(`ALTER SYSTEM ARCHIVELOG TENANT = ${TENANT}`);
    await status('DOING');
  }
}

async function measureLag(
  server: TestServer,
  pgbench: PgBench,
  interval: string,
  loadSeconds: number,
): Promise<LagFigures> {
  const client = await server.connect();
  try {
    const samples: Sample[] = [];
    const take = async (): Promise<Sample> => {
      const askedMs = performance.now();
      const { rows } = await client.query<{ end_bytes: number; durable_bytes: number | null }>(POSITIONS);
      const sample = {
        askedMs,
        endBytes: rows[0]?.end_bytes ?? 0,
        durableBytes: rows[0]?.durable_bytes ?? null,
        answeredMs: performance.now(),
      };
      samples.push(sample);
      return sample;
    };
    const ended = new AbortController();
    const load = pgbench.run(loadSeconds).finally(() => ended.abort());
    load.catch(() => undefined); // awaited below; sampling ends with it
    while (!ended.signal.aborted) {
      await take();
      await wait(SAMPLE_INTERVAL_MS);
    }
    const transactionsPerSecond = await load;
    const measured = samples.length;
    const lastEnd = samples.at(-1)?.endBytes ?? 0;
    const limitMs = performance.now() + DRAIN_LIMIT_MS;
    while (((await take()).durableBytes ?? 0) < lastEnd && performance.now() < limitMs)
      await wait(SAMPLE_INTERVAL_MS);
    const lags = lagsOf(samples, measured).toSorted((a, b) => a - b);
    const at = (share: number) => (lags[Math.floor((lags.length - 1) * share)] ?? Number.NaN) / 1000;
    return {
      interval,
      transactionsPerSecond,
      logBytesPerSecond: (lastEnd - (samples[0]?.endBytes ?? 0)) / loadSeconds,
      samples: lags.length,
      p50Seconds: at(0.5),
      p99Seconds: at(0.99),
      maxSeconds: at(1),
    };
  } finally {
    await client.end();
  }
}

/**
 * Of the first `count` samples, after the warm-up: milliseconds from the question for the end of log to the answer that
 * showed it durable, so rather too long than too short. Throws when one was never durable.
 */
export function lagsOf(samples: readonly Sample[], count: number): readonly number[] {
  const lags: number[] = [];
  const firstMs = (samples[0]?.askedMs ?? 0) + WARM_UP_MS;
  let at = 0;
  for (const [index, { askedMs, endBytes }] of samples.slice(0, count).entries()) {
    at = Math.max(at, index); // ends of log do not go back, so neither does the place where they are durable
    while ((samples[at]?.durableBytes ?? Number.NEGATIVE_INFINITY) < endBytes) {
      at += 1;
      if (at >= samples.length) throw new Error('the log was not archived to its end');
    }
    const shown = samples[at];
    if (shown !== undefined && askedMs >= firstMs) lags.push(shown.answeredMs - askedMs);
  }
  return lags;
}
