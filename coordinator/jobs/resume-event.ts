/** What is told once of each attempt of a backup that follows another: what it took over, or why nothing. Pure. */
import type { BackupProgress } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import type { Task } from '../catalog/jobs.ts';
import type { Transaction } from '../context.ts';

/** The event that `progress` is the first to tell of; `before`: the report before it. Undefined: nothing new. */
export function resumeEvent(
  task: Pick<Task, 'task_id' | 'job_id' | 'tenant_id' | 'partition_group' | 'attempt'>,
  before: Pick<BackupProgress, 'resume'>,
  progress: Pick<BackupProgress, 'resume'>,
): Parameters<Transaction['event']>[0] | undefined {
  const { resume } = progress;
  if (resume === undefined) return undefined;
  if (before.resume?.retry === resume.retry) return undefined;
  const { macroblocks, bytes, refused } = resume;
  const who = `attempt ${task.attempt} of the backup of partition group ${task.partition_group}`;
  return {
    module: 'backup',
    event: refused === '' ? 'backup_resumed' : 'backup_not_resumed',
    severity: refused === '' ? 'INFO' : 'WARNING',
    tenantId: task.tenant_id,
    message:
      refused === ''
        ? `${who} takes over ${macroblocks} macroblocks, ${bytes} bytes, of the attempt before`
        : `${who} copies everything again: ${refused}`,
    facts: { job_id: task.job_id, task_id: task.task_id, macroblocks, bytes },
  };
}
