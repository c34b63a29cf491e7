/**
 * The reconcile loop: reads what the rows say, and does what they ask for. It keeps nothing that matters: killed at any
 * moment, the next one goes on from the rows.
 *
 * Every pass stores what agents reported, then begins a step for each task, job and round that has none under way: a
 * destination that hangs holds up nothing but what needs it.
 */
import { HoldfastError, isError, toHoldfastError } from '../../foundation/errors.ts';
import { InstanceRole } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { keepMembership } from '../agents/membership.ts';
import { noteAbandonedLog } from '../archive/abandoned-log.ts';
import { followLeader, LeaderAlarm } from '../archive/follow-leader.ts';
import { SlotKeeping } from '../archive/keep-slots.ts';
import { nextRoundDelayUs } from '../archive/next-round.ts';
import { OverdueWatch } from '../archive/overdue.ts';
import { RetentionWatch } from '../archive/retention.ts';
import { RoundMembers } from '../archive/round-members.ts';
import { isRunning } from '../archive/round-states.ts';
import { startRound } from '../archive/start-round.ts';
import { recordRoundError, stepRound } from '../archive/step-round.ts';
import { listUnrecorded, settleTenant, welcomeBack } from '../archive/tenant-groups.ts';
import { findForksToRead } from '../catalog/abandoned.ts';
import { recordEvent } from '../catalog/events.ts';
import { type Job, listLiveTasks, listRunningJobs, type Task } from '../catalog/jobs.ts';
import { deleteOwedSlot } from '../catalog/owed-slots.ts';
import { listInterruptedRounds, listLiveRounds, type Round } from '../catalog/rounds.ts';
import {
  deactivateServer,
  type InstanceRoleName,
  listServers,
  recordHeartbeat,
  recordInstance,
} from '../catalog/servers.ts';
import { listAllGroups, listTenants } from '../catalog/tenants.ts';
import { type CoordinatorContext, type Transaction, write } from '../context.ts';
import { handleBackupError, stepBackup } from './backup-job.ts';
import { stepCheck } from './check-job.ts';
import { LimitKeeping } from './copy-limits.ts';
import { dispatchTask } from './dispatch.ts';
import { type Candidates, placeValidations } from './placement.ts';
import { stepRestore } from './restore-job.ts';
import { noticeDeadline, noticeLoss } from './task-care.ts';
import { applyProgress } from './task-results.ts';
import { handleValidateError, stepValidate } from './validate-job.ts';

/** Passes follow each other no closer than this, however much changes. */
const MIN_INTERVAL_MS = 20;
/** A step that failed is tried again after this. */
const STEP_RETRY_MS = 1000;

/** A newer agent may know more roles. */
const ROLES: Readonly<Partial<Record<number, InstanceRoleName>>> = {
  [InstanceRole.UNSPECIFIED]: 'UNKNOWN',
  [InstanceRole.PRIMARY]: 'PRIMARY',
  [InstanceRole.STANDBY]: 'STANDBY',
  [InstanceRole.DOWN]: 'DOWN',
};

/** Runs until `signal` aborts, then waits for the steps under way. Rejects when another coordinator leads. */
export async function reconcileForever(context: CoordinatorContext, signal: AbortSignal): Promise<void> {
  const steps = new Steps(context, signal);
  const leaders = {
    alarm: new LeaderAlarm(),
    slots: new SlotKeeping(),
    retention: new RetentionWatch(),
    overdue: new OverdueWatch(),
    members: new RoundMembers(),
    limits: new LimitKeeping(),
  };
  try {
    while (!signal.aborted) {
      const { version } = context.bus;
      await passOnce(context, steps, leaders);
      await context.clock.sleep(MIN_INTERVAL_MS, signal);
      await context.bus.changed(version, context.timing.reconcileIntervalMs, context.clock, signal);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    await steps.settle();
  }
}

/** What is kept between passes about leaders, members and standbys; lost with the process, things are read or said again. */
type Leaders = {
  readonly alarm: LeaderAlarm;
  readonly slots: SlotKeeping;
  readonly retention: RetentionWatch;
  readonly overdue: OverdueWatch;
  readonly members: RoundMembers;
  readonly limits: LimitKeeping;
};

async function passOnce(context: CoordinatorContext, steps: Steps, leaders: Leaders): Promise<void> {
  try {
    await storeReports(context);
    await noticeSilence(context);
    await beginSteps(context, steps, leaders);
  } catch (error) {
    if (isError(error, 'BACKUP_IO_PROHIBITED')) throw error;
    context.logger.error({ err: error }, 'a reconcile pass failed');
  }
}

/** Heartbeats and progress, the last of each, in one transaction. */
async function storeReports(context: CoordinatorContext): Promise<void> {
  const { heartbeats, progress } = context.hub.take();
  if (heartbeats.size === 0 && progress.size === 0) return;
  const nowUs = context.clock.nowUs();
  let told = false;
  await context.catalog.transaction(async (queryable) => {
    const tx: Transaction = {
      query: (sql, values) => queryable.query(sql, values),
      event: async (event) => {
        told = true;
        await recordEvent(queryable, event, nowUs);
      },
      nowUs,
    };
    for (const [serverId, heartbeat] of heartbeats) {
      await recordHeartbeat(tx, serverId, heartbeat, nowUs);
      for (const instance of heartbeat.instances)
        await recordInstance(
          tx,
          serverId,
          instance.instance,
          { ...instance, role: ROLES[instance.role] ?? 'UNKNOWN' },
          nowUs,
        );
      for (const { instance, slotName } of heartbeat.droppedSlots)
        await deleteOwedSlot(tx, { server_id: serverId, instance, slot_name: slotName });
    }
    for (const [taskId, reported] of progress) await applyProgress(tx, taskId, reported);
  });
  // What is stored with every report moves nothing else; an event is waited for.
  if (told) context.bus.notify();
}

async function noticeSilence(context: CoordinatorContext): Promise<void> {
  for (const server of await listServers(context.catalog)) {
    if (server.status === 'INACTIVE' || context.hub.session(server.server_id) !== undefined) continue;
    if (context.hub.silentMs(server.server_id) <= context.timing.agentLeaseMs) continue;
    await write(context, async (tx) => {
      if (!(await deactivateServer(tx, server.server_id))) return;
      await tx.event({
        module: 'agent',
        event: 'agent_lost',
        severity: 'WARNING',
        message: `the agent of server ${server.server_id} (${server.ip}) is lost`,
        facts: { server_id: server.server_id },
      });
    });
  }
}

async function beginSteps(context: CoordinatorContext, steps: Steps, leaders: Leaders): Promise<void> {
  await welcomeBack(context);
  const tasks = await listLiveTasks(context.catalog);
  const nowUs = context.clock.nowUs();
  const isDue = (task: Task) => task.state !== 'PENDING' || task.not_before_us <= nowUs;
  const attached = new Set(context.hub.attachedServers());
  const candidates: Candidates = {
    instances: await keepMembership(context),
    servers: await listServers(context.catalog),
    attached,
    groups: await listAllGroups(context.catalog),
    validations: placeValidations(tasks.filter(isDue), attached),
  };
  await lookAtLeaders(context, leaders, candidates);
  await leaders.limits.tell(context, tasks);
  for (const task of tasks)
    steps.begin(`task ${task.task_id}`, (signal) => stepTask(context, task, candidates, signal));
  for (const round of await listLiveRounds(context.catalog))
    steps.begin(
      `round ${round.tenant_id}.${round.round}`,
      (signal) => stepRound(context, round, leaders.members, signal),
      (error) => recordRoundError(context, round, error),
    );
  for (const fork of await findForksToRead(context.catalog, context.clock.nowUs()))
    steps.begin(`abandoned log ${fork.tenant_id}.${fork.round}.${fork.partition_group}`, (signal) =>
      noteAbandonedLog(context, fork, signal),
    );
  for (const tenantId of await listUnrecorded(context))
    steps.begin(`groups of tenant ${tenantId}`, (signal) => settleTenant(context, tenantId, signal));
  for (const job of await listRunningJobs(context.catalog))
    steps.begin(
      `job ${job.job_id}`,
      (signal) => stepJob(context, job, signal),
      async (error) => {
        if (job.kind === 'BACKUP') await handleBackupError(context, job, error);
        if (job.kind === 'VALIDATE') await handleValidateError(context, job, error);
      },
    );
  for (const round of await listInterruptedRounds(context.catalog))
    steps.begin(
      `new round ${round.tenant_id}`,
      (signal) => beginNewRound(context, round, signal),
      (error) => recordRoundError(context, round, error),
    );
}

async function lookAtLeaders(
  context: CoordinatorContext,
  { alarm, slots, retention, overdue }: Leaders,
  candidates: Candidates,
): Promise<void> {
  const tenants = await listTenants(context.catalog);
  for (const group of candidates.groups ?? []) {
    const tenant = tenants.find((each) => each.tenant_id === group.tenant_id);
    if (tenant?.status !== 'NORMAL' || group.left_us !== 0n) continue;
    const named = {
      tenantId: group.tenant_id,
      tenantName: tenant.tenant_name,
      partitionGroup: group.partition_group,
    };
    await alarm.look(context, named, candidates);
  }
  await slots.tell(context, tenants, candidates);
  await retention.look(context, tenants, candidates);
  await overdue.look(context, candidates);
}

async function stepTask(
  context: CoordinatorContext,
  task: Task,
  candidates: Candidates,
  signal: AbortSignal,
): Promise<void> {
  await noticeDeadline(context, task);
  if (await followLeader(context, task, candidates)) return;
  if (task.state !== 'PENDING') await noticeLoss(context, task);
  else if (task.not_before_us <= context.clock.nowUs()) await dispatchTask(context, task, candidates, signal);
}

async function stepJob(context: CoordinatorContext, job: Job, signal: AbortSignal): Promise<void> {
  switch (job.kind) {
    case 'BACKUP':
      await stepBackup(context, job, signal);
      return;
    case 'RESTORE':
      await stepRestore(context, job);
      return;
    case 'CHECK':
      await stepCheck(context, job);
      return;
    case 'VALIDATE':
      await stepValidate(context, job, signal);
      return;
    case 'ARCHIVE': // its round is stepped
  }
}

/** archive_auto_new_round: after a hole the log goes on in a new round (correctness.md 14). */
async function beginNewRound(context: CoordinatorContext, round: Round, signal: AbortSignal): Promise<void> {
  if (round.end_owed) return;
  const delayUs = await nextRoundDelayUs(context, round);
  if (delayUs === undefined || context.clock.nowUs() < round.end_us + delayUs) return;
  const tenant = (await listTenants(context.catalog)).find(
    (candidate) => candidate.tenant_id === round.tenant_id,
  );
  if (tenant?.status !== 'NORMAL' || isRunning(round.state)) return;
  const destination = {
    uri: context.secrets.decrypt(round.destination),
    display: round.display_destination,
  };
  const started = await startRound(context, tenant, destination, 'begun by archive_auto_new_round', signal);
  await write(context, (tx) =>
    tx.event({
      module: 'archive',
      event: 'full_backup_needed',
      severity: 'WARNING',
      tenantId: tenant.tenant_id,
      tenantName: tenant.tenant_name,
      message: `round ${started.round} of tenant "${tenant.tenant_name}" follows a hole: what it holds is restorable after a full backup`,
      facts: { round: started.round },
    }),
  );
}

/** Steps under way, at most one for each thing; each has a time limit and an owner that awaits it. */
class Steps {
  readonly #context: CoordinatorContext;
  readonly #signal: AbortSignal;
  readonly #running = new Map<string, Promise<void>>();
  readonly #retryAtMs = new Map<string, number>();

  constructor(context: CoordinatorContext, signal: AbortSignal) {
    this.#context = context;
    this.#signal = signal;
  }

  /** Begins the step unless one of this name is under way, or failed a moment ago. */
  begin(
    name: string,
    work: (signal: AbortSignal) => Promise<void>,
    onError?: (error: HoldfastError) => Promise<void>,
  ): void {
    const nowMs = this.#context.clock.monotonicMs();
    if (this.#running.has(name) || this.#signal.aborted || nowMs < (this.#retryAtMs.get(name) ?? 0)) return;
    this.#retryAtMs.delete(name);
    const running = this.#run(name, work, onError).finally(() => this.#running.delete(name));
    this.#running.set(name, running);
  }

  async settle(): Promise<void> {
    await Promise.all(this.#running.values());
  }

  /** Never rejects. */
  async #run(
    name: string,
    work: (signal: AbortSignal) => Promise<void>,
    onError: ((error: HoldfastError) => Promise<void>) | undefined,
  ): Promise<void> {
    const limit = AbortSignal.timeout(this.#context.timing.stepTimeoutMs);
    try {
      await work(AbortSignal.any([this.#signal, limit]));
    } catch (error) {
      if (this.#signal.aborted) return;
      const failure = limit.aborted ? timedOut(name, error) : toHoldfastError(error);
      this.#retryAtMs.set(name, this.#context.clock.monotonicMs() + STEP_RETRY_MS);
      this.#context.logger.warn({ err: failure, step: name }, 'a step failed');
      await onError?.(failure).catch((cause: unknown) =>
        this.#context.logger.error({ err: cause, step: name }, 'a failed step could not be recorded'),
      );
    }
  }
}

function timedOut(name: string, cause: unknown): HoldfastError {
  return new HoldfastError('TIMEOUT', `${name}: the destination did not answer in time`, { cause });
}
