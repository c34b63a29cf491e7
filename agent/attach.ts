/**
 * The agent's stream to the leading coordinator.
 *
 * ```
 *   dialling ──Hello, Welcome──► attached ──stream ends or fails──► waiting (200 ms … 5 s) ──► dialling (the next address)
 * ```
 *
 * Attached: heartbeats at the interval that Welcome names, orders to the task runner, its messages upward, at most every
 * 200 ms. Tasks know nothing of this: they go on while the stream is down.
 */
import { statfs } from 'node:fs/promises';
import { create } from '@bufbuild/protobuf';
import type { ChannelCredentials } from '@grpc/grpc-js';
import type { Clock } from '../foundation/clock.ts';
import { HoldfastError, toHoldfastError } from '../foundation/errors.ts';
import type { Logger } from '../foundation/log.ts';
import { VERSION } from '../foundation/version.ts';
import {
  type AgentMessage,
  AgentMessageSchema,
  AgentService,
  type CoordinatorMessage,
  HelloSchema,
  type Welcome,
} from '../proto/gen/holdfast/v1/agent_pb.ts';
import { type MessageStream, makeClient } from '../proto/grpc-service.ts';
import type { Instances } from './instances.ts';
import type { SlotKeeper } from './slot-keeper.ts';
import { PROGRESS_INTERVAL_MS, type TaskRunner } from './task-runner.ts';

const WELCOME_TIMEOUT_MS = 15_000;
const BACKOFF_FIRST_MS = 200;
const BACKOFF_LAST_MS = 5000;
const HEARTBEAT_MIN_MS = 100;

export type AttachOptions = {
  readonly addresses: readonly string[];
  readonly credentials: ChannelCredentials;
  readonly token: (() => Promise<string>) | undefined;
  readonly agentUuid: string;
  readonly node: { readonly ip: string; readonly port: number; readonly zone: string };
  /** Whose free space is reported. */
  readonly restoreDirectory: string | undefined;
  readonly instances: Instances;
  readonly runner: TaskRunner;
  readonly slots: SlotKeeper;
  /** Told before any task of this stream arrives. */
  readonly onWelcome: (welcome: Welcome) => void;
  readonly clock: Clock;
  readonly logger: Logger;
};

type Stream = MessageStream<CoordinatorMessage, AgentMessage>;

/** Attaches again and again until the signal fires; then what is still to be said is sent, and it returns. */
export async function stayAttached(options: AttachOptions, signal: AbortSignal): Promise<void> {
  let failures = 0;
  while (!signal.aborted) {
    const address = options.addresses[failures % options.addresses.length] ?? '';
    try {
      await attachOnce(options, address, signal, () => {
        failures = 0;
      });
    } catch (error) {
      if (signal.aborted) return;
      const failure = toHoldfastError(error);
      if (failures === 0 || failure.code === 'PRIVILEGE')
        options.logger.warn({ err: failure, address }, 'not attached to the coordinator; trying again');
    }
    failures += 1;
    const backoffMs = Math.min(BACKOFF_LAST_MS, BACKOFF_FIRST_MS * 2 ** Math.min(failures - 1, 10));
    await options.clock.sleep(backoffMs, signal).catch(() => undefined);
  }
}

async function attachOnce(
  options: AttachOptions,
  address: string,
  signal: AbortSignal,
  onAttached: () => void,
): Promise<void> {
  const client = makeClient(AgentService, address, options.credentials);
  const ended = new AbortController();
  try {
    const stream = client.attach();
    const messages = stream.messages[Symbol.asyncIterator]();
    await stream.write(await hello(options), signal);
    const welcome = await awaitWelcome(messages, stream, signal);
    options.logger.info({ address, serverId: String(welcome.serverId) }, 'attached to the coordinator');
    onAttached();
    options.onWelcome(welcome);
    options.runner.repeatReports();
    const live = AbortSignal.any([signal, ended.signal]);
    // Whichever loop ends first ends the stream; the others end with it.
    const loops = [
      receiveOrders(messages, options),
      sendHeartbeats(stream, options, welcome.heartbeatIntervalMs, live),
      sendReports(stream, options, live),
    ];
    const onAbort = () => void finish(stream, options);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      await Promise.race(loops);
    } finally {
      signal.removeEventListener('abort', onAbort);
      ended.abort();
      if (!signal.aborted) stream.cancel();
      await Promise.allSettled(loops);
    }
  } finally {
    ended.abort();
    client.close();
  }
  if (!signal.aborted) throw new HoldfastError('AGENT_UNREACHABLE', 'the coordinator ended the stream');
}

/** At the agent's own end: the last results leave, then the stream is closed from this side. */
async function finish(stream: Stream, options: AttachOptions): Promise<void> {
  const limit = AbortSignal.timeout(1000);
  try {
    for (const message of options.runner.takeMessages()) await stream.write(message, limit);
  } catch (error) {
    options.logger.debug({ err: error }, 'the last reports did not leave');
  }
  stream.end();
  setTimeout(() => stream.cancel(), 500).unref();
}

async function hello(options: AttachOptions): Promise<AgentMessage> {
  const { node } = options;
  const value = create(HelloSchema, {
    agentUuid: options.agentUuid,
    ip: node.ip,
    port: node.port,
    zone: node.zone,
    version: VERSION,
    instances: options.instances.all().map((instance) => ({
      tenant: instance.tenant ?? '',
      partitionGroup: instance.partitionGroup,
      instance: instance.name,
      restored: instance.restoredTenantId !== undefined,
      tenantId: instance.restoredTenantId ?? 0n,
    })),
    runningTasks: options.runner.known().map((task) => ({ ...task })),
    token: options.token === undefined ? '' : await options.token(),
  });
  return create(AgentMessageSchema, { kind: { case: 'hello', value } });
}

async function awaitWelcome(
  messages: AsyncIterator<CoordinatorMessage>,
  stream: Stream,
  signal: AbortSignal,
): Promise<Welcome> {
  const timer = setTimeout(() => stream.cancel(), WELCOME_TIMEOUT_MS);
  const onAbort = () => stream.cancel();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    const first = await messages.next();
    if (first.done !== true && first.value.kind.case === 'welcome') return first.value.kind.value;
    throw new HoldfastError('AGENT_UNREACHABLE', 'the coordinator did not answer hello with welcome');
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
  }
}

async function receiveOrders(
  messages: AsyncIterator<CoordinatorMessage>,
  options: AttachOptions,
): Promise<void> {
  for (;;) {
    const next = await messages.next();
    if (next.done === true) return;
    obey(next.value, options);
  }
}

function obey({ kind }: CoordinatorMessage, { runner, slots, logger }: AttachOptions): void {
  switch (kind.case) {
    case 'startTask':
      return runner.start(kind.value);
    case 'cancelTask':
      return runner.cancel(kind.value);
    case 'flushLog':
      return runner.flushLog(kind.value);
    case 'reportTasks':
      return runner.repeatReports();
    case 'limitTask':
      return runner.limitTask(kind.value);
    case 'keepSlots':
      return slots.keep(kind.value);
    case 'welcome':
    case undefined:
      // A newer coordinator may say what this agent does not know; it must not lose the stream for that.
      logger.warn({ kind: kind.case }, 'an order that this agent does not know');
  }
}

async function sendHeartbeats(
  stream: Stream,
  options: AttachOptions,
  intervalMs: number,
  signal: AbortSignal,
): Promise<void> {
  for (;;) {
    const instances = await options.instances.statuses(signal);
    const value = {
      timeUs: BigInt(options.clock.nowMs()) * 1000n,
      instances: [...instances],
      residentMemoryBytes: BigInt(process.memoryUsage.rss()),
      freeDiskBytes: await freeBytes(options.restoreDirectory),
      droppedSlots: options.slots.dropped().map(({ instance, slotName }) => ({ instance, slotName })),
    };
    await stream.write(create(AgentMessageSchema, { kind: { case: 'heartbeat', value } }), signal);
    await options.clock.sleep(Math.max(HEARTBEAT_MIN_MS, intervalMs), signal);
  }
}

async function sendReports(stream: Stream, options: AttachOptions, signal: AbortSignal): Promise<void> {
  const aborted = new Promise<never>((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true }); // our signals abort with Errors
  });
  aborted.catch(() => undefined); // it is only raced
  for (;;) {
    await Promise.race([options.runner.pending(), aborted]);
    for (const message of options.runner.takeMessages()) await stream.write(message, signal);
    await options.clock.sleep(PROGRESS_INTERVAL_MS, signal);
  }
}

/** 0 when unknown. */
async function freeBytes(directory: string | undefined): Promise<bigint> {
  if (directory === undefined) return 0n;
  try {
    const { bavail, bsize } = await statfs(directory, { bigint: true });
    return bavail * bsize;
  } catch {
    return 0n; // not there yet
  }
}
