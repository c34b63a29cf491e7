/**
 * The leader moves three times under load, and the round goes on: a clean switchover; kill -9 and a promotion; a
 * promotion while the old leader lives on and writes. Then restores to instants on both sides of each.
 */
import { dirname } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createShop, SMALL_SIZE } from '../../cli/demo/shop.ts';
import { waitFor } from '../../cli/demo/wait.ts';
import { startWorkload, type TransactionRecord, type Workload } from '../../cli/demo/workload.ts';
import { type Deployment, startDeployment, stopServersBelow } from '../support/holdfast-processes.ts';
import { majors } from '../support/majors.ts';
import { createServer, type TestServer } from '../support/postgres.ts';
import { createRandom } from '../support/random.ts';
import {
  copyStandby,
  follow,
  followAnother,
  mostAdvanced,
  promote,
  standbysStream,
} from '../support/replicas.ts';
import {
  beginArchiving,
  clockUs,
  connectorTo,
  createPool,
  DATABASE,
  formatInstant,
  TENANT,
} from '../support/scenario.ts';
import { judgeRestore } from '../support/workload.ts';

const PROGRESS = 'SELECT * FROM CDB_OB_BACKUP_ARCHIVELOG_PROGRESS';
/** Instants on each side of each switch: 30 restores on 17. */
const INSTANTS: Readonly<Record<number, number>> = { 17: Number(process.env['HOLDFAST_TEST_INSTANTS'] ?? 5) };
/** Transactions that only the abandoned leader has begin here. */
const STRAY_IDS = 50_000_000;

type Progress = {
  readonly timeline: string;
  readonly status: string;
  readonly instance: string;
  readonly us: string;
};
type Switch = {
  readonly name: string;
  readonly beforeUs: bigint;
  readonly switchUs: bigint;
  readonly afterUs: bigint;
};

describe.each(majors(17))('PostgreSQL %i', (major) => {
  let servers: TestServer[] = [];
  let deployment: Deployment;
  let leader: TestServer;
  let workload: Workload;
  const switches: Switch[] = [];
  const stray: TransactionRecord[] = [];

  /** Archived up to now, on the leader's timeline. */
  async function archiveCatchesUp(): Promise<bigint> {
    const us = await clockUs(leader);
    const [row] = await leader.query<{ timeline: number }>(
      'SELECT timeline_id AS timeline FROM pg_control_checkpoint()',
    );
    await deployment.waitForRow<Progress>(
      `SELECT *, extract(epoch FROM checkpoint_time) * 1000000 AS us FROM (${PROGRESS}) p`,
      (each) =>
        each.instance === `i${leader.port}` &&
        Number(each.timeline) >= (row?.timeline ?? 1) &&
        BigInt(Math.trunc(Number(each.us))) > us,
      90_000,
    );
    return us;
  }

  function startBuying(firstId: number): Promise<Workload> {
    return startWorkload({
      connect: async () => {
        const client = await leader.connect(DATABASE);
        const { rows } = await client.query<{ standby: boolean }>('SELECT pg_is_in_recovery() AS standby');
        if (rows[0]?.standby === false) return client;
        await client.end();
        throw new Error('not promoted yet');
      },
      clients: 3,
      firstId,
      onLostConnection: 'reconnect',
    });
  }

  /** Runs customers before, through and after `act`, which moves the leader. */
  async function switchOver(name: string, act: () => Promise<void>): Promise<void> {
    workload = await startBuying(switches.length * 1_000_000 + 1);
    await wait(1500);
    const beforeUs = await archiveCatchesUp();
    await wait(700);
    const switchUs = await clockUs(leader);
    await act();
    await wait(2500);
    await workload.stop();
    const afterUs = await archiveCatchesUp();
    logs.push(...workload.log);
    switches.push({ name, beforeUs, switchUs, afterUs });
  }
  const logs: TransactionRecord[] = [];

  beforeAll(async () => {
    const primary = await createServer({
      major,
      settings: { max_slot_wal_keep_size: "'4GB'", hot_standby: 'on', wal_log_hints: 'on' },
    });
    servers = [primary];
    await primary.query(`CREATE DATABASE ${DATABASE}`);
    const client = await primary.connect(DATABASE);
    await createShop(client, SMALL_SIZE, undefined);
    await client.end();
    await primary.stop();
    servers.push(await copyStandby(primary), await copyStandby(primary));
    for (const server of servers) await server.start();
    leader = primary;
    await standbysStream(primary, 2);
    deployment = await startDeployment({
      servers: servers.map((server) => ({ name: `i${server.port}`, tenant: TENANT, port: server.port })),
    });
    await beginArchiving(deployment);
    await createPool(deployment);
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
  }, 180_000);

  afterAll(async () => {
    await deployment?.[Symbol.asyncDispose]();
    for (const server of servers) await server[Symbol.asyncDispose]();
  });

  test('slots stand on every standby, in step', async () => {
    await archiveCatchesUp();
    for (const standby of servers.filter((server) => server !== leader)) {
      await waitFor(
        async () => {
          const rows = await standby.query<{ behind: string }>(
            'SELECT (pg_last_wal_replay_lsn() - restart_lsn)::text AS behind FROM pg_replication_slots',
          );
          return rows.length === 1 && Number(rows[0]?.behind) < 16 * 1024 * 1024 ? true : undefined;
        },
        { what: 'the slot', timeoutMs: 30_000 },
      );
    }
  });

  test('a clean switchover', async () => {
    const [old, next, other] = servers as [TestServer, TestServer, TestServer];
    await switchOver('clean switchover', async () => {
      await old.stop();
      await promote(next);
      leader = next;
      await followAnother(other, next);
      await follow(old, next);
      await old.start();
    });
    await standbysStream(leader, 2);
  }, 180_000);

  test('kill -9 of the leader, and a promotion', async () => {
    const dead = leader;
    const standbys = servers.filter((server) => server !== dead);
    await switchOver('kill -9', async () => {
      await dead.kill();
      await wait(300);
      const [next, other] = (await mostAdvanced(standbys)) as [TestServer, TestServer];
      await promote(next);
      leader = next;
      await followAnother(other, next);
    });
    servers = servers.filter((server) => server !== dead);
    await dead[Symbol.asyncDispose]();
    await standbysStream(leader, 1);
  }, 180_000);

  test('a promotion while the old leader lives on and writes: an alarm, and the newest timeline is archived', async () => {
    const old = leader;
    const next = servers.find((server) => server !== old) as TestServer;
    await switchOver('two leaders', async () => {
      const onOld = await startWorkload({
        connect: () => old.connect(DATABASE),
        clients: 2,
        firstId: STRAY_IDS,
      });
      await wait(500);
      await promote(next);
      leader = next;
      await wait(2000);
      await onOld.stop();
      stray.push(...onOld.log);
      // The customers who still buy at the old leader are sent to the new one.
      await old.stop();
    });
    const events = await deployment.sql<{ message: string }>(
      "SELECT message FROM CDB_OB_EVENT_HISTORY WHERE event = 'several_primaries'",
    );
    expect(events.length).toBeGreaterThan(0);
    const moves = await deployment.sql(
      "SELECT message FROM CDB_OB_EVENT_HISTORY WHERE event = 'leader_changed'",
    );
    expect(moves.length).toBeGreaterThan(0);
  }, 180_000);

  test('it is still the first round, without a hole', async () => {
    expect(
      await deployment.sql(
        `SELECT status, log_archive_round FROM CDB_OB_BACKUP_ARCHIVELOG WHERE tenant_name = '${TENANT}'`,
      ),
    ).toEqual([{ status: 'DOING', log_archive_round: '1' }]);
    expect(await deployment.sql('SELECT status FROM CDB_OB_RESTORE_WINDOWS')).toEqual([
      { status: 'RESTORABLE' },
    ]);
    expect(await deployment.sql<Progress>(PROGRESS)).toMatchObject([
      { timeline: '4', instance: `i${leader.port}` },
    ]);
  });

  test('instants on both sides of each switch restore to what the surviving history had acknowledged', async () => {
    const kept = new Set(
      (await query<{ id: string }>(leader, 'SELECT id FROM transactions')).map(({ id }) => Number(id)),
    );
    // What was acknowledged, and lost with its leader because replication was not synchronous, must be nowhere.
    const surviving = [...logs, ...stray].map((record) =>
      kept.has(record.id)
        ? record
        : { ...record, sentUs: undefined, acknowledgedUs: undefined, outcome: 'rolledBack' as const },
    );
    const random = createRandom('instants around failovers');
    const between = (from: bigint, to: bigint) =>
      from + BigInt(Math.floor(random.next() * Number(to - from)));
    const problems: string[] = [];
    for (const { name, beforeUs, switchUs, afterUs } of switches) {
      for (let count = 0; count < (INSTANTS[major] ?? 1); count += 1) {
        for (const [side, timeUs] of [
          ['before', between(beforeUs, switchUs)],
          ['after', between(switchUs, afterUs)],
        ] as const) {
          const found = await restoreAndJudge(timeUs, '', surviving);
          problems.push(...found.map((problem) => `${name}, ${side}, ${formatInstant(timeUs)}: ${problem}`));
        }
      }
    }
    expect(problems).toEqual([]);
    expect(
      logs.filter(({ id, acknowledgedUs }) => acknowledgedUs !== undefined && kept.has(id)).length,
    ).toBeGreaterThan(100);
  }, 600_000);

  test('what the abandoned leader wrote behind the switch restores by naming its timeline, and only so', async () => {
    const copy = await restore('', 'TIMELINE = 3');
    const strays = await copy.query<{ id: string }>(`SELECT id FROM transactions WHERE id >= ${STRAY_IDS}`);
    await copy.end();
    expect(strays.rows.length).toBeGreaterThan(0);
    await endCopy();
  }, 120_000);

  let copies = 0;

  async function restore(until: string, more = ''): Promise<pg.Client> {
    copies += 1;
    await deployment.sql(
      `ALTER SYSTEM RESTORE TENANT copy${copies} FROM ${TENANT} ${until} ${more} WITH 'pool_list=spare' WAIT`,
    );
    return await connectorTo((await deployment.restored(`copy${copies}`)).port)(DATABASE);
  }

  async function endCopy(): Promise<void> {
    const { dataDirectory } = await deployment.restored(`copy${copies}`);
    await stopServersBelow(dirname(dataDirectory));
  }

  async function restoreAndJudge(
    timeUs: bigint,
    more: string,
    log: readonly TransactionRecord[],
  ): Promise<string[]> {
    const copy = await restore(`UNTIL TIME = '${formatInstant(timeUs)}'`, more);
    try {
      return await judgeRestore(copy, log, timeUs);
    } finally {
      await copy.end();
      await endCopy();
    }
  }

  async function query<Row extends pg.QueryResultRow>(server: TestServer, text: string): Promise<Row[]> {
    const client = await server.connect(DATABASE);
    try {
      return (await client.query<Row>(text)).rows;
    } finally {
      await client.end();
    }
  }
});
