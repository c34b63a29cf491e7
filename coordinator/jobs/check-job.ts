/** A check job: each partition group's agent looks at its instance (and the destination) and says what is wrong. */
import { HoldfastError } from '../../foundation/errors.ts';
import { type CheckItem, CheckResultSchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { errorOfRow, type Job, listTasks, moveJob, type Task } from '../catalog/jobs.ts';
import { type CoordinatorContext, write } from '../context.ts';
import { SIMPLE_TRANSITIONS } from './job-states.ts';
import { step } from './state-machine.ts';
import { isEnded } from './task-care.ts';
import { messageFromJson } from './task-results.ts';

export async function stepCheck(context: CoordinatorContext, job: Job): Promise<void> {
  const tasks = await listTasks(context.catalog, job.job_id);
  if (!tasks.every(isEnded)) return;
  const error = checkError(job.tenant_name, tasks);
  const next = step(SIMPLE_TRANSITIONS, 'RUNNING', error === undefined ? 'ended' : 'fail');
  if (next === undefined) return;
  await write(context, (tx) => moveJob(tx, job.job_id, 'RUNNING', next, tx.nowUs, { error }));
}

/** What the checks of a tenant's groups found, by group. */
export function checkItems(
  tasks: readonly Task[],
): readonly { readonly partitionGroup: string; readonly item: CheckItem }[] {
  return tasks.flatMap((task) =>
    task.state === 'SUCCEEDED'
      ? messageFromJson(CheckResultSchema, task.result).items.map((item) => ({
          partitionGroup: task.partition_group,
          item,
        }))
      : [],
  );
}

/** SERVER_PRECHECK_FAILED with what mends it in the hint; an agent's own error as it is; undefined when all is well. */
export function checkError(tenantName: string, tasks: readonly Task[]): HoldfastError | undefined {
  const broken = tasks.find((task) => task.state !== 'SUCCEEDED');
  if (broken !== undefined)
    return (
      errorOfRow(broken) ??
      new HoldfastError('AGENT_UNREACHABLE', `partition group ${broken.partition_group} was not checked`)
    );
  const failed = checkItems(tasks).filter(({ item }) => !item.passed);
  if (failed.length === 0) return undefined;
  return new HoldfastError(
    'SERVER_PRECHECK_FAILED',
    `tenant "${tenantName}" does not pass: ${failed.map(({ item }) => item.name).join(', ')}`,
    {
      detail: failed
        .map(
          ({ partitionGroup, item }) =>
            `${partitionGroup}: ${item.name} is ${item.found}, wanted ${item.wanted}.`,
        )
        .join('\n'),
      hint: [...new Set(failed.map(({ item }) => item.fix).filter((fix) => fix !== ''))].join('\n'),
    },
  );
}
