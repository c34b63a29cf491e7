/** AgentService.Attach: an agent's hello, its declarations, and then what it reports until the stream ends. */
import { createHash, timingSafeEqual } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { HoldfastError, toHoldfastError } from '../../foundation/errors.ts';
import {
  type AgentMessage,
  CancelTaskSchema,
  type DeclaredInstance,
  type Hello,
  type TaskResult,
  WelcomeSchema,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { checkName } from '../../storage-layout/tree.ts';
import { findTask, type Task } from '../catalog/jobs.ts';
import { deleteOwedSlot, insertOwedSlot, listOwedSlots } from '../catalog/owed-slots.ts';
import { findLastRound } from '../catalog/rounds.ts';
import {
  attachServer,
  declareInstance,
  type InstanceRow,
  keepInstances,
  listInstances,
} from '../catalog/servers.ts';
import {
  findTenant,
  insertTenant,
  joinGroup,
  listTenants,
  nextTenantId,
  noteUndeclared,
} from '../catalog/tenants.ts';
import { type CoordinatorContext, type Transaction, write } from '../context.ts';
import { slotName } from '../jobs/dispatch.ts';
import { applyResult } from '../jobs/task-results.ts';
import { AgentSession, type AgentStream } from './hub.ts';

const HELLO_TIMEOUT_MS = 10_000;
const RESULT_RETRY_MS = 1000;

/** Serves one agent's stream until it ends. Throws PRIVILEGE for a wrong token, INVALID_ARGUMENT for a bad declaration. */
export async function serveAgent(
  context: CoordinatorContext,
  token: string | undefined,
  stream: AgentStream,
  signal: AbortSignal,
): Promise<void> {
  const messages = stream.messages[Symbol.asyncIterator]();
  const hello = await readHello(messages, stream);
  checkToken(token, hello.token);
  const serverId = await register(context, hello);
  const session = new AgentSession(serverId, stream, signal, context.clock.monotonicMs());
  session.send({
    case: 'welcome',
    value: create(WelcomeSchema, {
      serverId,
      clusterName: context.deployment.clusterName,
      clusterId: context.deployment.clusterId,
      deploymentUuid: context.deployment.deploymentUuid,
      heartbeatIntervalMs: context.timing.heartbeatIntervalMs,
      leaderEpoch: context.epoch,
    }),
  });
  await adoptTasks(context, session, hello);
  context.hub.open(session);
  context.bus.notify();
  context.logger.info({ serverId: String(serverId), zone: hello.zone, peer: stream.peer }, 'agent attached');
  try {
    await cancelUnwanted(context, session, hello);
    for (let next = await messages.next(); next.done !== true; next = await messages.next())
      await receive(context, session, next.value, signal);
  } finally {
    context.hub.close(session);
    context.bus.notify();
    context.logger.info({ serverId: String(serverId) }, 'agent detached');
  }
}

async function readHello(messages: AsyncIterator<AgentMessage>, stream: AgentStream): Promise<Hello> {
  const timer = setTimeout(() => stream.cancel(), HELLO_TIMEOUT_MS);
  try {
    const first = await messages.next();
    if (first.done === true || first.value.kind.case !== 'hello')
      throw new HoldfastError('INVALID_ARGUMENT', 'the first message of an agent is its hello');
    return first.value.kind.value;
  } finally {
    clearTimeout(timer);
  }
}

function checkToken(expected: string | undefined, given: string): void {
  if (expected === undefined) return;
  const digest = (text: string) => createHash('sha256').update(text).digest();
  if (!timingSafeEqual(digest(expected), digest(given))) {
    throw new HoldfastError('PRIVILEGE', 'the agent has another token than this coordinator', {
      hint: "Give the agent's token_file the same content as the coordinator's agent_token_file.",
    });
  }
}

/** Puts the agent, and the tenants, partition groups and instances it declares, into the catalog. */
async function register(context: CoordinatorContext, hello: Hello): Promise<bigint> {
  if (hello.agentUuid === '') throw new HoldfastError('INVALID_ARGUMENT', 'the agent has no uuid');
  for (const declared of hello.instances) {
    if (declared.tenant === '') continue; // only watched
    checkName('partition group', declared.partitionGroup);
    if (declared.tenant.length > 128)
      throw new HoldfastError('INVALID_ARGUMENT', `not a tenant name: ${JSON.stringify(declared.tenant)}`);
  }
  return await write(context, async (tx) => {
    const serverId = await attachServer(
      tx,
      { uuid: hello.agentUuid, ip: hello.ip, port: hello.port, zone: hello.zone, version: hello.version },
      tx.nowUs,
    );
    const before = (await listInstances(tx)).filter((row) => row.server_id === serverId);
    for (const declared of hello.instances) {
      const tenantId = await joinDeclared(tx, declared);
      const member = {
        serverId,
        instance: declared.instance,
        tenantId,
        partitionGroup: declared.partitionGroup,
      };
      await oweSlotOfEarlierGroup(context, tx, member);
      await declareInstance(tx, { ...member, restored: declared.restored });
    }
    const declared = hello.instances.map(({ instance }) => instance);
    await tellSlotsLeftBehind(context, tx, serverId, declared);
    await noteUndeclaredGroups(tx, before);
    await tx.event({
      module: 'agent',
      event: 'agent_attached',
      message: `agent of server ${serverId} attached from ${hello.ip}, zone ${hello.zone}`,
      facts: { server_id: serverId, instances: hello.instances.length, version: hello.version },
    });
    return serverId;
  });
}

/** An instance that was another group's has that group's slot, and its agent still reaches it. */
async function oweSlotOfEarlierGroup(
  context: CoordinatorContext,
  tx: Transaction,
  member: {
    readonly serverId: bigint;
    readonly instance: string;
    readonly tenantId: bigint | undefined;
    readonly partitionGroup: string;
  },
): Promise<void> {
  const earlier = (await listInstances(tx)).find(
    (row) => row.server_id === member.serverId && row.instance === member.instance,
  );
  if (earlier === undefined || earlier.tenant_id === null) return;
  if (earlier.tenant_id === member.tenantId && earlier.partition_group === member.partitionGroup) return;
  if ((await findLastRound(tx, earlier.tenant_id)) === undefined) return;
  const slot_name = slotName(context, earlier.tenant_id, earlier.partition_group);
  await insertOwedSlot(tx, { server_id: member.serverId, instance: member.instance, slot_name }, tx.nowUs);
}

/**
 * An agent reaches only what it declares. A slot on a member that it declares no more stays there and keeps log: it is
 * told with the statement that drops it, once.
 */
async function tellSlotsLeftBehind(
  context: CoordinatorContext,
  tx: Transaction,
  serverId: bigint,
  declared: readonly string[],
): Promise<void> {
  const left: { instance: string; slot: string }[] = [];
  for (const removed of await keepInstances(tx, serverId, declared))
    if (removed.tenant_id !== null && (await findLastRound(tx, removed.tenant_id)) !== undefined)
      left.push({
        instance: removed.instance,
        slot: slotName(context, removed.tenant_id, removed.partition_group),
      });
  for (const owed of await listOwedSlots(tx)) {
    if (owed.server_id !== serverId || declared.includes(owed.instance)) continue;
    await deleteOwedSlot(tx, owed);
    left.push({ instance: owed.instance, slot: owed.slot_name });
  }
  for (const { instance, slot } of left)
    await tx.event({
      module: 'archive',
      event: 'slot_left_behind',
      severity: 'WARNING',
      message: `instance "${instance}" of server ${serverId} is declared no more; its replication slot may still keep log there. Unless another agent declares that instance now, run on it: SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '${slot}';`,
      facts: { server_id: serverId, instance, slot_name: slot },
    });
}

/** The declared tenant's id, its partition group joined; undefined: the instance belongs to nobody. */
async function joinDeclared(tx: Transaction, declared: DeclaredInstance): Promise<bigint | undefined> {
  if (declared.tenant === '') return undefined;
  const tenantId = await tenantOf(tx, declared.tenant, declared.restored ? declared.tenantId : 0n);
  await joinGroup(tx, tenantId, declared.partitionGroup, tx.nowUs);
  return tenantId;
}

/** Groups that this agent declared and that no agent declares now are on their way out. Who is away declares what it did. */
async function noteUndeclaredGroups(tx: Transaction, before: readonly InstanceRow[]): Promise<void> {
  const now = await listInstances(tx);
  for (const { tenant_id: tenantId, partition_group: group } of before)
    if (tenantId !== null && !now.some((row) => row.tenant_id === tenantId && row.partition_group === group))
      await noteUndeclared(tx, tenantId, group, tx.nowUs);
}

/** The declared tenant's id; a tenant appears with the first agent that declares it. `givenId`: of a restored one. */
async function tenantOf(tx: Transaction, name: string, givenId: bigint): Promise<bigint> {
  const known = await findTenant(tx, name);
  if (known !== undefined) {
    if (givenId !== 0n && known.tenant_id !== givenId)
      throw new HoldfastError(
        'TENANT_EXIST',
        `the restored tenant "${name}" has id ${givenId}, but that name has id ${known.tenant_id} here`,
      );
    return known.tenant_id;
  }
  const taken = (await listTenants(tx)).some((tenant) => tenant.tenant_id === givenId);
  const tenantId = givenId !== 0n && !taken ? givenId : await nextTenantId(tx, givenId);
  await insertTenant(tx, { tenantId, name, status: 'NORMAL', nowUs: tx.nowUs });
  await tx.event({
    module: 'tenant',
    event: 'tenant_created',
    tenantId,
    tenantName: name,
    message: `tenant "${name}" appeared with id ${tenantId}`,
  });
  return tenantId;
}

/** Tasks that went on while the stream was down go on. Before the session is open: from then on what it lacks is lost (T3). */
async function adoptTasks(context: CoordinatorContext, session: AgentSession, hello: Hello): Promise<void> {
  for (const { taskId, attempt } of hello.runningTasks)
    if ((await wantedTask(context, session, taskId, attempt)) !== undefined) session.addTask(taskId, attempt);
}

/** Those that are no longer wanted are cancelled. Behind the opening: until then nobody could send it to this session. */
async function cancelUnwanted(
  context: CoordinatorContext,
  session: AgentSession,
  hello: Hello,
): Promise<void> {
  for (const { taskId, attempt } of hello.runningTasks) {
    const task = await wantedTask(context, session, taskId, attempt);
    if (task?.state === 'RUNNING') continue;
    session.send({
      case: 'cancelTask',
      value: create(CancelTaskSchema, {
        taskId,
        attempt,
        reason:
          task === undefined
            ? 'another attempt was begun, or the job has ended'
            : 'the task is being cancelled',
        drain: task?.kind === 'ARCHIVE',
      }),
    });
  }
}

/** The task, while this attempt of it is the server's and has not ended. */
async function wantedTask(
  context: CoordinatorContext,
  session: AgentSession,
  taskId: bigint,
  attempt: number,
): Promise<Task | undefined> {
  const task = await findTask(context.catalog, taskId);
  const isWanted =
    task?.attempt === attempt &&
    task.server_id === session.serverId &&
    (task.state === 'RUNNING' || task.state === 'CANCELLING');
  return isWanted ? task : undefined;
}

async function receive(
  context: CoordinatorContext,
  session: AgentSession,
  message: AgentMessage,
  signal: AbortSignal,
): Promise<void> {
  context.hub.seen(session.serverId);
  switch (message.kind.case) {
    case 'heartbeat':
      context.hub.reportHeartbeat(session.serverId, message.kind.value);
      return;
    case 'taskProgress':
      context.hub.reportProgress(message.kind.value);
      return;
    case 'taskResult':
      await storeResult(context, message.kind.value, signal);
      session.removeTask(message.kind.value.taskId, message.kind.value.attempt);
      context.bus.notify();
      return;
    case 'taskAccepted':
      return;
    case 'hello':
    case undefined:
      throw new HoldfastError(
        'INVALID_ARGUMENT',
        `an unexpected message: ${message.kind.case ?? 'of a newer version'}`,
      );
  }
}

/** A result that the catalog does not take is tried again: the agent says it only once per stream. */
async function storeResult(
  context: CoordinatorContext,
  result: TaskResult,
  signal: AbortSignal,
): Promise<void> {
  for (;;) {
    try {
      await applyResult(context, result);
      return;
    } catch (error) {
      const failure = toHoldfastError(error);
      if (failure.code === 'BACKUP_IO_PROHIBITED') throw failure;
      context.logger.error({ err: failure, taskId: String(result.taskId) }, 'a result could not be stored');
      await context.clock.sleep(RESULT_RETRY_MS, signal);
    }
  }
}
