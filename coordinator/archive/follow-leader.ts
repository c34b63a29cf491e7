/**
 * Archiving follows the leader: when a member of the group was promoted, its archive task goes on there, as a new attempt
 * under a new epoch. What the old leader's archiver had not shipped, the new one's finds on its own server.
 */
import { HoldfastError } from '../../foundation/errors.ts';
import { moveTask, type Task } from '../catalog/jobs.ts';
import { type CoordinatorContext, write } from '../context.ts';
import { type Candidates, chooseSuccessor, claimants } from '../jobs/placement.ts';
import { step } from '../jobs/state-machine.ts';
import { sendCancel } from '../jobs/task-care.ts';
import { TASK_TRANSITIONS } from '../jobs/task-states.ts';

/** Takes a running archive task from a leader that was left behind. True when it did. */
export async function followLeader(
  context: CoordinatorContext,
  task: Task,
  candidates: Candidates,
): Promise<boolean> {
  if (task.kind !== 'ARCHIVE' || task.state !== 'RUNNING') return false;
  const present = { serverId: task.server_id, instance: task.instance };
  const leader = chooseSuccessor(task.tenant_id, task.partition_group, candidates, present);
  const next = step(TASK_TRANSITIONS, task.state, 'lose');
  if (leader === undefined || next === undefined) return false;
  const message = `partition group ${task.partition_group}: the leader is instance "${leader.instance}" on timeline ${leader.timeline}, no longer "${task.instance}"`;
  const moved = await write(context, async (tx) => {
    const error = new HoldfastError('LOG_ARCHIVE_LEADER_CHANGED', message);
    if (!(await moveTask(tx, task, next, tx.nowUs, { error, notBeforeUs: 0n }))) return false;
    await tx.event({
      module: 'archive',
      event: 'leader_changed',
      severity: 'WARNING',
      tenantId: task.tenant_id,
      message,
      facts: {
        partition_group: task.partition_group,
        from_server_id: task.server_id,
        from_instance: task.instance,
        server_id: leader.server_id,
        instance: leader.instance,
        timeline: leader.timeline,
      },
    });
    return true;
  });
  if (moved) sendCancel(context, task, message, false);
  return moved;
}

/** Raises an alarm when several members of a group say that they are its primary: once, as long as it lasts. */
export class LeaderAlarm {
  readonly #raised = new Map<string, string>();

  async look(
    context: CoordinatorContext,
    group: { readonly tenantId: bigint; readonly tenantName: string; readonly partitionGroup: string },
    candidates: Candidates,
  ): Promise<void> {
    const key = `${group.tenantId} ${group.partitionGroup}`;
    const primaries = claimants(group.tenantId, group.partitionGroup, candidates);
    const claims = primaries.map((row) => `"${row.instance}" (timeline ${row.timeline})`).join(', ');
    if ((this.#raised.get(key) ?? '') === claims) return;
    this.#raised.set(key, claims);
    if (claims === '') return;
    await write(context, (tx) =>
      tx.event({
        module: 'archive',
        event: 'several_primaries',
        severity: 'ERROR',
        tenantId: group.tenantId,
        tenantName: group.tenantName,
        message: `partition group ${group.partitionGroup} has ${primaries.length} primaries: ${claims}. The newest timeline is archived; what is written to the others is lost to it.`,
        facts: {
          partition_group: group.partitionGroup,
          instances: primaries.map((row) => row.instance).join(', '),
        },
      }),
    );
  }
}
