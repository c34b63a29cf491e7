/** The archiver as a synchronous standby: a commit is acknowledged when it is in the archive, and comes back from it alone. */

import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { waitFor } from '../../cli/demo/wait.ts';
import { startWorkload } from '../../cli/demo/workload.ts';
import { stopServer } from '../../engine/postgres/server-process.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { startArchiver, writeMountFile } from '../support/archiver.ts';
import { type FaultPlan, FaultyMedium } from '../support/faulty-medium.ts';
import { holdfast } from '../support/holdfast-processes.ts';
import { binDirectory, createServer, serverUser, type TestServer } from '../support/postgres.ts';
import { connectorTo, DATABASE, startArchivedShop, TENANT } from '../support/scenario.ts';
import { judgeRestore } from '../support/workload.ts';

const LEVELS = ['remote_write', 'on', 'remote_apply'] as const;
const COMMITS = 20;

/** The server waits for the archiver from now on. */
async function waitForArchive(server: TestServer, names = 'holdfast'): Promise<void> {
  await server.query(`ALTER SYSTEM SET synchronous_standby_names = '${names}'`);
  await server.query('SELECT pg_reload_conf()');
  await waitFor(
    async () => {
      const [row] = await server.query<{ sync_state: string }>(
        "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'holdfast' AND state = 'streaming'",
      );
      return row?.sync_state === 'sync' || row?.sync_state === 'quorum' ? true : undefined;
    },
    { what: 'the archiver to be a synchronous standby', timeoutMs: 30_000 },
  );
  await server.query('CREATE TABLE IF NOT EXISTS noted (level text, n int)');
  // The archiver looks every two seconds whether commits wait for it, and until then keeps to its interval.
  await waitFor(
    async () => {
      const beganMs = performance.now();
      await server.query("INSERT INTO noted VALUES ('before', 0)");
      return performance.now() - beganMs < 300 ? true : undefined;
    },
    { what: 'a commit that is answered at once', timeoutMs: 120_000 },
  );
}

describe('an archiver that is a synchronous standby', () => {
  test('no acknowledged commit is lost with the server, whatever synchronous_commit it waited by', async () => {
    await using scenario = await startArchivedShop();
    const { server, deployment } = scenario;
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
    await waitForArchive(server);
    for (const level of LEVELS) {
      const client = await server.connect();
      try {
        await client.query(`SET synchronous_commit = '${level}'`);
        const beganMs = performance.now();
        for (let n = 1; n <= COMMITS; n += 1)
          await client.query('INSERT INTO noted VALUES ($1, $2)', [level, n]);
        // Waiting for the checkpoint interval, 1 s, would take twice as long.
        expect(performance.now() - beganMs).toBeLessThan(COMMITS * 500);
      } finally {
        await client.end();
      }
    }
    await using shopping = await startWorkload({ connect: () => server.connect(DATABASE), clients: 4 });
    await waitFor(() => Promise.resolve(shopping.committed() >= 100 ? true : undefined), {
      what: '100 purchases',
      timeoutMs: 120_000,
    });
    await server.kill();
    await shopping.stop().catch(() => undefined); // their connections are lost with the server
    await server.stop('immediate').catch(() => undefined); // what the postmaster left behind
    await deployment.agent.kill();
    await deployment.coordinator.kill();
    await rm(server.dataDirectory, { recursive: true, force: true });

    const to = join(deployment.directory, 'from-the-archive');
    const runAs = serverUser() === undefined ? [] : ['--run-as', 'nobody'];
    const programs = ['--bin-directory', binDirectory(server.major)];
    const from = ['--from', deployment.destination, '--tenant', TENANT];
    const result = await holdfast('restore', ...from, '--to', to, ...runAs, ...programs);
    expect(result).toMatchObject({ code: 0 });
    const port = Number(/listens on 127\.0\.0\.1, port (\d+)/.exec(result.stdout)?.[1]);
    const open = connectorTo(port);
    try {
      const postgres = await open('postgres');
      const { rows } = await postgres.query<{ level: string; n: number }>(
        'SELECT level, count(DISTINCT n)::int AS n FROM noted WHERE n > 0 GROUP BY level ORDER BY level',
      );
      await postgres.end();
      expect(rows).toEqual(LEVELS.toSorted().map((level) => ({ level, n: COMMITS })));
      const copy = await open(DATABASE);
      const acknowledged = shopping.log.filter((each) => each.acknowledgedUs !== undefined);
      expect(acknowledged.length).toBeGreaterThanOrEqual(100);
      // The end of all time: all that was acknowledged must be there.
      expect(await judgeRestore(copy, shopping.log, 2n ** 62n)).toEqual([]);
      await copy.end();
    } finally {
      const paths = { binDirectory: binDirectory(server.major), dataDirectory: to, user: serverUser() };
      await stopServer(paths, 'immediate', new AbortController().signal);
    }
  }, 600_000);

  test('without the archiver commits wait, until it is back or the server is told to go on without', async () => {
    await using scenario = await startArchivedShop();
    const { server, deployment } = scenario;
    await waitForArchive(server, 'ANY 1 (holdfast)');
    await deployment.agent.kill();
    const client = await server.connect();
    let acknowledged = 0;
    const note = async (n: number) => {
      await client.query('INSERT INTO noted VALUES ($1, $2)', ['on', n]);
      acknowledged = n;
    };
    const first = note(1);
    await wait(2000);
    expect(acknowledged).toBe(0);
    await deployment.agent.start();
    await first;
    await deployment.agent.kill();
    const second = note(2);
    await wait(2000);
    expect(acknowledged).toBe(1);
    await server.query("ALTER SYSTEM SET synchronous_standby_names = ''");
    await server.query('SELECT pg_reload_conf()');
    await second;
    await client.end();
    await deployment.agent.start();
  }, 600_000);

  test('a commit whose bytes are durable, but were not acknowledged, is not waited for again', async () => {
    await using server = await createServer();
    const destination = join(server.directory, 'destination');
    await mkdir(destination);
    await writeMountFile(destination);
    let armed = false;
    let lost = 0;
    const plan: FaultPlan = {
      next(call) {
        if (!armed || call !== 'append') return undefined;
        armed = false;
        lost += 1;
        return { fault: 'failAfter', delayMs: 0 };
      },
    };
    const archiver = startArchiver(
      { port: server.port, destination, epoch: 1, fresh: true },
      { openMedium: async (uri, signal) => new FaultyMedium(await openMedium(uri, signal), plan) },
    );
    await waitFor(() => Promise.resolve(archiver.progress()?.durable), {
      what: 'the first log',
      timeoutMs: 30_000,
    });
    await waitForArchive(server);
    for (let n = 1; n <= 5; n += 1) {
      const beganMs = performance.now();
      armed = true;
      await server.query('INSERT INTO noted VALUES ($1, $2)', ['on', n]);
      // The background writer's next record, 15 s later, would let the commit go too.
      expect(performance.now() - beganMs).toBeLessThan(10_000);
    }
    expect(lost).toBeGreaterThanOrEqual(5);
    await server.query("ALTER SYSTEM SET synchronous_standby_names = ''");
    await server.query('SELECT pg_reload_conf()');
    archiver.drain();
    await archiver.result;
  }, 600_000);
});
