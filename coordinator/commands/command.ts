/** What commands share: results as events, waiting for jobs, and which tenants a statement names. */
import { HoldfastError } from '../../foundation/errors.ts';
import { formatSize } from '../../foundation/units.ts';
import { errorOfRow, findJob, type Job } from '../catalog/jobs.ts';
import type { JobProgress } from '../catalog/progress.ts';
import { getTenant, listTenants, type Tenant } from '../catalog/tenants.ts';
import type { CoordinatorContext } from '../context.ts';
import type { CommandEvent, ResultColumn, SqlValue } from '../sql/results.ts';
import type { TenantNames } from '../sql/statements.ts';

export type Events = AsyncGenerator<CommandEvent, void, undefined>;

const PROGRESS_INTERVAL_MS = 1000;
const POLL_MS = 250;

export function notice(
  message: string,
  more: { readonly detail?: string; readonly hint?: string } = {},
): CommandEvent {
  return { kind: 'notice', severity: 'NOTICE', message, ...more };
}

export async function* table(
  columns: readonly ResultColumn[],
  rows: Iterable<readonly SqlValue[]>,
): AsyncGenerator<CommandEvent, void, undefined> {
  yield { kind: 'rowDescription', columns };
  for (const values of rows) yield { kind: 'row', values };
}

/** The tenants that a statement names; `all`: every tenant that is NORMAL. Throws TENANT_NOT_EXIST. */
export async function selectTenants(
  context: CoordinatorContext,
  names: TenantNames,
): Promise<readonly Tenant[]> {
  if (names === 'all') {
    const tenants = (await listTenants(context.catalog)).filter(({ status }) => status === 'NORMAL');
    if (tenants.length > 0) return tenants;
    throw new HoldfastError('TENANT_NOT_EXIST', 'there are no tenants', {
      detail: 'A tenant appears when an agent that declares it attaches.',
      hint: 'SELECT * FROM DBA_OB_SERVERS;',
    });
  }
  const tenants: Tenant[] = [];
  for (const name of names) tenants.push(await getTenant(context.catalog, name));
  const restoring = tenants.find(({ status }) => status === 'RESTORING');
  if (restoring !== undefined) {
    throw new HoldfastError('RESTORE_IN_PROGRESS', `tenant "${restoring.tenant_name}" is being restored`, {
      hint: 'SELECT * FROM CDB_OB_RESTORE_PROGRESS;',
    });
  }
  return tenants;
}

/** Waits until the job has ended, giving a progress line as a notice when there is a new one. Throws what the job failed with. */
export async function* waitForJob(
  context: CoordinatorContext,
  jobId: bigint,
  progress: (job: Job) => Promise<string | undefined>,
  signal: AbortSignal,
): Events {
  let last = '';
  let lastMs = context.clock.monotonicMs() - PROGRESS_INTERVAL_MS;
  for (;;) {
    const { version } = context.bus;
    const job = await findJob(context.catalog, jobId);
    if (job === undefined) throw new HoldfastError('ENTRY_NOT_EXIST', `job ${jobId} is gone`);
    const due = job.final || context.clock.monotonicMs() - lastMs >= PROGRESS_INTERVAL_MS;
    const line = due ? await progress(job) : undefined;
    if (line !== undefined && line !== last) {
      last = line;
      lastMs = context.clock.monotonicMs();
      yield { kind: 'notice', severity: 'INFO', message: line };
    }
    if (job.final) {
      const error = errorOfRow(job);
      if (error !== undefined) throw error;
      return;
    }
    await context.bus.changed(version, POLL_MS, context.clock, signal);
  }
}

/** `job 7 COPY: 120.00MB of 300.00MB (40%), 60.00MB/s, 3 s left` */
export function progressLine(jobId: bigint, row: JobProgress | undefined): string | undefined {
  if (row === undefined) return undefined;
  const done = row.bytes_done ?? 0n;
  const total = row.bytes_total ?? 0n;
  const parts = [`job ${jobId} ${row.phase ?? ''}`.trim()];
  if (total > 0n) parts.push(`${formatSize(done)} of ${formatSize(total)} (${(done * 100n) / total}%)`);
  const rate = Number(row.bytes_per_sec ?? 0);
  if (rate > 0) parts.push(`${formatSize(rate)}/s`);
  if (rate > 0 && done < total && row.eta_seconds !== null)
    parts.push(`${Math.max(0, Math.round(Number(row.eta_seconds)))} s left`);
  if (typeof row.replay_lsn === 'string')
    parts.push(
      `log at ${row.replay_lsn}${typeof row.target_lsn !== 'string' ? '' : ` of ${row.target_lsn}`}`,
    );
  return parts.join(', ');
}
