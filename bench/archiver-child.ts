/** An archiver in a process of its own, as an agent has one: increments read its change maps. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { formatLsn, type Lsn } from '../foundation/lsn.ts';
import { ARCHIVE_SLOT, openArchive } from '../test/support/archiver.ts';
import type { TestServer } from '../test/support/postgres.ts';
import type { ArchiverOrder } from './archiver-process.ts';
import { treeCpuSeconds } from './cpu.ts';

const POLL_MS = 50;
const LIMIT_MS = 120_000;

export type ArchiverChild = AsyncDisposable & {
  /** Seals what it has up to there, once it has it. */
  flush(lsn: Lsn): void;
  /** Until the log up to there is sealed. */
  sealed(lsn: Lsn): Promise<void>;
  cpuSeconds(): number;
};

/** The server's slot is made by it and goes with it. */
export async function forkArchiver(
  server: TestServer,
  options: Pick<ArchiverOrder, 'destination' | 'compression'>,
): Promise<ArchiverChild> {
  const order: ArchiverOrder = {
    ...options,
    port: server.port,
    epoch: 1,
    fresh: true,
    checkpointIntervalMs: 1000,
  };
  const child = fork(join(import.meta.dirname, 'archiver-process.ts'), [JSON.stringify(order)], {
    execArgv: ['--disable-warning=ExperimentalWarning'],
  });
  const until = async (what: string, isSo: () => Promise<boolean>) => {
    const limitMs = performance.now() + LIMIT_MS;
    while (!(await isSo())) {
      if (child.exitCode !== null || performance.now() > limitMs)
        throw new Error(`the archiver: not ${what}`);
      await wait(POLL_MS);
    }
  };
  const slot = async () =>
    await server.query<{ active: boolean }>('SELECT active FROM pg_replication_slots WHERE slot_name = $1', [
      ARCHIVE_SLOT,
    ]);
  await until('attached', async () => (await slot())[0]?.active === true);
  return {
    flush: (lsn) => void child.send(formatLsn(lsn)),
    sealed: async (lsn) =>
      await until('sealed', async () =>
        (await openArchive(options.destination)).files.some((file) => file.hasIndex && file.end >= lsn),
      ),
    cpuSeconds: () => treeCpuSeconds(child.pid ?? 0),
    async [Symbol.asyncDispose]() {
      if (child.exitCode === null) {
        const exited = once(child, 'exit');
        child.kill('SIGKILL');
        await exited;
      }
      await until('gone', async () => (await slot())[0]?.active !== true).catch(() => undefined);
      await server.query(
        'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1',
        [ARCHIVE_SLOT],
      );
    },
  };
}
