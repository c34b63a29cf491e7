import { create } from '@bufbuild/protobuf';
import * as grpc from '@grpc/grpc-js';
import { afterEach, expect, test } from 'vitest';
import { HoldfastError } from '../../../foundation/errors.ts';
import {
  AdminService,
  EventSchema,
  ExecuteRequestSchema,
  ExecuteResponseSchema,
  WatchEventsRequestSchema,
} from '../../../proto/gen/holdfast/v1/admin_pb.ts';
import {
  AgentMessageSchema,
  AgentService,
  CoordinatorMessageSchema,
} from '../../../proto/gen/holdfast/v1/agent_pb.ts';
import { addService, makeClient, type ServiceHandlers } from '../../../proto/grpc-service.ts';

const closers: (() => void)[] = [];
afterEach(() => {
  for (const close of closers.splice(0)) close();
});

async function listen(server: grpc.Server): Promise<string> {
  closers.push(() => server.forceShutdown());
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) =>
    error === null ? resolve(port) : reject(error),
  );
  return `127.0.0.1:${await promise}`;
}

async function adminClient(handlers: Partial<ServiceHandlers<typeof AdminService>>) {
  const server = new grpc.Server();
  addService(server, AdminService, {
    // oxlint-disable-next-line require-yield
    execute: async function* () {
      throw new HoldfastError('INTERNAL', 'not used');
    },
    // oxlint-disable-next-line require-yield
    watchEvents: async function* () {
      throw new HoldfastError('INTERNAL', 'not used');
    },
    ...handlers,
  });
  const client = makeClient(AdminService, await listen(server));
  closers.push(() => client.close());
  return client;
}

test('a server stream arrives in order and whole', async () => {
  const client = await adminClient({
    execute: async function* (request) {
      for (let n = 0; n < 200; n += 1)
        yield create(ExecuteResponseSchema, {
          kind: { case: 'commandComplete', value: { tag: `${request.sql} ${n}` } },
        });
    },
  });
  const tags: string[] = [];
  for await (const message of client.execute(create(ExecuteRequestSchema, { sql: 'x' })))
    if (message.kind.case === 'commandComplete') tags.push(message.kind.value.tag);
  expect(tags).toEqual(Array.from({ length: 200 }, (_, n) => `x ${n}`));
});

test('an error arrives with code, detail, hint and position, non-ASCII text included', async () => {
  const client = await adminClient({
    execute: async function* () {
      yield create(ExecuteResponseSchema, { kind: { case: 'notice', value: { message: 'first' } } });
      throw new HoldfastError('BACKUP_CAN_NOT_START', 'log archive of tenant "ørders" is STOP', {
        detail: 'd',
        hint: 'h',
        position: 7,
      });
    },
  });
  const seen: string[] = [];
  const iterate = async () => {
    for await (const message of client.execute(create(ExecuteRequestSchema, {})))
      seen.push(message.kind.case ?? '');
  };
  await expect(iterate()).rejects.toMatchObject({
    name: 'HoldfastError',
    code: 'BACKUP_CAN_NOT_START',
    message: 'log archive of tenant "ørders" is STOP',
    detail: 'd',
    hint: 'h',
    position: 7,
  });
  expect(seen).toEqual(['notice']);
});

test('aborting the client aborts the handler of the server', async () => {
  const { promise: aborted, resolve } = Promise.withResolvers<void>();
  const client = await adminClient({
    watchEvents: async function* (_request, signal) {
      signal.addEventListener('abort', () => resolve());
      yield create(EventSchema, { eventId: 1n });
      await aborted;
    },
  });
  const abort = new AbortController();
  const iterate = async () => {
    const events = client.watchEvents(create(WatchEventsRequestSchema, {}), { signal: abort.signal });
    for await (const _event of events) abort.abort(new HoldfastError('CANCELLED', 'enough'));
  };
  await expect(iterate()).rejects.toMatchObject({ code: 'CANCELLED', message: 'enough' });
  await aborted;
});

function hello(token: string) {
  return create(AgentMessageSchema, { kind: { case: 'hello', value: { token } } });
}

async function agentClient() {
  const server = new grpc.Server();
  addService(server, AgentService, {
    attach: async (stream, signal) => {
      for await (const message of stream.messages) {
        if (message.kind.case === 'hello' && message.kind.value.token !== 'secret')
          throw new HoldfastError('PRIVILEGE', 'wrong token');
        await stream.write(
          create(CoordinatorMessageSchema, { kind: { case: 'welcome', value: { serverId: 5n } } }),
          signal,
        );
      }
    },
  });
  const client = makeClient(AgentService, await listen(server));
  closers.push(() => client.close());
  return client;
}

test('a bidirectional stream carries messages both ways until the client ends it', async () => {
  const { signal } = new AbortController();
  const stream = (await agentClient()).attach({ signal });
  await stream.write(hello('secret'), signal);
  for await (const message of stream.messages) {
    expect(message).toMatchObject({ kind: { case: 'welcome', value: { serverId: 5n } } });
    stream.end();
  }
});

test('a refusal in a bidirectional stream arrives as a typed error', async () => {
  const { signal } = new AbortController();
  const stream = (await agentClient()).attach({ signal });
  await stream.write(hello('wrong'), signal);
  const iterate = async () => {
    for await (const _message of stream.messages) throw new Error('nothing should come');
  };
  await expect(iterate()).rejects.toMatchObject({ code: 'PRIVILEGE', message: 'wrong token' });
});

test('an address where nobody listens gives AGENT_UNREACHABLE', async () => {
  const client = makeClient(AdminService, '127.0.0.1:1');
  closers.push(() => client.close());
  const iterate = async () => {
    for await (const _message of client.execute(create(ExecuteRequestSchema, {}))) throw new Error('no');
  };
  await expect(iterate()).rejects.toMatchObject({ code: 'AGENT_UNREACHABLE' });
});
