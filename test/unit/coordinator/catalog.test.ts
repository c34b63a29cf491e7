import { afterAll, describe, expect, test } from 'vitest';
import type { Catalog } from '../../../coordinator/catalog/catalog.ts';
import {
  insertJob,
  insertTask,
  listLiveTasks,
  moveJob,
  moveTask,
} from '../../../coordinator/catalog/jobs.ts';
import { openPgliteCatalog } from '../../../coordinator/catalog/pglite.ts';
import { describeCatalog } from '../../support/catalog-suite.ts';

describe('the catalog on PGlite', () => {
  const opened = openPgliteCatalog(undefined, 'test', 1n);
  afterAll(async () => {
    await (await opened).catalog[Symbol.asyncDispose]();
  });
  const catalog = async (): Promise<Catalog> => (await opened).catalog;

  describeCatalog(catalog);

  test('rows change only from the state that the writer has seen', async () => {
    await (await catalog()).transaction(async (tx) => {
      const jobId = await insertJob(tx, {
        kind: 'CHECK',
        tenantId: 1n,
        tenantName: 't',
        state: 'RUNNING',
        spec: {},
        nowUs: 1n,
      });
      const taskId = await insertTask(tx, {
        jobId,
        kind: 'CHECK',
        tenantId: 1n,
        partitionGroup: 'p0',
        spec: {},
        nowUs: 1n,
      });
      const task = (await listLiveTasks(tx)).find((row) => row.task_id === taskId);
      if (task === undefined) throw new Error('the task is not live');
      expect(await moveTask(tx, task, 'RUNNING', 2n, { attempt: 1 })).toBe(true);
      expect(await moveTask(tx, task, 'CANCELLED', 2n)).toBe(false); // it is RUNNING, attempt 1, by now
      expect(await moveJob(tx, jobId, 'RUNNING', 'COMPLETED', 3n)).toBe(true);
      expect(await moveJob(tx, jobId, 'RUNNING', 'FAILED', 3n)).toBe(false);
    });
  });
});
