/** Limits of a backup that are changed while it runs, by real processes. */
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../../cli/demo/wait.ts';
import { type Scenario, startArchivedShop, TENANT } from '../support/scenario.ts';

const PROGRESS = 'SELECT status, phase FROM CDB_OB_BACKUP_PROGRESS';
type Progress = { readonly status: string; readonly phase: string };

let scenario: Scenario;

beforeAll(async () => {
  scenario = await startArchivedShop({ major: 17 });
}, 240_000);
afterAll(async () => await scenario?.[Symbol.asyncDispose]());

test('a running copy is slowed when commits take longer than they may, and goes on when the limits are lifted', async () => {
  const { deployment } = scenario;
  const logged = async (text: string) => (await readFile(deployment.agent.logPath, 'utf8')).includes(text);
  await deployment.sql("ALTER SYSTEM SET backup_net_limit = '64kB'");
  await deployment.sql('ALTER SYSTEM BACKUP DATABASE');
  await deployment.waitForRow<Progress>(PROGRESS, ({ phase }) => phase === 'COPY');
  expect(await logged('the copy is slowed')).toBe(false);
  await deployment.sql(`ALTER SYSTEM SET backup_load_limit = '0.1ms,100%' TENANT = ${TENANT}`);
  const slowed = { what: 'the copy to be slowed', timeoutMs: 60_000, intervalMs: 200 };
  await waitFor(async () => ((await logged('the copy is slowed')) ? true : undefined), slowed);
  expect(await logged('the commit latency cannot be measured')).toBe(false);
  // At 64 kB/s it would take minutes.
  await deployment.sql(`ALTER SYSTEM SET backup_load_limit = '0' TENANT = ${TENANT}`);
  await deployment.sql("ALTER SYSTEM SET backup_net_limit = '0'");
  await deployment.waitForRow<Progress>(PROGRESS, ({ status }) => status === 'COMPLETED', 30_000);
  await expect(deployment.sql("ALTER SYSTEM SET backup_load_limit = 'much'")).rejects.toThrow(
    /"much" is not a value of backup_load_limit/,
  );
}, 240_000);
