/**
 * One client's use of the reader. Opens a reading session when the first reading statement comes, gives it back when
 * the client has been quiet, and makes a new one stand where the old one stood: what the client SET and prepared is
 * repeated in it.
 *
 * Invariants:
 * - `status` is what the client was last told in ReadyForQuery: T and E only while a session is open.
 * - A session that was cancelled, timed out or lost is closed before the error is thrown.
 * - A run (from the first message to its Sync) has one deadline, `queryTimeoutMs`.
 */
import { HoldfastError } from '../../foundation/errors.ts';
import type { Reader, ReadingSession } from './reader.ts';
import type { TransactionStatus } from './wire/backend-messages.ts';
import type { Frame } from './wire/frames.ts';
import {
  encodeBind,
  encodeDescribePortal,
  encodeExecute,
  encodeParse,
  encodeSync,
} from './wire/frontend-messages.ts';

export type ClientReaderOptions = {
  readonly reader: Reader;
  readonly queryTimeoutMs: () => number;
};

/** Rows asked for at a time: bounds what is held on the way to a slow client. */
const ROWS_AT_ONCE = 1000;
const IDLE_RELEASE_MS = 60_000;
const MAX_REMEMBERED = 1000;

export class ClientReader implements AsyncDisposable {
  readonly #options: ClientReaderOptions;
  #session: ReadingSession | undefined;
  #status: TransactionStatus = 'I';
  /** Messages were sent since the last Sync. */
  #inRun = false;
  /** A cursor WITH HOLD lives in the session: it cannot be repeated elsewhere. */
  #pinned = false;
  /** DISCARD ALL reset what the session began with, its role too: the next statement gets a new one. */
  #discarded = false;
  /** SET statements outside of transactions, in order; the key is the text. */
  readonly #settings = new Map<string, string>();
  /** Parse messages by statement name, with their SQL. */
  readonly #prepared = new Map<string, { readonly message: Buffer; readonly sql: string }>();
  #idleTimer: NodeJS.Timeout | undefined;
  #deadline: AbortSignal | undefined;
  #deadlineTimer: NodeJS.Timeout | undefined;

  constructor(options: ClientReaderOptions) {
    this.#options = options;
  }

  get status(): TransactionStatus {
    return this.#status;
  }

  get inRun(): boolean {
    return this.#inRun;
  }

  /** The SQL of a prepared statement that the reader holds. */
  preparedSql(name: string): string | undefined {
    return this.#prepared.get(name)?.sql;
  }

  /** A setting of the start-up packet, repeated in every session. */
  presetSetting(sql: string): void {
    this.#settings.set(sql, sql);
  }

  /**
   * Opens the session where there is none, and outside of a transaction lets the views that `texts` mention (undefined:
   * all) show the present. Throws HoldfastError.
   */
  async begin(texts: readonly string[] | undefined, signal: AbortSignal): Promise<void> {
    clearTimeout(this.#idleTimer);
    if (this.#inRun) return;
    if (this.#discarded && this.#status === 'I') await this.#drop();
    this.#startDeadline();
    const bounded = this.#bounded(signal);
    try {
      this.#session ??= await this.#open(bounded);
      if (this.#status !== 'I') return;
      const lost = await this.#session.refresh(texts, bounded);
      const unnamed = this.#prepared.get('');
      if (lost && unnamed !== undefined) await this.#drain(this.#session, unnamed.message, bounded);
    } catch (error) {
      await this.#drop();
      throw error;
    }
  }

  /** Sends one extended-query message within a run. `begin` comes first. */
  async *send(message: Buffer, signal: AbortSignal): AsyncGenerator<Frame> {
    this.#inRun = true;
    const session = this.#session;
    if (session === undefined) throw new HoldfastError('SERVER_UNREACHABLE', 'the reading session is closed');
    let answered = false;
    try {
      yield* session.exchange(message, this.#bounded(signal));
      answered = true;
    } finally {
      if (!answered) await this.#drop(); // failed, or its consumer left in the middle of an answer
    }
  }

  /** EXECUTE in portions: `s` frames between them are not shown and the tag counts all rows. */
  async *sendExecute(portal: string, signal: AbortSignal): AsyncGenerator<Frame> {
    let rows = 0;
    for (let suspended = true; suspended; ) {
      suspended = false;
      for await (const found of this.send(encodeExecute(portal, ROWS_AT_ONCE), signal)) {
        if (found.type === 'D') rows += 1;
        if (found.type === 's') suspended = true;
        else yield found.type === 'C' ? countAll(found, rows) : found;
      }
    }
  }

  /** Ends the run; the status is then the session's. */
  async sync(signal: AbortSignal): Promise<void> {
    if (!this.#inRun) return;
    for await (const found of this.send(encodeSync(), signal)) {
      if (found.type === 'Z') this.#status = toStatus(found);
    }
    this.#inRun = false;
    this.#endDeadline();
    this.#releaseLater();
  }

  /**
   * One statement as the simple query protocol shows it: row description, rows, tag, notices, or one error frame last.
   * It goes as Parse, so the server itself refuses more than one statement.
   */
  async *query(sql: string, verb: string, signal: AbortSignal): AsyncGenerator<Frame> {
    await this.begin(verb === 'BEGIN' || verb === 'START' ? undefined : [sql], signal);
    this.#prepared.delete(''); // the unnamed statement and portal are this query's now
    let failed = false;
    for await (const found of this.#runQuery(sql, signal)) {
      if (found.type === 'E') failed = true;
      if (!'12n'.includes(found.type)) yield found;
    }
    await this.sync(signal); // not reached when the consumer leaves early: the session is dropped then
    if (!failed) this.noteExecuted(sql, verb);
  }

  async *#runQuery(sql: string, signal: AbortSignal): AsyncGenerator<Frame> {
    for (const message of [encodeParse('', sql), encodeBind('', ''), encodeDescribePortal('')]) {
      let failed = false;
      for await (const found of this.send(message, signal)) {
        failed ||= found.type === 'E';
        yield found;
      }
      if (failed) return;
    }
    yield* this.sendExecute('', signal);
  }

  /** What a statement that succeeded leaves behind in the session. */
  noteExecuted(sql: string, verb: string): void {
    if (verb === 'DECLARE' && /\bhold\b/i.test(sql)) this.#pinned = true;
    if (verb === 'DISCARD' && /\ball\b/i.test(sql)) this.#discardAll();
    if (verb === 'DEALLOCATE') this.#forgetDeallocated(sql);
    if ((verb === 'SET' || verb === 'RESET') && this.#status === 'I') {
      const text = sql.trim();
      this.#settings.delete(text);
      if (this.#settings.size < MAX_REMEMBERED) this.#settings.set(text, text);
    }
  }

  /** Throws TOO_MANY_SESSIONS when the client holds too many prepared statements. */
  remember(name: string, sql: string, message: Buffer): void {
    if (this.#prepared.size >= MAX_REMEMBERED && !this.#prepared.has(name))
      throw new HoldfastError('TOO_MANY_SESSIONS', `more than ${MAX_REMEMBERED} prepared statements`, {
        hint: 'DEALLOCATE ALL;',
      });
    this.#prepared.set(name, { message, sql });
  }

  forget(name: string): void {
    this.#prepared.delete(name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#drop();
  }

  #discardAll(): void {
    this.#discarded = true;
    this.#settings.clear();
    this.#prepared.clear();
    this.#pinned = false;
  }

  #forgetDeallocated(sql: string): void {
    const name = /^\s*deallocate\s+(?:prepare\s+)?(.*?)\s*$/is.exec(sql)?.[1] ?? '';
    if (name.toUpperCase() === 'ALL') this.#prepared.clear();
    else
      this.#prepared.delete(
        name.startsWith('"') ? name.slice(1, -1).replaceAll('""', '"') : name.toLowerCase(),
      );
  }

  async #open(signal: AbortSignal): Promise<ReadingSession> {
    const session = await this.#options.reader.open(signal);
    try {
      for (const sql of this.#settings.values()) {
        for (const message of [encodeParse('', sql), encodeBind('', ''), encodeExecute('', 0), encodeSync()])
          if (await this.#drain(session, message, signal)) break;
        await this.#drain(session, encodeSync(), signal);
      }
      for (const { message } of this.#prepared.values()) {
        await this.#drain(session, message, signal);
        await this.#drain(session, encodeSync(), signal);
      }
    } catch (error) {
      await session[Symbol.asyncDispose]();
      throw error;
    }
    return session;
  }

  /** True when the answer was an error. */
  async #drain(session: ReadingSession, message: Buffer, signal: AbortSignal): Promise<boolean> {
    let failed = false;
    for await (const { type } of session.exchange(message, signal)) failed ||= type === 'E';
    return failed;
  }

  /** The time for one run, from its first message to the end of its Sync; a slow client's share included. */
  #startDeadline(): void {
    const limitMs = this.#options.queryTimeoutMs();
    const abort = new AbortController();
    clearTimeout(this.#deadlineTimer);
    this.#deadline = abort.signal;
    this.#deadlineTimer = setTimeout(() => {
      const hint = `ALTER SYSTEM SET query_timeout = '${Math.ceil((limitMs * 2) / 1000)}s';`;
      abort.abort(
        new HoldfastError('TIMEOUT', `canceling statement: it took longer than ${limitMs} ms`, { hint }),
      );
    }, limitMs);
  }

  #bounded(signal: AbortSignal): AbortSignal {
    return this.#deadline === undefined ? signal : AbortSignal.any([signal, this.#deadline]);
  }

  #endDeadline(): void {
    clearTimeout(this.#deadlineTimer);
    this.#deadline = undefined;
  }

  #releaseLater(): void {
    clearTimeout(this.#idleTimer);
    if (this.#status !== 'I' || this.#pinned) return;
    this.#idleTimer = setTimeout(() => void this.#drop(), IDLE_RELEASE_MS).unref();
  }

  async #drop(): Promise<void> {
    clearTimeout(this.#idleTimer);
    this.#endDeadline();
    const session = this.#session;
    this.#session = undefined;
    this.#status = 'I';
    this.#inRun = false;
    this.#pinned = false;
    this.#discarded = false;
    await session?.[Symbol.asyncDispose]();
  }
}

function toStatus(found: Frame): TransactionStatus {
  const letter = found.bytes.toString('latin1', 5, 6);
  return letter === 'T' || letter === 'E' ? letter : 'I';
}

/** `SELECT 3` of the last portion becomes `SELECT 2003`. */
function countAll(found: Frame, rows: number): Frame {
  const tag = found.bytes.toString('latin1', 5, found.bytes.length - 1);
  const counted = tag.replace(/^(SELECT|FETCH|SHOW|EXPLAIN) \d+$/, `$1 ${rows}`);
  if (counted === tag) return found;
  const bytes = Buffer.alloc(6 + counted.length);
  bytes.write('C', 0, 'latin1');
  bytes.writeInt32BE(5 + counted.length, 1);
  bytes.write(counted, 5, 'latin1');
  return { type: 'C', bytes };
}
