/**
 * The log as the server streams it: START_REPLICATION on a physical slot. Bounded memory: at most
 * `BUFFERED_MESSAGES` messages (128 KiB each at most) wait for the reader; beyond that the socket is not read.
 *
 * While it is open a status update goes out every 10 s even when nothing moves, so that the server does not give us up
 * (wal_sender_timeout) while the destination is slow; a server that says nothing for 60 s although asked is lost.
 */
import { setInterval } from 'node:timers';
import type pg from 'pg';
import { both } from 'pg-copy-streams';
import { assert } from '../../foundation/assert.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn, type Lsn, type Timeline } from '../../foundation/lsn.ts';
import type { InstanceConfig, LogChunk, LogPoint, LogStream } from '../engine.ts';
import { clientSocket, connectClient, translateServerError } from './connection.ts';
import { decodeReplicationMessage, encodeStatusUpdate } from './replication-protocol.ts';

const BUFFERED_MESSAGES = 8;
const STATUS_INTERVAL_MS = 10_000;
const SILENCE_LIMIT_MS = 60_000;
/** How long the server may take to begin or to refuse. */
const START_LIMIT_MS = 30_000;
/** 'X' and its length: ends the session, as the protocol wants it. */
const TERMINATE = Buffer.from([0x58, 0, 0, 0, 4]);

/**
 * Starts streaming at `from`, without a slot when none is named. Returns when the server has begun to stream: the slot is then held, and no other session
 * can acknowledge by it. Throws LOG_GAP when it no longer has
 * that log or the slot was lost, LOG_CONFLICT when that position is not in its history, SERVER_UNREACHABLE (may be
 * retried) otherwise.
 */
export async function openReplicationStream(
  config: InstanceConfig,
  slotName: string | undefined,
  from: LogPoint,
  signal: AbortSignal,
): Promise<LogStream> {
  const client = await connectClient(config, 'replication', signal);
  const stream = new ReplicationStream(client, config, slotName, from, signal);
  try {
    await stream.start();
    return stream;
  } catch (error) {
    await stream[Symbol.asyncDispose]();
    throw error;
  }
}

class ReplicationStream implements LogStream {
  readonly timeline: Timeline;
  readonly #client: pg.Client;
  readonly #config: InstanceConfig;
  readonly #copy: ReturnType<typeof both>;
  readonly #timer: NodeJS.Timeout;
  readonly #signal: AbortSignal;
  readonly #from: LogPoint;
  readonly #onAbort: () => void;
  #durable: Lsn;
  #position: Lsn;
  #lastHeardMs = performance.now();
  #failure: Error | undefined;
  #waiting = false;
  #closed = false;

  constructor(
    client: pg.Client,
    config: InstanceConfig,
    slotName: string | undefined,
    from: LogPoint,
    signal: AbortSignal,
  ) {
    this.timeline = from.timeline;
    this.#client = client;
    this.#config = config;
    this.#from = from;
    // Before anything of this stream is durable nothing is claimed; 0 is "unknown" to the server.
    this.#durable = 0n as Lsn; // zero is the protocol's own "none"
    this.#position = from.lsn;
    this.#signal = signal;
    const slot = slotName === undefined ? '' : `SLOT "${slotName}" `;
    const command = `START_REPLICATION ${slot}PHYSICAL ${formatLsn(from.lsn)} TIMELINE ${from.timeline}`;
    const copy = both(command, {
      alignOnCopyDataFrame: true,
      readableObjectMode: true, // keeps each message a chunk of its own
      readableHighWaterMark: BUFFERED_MESSAGES,
    });
    // At the end of a timeline the server answers our CopyDone with a row (next timeline and its start). Those facts are
    // read from the history file instead, but pg must find somewhere to put the row.
    Object.assign(copy, { handleRowDescription: () => undefined, handleDataRow: () => undefined });
    // pg-copy-streams tells an error without ending the stream: an iteration that begins later would wait for ever.
    copy.on('error', (error) => {
      this.#failure ??= error;
    });
    this.#copy = client.query(copy);
    this.#timer = setInterval(() => this.#tick(), STATUS_INTERVAL_MS);
    this.#onAbort = () => this.#cut();
    signal.addEventListener('abort', this.#onAbort, { once: true });
    if (signal.aborted) this.#cut();
  }

  /** Resolves when the server has answered the command with CopyBoth. */
  async start(): Promise<void> {
    const { promise: started, resolve, reject } = Promise.withResolvers<void>();
    const timer = setTimeout(() => reject(new Error('the server does not begin to stream')), START_LIMIT_MS);
    const onEnd = () => reject(new Error('the server ended the stream before it began'));
    this.#copy.once('error', reject);
    this.#copy.once('close', onEnd);
    this.#copy.once('end', onEnd);
    // pg-copy-streams holds writes back until the server's CopyBoth response.
    this.#copy.write(this.#status(false), (error) => {
      if (error) reject(error);
      else resolve();
    });
    this.#copy.read(0); // makes it read the answer
    try {
      await started;
    } catch (error) {
      this.#signal.throwIfAborted();
      throw translateStreamError(error, this.#config, this.#from);
    } finally {
      clearTimeout(timer);
      this.#copy.off('error', reject).off('close', onEnd).off('end', onEnd);
    }
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<LogChunk, void, undefined> {
    try {
      if (this.#failure !== undefined) throw this.#failure;
      this.#waiting = true;
      for await (const message of this.#copy as AsyncIterable<Buffer>) {
        this.#waiting = false;
        this.#lastHeardMs = performance.now();
        const decoded = decodeReplicationMessage(message);
        if (decoded.kind === 'keepalive') {
          if (decoded.replyRequested) this.#sendStatus(false);
        } else {
          if (decoded.begin !== this.#position) this.#refuseJump(decoded.begin);
          this.#position = (decoded.begin + BigInt(decoded.data.length)) as Lsn; // an LSN plus a length is one
          yield decoded;
        }
        this.#waiting = true;
      }
    } catch (error) {
      this.#signal.throwIfAborted();
      throw translateStreamError(error, this.#config, this.#from);
    } finally {
      this.#waiting = false;
    }
    this.#signal.throwIfAborted();
  }

  acknowledge(durable: Lsn): void {
    assert(durable >= this.#durable, 'what was durable stays durable');
    assert(durable <= this.#position, 'nothing is durable that was not received');
    this.#durable = durable;
    this.#sendStatus(false);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    const socket = clientSocket(this.#client);
    const gone = socket.destroyed
      ? Promise.resolve()
      : new Promise<void>((resolve) => {
          socket.once('close', () => resolve());
        });
    if (!socket.destroyed) {
      socket.write(TERMINATE);
      socket.destroySoon();
    }
    const timer = setTimeout(() => this.#cut(), 1000);
    await gone;
    clearTimeout(timer);
    this.#cut();
  }

  #refuseJump(begin: Lsn): never {
    throw new HoldfastError(
      'LOG_GAP',
      `instance "${this.#config.name}": the server sent log from ${formatLsn(begin)} where ${formatLsn(this.#position)} was due`,
    );
  }

  #tick(): void {
    const silentMs = performance.now() - this.#lastHeardMs;
    if (this.#waiting && silentMs > SILENCE_LIMIT_MS) {
      this.#copy.destroy(
        new Error(`no word from the server for ${Math.round(silentMs / 1000)} s, although asked`),
      );
      this.#cut();
      return;
    }
    this.#sendStatus(true);
  }

  #sendStatus(replyRequested: boolean): void {
    if (this.#closed || this.#copy.destroyed || this.#copy.writableEnded) return;
    this.#copy.write(this.#status(replyRequested));
  }

  #status(replyRequested: boolean): Buffer {
    return encodeStatusUpdate(this.#durable, BigInt(Date.now()) * 1000n, replyRequested);
  }

  #cut(): void {
    this.#closed = true;
    clearInterval(this.#timer);
    this.#signal.removeEventListener('abort', this.#onAbort);
    this.#copy.destroy();
    clientSocket(this.#client).destroy();
  }
}

/** What the walsender says when it will not or can no longer stream, by its own words (walsender.c, slot.c, xlogreader.c). */
export function translateStreamError(error: unknown, config: InstanceConfig, from: LogPoint): HoldfastError {
  const text = error instanceof Error ? error.message : String(error);
  const where = `instance "${config.name}": log from ${formatLsn(from.lsn)} on timeline ${from.timeline}`;
  if (
    /has already been removed/.test(text) ||
    /can no longer (?:get changes|access)|cannot read from replication slot/.test(text)
  ) {
    return new HoldfastError('LOG_GAP', `${where} is gone: ${text}`, {
      cause: error,
      hint: 'Take a full backup; raise max_slot_wal_keep_size so that the server keeps its log while the archive is behind.',
    });
  }
  if (
    /is ahead of the WAL flush position|not in this server's history|requested timeline .* is not/.test(text)
  ) {
    return new HoldfastError('LOG_CONFLICT', `${where} is not in the server's history: ${text}`, {
      cause: error,
      hint: 'The server was restored or rewound to an earlier state: start a new round and take a full backup.',
    });
  }
  return translateServerError(error, config, `stream the log from ${formatLsn(from.lsn)}`);
}
