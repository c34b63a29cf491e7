/** A whole agent against a coordinator that the test plays: hello, heartbeats, tasks, a stream that breaks, an orderly end. */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import * as grpc from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { agentConfigSchema } from '../../agent/config.ts';
import { runAgent } from '../../agent/main.ts';
import { assert, defined } from '../../foundation/assert.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { silentLogger } from '../../foundation/log.ts';
import {
  type AgentMessage,
  AgentService,
  type CoordinatorMessage,
  CoordinatorMessageSchema,
  InstanceRole,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { addService, type MessageStream } from '../../proto/grpc-service.ts';
import {
  ARCHIVE_GROUP,
  ARCHIVE_ROOT,
  ARCHIVE_ROUND,
  ARCHIVE_SLOT,
  openArchive,
  writeMountFile,
} from '../support/archiver.ts';
import { createServer, makeTestDirectory, type TestServer } from '../support/postgres.ts';

type Kind = NonNullable<CoordinatorMessage['kind']>;

/** Remembers all that agents say; `send` speaks to the one attached last. */
class FakeCoordinator {
  readonly heard: AgentMessage[] = [];
  hellos = 0;
  port = 0;
  readonly #server = new grpc.Server();
  #stream: MessageStream<AgentMessage, CoordinatorMessage> | undefined;
  #drop = Promise.withResolvers<void>();

  async listen(): Promise<void> {
    addService(this.#server, AgentService, {
      attach: async (stream, signal) => {
        this.#stream = stream;
        this.#drop = Promise.withResolvers<void>();
        await Promise.race([this.#hear(stream, signal), this.#drop.promise]);
      },
    });
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    this.#server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    );
    this.port = await promise;
  }

  async send(kind: Kind): Promise<void> {
    const stream = defined(this.#stream, 'an attached agent');
    await stream.write(create(CoordinatorMessageSchema, { kind }), AbortSignal.timeout(5000));
  }

  /** Ends the stream from this side, as a coordinator that dies does. */
  drop(): void {
    this.#drop.resolve();
  }

  close(): void {
    this.#server.forceShutdown();
  }

  async #hear(stream: MessageStream<AgentMessage, CoordinatorMessage>, signal: AbortSignal): Promise<void> {
    for await (const message of stream.messages) {
      this.heard.push(message);
      if (message.kind.case !== 'hello') continue;
      this.hellos += 1;
      const value = { serverId: 3n, heartbeatIntervalMs: 100, clusterName: 'hf', clusterId: 1n };
      const welcome = create(CoordinatorMessageSchema, { kind: { case: 'welcome', value } });
      await stream.write(welcome, signal);
    }
  }
}

let server: TestServer;
let base: string;
let coordinator: FakeCoordinator;
let stop: AbortController;
let agent: Promise<void>;

beforeAll(async () => {
  server = await createServer();
});
afterAll(() => server[Symbol.asyncDispose]());

beforeEach(async () => {
  base = await makeTestDirectory('agent');
  await mkdir(join(base, 'd'));
  await writeMountFile(join(base, 'd'));
  coordinator = new FakeCoordinator();
  await coordinator.listen();
  stop = new AbortController();
  const config = agentConfigSchema.parse({
    coordinator: `127.0.0.1:${coordinator.port}`,
    node: { zone: 'z1' },
    state_directory: join(base, 'state'),
    instances: [{ name: 'a', tenant: 'orders', port: server.port }],
  });
  agent = runAgent(config, stop.signal, silentLogger());
  await until(() => coordinator.hellos === 1);
});
afterEach(async () => {
  stop.abort(new HoldfastError('SHUTTING_DOWN', 'the test ends'));
  await agent;
  coordinator.close();
  await rm(base, { recursive: true, force: true });
});

async function until(holds: () => boolean, timeoutMs = 15_000): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!holds()) {
    assert(Date.now() < deadline, `timed out: ${holds.toString()}`);
    await delay(10);
  }
}

type Said<Case> =
  Extract<AgentMessage['kind'], { case: Case }> extends { value: infer Value } ? Value : never;

function heard<Case extends NonNullable<AgentMessage['kind']['case']>>(name: Case): Said<Case>[] {
  const values = coordinator.heard.flatMap(({ kind }): unknown[] => (kind.case === name ? [kind.value] : []));
  return values as Said<Case>[]; // told apart by case
}

function durable(): bigint {
  const last = heard('taskProgress').at(-1)?.kind;
  return last?.case === 'archive' ? (last.value.durable?.lsn ?? 0n) : 0n;
}

async function startArchive(attempt: number): Promise<void> {
  await coordinator.send({
    case: 'startTask',
    value: create(CoordinatorMessageSchema, {
      kind: {
        case: 'startTask',
        value: {
          taskId: 5n,
          attempt,
          kind: {
            case: 'archive',
            value: {
              destination: { uri: `file://${join(base, 'd')}`, ...ARCHIVE_ROOT },
              ...ARCHIVE_ROUND,
              partitionGroup: ARCHIVE_GROUP,
              instance: 'a',
              epoch: BigInt(attempt),
              slotName: ARCHIVE_SLOT,
              fresh: true,
              checkpointIntervalMs: 100,
              compression: 'zstd:1',
            },
          },
        },
      },
    }).kind.value as Extract<Kind, { case: 'startTask' }>['value'], // what was just made
  });
}

test('says hello with what it declares and beats with how each instance is', async () => {
  const [hello] = heard('hello');
  expect(hello).toMatchObject({
    zone: 'z1',
    instances: [{ tenant: 'orders', partitionGroup: 'p0', instance: 'a', restored: false }],
  });
  await until(() => heard('heartbeat').some((beat) => beat.instances[0]?.role === InstanceRole.PRIMARY));
  const beat = defined(heard('heartbeat').at(-1), 'a heartbeat');
  expect(beat.instances[0]).toMatchObject({ postgresMajor: 17, timeline: 1, error: '' });
  expect(beat.residentMemoryBytes).toBeGreaterThan(0n);
  await server.stop('fast');
  await until(() => heard('heartbeat').at(-1)?.instances[0]?.role === InstanceRole.DOWN);
  expect(heard('heartbeat').at(-1)?.instances[0]?.error).toMatch(/SERVER_UNREACHABLE/);
  await server.start();
  await until(() => heard('heartbeat').at(-1)?.instances[0]?.role === InstanceRole.PRIMARY);
});

test('archives while the stream is down, declares the task when it is back, flushes and drains when told', async () => {
  await startArchive(1);
  await until(() => durable() > 0n);
  coordinator.drop();
  await until(() => coordinator.hellos === 2);
  expect(heard('hello').at(-1)?.runningTasks).toMatchObject([{ taskId: 5n, attempt: 1 }]);
  await server.query('CREATE TABLE IF NOT EXISTS t AS SELECT 1');
  const [row] = await server.query<{ lsn: string }>(
    "SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::text AS lsn",
  );
  const lsn = BigInt(row?.lsn ?? 0);
  await coordinator.send({
    case: 'flushLog',
    value: { $typeName: 'holdfast.v1.FlushLog', taskId: 5n, attempt: 1, lsn, seal: false },
  });
  await until(() => durable() >= lsn);
  await coordinator.send({
    case: 'cancelTask',
    value: {
      $typeName: 'holdfast.v1.CancelTask',
      taskId: 5n,
      attempt: 1,
      drain: true,
      reason: 'NOARCHIVELOG',
    },
  });
  await until(() => heard('taskResult').length > 0);
  expect(heard('taskResult')[0]?.kind).toMatchObject({ case: 'archive', value: { interruptedReason: '' } });
  expect((await openArchive(join(base, 'd'))).unsealed).toEqual([]);
});

test('told to end, it seals what it has and says that the task ended with it', async () => {
  await startArchive(1);
  await until(() => durable() > 0n);
  stop.abort(new HoldfastError('SHUTTING_DOWN', 'the test ends'));
  await agent;
  await until(() => heard('taskResult').length > 0);
  expect(heard('taskResult')[0]?.kind).toMatchObject({ case: 'error', value: { code: 'SHUTTING_DOWN' } });
  expect((await openArchive(join(base, 'd'))).unsealed).toEqual([]);
});

test('a check names every item, and a task that the agent cannot do fails by name', async () => {
  const check = {
    instance: 'a',
    purpose: 'archive',
    destination: { uri: `file://${base}/nowhere`, ...ARCHIVE_ROOT },
  };
  const orders = [
    { taskId: 8n, attempt: 0, kind: { case: 'check', value: check } },
    { taskId: 9n, attempt: 0, kind: { case: 'restore', value: {} } },
  ] as const;
  for (const value of orders) {
    const made = create(CoordinatorMessageSchema, { kind: { case: 'startTask', value } });
    await coordinator.send(made.kind);
  }
  await until(() => heard('taskResult').length === 2);
  const results = new Map(heard('taskResult').map((result) => [result.taskId, result.kind]));
  expect(results.get(9n)).toMatchObject({ case: 'error', value: { code: 'INVALID_CONFIG' } });
  const items = results.get(8n);
  assert(items?.case === 'check', 'a check result');
  expect(items.value.items.filter((item) => !item.passed).map((item) => item.name)).toEqual(['destination']);
});
