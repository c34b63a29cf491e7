/**
 * A tenant of several partition groups: archived, backed up and restored as one. A third group joins the running round, and
 * one leaves it.
 */
import { setTimeout as wait } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type DeclaredServer, type Deployment, startDeployment } from '../support/holdfast-processes.ts';
import { createServer, type TestServer } from '../support/postgres.ts';
import {
  beginArchiving,
  clockUs,
  connectorTo,
  createPool,
  formatInstant,
  TENANT,
} from '../support/scenario.ts';

const PROGRESS = 'CDB_OB_BACKUP_ARCHIVELOG_PROGRESS';
/** Restored tenants have rows there, too. */
const ROUND = `(SELECT * FROM CDB_OB_BACKUP_ARCHIVELOG WHERE tenant_name = '${TENANT}')`;
const GROUPS = ['p0', 'p1', 'p2'] as const;
type Group = (typeof GROUPS)[number];
/** One committed row; server times. */
type Mark = {
  readonly group: Group;
  readonly id: number;
  readonly sentUs: bigint;
  readonly acknowledgedUs: bigint;
};
type Window = {
  readonly status: string;
  readonly comment: string;
  readonly from_us: string;
  readonly until_us: string | null;
};

const servers = new Map<Group, TestServer>();
const marks: Mark[] = [];
let deployment: Deployment;
/** With p0 and p1 only. */
let beforeJoinUs = 0n;
let unprotectedUs = 0n;

function server(group: Group): TestServer {
  const found = servers.get(group);
  if (found === undefined) throw new Error(`there is no server of ${group}`);
  return found;
}

function declared(...groups: readonly Group[]): readonly DeclaredServer[] {
  return groups.map((group) => ({
    name: `server-${group}`,
    tenant: TENANT,
    partitionGroup: group,
    port: server(group).port,
  }));
}

/** Commits a row on each, some milliseconds apart from the one before. */
async function mark(...groups: readonly Group[]): Promise<void> {
  for (const group of groups) {
    const id = marks.length + 1;
    const sentUs = await clockUs(server(group));
    await server(group).query(`INSERT INTO marks VALUES (${id})`);
    marks.push({ group, id, sentUs, acknowledgedUs: await clockUs(server(group)) });
  }
}

/** An instant between two marks. */
async function instant(): Promise<bigint> {
  await wait(50);
  const us = await clockUs(server('p0'));
  await wait(50);
  return us;
}

async function archivedUntil(us: bigint): Promise<void> {
  await deployment.waitForRow<{ us: string }>(
    `SELECT extract(epoch FROM checkpoint_time) * 1000000 AS us FROM ${ROUND} r`,
    (row) => Number(row.us) > Number(us),
  );
}

/** As an administrator does who has changed the agent's configuration. */
async function restartAgentWith(...groups: readonly Group[]): Promise<void> {
  await deployment.agent.stop();
  await deployment.declare(declared(...groups));
  await deployment.agent.start();
}

/** Restores to the instant and compares every group with what was committed there. */
async function restoreAndCompare(name: string, us: bigint, ...groups: readonly Group[]): Promise<void> {
  await deployment.sql(
    `ALTER SYSTEM RESTORE ${name} FROM ${TENANT} UNTIL TIME = '${formatInstant(us)}' WITH 'pool_list=spare' WAIT`,
  );
  const [row] = await deployment.sql<{ partition_groups: string }>(
    `SELECT partition_groups FROM CDB_OB_RESTORE_HISTORY WHERE tenant_name = '${name}' AND status = 'SUCCESS'`,
  );
  const copies = JSON.parse(row?.partition_groups ?? '[]') as { partitionGroup: Group; port: number }[];
  expect(copies.map(({ partitionGroup }) => partitionGroup).sort()).toEqual(groups);
  for (const { partitionGroup, port } of copies) {
    const client = await connectorTo(port)('postgres');
    try {
      const { rows } = await client.query<{ id: number }>('SELECT id FROM marks');
      const there = new Set(rows.map(({ id }) => id));
      const own = marks.filter(({ group }) => group === partitionGroup);
      const wrong = own.filter(({ id, sentUs, acknowledgedUs }) =>
        there.has(id) ? sentUs > us : acknowledgedUs <= us,
      );
      expect(wrong).toEqual([]);
      expect([...there].every((id) => own.some((each) => each.id === id))).toBe(true);
    } finally {
      await client.end();
    }
  }
}

async function windows(): Promise<readonly Window[]> {
  return await deployment.sql<Window>(
    `SELECT status, comment, (extract(epoch FROM from_time) * 1000000)::bigint AS from_us,
       (extract(epoch FROM until_time) * 1000000)::bigint AS until_us
     FROM CDB_OB_RESTORE_WINDOWS ORDER BY from_time, until_time`,
  );
}

beforeAll(async () => {
  for (const group of GROUPS) {
    const made = await createServer({ settings: { max_slot_wal_keep_size: "'4GB'" } });
    servers.set(group, made);
    await made.query('CREATE TABLE marks (id int PRIMARY KEY)');
  }
  deployment = await startDeployment({ servers: declared('p0', 'p1') });
  await beginArchiving(deployment);
  await createPool(deployment);
}, 600_000);

afterAll(async () => {
  await deployment?.[Symbol.asyncDispose]();
  for (const each of servers.values()) await each[Symbol.asyncDispose]();
}, 600_000);

test("a round's start is the latest of its groups, its checkpoint the earliest, and never goes back", async () => {
  const [start] = await deployment.sql<{ same: boolean; groups: string }>(
    `SELECT a.min_first_time = (SELECT max(min_first_time) FROM ${PROGRESS}) AS same, partition_group_count AS groups
     FROM ${ROUND} a`,
  );
  expect(start).toMatchObject({ same: true, groups: '2' });
  const look = async () => {
    const [row] = await deployment.sql<{ round: string; p0: string; p1: string }>(
      `SELECT (extract(epoch FROM a.checkpoint_time) * 1000000)::bigint AS round,
         (SELECT (extract(epoch FROM checkpoint_time) * 1000000)::bigint FROM ${PROGRESS} WHERE partition_group = 'p0') AS p0,
         (SELECT (extract(epoch FROM checkpoint_time) * 1000000)::bigint FROM ${PROGRESS} WHERE partition_group = 'p1') AS p1
       FROM ${ROUND} a`,
    );
    return { round: Number(row?.round), p0: Number(row?.p0), p1: Number(row?.p1) };
  };
  await archivedUntil(await clockUs(server('p0')));
  await server('p1').stop();
  const stopped = await look();
  let last = stopped;
  // One group goes on alone: the round waits for the other.
  while (last.p0 < stopped.p1 + 3_000_000) {
    await wait(200);
    const next = await look();
    expect(next.round).toBeGreaterThanOrEqual(last.round);
    expect(next.round).toBeLessThanOrEqual(Math.min(next.p0, next.p1));
    last = next;
  }
  expect(last.round).toBeLessThan(last.p0);
  await server('p1').start();
  await archivedUntil(await clockUs(server('p0')));
  expect((await look()).round).toBeGreaterThan(last.round);
}, 600_000);

test('a backup of both, and a restore of both to one instant', async () => {
  await mark('p0', 'p1');
  await deployment.sql(`ALTER SYSTEM BACKUP TENANT = ${TENANT} WAIT`);
  await mark('p0', 'p1', 'p0', 'p1');
  beforeJoinUs = await instant();
  await mark('p0', 'p1');
  await archivedUntil(await instant());
  await restoreAndCompare('both', beforeJoinUs, 'p0', 'p1');
}, 600_000);

test('a third group joins the running round with its own start; the round and its start stay', async () => {
  const roundOf = `SELECT log_archive_round, status, min_first_time::text AS start FROM ${ROUND} r`;
  const [before] = await deployment.sql(roundOf);
  await mark('p2');
  await restartAgentWith('p0', 'p1', 'p2');
  await deployment.waitForRow<{ status: string }>(
    `SELECT status FROM ${PROGRESS} WHERE partition_group = 'p2'`,
    ({ status }) => status === 'DOING',
  );
  expect((await deployment.sql(roundOf))[0]).toEqual(before);
  const [later] = await deployment.sql<{ later: boolean }>(
    `SELECT p.min_first_time > a.min_first_time AS later FROM ${PROGRESS} p, ${ROUND} a WHERE p.partition_group = 'p2'`,
  );
  expect(later?.later).toBe(true);
  await mark(...GROUPS);
  unprotectedUs = await instant();
  await archivedUntil(unprotectedUs);
  const [restorable, hole, ...none] = await windows();
  expect(none).toEqual([]);
  expect(restorable).toMatchObject({ status: 'RESTORABLE' });
  expect(BigInt(restorable?.until_us ?? 0)).toBeLessThan(unprotectedUs);
  expect(hole).toMatchObject({
    status: 'HOLE',
    until_us: null,
    comment: expect.stringMatching(/^partition group p2 joined at .*full backup$/),
  });
}, 600_000);

test('the next backup holds the third group in full; what lies between its joining and that backup is a hole', async () => {
  await deployment.sql(`ALTER SYSTEM BACKUP TENANT = ${TENANT} WAIT`);
  await mark(...GROUPS);
  const afterUs = await instant();
  await mark(...GROUPS);
  await archivedUntil(await instant());
  expect((await windows()).map(({ status }) => status)).toEqual(['RESTORABLE', 'HOLE', 'RESTORABLE']);
  await expect(
    deployment.sql(
      `ALTER SYSTEM RESTORE lost FROM ${TENANT} UNTIL TIME = '${formatInstant(unprotectedUs)}' WITH 'pool_list=spare' WAIT`,
    ),
  ).rejects.toThrow(/TARGET_NOT_RESTORABLE.*partition group p2 joined/s);
  await restoreAndCompare('three', afterUs, ...GROUPS);
}, 600_000);

test('a group that no agent declares any more leaves: backups, restores and rounds go on without it', async () => {
  await restartAgentWith('p0', 'p2');
  await deployment.waitForRow<{ groups: string }>(
    `SELECT partition_group_count AS groups FROM ${ROUND} r`,
    ({ groups }) => groups === '2',
  );
  await mark('p0', 'p2');
  const withoutUs = await instant();
  await mark('p0', 'p2');
  await archivedUntil(await instant());
  // From the set of three: only two of them are needed now.
  await restoreAndCompare('two', withoutUs, 'p0', 'p2');
  await deployment.sql(`ALTER SYSTEM BACKUP TENANT = ${TENANT} WAIT`);
  const [set] = await deployment.sql<{ count: string }>(
    "SELECT partition_count AS count FROM CDB_OB_BACKUP_PROGRESS WHERE status = 'COMPLETED' ORDER BY job_id DESC LIMIT 1",
  );
  expect(set).toMatchObject({ count: '2' });
  const inspected = await deployment.holdfast('inspect', deployment.destination);
  expect(inspected.stdout).toMatch(/p2: joined .*Z/);
  expect(inspected.stdout).toMatch(/p1: left .*Z/);
  const listed = await deployment.holdfast(
    'log',
    'list',
    '--from',
    deployment.destination,
    '--tenant',
    TENANT,
    '--group',
    'p2',
  );
  expect([listed.code, listed.stderr]).toEqual([0, expect.any(String)]);
  await deployment.sql('ALTER SYSTEM NOARCHIVELOG');
  await deployment.waitForRow<{ status: string }>(
    `SELECT status FROM ${ROUND} r`,
    ({ status }) => status === 'STOP',
  );
  await deployment.sql(`ALTER SYSTEM ARCHIVELOG TENANT = ${TENANT}`);
  await deployment.waitForRow<{ status: string; groups: string }>(
    `SELECT status, partition_group_count AS groups FROM ${ROUND} r`,
    ({ status, groups }) => status === 'DOING' && groups === '2',
  );
}, 600_000);
