/**
 * The reader of a PostgreSQL catalog: a connection for each client session, under a role with rights on the views only.
 * `pg` logs in (TLS, SCRAM); then raw messages go over its socket.
 */
import { connect as connectSocket, type Socket } from 'node:net';
import pg from 'pg';
import { HoldfastError, toHoldfastError } from '../../../foundation/errors.ts';
import type { Reader, ReaderLogin, ReadingSession } from '../reader.ts';
import { type Frame, FrameSplitter } from '../wire/frames.ts';
import { completes, encodeFlush } from '../wire/frontend-messages.ts';

export type PostgresqlReaderOptions = {
  readonly login: ReaderLogin;
  readonly queryTimeoutMs: () => number;
  /** Default 20. */
  readonly maxConnections?: number;
};

const MAX_CONNECTIONS = 20;
const CONNECT_TIMEOUT_MS = 10_000;
const CANCEL_REQUEST = 80_877_102;

export function createPostgresqlReader(options: PostgresqlReaderOptions): Reader {
  const sessions = new Set<ReadingSession>();
  let version: string | undefined;
  return {
    async open(signal) {
      signal.throwIfAborted();
      if (sessions.size >= (options.maxConnections ?? MAX_CONNECTIONS))
        throw new HoldfastError('TOO_MANY_SESSIONS', `${sessions.size} clients read the catalog already`);
      const session = new PostgresqlSession(await connect(options), () => sessions.delete(session));
      sessions.add(session);
      return session;
    },
    async serverVersion() {
      version ??= await readVersion(options);
      return version;
    },
    async [Symbol.asyncDispose]() {
      await Promise.all([...sessions].map((session) => session[Symbol.asyncDispose]()));
    },
  };
}

async function readVersion(options: PostgresqlReaderOptions): Promise<string> {
  const client = await connect(options);
  try {
    const { rows } = await client.query<{ server_version: string }>('SHOW server_version');
    return rows[0]?.server_version.split(' ')[0] ?? '0';
  } finally {
    await client.end();
  }
}

/** Logs in with the settings that every session begins with. Throws SERVER_UNREACHABLE. */
async function connect({ login, queryTimeoutMs }: PostgresqlReaderOptions): Promise<pg.Client> {
  const { ssl, ...address } = login;
  const client = new pg.Client({
    ...address,
    ...(ssl ? { ssl: true } : {}),
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    statement_timeout: queryTimeoutMs(),
    options: '-c search_path=oceanbase,public -c default_transaction_read_only=on',
  });
  client.on('error', () => undefined); // a lost connection is seen by the exchange that uses it
  try {
    await client.connect();
    return client;
  } catch (cause) {
    throw new HoldfastError(
      'SERVER_UNREACHABLE',
      `cannot read the catalog: ${toHoldfastError(cause).message}`,
      { cause },
    );
  }
}

/** What `pg` keeps of a connection beyond its documented surface. */
type ConnectedClient = {
  readonly connection: { readonly stream: Socket };
  readonly processID: number;
  readonly secretKey: number;
};

class PostgresqlSession implements ReadingSession {
  readonly #client: pg.Client;
  readonly #connection: ConnectedClient;
  readonly #socket: Socket;
  readonly #closed: () => void;
  readonly #splitter = new FrameSplitter(0x7fff_ffff);
  readonly #frames: Frame[] = [];
  #wake: (() => void) | undefined;
  #lost = false;

  constructor(client: pg.Client, closed: () => void) {
    this.#client = client;
    this.#connection = client as unknown as ConnectedClient; // its types leave these fields out
    this.#socket = this.#connection.connection.stream;
    this.#closed = closed;
    this.#socket.removeAllListeners('data'); // from here on the messages are ours
    this.#socket.on('data', (chunk: Buffer) => {
      this.#frames.push(...this.#splitter.push(chunk));
      this.#socket.pause();
      this.#wake?.();
    });
    this.#socket.on('close', () => {
      this.#lost = true;
      this.#wake?.();
    });
  }

  /** The views are the catalog's own: always the present. */
  async refresh(): Promise<boolean> {
    return false;
  }

  async *exchange(message: Buffer, signal: AbortSignal): AsyncGenerator<Frame> {
    signal.throwIfAborted();
    const type = message.toString('latin1', 0, 1);
    const wake = () => this.#wake?.();
    signal.addEventListener('abort', wake, { once: true });
    try {
      this.#socket.write(type === 'S' ? message : Buffer.concat([message, encodeFlush()]));
      for (let done = false; !done; ) {
        const found = await this.#next(signal);
        done = completes(type, found.type);
        yield found;
      }
    } finally {
      signal.removeEventListener('abort', wake);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed();
    const { promise, resolve } = Promise.withResolvers<void>();
    if (this.#socket.destroyed) resolve();
    this.#socket.once('close', () => resolve());
    this.#socket.destroy();
    await promise;
  }

  async #next(signal: AbortSignal): Promise<Frame> {
    while (true) {
      const found = this.#frames.shift();
      if (found !== undefined) return found;
      if (signal.aborted) {
        await this.#cancel();
        signal.throwIfAborted();
      }
      if (this.#lost) throw new HoldfastError('SERVER_UNREACHABLE', 'the connection to the catalog was lost');
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      this.#socket.resume();
      await promise;
    }
  }

  /** Asks the server to stop; without it a statement would run on after its connection is closed. */
  async #cancel(): Promise<void> {
    const request = Buffer.alloc(16);
    for (const [i, value] of [
      16,
      CANCEL_REQUEST,
      this.#connection.processID,
      this.#connection.secretKey,
    ].entries())
      request.writeInt32BE(value, i * 4);
    const { host, port } = this.#client;
    const { promise, resolve } = Promise.withResolvers<void>();
    const socket = connectSocket({ host, port, timeout: CONNECT_TIMEOUT_MS }, () => socket.end(request));
    socket.on('timeout', () => socket.destroy());
    socket.on('error', () => undefined); // the server's own statement_timeout remains
    socket.on('close', () => resolve());
    await promise;
  }
}
