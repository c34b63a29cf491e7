/** Backups that are interrupted when some of their sub tasks are durable and others are not. */
import { readdir } from 'node:fs/promises';
import { waitFor } from '../../cli/demo/wait.ts';
import { parseTreePath, type TreePath } from '../../storage-layout/tree.ts';
import type { Scenario } from './scenario.ts';

/** Ids of one attempt, as the coordinator gives them. */
const IDS_PER_ATTEMPT = 1_000_000;

export type TaskRow = {
  readonly status: string;
  readonly attempt: number;
  readonly resume_macro_block_count: string;
  readonly resume_bytes: string;
  readonly resume_comment: string | null;
  readonly waiting_for: string | null;
};

/** Sub task ids of one attempt (0 first) at the destination: of macroblock files, and of their indexes. */
export type SubTaskFiles = { readonly blocks: readonly number[]; readonly indexes: readonly number[] };

export async function subTaskFiles(
  { deployment }: Pick<Scenario, 'deployment'>,
  setId: bigint,
  retry: number,
): Promise<SubTaskFiles> {
  const names = await readdir(deployment.destinationDirectory, { recursive: true });
  const ids = (kind: TreePath['kind']) =>
    names
      .map((name) => parseTreePath(name))
      .filter((path) => path?.kind === kind && 'subTaskId' in path && path.setId === setId)
      .map((path) => (path !== undefined && 'subTaskId' in path ? path.subTaskId : 0))
      .filter((id) => Math.floor((id - 1) / IDS_PER_ATTEMPT) === retry)
      .toSorted((a, b) => a - b);
  return { blocks: ids('macroBlock'), indexes: ids('subTaskIndex') };
}

/** Begins a backup that copies so slowly that it can be interrupted, and waits until `count` of its sub tasks are durable. */
export async function beginSlowBackup(
  scenario: Scenario,
  what: 'DATABASE' | 'INCREMENTAL DATABASE',
  count: number,
  rate = '4MB',
): Promise<bigint> {
  const { deployment } = scenario;
  await deployment.sql(`ALTER SYSTEM SET backup_net_limit = '${rate}'`);
  await deployment.sql(`ALTER SYSTEM BACKUP ${what}`);
  const row = await deployment.waitForRow<{ bs_key: string; status: string }>(
    'SELECT bs_key, status FROM CDB_OB_BACKUP_PROGRESS',
    ({ status }) => status === 'RUNNING',
  );
  const setId = BigInt(row.bs_key);
  await durable(scenario, setId, 0, count);
  return setId;
}

/** Waits until so many sub tasks of the attempt have left an index. */
export async function durable(
  scenario: Scenario,
  setId: bigint,
  retry: number,
  count: number,
): Promise<void> {
  await waitFor(
    async () => ((await subTaskFiles(scenario, setId, retry)).indexes.length >= count ? true : undefined),
    { what: `${count} durable sub tasks of set ${setId}`, timeoutMs: 180_000, intervalMs: 20 },
  );
}

/** Lets the backup go as fast as it can, and waits for its end. */
export async function finishBackup({ deployment }: Scenario): Promise<TaskRow> {
  // A coordinator that was killed a moment ago may not listen yet.
  await waitFor(async () => (await deployment.sql("ALTER SYSTEM SET backup_net_limit = '0'"), true), {
    what: 'the limit to be lifted',
    timeoutMs: 60_000,
    intervalMs: 200,
  });
  const job = await deployment.waitForRow<{ status: string; comment: string | null }>(
    "SELECT status, comment FROM CDB_OB_BACKUP_JOBS WHERE job_type = 'BACKUP' ORDER BY job_id DESC",
    ({ status }) => ['COMPLETED', 'FAILED', 'CANCELLED'].includes(status),
    180_000,
  );
  if (job.status !== 'COMPLETED') throw new Error(`the backup is ${job.status}: ${job.comment}`);
  return await taskRow({ deployment });
}

export async function taskRow({ deployment }: Pick<Scenario, 'deployment'>): Promise<TaskRow> {
  const [row] = await deployment.sql<TaskRow>(
    "SELECT * FROM CDB_OB_BACKUP_TASKS WHERE task_type = 'BACKUP' ORDER BY task_id DESC LIMIT 1",
  );
  if (row === undefined) throw new Error('there is no backup task');
  return row;
}
