/**
 * An open, non-exclusive backup. The session that starts it must stay open and must be the one that stops it; when it
 * ends any other way the server aborts the backup by itself. So giving up is ending the session.
 *
 *   opening ──start──► open ──stop──► stopped
 *      │                 │ connection lost, dispose
 *      └──fails──► ended ◄┘
 */
import type pg from 'pg';
import { HoldfastError } from '../../foundation/errors.ts';
import { type Lsn, parseLsn, type Timeline, toTimeline } from '../../foundation/lsn.ts';
import type { BackupStart, BackupStop, BackupWindow } from '../engine.ts';
import { type BackupLabel, parseBackupLabel } from './backup-label.ts';

/** Opens a session of its own at the server; an aborted signal ends the attempt. */
type Connect = (signal: AbortSignal) => Promise<pg.Client>;

/** For the second connection that cancels the statement of the first. */
const CANCEL_TIMEOUT_MS = 5000;

/** MAXPGPATH; the label must be shorter. */
const LABEL_LIMIT = 1024;

/** The session lives as long as the copy: nothing may end it for being slow or idle. */
const SESSION_SETTINGS = `
  SET search_path = pg_catalog; SET client_encoding = 'UTF8'; SET client_min_messages = warning;
  SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0;
  SET idle_session_timeout = 0; SET application_name = 'holdfast backup'`;

type Functions = { readonly start: string; readonly stop: string };

function functionsOf(major: number): Functions {
  return major >= 15
    ? { start: 'pg_backup_start($1, true)', stop: 'pg_backup_stop(false)' }
    : { start: 'pg_start_backup($1, true, false)', stop: 'pg_stop_backup(false, false)' };
}

const CLOCK_US = '(extract(epoch FROM clock_timestamp()) * 1000000)::bigint::text AS clock';

/**
 * Starts a backup with an immediate checkpoint, in a session of its own from `connect`. An aborted `signal` cancels the
 * wait for the checkpoint. Throws NOT_SUPPORTED on a standby, SERVER_UNREACHABLE when the connection is lost,
 * BACKUP_FAILED when the server refuses.
 */
export async function beginBackup(
  connect: Connect,
  major: number,
  label: string,
  signal: AbortSignal,
): Promise<BackupWindow> {
  if (Buffer.byteLength(label) >= LABEL_LIMIT || /[\r\n\0]/.test(label)) {
    throw new HoldfastError('INVALID_ARGUMENT', 'a backup label must be one line of less than 1024 bytes');
  }
  signal.throwIfAborted();
  const session = new Session(await connect(signal), connect);
  try {
    await session.query(SESSION_SETTINGS, [], signal);
    await refuseStandby(session, signal);
    const started = await startIn(session, functionsOf(major), label, signal);
    return new OpenWindow(session, functionsOf(major), started);
  } catch (error) {
    await session.end();
    throw error;
  }
}

async function refuseStandby(session: Session, signal: AbortSignal): Promise<void> {
  const [row] = await session.query<{ standby: boolean }>(
    'SELECT pg_is_in_recovery() AS standby',
    [],
    signal,
  );
  if (row?.standby !== true) return;
  throw new HoldfastError('NOT_SUPPORTED', 'a backup from a standby is not supported', {
    hint: 'Back up the primary of this partition group.',
  });
}

async function startIn(
  session: Session,
  functions: Functions,
  label: string,
  signal: AbortSignal,
): Promise<BackupStart> {
  const [begun] = await session.query<{ lsn: string }>(
    `SELECT ${functions.start}::text AS lsn`,
    [label],
    signal,
  );
  const [facts] = await session.query<{ checkpoint: string; redo: string; timeline: number; clock: string }>(
    `SELECT checkpoint_lsn::text AS checkpoint, redo_lsn::text AS redo, timeline_id AS timeline, ${CLOCK_US}
       FROM pg_control_checkpoint()`,
    [],
    signal,
  );
  if (begun === undefined || facts === undefined)
    throw new HoldfastError('INTERNAL', 'a backup began without a row');
  const timeline = toTimeline(facts.timeline);
  const lsn = parseLsn(begun.lsn);
  // A later checkpoint may have been faster than this query. Then the start itself bounds it; the label knows exactly.
  const checkpoint = parseLsn(facts.redo) === lsn ? parseLsn(facts.checkpoint) : lsn;
  return {
    start: { timeline, lsn },
    checkpoint: { timeline, lsn: checkpoint },
    startUs: BigInt(facts.clock),
    fromStandby: false,
  };
}

class OpenWindow implements BackupWindow {
  readonly started: BackupStart;
  readonly lost: Promise<never>;
  readonly #session: Session;
  readonly #functions: Functions;

  constructor(session: Session, functions: Functions, started: BackupStart) {
    this.#session = session;
    this.#functions = functions;
    this.started = started;
    this.lost = session.lost;
  }

  async stop(signal: AbortSignal): Promise<BackupStop> {
    // The texts come as bytes in the database's own encoding: a path in them need not be valid in any other.
    const [stopped] = await this.#session.query<{ lsn: string; label: Buffer; map: Buffer | null }>(
      `SELECT lsn::text AS lsn, convert_to(labelfile, getdatabaseencoding()) AS label,
              convert_to(spcmapfile, getdatabaseencoding()) AS map
         FROM ${this.#functions.stop}`,
      [],
      signal,
    );
    const [now] = await this.#session.query<{ clock: string }>(`SELECT ${CLOCK_US}`, [], signal);
    await this.#session.end();
    if (stopped === undefined || now === undefined)
      throw new HoldfastError('INTERNAL', 'a backup ended without a row');
    const { timeline, lsn: start } = this.started.start;
    return {
      stop: { timeline, lsn: parseLsn(stopped.lsn) },
      checkpoint: { timeline, lsn: checkedLabel(stopped.label, start, timeline).checkpointLsn },
      stopUs: BigInt(now.clock),
      label: stopped.label,
      tablespaceMap: stopped.map ?? Buffer.alloc(0),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#session.end();
  }
}

/** The label, when it is the one of the backup that was started. */
function checkedLabel(bytes: Buffer, start: Lsn, timeline: Timeline): BackupLabel {
  const label = parseBackupLabel(bytes);
  if (label.startLsn === start && label.startTimeline === timeline) return label;
  throw new HoldfastError(
    'BACKUP_FAILED',
    'the backup label speaks of another backup than the one that was started',
  );
}

/** One connection that is told apart from its loss. */
class Session {
  readonly lost: Promise<never>;
  readonly #client: pg.Client;
  readonly #connect: Connect;
  #state: 'open' | 'ending' | 'ended' = 'open';

  constructor(client: pg.Client, connect: Connect) {
    this.#client = client;
    this.#connect = connect;
    const { promise, reject } = Promise.withResolvers<never>();
    promise.catch(() => undefined); // it may reject before anybody waits for it
    this.lost = promise;
    const onLoss = (cause?: unknown) => {
      if (this.#state !== 'open') return;
      this.#state = 'ended';
      reject(
        new HoldfastError('SERVER_UNREACHABLE', 'the session that held the backup open was lost', { cause }),
      );
    };
    client.on('error', onLoss);
    client.on('end', () => onLoss());
  }

  /** Rows of one statement. An aborted signal cancels it at the server and throws the signal's reason. */
  async query<Row extends pg.QueryResultRow>(
    sql: string,
    values: readonly unknown[],
    signal: AbortSignal,
  ): Promise<readonly Row[]> {
    signal.throwIfAborted();
    let cancelling: Promise<void> | undefined;
    const onAbort = () => {
      cancelling = this.#cancel();
    };
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      const running = this.#client.query<Row>(sql, values.length === 0 ? undefined : [...values]);
      return (await Promise.race([running, this.lost])).rows;
    } catch (cause) {
      signal.throwIfAborted();
      if (cause instanceof HoldfastError) throw cause;
      const message = cause instanceof Error ? cause.message : String(cause);
      throw new HoldfastError('BACKUP_FAILED', `the server refused a step of the backup: ${message}`, {
        cause,
      });
    } finally {
      signal.removeEventListener('abort', onAbort);
      await cancelling;
    }
  }

  async end(): Promise<void> {
    if (this.#state !== 'open') return;
    this.#state = 'ending';
    // A connection that is broken already cannot be ended any better.
    await this.#client.end().catch(() => undefined);
    this.#state = 'ended';
  }

  /** Cancels the running statement from a second connection; where that fails, the session itself is ended. */
  async #cancel(): Promise<void> {
    const { processID } = this.#client as unknown as { processID: number | null }; // public in pg, missing in its types
    try {
      const other = await this.#connect(AbortSignal.timeout(CANCEL_TIMEOUT_MS));
      try {
        await other.query('SELECT pg_catalog.pg_cancel_backend($1)', [processID]);
      } finally {
        await other.end();
      }
    } catch {
      await this.end();
    }
  }
}
