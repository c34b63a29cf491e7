/** Progress of one job, from the views that users see. */
import type { Queryable } from './catalog.ts';

export type JobProgress = {
  readonly phase: string | null;
  readonly bytes_done: bigint | null;
  readonly bytes_total: bigint | null;
  readonly bytes_per_sec: string | null;
  readonly eta_seconds: string | null;
  /** Of a restore: how far the log is replayed, and how far it is to be. */
  readonly replay_lsn?: string | null;
  readonly target_lsn?: string | null;
};

const ETA = 'extract(epoch FROM estimated_end_time - clock_timestamp())::numeric AS eta_seconds';

export async function backupProgress(db: Queryable, jobId: bigint): Promise<JobProgress | undefined> {
  const rows = await db.query<JobProgress>(
    `SELECT phase, bytes_done, bytes_total, bytes_per_sec, ${ETA} FROM oceanbase.cdb_ob_backup_progress WHERE job_id = $1`,
    [jobId],
  );
  return rows[0];
}

export async function restoreProgress(db: Queryable, jobId: bigint): Promise<JobProgress | undefined> {
  const rows = await db.query<JobProgress>(
    `SELECT status AS phase, bytes_done, bytes_total, bytes_per_sec, ${ETA}, replay_lsn, target_lsn
     FROM oceanbase.cdb_ob_restore_progress WHERE job_id = $1`,
    [jobId],
  );
  return rows[0];
}

export async function validationProgress(db: Queryable, jobId: bigint): Promise<JobProgress | undefined> {
  const rows = await db.query<JobProgress>(
    `SELECT status AS phase, bytes_done, bytes_total, bytes_per_sec, ${ETA}
     FROM oceanbase.cdb_ob_backup_validation_job WHERE job_id = $1`,
    [jobId],
  );
  return rows[0];
}

/**
 * The instant that a text names, as PostgreSQL reads a timestamptz; one without a zone is UTC. Throws what the database
 * throws for a text that is no time.
 */
export async function parseInstant(db: Queryable, text: string): Promise<bigint> {
  const rows = await db.query<{ us: bigint }>(
    'SELECT (extract(epoch FROM $1::timestamptz) * 1000000)::bigint AS us',
    [text],
  );
  return rows[0]?.us ?? 0n;
}
