/** A check job: each partition group's agent looks at its instance (and the destination) and says what is wrong. */
import { HoldfastError } from '../../foundation/errors.ts';
import { parseSizeBytes } from '../../foundation/units.ts';
import { type CheckItem, CheckResultSchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { errorOfRow, type Job, listTasks, moveJob, type Task } from '../catalog/jobs.ts';
import { type CoordinatorContext, write } from '../context.ts';
import { readArchiveOption } from '../parameters/table.ts';
import { parameterText } from '../parameters/values.ts';
import { SIMPLE_TRANSITIONS } from './job-states.ts';
import { checkTaskSpec } from './specs.ts';
import { step } from './state-machine.ts';
import { isEnded } from './task-care.ts';
import { messageFromJson } from './task-results.ts';

type JudgedItem = Pick<CheckItem, 'name' | 'passed' | 'found' | 'wanted' | 'fix'>;
export type GroupCheck = { readonly partitionGroup: string; readonly item: CheckItem };
/** What a server may keep for the slot: backup_log_archive_option and log_archive_max_retained. */
export type Retention = { readonly mandatory: boolean; readonly maxRetained: string };

export async function stepCheck(context: CoordinatorContext, job: Job): Promise<void> {
  const tasks = await listTasks(context.catalog, job.job_id);
  if (!tasks.every(isEnded)) return;
  const retention = await readRetention(context, job.tenant_id);
  const error = checkError(job.tenant_name, tasks, retention);
  const next = step(SIMPLE_TRANSITIONS, 'RUNNING', error === undefined ? 'ended' : 'fail');
  if (next === undefined) return;
  await write(context, (tx) => moveJob(tx, job.job_id, 'RUNNING', next, tx.nowUs, { error }));
}

export async function readRetention(context: CoordinatorContext, tenantId: bigint): Promise<Retention> {
  const option = await parameterText(context.catalog, 'backup_log_archive_option', tenantId);
  return {
    mandatory: readArchiveOption(option).mandatory,
    maxRetained: await parameterText(context.catalog, 'log_archive_max_retained', tenantId),
  };
}

/** What the checks of a tenant's groups found, by group. */
export function checkItems(tasks: readonly Task[], retention: Retention): readonly GroupCheck[] {
  return tasks.flatMap((task) =>
    task.state === 'SUCCEEDED'
      ? messageFromJson(CheckResultSchema, task.result).items.map((item) => ({
          partitionGroup: checkedPlace(task),
          item: judgeRetention(item, retention),
        }))
      : [],
  );
}

/** `p0`, and of a standby `p0 (instance b)`. */
function checkedPlace(task: Task): string {
  const { member } = checkTaskSpec.parse(task.spec);
  return member === undefined
    ? task.partition_group
    : `${task.partition_group} (instance ${member.instance})`;
}

/**
 * The agent reports max_slot_wal_keep_size and idle_replication_slot_timeout; whether it will do depends on the parameters. OPTIONAL: a limit, so that a
 * dead agent's slot cannot fill the server's disk; MANDATORY: none, so that no log is lost (correctness.md 14). Pure.
 */
export function judgeRetention<Item extends JudgedItem>(item: Item, retention: Retention): Item {
  if (item.name === 'idle_replication_slot_timeout') {
    const passed = !retention.mandatory || item.found.trim() === '0';
    return passed ? { ...item, passed, fix: '' } : { ...item, passed };
  }
  if (item.name !== 'max_slot_wal_keep_size') return item;
  const unlimited = item.found.trim() === '-1';
  if (retention.mandatory) {
    return {
      ...item,
      passed: unlimited,
      wanted: '-1 (backup_log_archive_option is MANDATORY)',
      fix: unlimited
        ? ''
        : 'On the server: ALTER SYSTEM SET max_slot_wal_keep_size = -1; SELECT pg_reload_conf();',
    };
  }
  const passed = !unlimited && parseSizeBytes(item.found) <= parseSizeBytes(retention.maxRetained);
  return {
    ...item,
    passed,
    wanted: `a limit of at most ${retention.maxRetained} (log_archive_max_retained)`,
    fix: passed
      ? ''
      : `On the server: ALTER SYSTEM SET max_slot_wal_keep_size = '${retention.maxRetained}'; SELECT pg_reload_conf();`,
  };
}

/** SERVER_PRECHECK_FAILED with what mends it in the hint; an agent's own error as it is; undefined when all is well. */
export function checkError(
  tenantName: string,
  tasks: readonly Task[],
  retention: Retention,
): HoldfastError | undefined {
  const broken = tasks.find((task) => task.state !== 'SUCCEEDED');
  if (broken !== undefined) {
    const unchecked = `partition group ${broken.partition_group} was not checked`;
    return errorOfRow(broken) ?? new HoldfastError('AGENT_UNREACHABLE', unchecked);
  }
  const failed = checkItems(tasks, retention).filter(({ item }) => !item.passed);
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
