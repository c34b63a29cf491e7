/** VALIDATE by real processes: statement, agent, destination, views; and the same without them. */
import { setTimeout as wait } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { damage, filesOfKind } from '../support/damage.ts';
import { majors } from '../support/majors.ts';
import { DATABASE, type Scenario, startArchivedShop, TENANT } from '../support/scenario.ts';

type JobRow = {
  job_id: string;
  status: string;
  finding_count: string;
  progress_percent: string;
  skipped: string;
};
const JOB = 'SELECT * FROM CDB_OB_BACKUP_VALIDATION_JOB ORDER BY job_id DESC LIMIT 1';

describe.each(majors(17))('VALIDATE on PostgreSQL %i', (major) => {
  let scenario: Scenario;

  beforeAll(async () => {
    scenario = await startArchivedShop({ major });
    await scenario.deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
  }, 240_000);
  afterAll(async () => await scenario?.[Symbol.asyncDispose]());

  const job = async (): Promise<JobRow | undefined> => (await scenario.deployment.sql<JobRow>(JOB))[0];

  test('finds a fresh backup and its log right, while the log goes on', async () => {
    await scenario.deployment.sql('ALTER SYSTEM VALIDATE DATABASE WAIT');
    expect(await job()).toMatchObject({ status: 'FINISHED', finding_count: '0' });
    expect(Number((await job())?.progress_percent)).toBe(100);
    const stopped = await scenario.deployment.holdfast('validate', '--from', scenario.deployment.destination);
    expect([stopped.code, stopped.stderr.includes('ERROR')]).toEqual([0, false]);
    expect(stopped.stdout).toContain('Nothing is wrong');
  }, 240_000);

  test('MAX_AGE passes over what it found right', async () => {
    await scenario.deployment.sql("ALTER SYSTEM VALIDATE BACKUPSET 1 MAX_AGE '1d' WAIT");
    expect(await job()).toMatchObject({ status: 'FINISHED', skipped: '1' });
  }, 120_000);

  test('a lost macroblock file fails it with OB-9011 and the relations that are lost, by statement and command', async () => {
    const [, path = ''] = await filesOfKind(scenario.deployment.destinationDirectory, 'macroBlock');
    await using _ = await damage(path, 'delete');
    await expect(scenario.deployment.sql('ALTER SYSTEM VALIDATE BACKUPSET 1 WAIT')).rejects.toThrow(
      /OB-9011 BACKUP_FILE_NOT_EXIST: .*the file is missing; it holds .*needed by backup sets 1/,
    );
    const rows = await scenario.deployment.sql<{ databases: string; relation_files: string }>(
      `SELECT databases, relation_files FROM CDB_OB_BACKUP_VALIDATION_FINDING ORDER BY job_id DESC LIMIT 1`,
    );
    expect(['postgres', 'template0', 'template1', DATABASE]).toEqual(
      expect.arrayContaining(rows[0]?.databases.split(', ') ?? ['none']),
    );
    expect(rows[0]?.relation_files).toMatch(/\d+/);
    const { deployment } = scenario;
    const said = await deployment.holdfast(
      'validate',
      '--from',
      deployment.destination,
      '--tenant',
      TENANT,
      '--set',
      '1',
    );
    expect(said.code).toBe(1);
    expect(said.stdout).toContain('BACKUP_FILE_NOT_EXIST');
    expect(said.stdout).toContain('needed by backup set 1');
  }, 240_000);

  test('kill -9 of the agent in the middle: another attempt ends the job', async () => {
    const client = await scenario.server.connect(DATABASE);
    await client.query('CREATE TABLE much AS SELECT i, md5(i::text) AS t FROM generate_series(1, 600000) i');
    await client.end();
    await scenario.deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
    await scenario.deployment.sql('ALTER SYSTEM VALIDATE DATABASE');
    await scenario.deployment.waitForRow<JobRow>(JOB, (row) => row.status === 'DOING');
    await wait(200);
    await scenario.deployment.agent.kill();
    await scenario.deployment.agent.start();
    const ended = await scenario.deployment.waitForRow<JobRow>(
      JOB,
      (row) => row.status !== 'SCHEDULE' && row.status !== 'DOING' && row.status !== 'RECORD',
      120_000,
    );
    expect(ended).toMatchObject({ status: 'FINISHED', finding_count: '0' });
  }, 240_000);
});
