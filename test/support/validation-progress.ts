/** What every catalog's views say of how far a validation is: a part of catalog-suite.ts. */
import { expect, test } from 'vitest';
import type { Catalog } from '../../coordinator/catalog/catalog.ts';
import { insertJob, insertTask, recordProgress } from '../../coordinator/catalog/jobs.ts';

export function testValidationProgress(open: () => Promise<Catalog>): void {
  const { signal } = new AbortController();

  test('a validation is as far as its agents say, never goes back, and never passes its end', async () => {
    const catalog = await open();
    const of = { tenantId: 1003n, tenantName: 'shards', nowUs: 1n } as const;
    const validation = { kind: 'VALIDATE', ...of } as const;
    const [jobId, setTask, logTask] = await catalog.transaction(async (tx) => {
      const id = await insertJob(tx, { ...validation, state: 'DOING', spec: {} });
      const task = { jobId: id, partitionGroup: 'a', ...validation };
      const set = { ...task, spec: { subject: { setId: '1' }, bytes: '1000' } };
      // Most of it turns out to have been checked, when its agent has looked.
      const log = { ...task, spec: { subject: { round: '1' }, bytes: '3000' } };
      return [id, await insertTask(tx, set), await insertTask(tx, log)];
    });
    const shown = async () => {
      const views = ['cdb_ob_backup_validation_task', 'cdb_ob_backup_validation_job'];
      const rows = await Promise.all(
        views.map(async (view) => JSON.parse(await catalog.readView(view, signal)) as object[]),
      );
      return rows.map((all) =>
        all
          .map((row) => row as Record<string, number>)
          .filter((row) => row['job_id'] === Number(jobId))
          .sort((a, b) => (a['task_id'] ?? 0) - (b['task_id'] ?? 0))
          .map((row) => [row['bytes_done'], row['bytes_total'], row['progress_percent']]),
      );
    };
    const report = async (taskId: bigint, bytesDone: string, bytesTotal?: string) =>
      await catalog.transaction((tx) => recordProgress(tx, taskId, 0, { bytesDone, bytesTotal }, 2n));
    expect(await shown()).toEqual([
      [
        [0, 1000, 0],
        [0, 3000, 0],
      ],
      [[0, 4000, 0]],
    ]);
    await report(setTask, '1000', '1000');
    expect((await shown())[1]).toEqual([[1000, 4000, 25]]);
    await report(logTask, '0'); // it looks still for what there is
    expect((await shown())[1]).toEqual([[1000, 4000, 25]]);
    await report(logTask, '0', '9000');
    expect((await shown())[1]).toEqual([[1000, 10_000, 25]]);
    await report(logTask, '10', '20');
    expect(await shown()).toEqual([
      [
        [1000, 1000, 100],
        [10, 20, 50],
      ],
      [[1010, 1020, 62.5]],
    ]);
    await report(logTask, '20', '20');
    expect((await shown())[1]).toEqual([[1020, 1020, 100]]);
    await report(logTask, '21', '20');
    expect((await shown()).map((rows) => rows.at(-1)?.[2])).toEqual([100, 100]);
  });
}
