/**
 * The leader moves three times under load, and the round goes on: a clean switchover; kill -9 and a promotion; a
 * promotion while the old leader lives on and writes. A clone on a higher timeline runs beside it all. Then restores to
 * instants on both sides of each.
 */
import { dirname } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createShop, SMALL_SIZE } from '../../cli/demo/shop.ts';
import { waitFor } from '../../cli/demo/wait.ts';
import { startWorkload, type TransactionRecord, type Workload } from '../../cli/demo/workload.ts';
import {
  type Deployment,
  type ManagedProcess,
  startDeployment,
  stopServersBelow,
} from '../support/holdfast-processes.ts';
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
  startClone,
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
/** Higher than any that the group reaches. */
const CLONE_TIMELINE = 6;

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

/** Made while the third switch went on. */
function isOfLastSwitch(id: number): boolean {
  return id > 2_000_000;
}

/** Runs `act` while the process stands still. */
async function suspended({ pid }: ManagedProcess, act: () => Promise<void>): Promise<void> {
  if (pid === undefined) throw new Error('it does not run');
  process.kill(pid, 'SIGSTOP');
  try {
    await act();
  } finally {
    process.kill(pid, 'SIGCONT');
  }
}

/** An instant of the server's clock before which everything was reported to the server as archived, when it resolves. */
async function archiverIsTold(server: TestServer): Promise<bigint> {
  const us = await clockUs(server);
  const [row] = await server.query<{ lsn: string }>('SELECT pg_current_wal_flush_lsn()::text AS lsn');
  await waitFor(
    async () => {
      const [told] = await server.query<{ told: boolean }>(
        `SELECT bool_or(flush_lsn >= '${row?.lsn}') AS told FROM pg_stat_replication
         WHERE application_name LIKE 'holdfast%'`,
      );
      return told?.told === true ? true : undefined;
    },
    { what: 'the archiver to report the log', timeoutMs: 30_000 },
  );
  return us;
}

describe.each(majors(17))('PostgreSQL %i', (major) => {
  let servers: TestServer[] = [];
  let deployment: Deployment;
  let leader: TestServer;
  let workload: Workload;
  const switches: Switch[] = [];
  const stray: TransactionRecord[] = [];
  let clone: TestServer;
  /** What was acknowledged before it by the abandoned leader was also told to it as archived. */
  let strayUs = 0n;

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
      thinkMs: 5,
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
    clone = await startClone(primary, CLONE_TIMELINE);
    for (const server of servers) await server.start();
    leader = primary;
    await standbysStream(primary, 2);
    deployment = await startDeployment({
      servers: [
        ...servers.map((server) => ({ name: `i${server.port}`, tenant: TENANT, port: server.port })),
        { name: 'clone', tenant: undefined, port: clone.port },
      ],
    });
    await beginArchiving(deployment);
    await createPool(deployment);
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
  }, 300_000);

  afterAll(async () => {
    await deployment?.[Symbol.asyncDispose]();
    for (const server of [...servers, clone]) await server?.[Symbol.asyncDispose]();
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
      // The old leader is archived on behind the fork for as long as the coordinator does not notice.
      await suspended(deployment.coordinator, async () => {
        await promote(next);
        leader = next;
        await wait(1000);
        strayUs = await archiverIsTold(old);
        await wait(1500);
      });
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

  test('the clone on a higher timeline was seen, and never archived', async () => {
    const [row] = await deployment.sql(
      `SELECT * FROM DBA_OB_PARTITION_GROUPS WHERE membership = 'UNASSIGNED CLONE'`,
    );
    expect(row).toMatchObject({
      tenant_name: null,
      instance: 'clone',
      role: 'PRIMARY',
      timeline: String(CLONE_TIMELINE),
      clone_of: `${TENANT}.p0`,
    });
    expect(await deployment.sql('SELECT unassigned_clones FROM DBA_OB_SERVERS')).toEqual([
      { unassigned_clones: `UNASSIGNED CLONE clone of ${TENANT}.p0` },
    ]);
    const events = await deployment.sql(
      "SELECT event FROM CDB_OB_EVENT_HISTORY WHERE event = 'unassigned_clone'",
    );
    expect(events).toHaveLength(1);
    expect(await clone.query('SELECT * FROM pg_replication_slots')).toEqual([]);
    const shown = await deployment.holdfast(
      'log',
      'show',
      '--from',
      deployment.destination,
      '--tenant',
      TENANT,
      '--json',
    );
    const timelines = shown.stdout
      .split('\n')
      .flatMap((line) => /^\{"kind":"range","timeline":(\d+)/.exec(line)?.[1] ?? []);
    expect(new Set(timelines)).toEqual(new Set(['1', '2', '3', '4']));
  }, 60_000);

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
    const kept = await keptIds();
    const surviving = survivingOf(kept);
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

  test('what was acknowledged and archived of the abandoned leader restores by naming its timeline, and only so', async () => {
    const surviving = survivingOf(await keptIds());
    // Up to the instant the abandoned history is the surviving one of before, and all that its leader acknowledged.
    const abandoned = [
      ...surviving.filter(({ id }) => !isOfLastSwitch(id)),
      ...[...logs, ...stray].filter(({ id }) => isOfLastSwitch(id)),
    ];
    const lost = abandoned.filter(
      ({ id, acknowledgedUs }) =>
        acknowledgedUs !== undefined &&
        acknowledgedUs <= strayUs &&
        surviving.some((record) => record.id === id && record.outcome === 'rolledBack'),
    );
    expect(lost.length).toBeGreaterThan(10);
    expect(await restoreAndJudge(strayUs, '', surviving)).toEqual([]);
    expect(await restoreAndJudge(strayUs, 'TIMELINE = 3', abandoned)).toEqual([]);
    const copy = await restore('', 'TIMELINE = 3');
    const there = await copy.query<{ id: string }>('SELECT id FROM transactions');
    await copy.end();
    await endCopy();
    const ids = new Set(there.rows.map(({ id }) => Number(id)));
    expect(lost.filter(({ id }) => !ids.has(id))).toEqual([]);
  }, 400_000);

  test('SQL says what naming a timeline gives', async () => {
    const rows = await deployment.sql<{ us: string; until: string; comment: string }>(
      `SELECT *, extract(epoch FROM from_time) * 1000000 AS us, extract(epoch FROM until_time) * 1000000 AS until
       FROM CDB_OB_ABANDONED_LOG WHERE timeline = 3`,
    );
    expect(rows).toMatchObject([
      { tenant_name: TENANT, partition_group: 'p0', log_archive_round: '1', surviving_timeline: '4' },
    ]);
    expect(Number(rows[0]?.us)).toBeLessThan(Number(strayUs));
    expect(Number(rows[0]?.until)).toBeGreaterThan(Number(strayUs));
    const shown = await deployment.sql<{ status: string; backup_sets: string; reason: string }>(
      'SHOW RESTORE WINDOWS',
    );
    expect(shown.filter(({ status }) => status === 'ABANDONED').at(-1)).toMatchObject({
      backup_sets: '1',
      reason: expect.stringMatching(/of timeline 3, which timeline 4 does not have; .*TIMELINE = 3$/),
    });
  }, 60_000);

  async function keptIds(): Promise<ReadonlySet<number>> {
    return new Set(
      (await query<{ id: string }>(leader, 'SELECT id FROM transactions')).map(({ id }) => Number(id)),
    );
  }

  /** What was acknowledged, and lost with its leader because replication was not synchronous, must be nowhere. */
  function survivingOf(kept: ReadonlySet<number>): TransactionRecord[] {
    return [...logs, ...stray].map((record) =>
      kept.has(record.id)
        ? record
        : { ...record, sentUs: undefined, acknowledgedUs: undefined, outcome: 'rolledBack' as const },
    );
  }

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
