/** PostgreSQL's pgbench: TPC-B-like load of four clients, in a database of its own. */
import { execFile } from 'node:child_process';
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { TestServer } from '../test/support/postgres.ts';

const DIRECTORIES = [18, 17, 16, 15, 14].map((major) => `/usr/lib/postgresql/${major}/bin`);
const DATABASE = 'pgbench';
const SCALE = 10;
export const CLIENTS = 4;

const execute = promisify(execFile);

export type PgBench = {
  /** Runs the load and returns its transactions per second. */
  run(durationSeconds: number): Promise<number>;
};

/** Makes the database; undefined when this machine has no pgbench. */
export async function openPgBench(server: TestServer): Promise<PgBench | undefined> {
  const program = await findProgram();
  if (program === undefined) return undefined;
  const connection = ['-h', '127.0.0.1', '-p', String(server.port), '-U', 'postgres'];
  await server.query(`CREATE DATABASE ${DATABASE}`);
  await execute(program, [...connection, '-i', '-q', '-s', String(SCALE), DATABASE]);
  return {
    async run(durationSeconds) {
      const load = ['-c', String(CLIENTS), '-j', '1', '-T', String(durationSeconds), DATABASE];
      const { stdout } = await execute(program, [...connection, ...load]);
      return Number(/tps = ([\d.]+)/.exec(stdout)?.[1] ?? Number.NaN);
    },
  };
}

async function findProgram(): Promise<string | undefined> {
  for (const directory of DIRECTORIES) {
    const path = join(directory, 'pgbench');
    const isThere = await access(path).then(
      () => true,
      () => false,
    );
    if (isThere) return path;
  }
  return undefined;
}
