/**
 * kill -9 of the agent or of the coordinator, at a few moments of a synthetic full and of a validation: a set that is shown
 * complete is found right, and a validation finds nothing that is not there. One file per victim calls this, so that they run
 * side by side.
 */
import { setTimeout as wait } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { ManagedProcess } from './holdfast-processes.ts';
import { createRandom } from './random.ts';
import { type Scenario, startArchivedShop } from './scenario.ts';

const SPAN_MS = 1_200;
const MOMENTS = 3;
type Victim = 'agent' | 'coordinator';

export function describeKillsInSyntheticAndValidate(victim: Victim): void {
  describe(`kill -9 of the ${victim}`, () => {
    let scenario: Scenario;

    beforeAll(async () => {
      scenario = await startArchivedShop();
      await scenario.server.query(
        'CREATE TABLE bulk AS SELECT i, i % 7 AS n, repeat(md5(i::text), 8) AS filler FROM generate_series(1, 150000) i',
      );
      await scenario.deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
      await scenario.server.query('UPDATE bulk SET n = n + 1 WHERE i % 1000 = 0');
      await scenario.deployment.sql('ALTER SYSTEM BACKUP INCREMENTAL DATABASE WAIT');
    }, 300_000);
    afterAll(async () => {
      await scenario?.[Symbol.asyncDispose]();
    });

    test('in a synthetic full: a set that is shown complete is right', async () => {
      const random = createRandom(`kill the ${victim} during synthetic fulls`);
      for (let moment = 0; moment < MOMENTS; moment += 1) {
        await scenario.deployment.sql('ALTER SYSTEM BACKUP SYNTHETIC DATABASE');
        await wait(random.between(0, SPAN_MS));
        await killAndRestart(scenario.deployment[victim]);
        await settled(scenario, 'BACKUP');
      }
      await scenario.deployment.sql('ALTER SYSTEM BACKUP SYNTHETIC DATABASE WAIT');
      await scenario.deployment.sql('ALTER SYSTEM VALIDATE DATABASE WAIT');
    }, 600_000);

    test('in a validation: what is right is found right', async () => {
      const random = createRandom(`kill the ${victim} during validations`);
      for (let moment = 0; moment < MOMENTS; moment += 1) {
        await scenario.deployment.sql('ALTER SYSTEM VALIDATE DATABASE');
        await wait(random.between(0, SPAN_MS));
        await killAndRestart(scenario.deployment[victim]);
        await settled(scenario, 'VALIDATE');
      }
      const rows = await scenario.deployment.sql('SELECT * FROM CDB_OB_BACKUP_VALIDATION_FINDING');
      expect(rows).toEqual([]);
      await scenario.deployment.sql('ALTER SYSTEM VALIDATE DATABASE WAIT');
    }, 600_000);
  });
}

async function killAndRestart(killed: ManagedProcess): Promise<void> {
  await killed.kill();
  await killed.start();
}

/** No job of the kind runs, and the last one ended well. */
async function settled({ deployment }: Scenario, kind: 'BACKUP' | 'VALIDATE'): Promise<void> {
  const row = await deployment.waitForRow<{ status: string }>(
    kind === 'BACKUP'
      ? "SELECT status FROM CDB_OB_BACKUP_JOBS WHERE job_type = 'BACKUP' ORDER BY job_id DESC"
      : 'SELECT status FROM CDB_OB_BACKUP_VALIDATION_JOB ORDER BY job_id DESC',
    ({ status }) => ['COMPLETED', 'FINISHED', 'FAILED', 'CANCELLED'].includes(status),
    180_000,
  );
  expect(row.status).toBe(kind === 'BACKUP' ? 'COMPLETED' : 'FINISHED');
}
