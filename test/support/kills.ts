/**
 * kill -9 of one process, at random moments of backups, full ones and increments, and of archiving (five, and ten in the matrix): what is shown
 * complete restores, and what is shown as archived is there. One file per victim calls this, so that they run side by side.
 */
import { setTimeout as wait } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { waitFor } from '../../cli/demo/wait.ts';
import { startWorkload, type Workload } from '../../cli/demo/workload.ts';
import { findUnsoundness } from './compare.ts';
import { stopServersBelow } from './holdfast-processes.ts';
import { majors } from './majors.ts';
import { type Major, startAgain } from './postgres.ts';
import { createRandom } from './random.ts';
import {
  clockUs,
  connectorTo,
  createPool,
  DATABASE,
  formatInstant,
  type Scenario,
  startArchivedShop,
  TENANT,
} from './scenario.ts';
import { judgeRestore } from './workload.ts';

const KILLS = majors().length > 1 ? 10 : 5;
/** A moment of the kill lies in this span behind the beginning of what is disturbed. */
const SPAN_MS = 2_000;
export type Victim = 'agent' | 'coordinator' | 'PostgreSQL';

/** The two tests of one victim, on the versions at hand. */
export function describeKills(victim: Victim): void {
  describe.each(majors(17))(`PostgreSQL %i, kill -9 of the ${victim}`, (major) => {
    defineTests(victim, major);
  });
}

function defineTests(victim: Victim, major: Major): void {
  test('at random moments of a backup: every set that is shown complete restores', async () => {
    const random = createRandom(`kill the ${victim} during backups`);
    await using scenario = await startScenario(victim, major);
    const { server, deployment } = scenario;
    await createPool(deployment);
    // Slow enough for kills between one durable sub task and the next.
    await scenario.server.query(
      'CREATE TABLE bulk AS SELECT i, repeat(md5(i::text), 8) AS filler FROM generate_series(1, 200000) i',
    );
    await deployment.sql("ALTER SYSTEM SET backup_net_limit = '6MB'");
    await using workload = await startResilientWorkload(scenario);
    for (let kill = 0; kill < KILLS; kill += 1) {
      // Increments that have as much to copy: rows of every page are changed.
      if (isIncrement(kill)) await server.query("UPDATE bulk SET filler = filler || 'x' WHERE i % 20 = 3");
      await deployment.sql(`ALTER SYSTEM BACKUP ${isIncrement(kill) ? 'INCREMENTAL' : ''} DATABASE`);
      await wait(random.between(0, SPAN_MS));
      await killAndRestart(victim, scenario);
      // Some kills hit the attempt that goes on from the one before.
      if (kill % 3 === 2) {
        await wait(random.between(0, SPAN_MS));
        await killAndRestart(victim, scenario);
      }
      await backupSettles(scenario);
    }
    await deployment.sql("ALTER SYSTEM SET backup_net_limit = '0'");
    await workload.stop();
    await archiveCatchesUp(scenario, await clockUs(server));
    const until = await clockUs(server);
    const sets = await deployment.sql<{ backup_set_id: string; backup_type: string }>(
      "SELECT * FROM CDB_OB_BACKUP_SET_FILES WHERE file_status = 'AVAILABLE' ORDER BY backup_set_id",
    );
    expect(sets.map(({ backup_type }) => backup_type)).toContain('I');
    for (const { backup_set_id: set } of sets)
      await restoreAndJudge(scenario, workload, until, `BACKUPSET = ${set}`, `copy_${set}`);
    // The system works again: one more backup completes and restores.
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
    const now = await clockUs(server);
    await archiveCatchesUp(scenario, now);
    await restoreAndJudge(scenario, workload, now, '', 'copy_last');
  });

  test('at random moments of archiving: nothing that was shown as archived is missing', async () => {
    const random = createRandom(`kill the ${victim} while archiving`);
    await using scenario = await startScenario(victim, major);
    const { server, deployment } = scenario;
    await createPool(deployment);
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
    await using workload = await startResilientWorkload(scenario);
    const shown: bigint[] = [];
    for (let kill = 0; kill < KILLS; kill += 1) {
      await wait(random.between(0, SPAN_MS));
      shown.push(await checkpointUs(scenario));
      await killAndRestart(victim, scenario);
      // Some kills hit one that takes over.
      if (kill % 3 === 2) {
        await wait(random.between(0, SPAN_MS));
        await killAndRestart(victim, scenario);
      }
      // The next kill is to hit one that archives again, not one that still starts.
      await archiveCatchesUp(scenario, await clockUs(server));
    }
    await workload.stop();
    const [row] = await deployment.sql<{ status: string; log_archive_round: string }>(
      `SELECT status, log_archive_round FROM CDB_OB_BACKUP_ARCHIVELOG WHERE tenant_name = '${TENANT}'`,
    );
    expect(row).toEqual({ status: 'DOING', log_archive_round: '1' });
    expect(shown).toEqual(shown.toSorted((a, b) => Number(a - b)));
    const last = shown.at(-1) ?? 0n;
    const middle = shown[Math.floor(shown.length / 2)] ?? 0n;
    await restoreAndJudge(scenario, workload, last, '', 'copy_last');
    await restoreAndJudge(scenario, workload, middle, '', 'copy_middle');
  });
}

/** A coordinator that is killed keeps its catalog itself, as most users' do. */
async function startScenario(victim: Victim, major: Major): Promise<Scenario> {
  const catalog = victim === 'coordinator' ? 'pglite' : 'postgresql';
  return await startArchivedShop({ major }, undefined, { catalog });
}

/** Which of the backups are increments: one in three is a full one, the first among them. */
function isIncrement(kill: number): boolean {
  return kill % 3 > 0;
}

/** Customers who come back when their connection was lost; what they were not told counts as either. */
async function startResilientWorkload({ server }: Scenario): Promise<Workload> {
  return await startWorkload({
    connect: () => server.connect(DATABASE),
    clients: 2,
    onLostConnection: 'reconnect',
    // They buy for minutes: at full speed they would take a processor from what is tested.
    thinkMs: 10,
  });
}

async function killAndRestart(victim: Victim, { server, deployment }: Scenario): Promise<void> {
  switch (victim) {
    case 'agent':
      await deployment.agent.kill();
      await deployment.agent.start();
      break;
    case 'coordinator':
      await deployment.coordinator.kill();
      await deployment.coordinator.start();
      break;
    case 'PostgreSQL':
      await server.kill();
      await startAgain(server);
  }
  await deployment.waitForRow<{ role: string; status: string }>(
    `SELECT role, status FROM DBA_OB_PARTITION_GROUPS g, CDB_OB_BACKUP_ARCHIVELOG a
     WHERE g.tenant_name = '${TENANT}' AND a.tenant_name = '${TENANT}'`,
    (row) => row.role === 'LEADER' && row.status === 'DOING',
    120_000,
  );
}

async function backupSettles({ deployment }: Scenario): Promise<void> {
  await deployment.waitForRow<{ count: string }>(
    "SELECT count(*) AS count FROM CDB_OB_BACKUP_JOBS WHERE job_type = 'BACKUP' AND end_time IS NULL",
    (row) => Number(row.count) === 0,
    180_000,
  );
}

async function checkpointUs({ deployment }: Scenario): Promise<bigint> {
  const [row] = await deployment.sql<{ us: string | null }>(
    `SELECT (extract(epoch FROM checkpoint_time) * 1000000)::bigint AS us FROM CDB_OB_BACKUP_ARCHIVELOG
     WHERE tenant_name = '${TENANT}'`,
  );
  return BigInt(row?.us ?? 0);
}

async function archiveCatchesUp(scenario: Scenario, timeUs: bigint): Promise<void> {
  await waitFor(async () => ((await checkpointUs(scenario)) >= timeUs ? true : undefined), {
    what: `the archive to reach ${formatInstant(timeUs)}`,
    timeoutMs: 60_000,
    intervalMs: 200,
  });
}

async function restoreAndJudge(
  { deployment }: Scenario,
  workload: Workload,
  targetUs: bigint,
  clause: string,
  tenant: string,
): Promise<void> {
  await deployment.sql(
    `ALTER SYSTEM RESTORE TENANT ${tenant} FROM ${TENANT} ${clause} UNTIL TIME = '${formatInstant(targetUs)}' WITH 'pool_list=spare' WAIT`,
  );
  const { port, dataDirectory } = await deployment.restored(tenant);
  const copy = await connectorTo(port)(DATABASE);
  expect(await judgeRestore(copy, workload.log, targetUs), tenant).toEqual([]);
  await copy.end();
  if (tenant === 'copy_last') expect(await findUnsoundness(connectorTo(port)), tenant).toEqual([]);
  await stopServersBelow(dataDirectory);
}
