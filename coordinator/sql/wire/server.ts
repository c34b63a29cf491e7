/** The PostgreSQL wire front end: listens, lets clients in, routes cancel requests. */
import { randomInt } from 'node:crypto';
import { createServer, type Server, type Socket } from 'node:net';
import type { SecureContext } from 'node:tls';
import { HoldfastError, toHoldfastError } from '../../../foundation/errors.ts';
import type { Logger } from '../../../foundation/log.ts';
import type { Credentials } from '../credentials.ts';
import { createClient, type SqlServices } from '../execute.ts';
import { parseSql } from '../parse.ts';
import { createSession } from '../session.ts';
import { backendKeyData, errorResponse, parameterStatus } from './backend-messages.ts';
import { ClientConnection } from './client-connection.ts';
import { clientGone, writeTo } from './message-queue.ts';
import { authenticate, readStartup, type Startup } from './startup.ts';

export type WireServerOptions = {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  readonly credentials: Credentials;
  readonly services: SqlServices;
  readonly logger: Logger;
  readonly tls?: SecureContext | undefined;
  readonly maxConnections?: number;
};

export type WireServer = AsyncDisposable & { readonly port: number };

const MAX_CONNECTIONS = 100;
const LOGIN_TIMEOUT_MS = 15_000;

/** Listens at `host:port`. Disposing it refuses new clients, ends the connected ones and waits for them. */
export async function startWireServer(options: WireServerOptions): Promise<WireServer> {
  const front = new FrontEnd(options);
  await front.listen();
  return front;
}

class FrontEnd implements WireServer {
  readonly #options: WireServerOptions;
  readonly #server: Server;
  readonly #connections = new Map<number, { readonly secret: number; readonly cancel: () => void }>();
  readonly #serving = new Set<Promise<void>>();
  readonly #stopping = new AbortController();
  #lastProcessId = 0;
  port = 0;

  constructor(options: WireServerOptions) {
    this.#options = options;
    this.#server = createServer((socket) => {
      const serving = this.#serve(socket).finally(() => this.#serving.delete(serving));
      this.#serving.add(serving);
    });
  }

  async listen(): Promise<void> {
    const { host, port } = this.#options;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#server.once('error', (cause) =>
      reject(
        new HoldfastError('INVALID_CONFIG', `cannot listen on ${host}:${port}: ${cause.message}`, { cause }),
      ),
    );
    this.#server.listen(port, host, resolve);
    await promise;
    const address = this.#server.address();
    this.port = typeof address === 'object' && address !== null ? address.port : port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort(new HoldfastError('SHUTTING_DOWN', 'the coordinator is shutting down'));
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.close(() => resolve());
    await Promise.all(this.#serving);
    await promise;
  }

  /** One socket from its first byte to its last. Never rejects. */
  async #serve(plain: Socket): Promise<void> {
    plain.setNoDelay(true);
    plain.on('error', () => plain.destroy()); // its end is seen by 'close'
    const timer = setTimeout(() => plain.destroy(), LOGIN_TIMEOUT_MS);
    const stop = () => plain.destroy();
    this.#stopping.signal.addEventListener('abort', stop, { once: true });
    let socket = plain;
    try {
      const startup = await readStartup(plain, this.#options.tls);
      if (startup.kind === 'cancel') return this.#cancel(startup);
      socket = startup.socket;
      socket.on('error', () => socket.destroy());
      const user = await this.#login(startup);
      clearTimeout(timer);
      this.#stopping.signal.removeEventListener('abort', stop);
      await this.#session(startup, user);
    } catch (error) {
      await this.#refuse(socket, error);
    } finally {
      clearTimeout(timer);
      this.#stopping.signal.removeEventListener('abort', stop);
      socket.end();
      socket.destroySoon();
    }
  }

  async #refuse(socket: Socket, error: unknown): Promise<void> {
    const failure = toHoldfastError(error);
    if (failure.code === 'CANCELLED' || socket.destroyed) return;
    this.#options.logger.info(
      { code: failure.code, peer: socket.remoteAddress },
      `client refused: ${failure.message}`,
    );
    await writeTo(socket, errorResponse(failure, 'FATAL')).catch(() => undefined); // it is gone: nobody to tell
  }

  #cancel({ processId, secret }: Extract<Startup, { kind: 'cancel' }>): void {
    const target = this.#connections.get(processId);
    if (target !== undefined && target.secret === secret) target.cancel();
  }

  async #login({ socket, queue, parameters }: Extract<Startup, { kind: 'session' }>): Promise<string> {
    const user = parameters.get('user');
    if (user === undefined || user === '')
      throw new HoldfastError('PROTOCOL_VIOLATION', 'no user name in the start-up packet');
    if (parameters.has('replication') && parameters.get('replication') !== 'false')
      throw new HoldfastError('NOT_SUPPORTED', 'the coordinator is no source of replication');
    await authenticate(socket, queue, user, this.#options.credentials);
    if (this.#connections.size >= (this.#options.maxConnections ?? MAX_CONNECTIONS))
      throw new HoldfastError('TOO_MANY_SESSIONS', 'too many clients already');
    return user;
  }

  async #session(
    { socket, queue, parameters }: Extract<Startup, { kind: 'session' }>,
    user: string,
  ): Promise<void> {
    const { services, logger } = this.#options;
    const applicationName = parameters.get('application_name') ?? '';
    const closing = new AbortController();
    const stop = () => {
      closing.abort(this.#stopping.signal.reason);
      void this.#refuse(socket, this.#stopping.signal.reason).finally(() => socket.destroySoon());
    };
    socket.once('close', () => closing.abort(clientGone()));
    this.#stopping.signal.addEventListener('abort', stop, { once: true });
    await using client = createClient(services, createSession(user, applicationName));
    for (const sql of startupSettings(parameters)) client.reader.presetSetting(sql);
    const connection = new ClientConnection(services, client, socket, queue, closing.signal);
    const processId = this.#nextProcessId();
    const secret = randomInt(0x7fff_ffff);
    this.#connections.set(processId, { secret, cancel: () => connection.cancel() });
    try {
      const statuses = Object.entries(await this.#parameterStatuses(user, parameters));
      await writeTo(
        socket,
        Buffer.concat([
          ...statuses.map(([name, value]) => parameterStatus(name, value)),
          backendKeyData(processId, secret),
        ]),
      );
      logger.debug({ user, applicationName, peer: socket.remoteAddress }, 'client connected');
      await connection.run();
    } finally {
      this.#connections.delete(processId);
      this.#stopping.signal.removeEventListener('abort', stop);
      closing.abort(clientGone());
    }
  }

  async #parameterStatuses(
    user: string,
    parameters: ReadonlyMap<string, string>,
  ): Promise<Record<string, string>> {
    const given = (name: string, otherwise: string) =>
      [...parameters].find(([key]) => key.toLowerCase() === name.toLowerCase())?.[1] ?? otherwise;
    return {
      server_version: await this.#options.services.reader.serverVersion(),
      server_encoding: 'UTF8',
      client_encoding: 'UTF8',
      application_name: given('application_name', ''),
      default_transaction_read_only: 'off',
      in_hot_standby: 'off',
      is_superuser: 'off',
      session_authorization: user,
      DateStyle: 'ISO, MDY',
      IntervalStyle: 'postgres',
      TimeZone: given('TimeZone', 'UTC'),
      integer_datetimes: 'on',
      standard_conforming_strings: 'on',
    };
  }

  #nextProcessId(): number {
    do this.#lastProcessId = (this.#lastProcessId % 0x7fff_fffe) + 1;
    while (this.#connections.has(this.#lastProcessId));
    return this.#lastProcessId;
  }
}

const NOT_SETTINGS: ReadonlySet<string> = new Set([
  'user',
  'database',
  'options',
  'replication',
  'client_encoding',
]);

/** The start-up packet's settings that are harmless, as SET statements; the others are ignored. */
function startupSettings(parameters: ReadonlyMap<string, string>): readonly string[] {
  return [...parameters]
    .filter(([name]) => !NOT_SETTINGS.has(name) && /^[A-Za-z_]+$/.test(name))
    .map(([name, value]) => `SET ${name} = '${value.replaceAll("'", "''")}'`)
    .filter((sql) => parseSql(sql).every(({ kind }) => kind === 'reading'));
}
