/**
 * Synthetic fulls from end to end: increments of a random history, a full set made of the last one, an increment on that;
 * each restored from its own directory alone. Then the same while the server is stopped, and with an agent that is killed.
 */
import { rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readServerState, type ServerState } from '../../cli/demo/database-state.ts';
import { stopServer } from '../../engine/postgres/server-process.ts';
import { findDifferences } from '../support/compare.ts';
import { filesOfKind } from '../support/damage.ts';
import { holdfast } from '../support/holdfast-processes.ts';
import { IncrementHistory } from '../support/increment-history.ts';
import { majors } from '../support/majors.ts';
import { binDirectory, serverUser } from '../support/postgres.ts';
import { createRandom } from '../support/random.ts';
import { connectorTo, DATABASE, type Scenario, startArchivedShop, TENANT } from '../support/scenario.ts';

const INCREMENTS = 3;

type SetRow = {
  readonly backup_set_id: string;
  readonly full_set_id: string;
  readonly prev_backup_set_id: string | null;
  readonly source_backup_set_id: string | null;
  readonly backup_type: string;
  readonly file_status: string;
  readonly input_bytes: string;
  readonly output_bytes: string;
  readonly min_restore_lsn: string;
};
const SETS = 'SELECT * FROM CDB_OB_BACKUP_SET_FILES ORDER BY backup_set_id';

describe.each(majors(17))('synthetic fulls of PostgreSQL %i', (major) => {
  let scenario: Scenario;
  let increment: ServerState;
  let onSynthetic: ServerState;

  beforeAll(async () => {
    const random = createRandom(`synthetic fulls of ${major}`);
    scenario = await startArchivedShop({ major });
    const { deployment, server } = scenario;
    await expect(deployment.sql('ALTER SYSTEM BACKUP SYNTHETIC DATABASE WAIT')).rejects.toThrow(
      /SYNTHETIC_BACKUP_REFUSED: .*no complete backup set/,
    );
    const history = await IncrementHistory.begin(server, random, DATABASE);
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
    for (let n = 0; n < INCREMENTS; n += 1) {
      if (n === 0) await history.runEach();
      else await history.run(12);
      await deployment.sql('ALTER SYSTEM BACKUP INCREMENTAL DATABASE WAIT');
    }
    increment = await readServerState((database) => server.connect(database));
    await deployment.sql('ALTER SYSTEM BACKUP SYNTHETIC DATABASE WAIT');
    await history.run(8);
    await deployment.sql('ALTER SYSTEM BACKUP INCREMENTAL DATABASE WAIT');
    onSynthetic = await readServerState((database) => server.connect(database));
    await history.end();
  }, 900_000);

  afterAll(async () => {
    await scenario?.[Symbol.asyncDispose]();
  });

  test('are full sets of their own, and the next increment goes on from them', async () => {
    const rows = await scenario.deployment.sql<SetRow>(SETS);
    expect(rows.map((row) => row.backup_type)).toEqual(['D', 'I', 'I', 'I', 'S', 'I']);
    const [source, synthetic, next] = rows.slice(-3);
    expect(synthetic).toMatchObject({
      full_set_id: synthetic?.backup_set_id,
      source_backup_set_id: source?.backup_set_id,
      prev_backup_set_id: null,
      file_status: 'AVAILABLE',
      input_bytes: '0',
      min_restore_lsn: source?.min_restore_lsn,
    });
    expect(next).toMatchObject({
      full_set_id: synthetic?.backup_set_id,
      prev_backup_set_id: synthetic?.backup_set_id,
    });
  });

  test('restore row for row, and their increments too, without the directory of the set that they were made of', async () => {
    await using _hidden = await hideFullSet(scenario, 1n);
    for (const [setId, state] of [
      [5n, increment],
      [6n, onSynthetic],
    ] as const) {
      await using copy = await restore(scenario, setId);
      expect(await findDifferences(connectorTo(copy.port), state), `set ${setId}`).toEqual([]);
    }
  }, 600_000);

  test('are found right by VALIDATE, and shown by inspect', async () => {
    const { deployment } = scenario;
    for (const setId of [5, 6]) await deployment.sql(`ALTER SYSTEM VALIDATE BACKUPSET ${setId} WAIT`);
    const rows = await deployment.sql('SELECT status, finding_count FROM CDB_OB_BACKUP_VALIDATION_JOB');
    expect(rows).toHaveLength(2);
    for (const row of rows) expect(row).toEqual({ status: 'FINISHED', finding_count: '0' });
    const { stdout } = await holdfast('inspect', deployment.destination);
    expect(stdout).toMatch(/Backup set 5, synthetic full made of set 4, every page read at .* or later/);
    expect(stdout).toContain('Backup set 6, incremental of full set 5, after set 5');
  }, 240_000);

  test('are made while the server is stopped: the database is not read', async () => {
    const { deployment, server } = scenario;
    await server.stop();
    await deployment.sql('ALTER SYSTEM BACKUP SYNTHETIC DATABASE WAIT');
    await server.start();
    const [row] = (await deployment.sql<SetRow>(SETS)).slice(-1);
    expect(row).toMatchObject({ backup_type: 'S', source_backup_set_id: '6', file_status: 'AVAILABLE' });
    await using copy = await restore(scenario, 7n);
    expect(await findDifferences(connectorTo(copy.port), onSynthetic)).toEqual([]);
  }, 400_000);

  test('an agent that is killed in the middle leaves nothing that counts, and the next attempt makes the set', async () => {
    const { deployment } = scenario;
    await deployment.sql("ALTER SYSTEM SET backup_net_limit = '64kB'");
    await deployment.sql('ALTER SYSTEM BACKUP SYNTHETIC DATABASE');
    await deployment.waitForRow<{ phase: string }>(
      'SELECT phase FROM CDB_OB_BACKUP_PROGRESS',
      (row) => row.phase === 'COPY',
    );
    await deployment.agent.kill();
    await deployment.sql("ALTER SYSTEM SET backup_net_limit = '0'");
    expect((await deployment.sql<SetRow>(SETS)).at(-1)?.file_status).toBe('INCOMPLETE');
    await deployment.agent.start();
    await deployment.waitForRow<{ status: string }>(
      'SELECT status FROM CDB_OB_BACKUP_PROGRESS',
      (row) => row.status === 'COMPLETED',
      120_000,
    );
    await deployment.sql('ALTER SYSTEM VALIDATE BACKUPSET 8 WAIT');
    const [task] = await deployment.sql<{ attempt: string }>(
      "SELECT attempt FROM CDB_OB_BACKUP_TASKS WHERE task_type = 'BACKUP' ORDER BY task_id DESC LIMIT 1",
    );
    expect(Number(task?.attempt)).toBeGreaterThan(1);
  }, 400_000);

  test('a coordinator that is killed in the middle goes on with the work', async () => {
    const { deployment } = scenario;
    await deployment.sql("ALTER SYSTEM SET backup_net_limit = '64kB'");
    await deployment.sql('ALTER SYSTEM BACKUP SYNTHETIC DATABASE');
    await deployment.waitForRow<{ phase: string }>(
      'SELECT phase FROM CDB_OB_BACKUP_PROGRESS',
      (row) => row.phase === 'COPY',
    );
    await deployment.coordinator.kill();
    await deployment.coordinator.start();
    // Sessions of the killed one end with its first statements.
    await deployment.waitForRow('SELECT status FROM CDB_OB_BACKUP_PROGRESS', () => true);
    await deployment.sql("ALTER SYSTEM SET backup_net_limit = '0'");
    await deployment.waitForRow<{ status: string }>(
      'SELECT status FROM CDB_OB_BACKUP_PROGRESS',
      (row) => row.status === 'COMPLETED',
      120_000,
    );
    const made = (await deployment.sql<SetRow>(SETS)).at(-1);
    expect(made?.backup_type).toBe('S');
    await deployment.sql(`ALTER SYSTEM VALIDATE BACKUPSET ${made?.backup_set_id} WAIT`);
  }, 400_000);

  test('a real full backup is made instead when every page was last read too long ago', async () => {
    const { deployment } = scenario;
    await deployment.sql(`ALTER SYSTEM SET full_backup_max_age = '1ms' TENANT = ${TENANT}`);
    await deployment.sql('ALTER SYSTEM BACKUP SYNTHETIC DATABASE WAIT');
    const rows = await deployment.sql<SetRow & { full_reason: string }>(SETS);
    expect(rows.at(-1)).toMatchObject({
      backup_type: 'D',
      full_reason: expect.stringContaining('longer than full_backup_max_age (1ms) ago') as string,
    });
  }, 240_000);
});

/** Takes a full set away from the destination until it is disposed. */
async function hideFullSet({ deployment }: Scenario, fullSetId: bigint): Promise<AsyncDisposable> {
  const infos = await filesOfKind(deployment.destinationDirectory, 'backupInfo');
  const info = infos.find((path) => path.includes(`/backup_set_${fullSetId}/`)) ?? '';
  const path = dirname(dirname(info));
  await rename(path, `${path}.hidden`);
  return {
    async [Symbol.asyncDispose]() {
      await rename(`${path}.hidden`, path);
    },
  };
}

async function restore(
  { deployment, server }: Scenario,
  setId: bigint,
): Promise<AsyncDisposable & { readonly port: number }> {
  const to = join(server.directory, `copy-of-${setId}`);
  const runAs = serverUser() === undefined ? [] : ['--run-as', 'nobody'];
  const place = ['--from', deployment.destination, '--tenant', TENANT, '--to', to, '--set', String(setId)];
  const bin = binDirectory(server.major);
  const options = ['--immediate', ...runAs, '--bin-directory', bin];
  const { code, stdout, stderr } = await holdfast('restore', ...place, ...options);
  expect([code, stderr]).toEqual([0, expect.anything()]);
  const paths = { binDirectory: bin, dataDirectory: to, user: serverUser() };
  return {
    port: Number(/listens on 127\.0\.0\.1, port (\d+)/.exec(stdout)?.[1]),
    async [Symbol.asyncDispose]() {
      await stopServer(paths, 'immediate', new AbortController().signal);
    },
  };
}
