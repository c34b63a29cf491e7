/**
 * One authenticated client of the wire front end: simple and extended query protocol. Messages are handled one after the
 * other; those of the extended protocol are gathered up to Sync or Flush, so that what they will read is known before
 * the first of them runs.
 *
 * After an error in the extended protocol everything up to Sync is skipped, as the protocol says.
 */
import type { Socket } from 'node:net';
import { assertNever } from '../../../foundation/assert.ts';
import { HoldfastError, toHoldfastError } from '../../../foundation/errors.ts';
import { runStatement, type SqlClient, type SqlServices } from '../execute.ts';
import { type ParsedStatement, parseSql } from '../parse.ts';
import type { ResultColumn } from '../results.ts';
import {
  commandComplete,
  dataRow,
  emptyQueryResponse,
  errorResponse,
  noticeResponse,
  readyForQuery,
  rowDescription,
} from './backend-messages.ts';
import type { GatheredMessage } from './extended.ts';
import { ExtendedProtocol } from './extended-protocol.ts';
import type { Frame } from './frames.ts';
import { decodeFrontend, type FrontendMessage } from './frontend-messages.ts';
import { clientGone, type MessageQueue, writeTo } from './message-queue.ts';

/** A run longer than this is handled in pieces, as if a Flush had come. */
const MAX_GATHERED = 1000;

export class ClientConnection {
  readonly #services: SqlServices;
  readonly #client: SqlClient;
  readonly #socket: Socket;
  readonly #queue: MessageQueue;
  readonly #extended: ExtendedProtocol;
  /** Aborts what runs now. */
  #running = new AbortController();
  /** Aborts all: the client is gone, or the server stops. */
  readonly #closing: AbortSignal;
  #gathered: GatheredMessage[] = [];
  #skipping = false;

  constructor(
    services: SqlServices,
    client: SqlClient,
    socket: Socket,
    queue: MessageQueue,
    closing: AbortSignal,
  ) {
    this.#services = services;
    this.#client = client;
    this.#socket = socket;
    this.#queue = queue;
    this.#closing = closing;
    this.#extended = new ExtendedProtocol(services, client, (bytes) => writeTo(socket, bytes));
  }

  /** Stops the running statement (Ctrl-C). Nothing happens when none runs. */
  cancel(): void {
    this.#running.abort(new HoldfastError('QUERY_CANCELLED', 'canceling statement due to user request'));
  }

  /** Serves until the client ends or is gone. Throws HoldfastError when it does not speak the protocol. */
  async run(): Promise<void> {
    await this.#write(readyForQuery('I'));
    while (!this.#closing.aborted) {
      const frame = await this.#queue.next();
      if (frame === undefined) return;
      const message = decodeFrontend(frame);
      if (message.kind === 'terminate') return;
      await this.#handle(message, frame);
    }
  }

  async #handle(message: FrontendMessage, frame: Frame): Promise<void> {
    switch (message.kind) {
      case 'query':
        await this.#runGathered();
        await this.#simpleQuery(message.sql);
        return;
      case 'parse':
      case 'bind':
      case 'describe':
      case 'close':
      case 'execute':
        if (!this.#skipping) this.#gathered.push({ message, frame });
        if (this.#gathered.length >= MAX_GATHERED) await this.#runGathered();
        return;
      case 'flush':
        await this.#runGathered();
        return;
      case 'sync':
        await this.#runGathered(true);
        return;
      case 'copy':
      case 'terminate':
        return;
      case 'password':
      case 'unknown':
        throw new HoldfastError('PROTOCOL_VIOLATION', `unexpected message of type "${frame.type}"`);
      default:
        assertNever(message);
    }
  }

  async #simpleQuery(sql: string): Promise<void> {
    this.#skipping = false;
    await this.#interruptible(async (signal) => {
      await this.#extended.endRun(signal);
      this.#extended.dropUnnamed();
      const statements = parseSql(sql);
      if (statements.length === 0) await this.#write(emptyQueryResponse());
      for (const statement of statements) if (!(await this.#runOne(statement, signal))) break;
    });
    await this.#write(readyForQuery(this.#client.reader.status));
  }

  /** False when the reader answered with an error. */
  async #runOne(statement: ParsedStatement, signal: AbortSignal): Promise<boolean> {
    let columns: readonly ResultColumn[] = [];
    let failed = false;
    for await (const event of runStatement(this.#services, this.#client, statement, signal)) {
      if (event.kind === 'rowDescription') columns = event.columns;
      await this.#write(encodeEvent(event, columns));
      failed ||= event.kind === 'frame' && event.frame.type === 'E';
    }
    if (failed) return false;
    if (statement.kind === 'reading') this.#extended.noteExecuted(statement.verb);
    return true;
  }

  /** Runs what was gathered; with `sync` ends the run and tells the client so. */
  async #runGathered(sync = false): Promise<void> {
    const gathered = this.#gathered;
    this.#gathered = [];
    const ran = await this.#interruptible((signal) => this.#extended.run(gathered, signal));
    if (!ran) this.#skipping = true;
    if (!sync) return;
    this.#skipping = false;
    await this.#interruptible((signal) => this.#extended.endRun(signal));
    await this.#write(readyForQuery(this.#client.reader.status));
  }

  /** Runs work that Ctrl-C stops; its error goes to the client. False when it failed. */
  async #interruptible(work: (signal: AbortSignal) => Promise<boolean | void>): Promise<boolean> {
    const running = new AbortController();
    this.#running = running;
    try {
      return (await work(AbortSignal.any([running.signal, this.#closing]))) !== false;
    } catch (error) {
      if (this.#socket.destroyed) throw clientGone();
      await this.#write(errorResponse(toHoldfastError(error)));
      return false;
    }
  }

  async #write(bytes: Buffer): Promise<void> {
    await writeTo(this.#socket, bytes);
  }
}

type Event = ReturnType<typeof runStatement> extends AsyncGenerator<infer E> ? E : never;

function encodeEvent(event: Event, columns: readonly ResultColumn[]): Buffer {
  switch (event.kind) {
    case 'frame':
      return event.frame.bytes;
    case 'rowDescription':
      return rowDescription(event.columns);
    case 'row':
      return dataRow(event.values, columns);
    case 'notice':
      return noticeResponse(event);
    case 'complete':
      return commandComplete(event.tag);
    default:
      return assertNever(event);
  }
}
