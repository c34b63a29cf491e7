/** How far archiving is behind a server under `pgbench -c 4`: the age of the checkpoint, sampled while it runs. */
import { execFile } from 'node:child_process';
import { access, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { promisify } from 'node:util';
import { forkArchiver, writeMountFile } from '../test/support/archiver.ts';
import type { TestServer } from '../test/support/postgres.ts';

const PGBENCH_DIRECTORIES = [18, 17, 16, 15, 14].map((major) => `/usr/lib/postgresql/${major}/bin`);
const SAMPLE_INTERVAL_MS = 100;
const CLIENTS = 4;
const SCALE = 10;
const START_LIMIT_MS = 30_000;

export type ArchiveLag = {
  readonly transactionsPerSecond: number;
  readonly logBytesPerSecond: number;
  readonly medianSeconds: number;
  readonly maxSeconds: number;
};

/** Undefined when this machine has no pgbench. */
export async function measureArchiveLag(
  server: TestServer,
  directory: string,
  durationSeconds: number,
): Promise<ArchiveLag | undefined> {
  const pgbench = await findPgbench();
  if (pgbench === undefined) return undefined;
  const destination = join(directory, 'archive');
  await mkdir(destination, { recursive: true });
  await writeMountFile(destination);
  const connection = ['-h', '127.0.0.1', '-p', String(server.port), '-U', 'postgres'];
  const run = promisify(execFile);
  await server.query('CREATE DATABASE pgbench');
  await run(pgbench, [...connection, '-i', '-q', '-s', String(SCALE), 'pgbench']);
  const archiver = forkArchiver({
    port: server.port,
    destination,
    epoch: 1,
    fresh: true,
    checkpointIntervalMs: 1000,
  });
  try {
    const lags: number[] = [];
    const checkpointUs = () => archiver.progress()?.checkpointUs ?? 0n;
    const deadlineMs = Date.now() + START_LIMIT_MS;
    while (checkpointUs() === 0n) {
      if (Date.now() > deadlineMs) throw new Error('the archiver did not start');
      await wait(SAMPLE_INTERVAL_MS);
    }
    const beginBytes = archiver.progress()?.inputBytes ?? 0n;
    let running = true;
    const load = run(pgbench, [
      ...connection,
      '-c',
      String(CLIENTS),
      '-j',
      '1',
      '-T',
      String(durationSeconds),
      'pgbench',
    ]).finally(() => {
      running = false;
    });
    const sampling = sample(() => running, checkpointUs, lags);
    const { stdout } = await load;
    await sampling;
    const logBytes = Number((archiver.progress()?.inputBytes ?? 0n) - beginBytes);
    lags.sort((a, b) => a - b);
    return {
      transactionsPerSecond: Number(/tps = ([\d.]+)/.exec(stdout)?.[1] ?? Number.NaN),
      logBytesPerSecond: logBytes / durationSeconds,
      medianSeconds: lags[Math.floor(lags.length / 2)] ?? Number.NaN,
      maxSeconds: lags.at(-1) ?? Number.NaN,
    };
  } finally {
    await archiver.kill();
  }
}

async function sample(isRunning: () => boolean, checkpointUs: () => bigint, lags: number[]): Promise<void> {
  while (isRunning()) {
    lags.push(Date.now() / 1000 - Number(checkpointUs()) / 1e6); // server and bench share one clock
    await wait(SAMPLE_INTERVAL_MS);
  }
}

async function findPgbench(): Promise<string | undefined> {
  for (const directory of PGBENCH_DIRECTORIES) {
    const path = join(directory, 'pgbench');
    if (
      await access(path).then(
        () => true,
        () => false,
      )
    )
      return path;
  }
  return undefined;
}
