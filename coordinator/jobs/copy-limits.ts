/**
 * The limits of running backup tasks, which may change while they run: backup_net_limit is shared out evenly among all that
 * run, wherever they run; backup_load_limit is each tenant's. An agent is told what its task was not told yet, and all of it
 * again when it has attached anew.
 */
import { create } from '@bufbuild/protobuf';
import { type CopyLimits, CopyLimitsSchema, LimitTaskSchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import type { Queryable } from '../catalog/catalog.ts';
import type { Task } from '../catalog/jobs.ts';
import type { CoordinatorContext } from '../context.ts';
import { readLoadLimit } from '../parameters/load-limit.ts';
import { parameterBytes, parameterText } from '../parameters/values.ts';

/** One task's part; 0: no limit. Pure. */
export function shareOfLimit(bytesPerSecond: number, taskCount: number): number {
  if (bytesPerSecond === 0) return 0;
  return Math.max(1, Math.floor(bytesPerSecond / Math.max(1, taskCount)));
}

/** Those of a tenant's task, of `taskCount` that run. */
export async function copyLimits(db: Queryable, tenantId: bigint, taskCount: number): Promise<CopyLimits> {
  const bytesPerSecond = await parameterBytes(db, 'backup_net_limit');
  const load = readLoadLimit(await parameterText(db, 'backup_load_limit', tenantId));
  return create(CopyLimitsSchema, {
    netBytesPerSecond: BigInt(shareOfLimit(bytesPerSecond, taskCount)),
    ...load,
  });
}

export class LimitKeeping {
  /** What was last said of each attempt, and in which session of its agent. */
  #told = new Map<string, string>();

  /** `tasks`: all that live. */
  async tell(context: CoordinatorContext, tasks: readonly Task[]): Promise<void> {
    const running = runningCopies(tasks);
    const told = new Map<string, string>();
    for (const task of running) {
      const session = context.hub.session(task.server_id);
      if (session?.hasTask(task.task_id, task.attempt) !== true) continue;
      const limits = await copyLimits(context.catalog, task.tenant_id, running.length);
      const { netBytesPerSecond, commitLatencyMs, ioWaitPercent } = limits;
      const key = `${task.task_id}.${task.attempt}`;
      const said = `${session.attachedMs} ${netBytesPerSecond} ${commitLatencyMs} ${ioWaitPercent}`;
      told.set(key, said);
      if (this.#told.get(key) === said) continue;
      const { task_id: taskId, attempt } = task;
      session.send({ case: 'limitTask', value: create(LimitTaskSchema, { taskId, attempt, limits }) });
    }
    this.#told = told;
  }
}

/** Backup tasks that write now. */
export function runningCopies(tasks: readonly Task[]): readonly Task[] {
  return tasks.filter((task) => task.kind === 'BACKUP' && task.state === 'RUNNING');
}
