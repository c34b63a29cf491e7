/**
 * One path for every client: a parsed statement runs here whether it came by psql, a driver or gRPC. Admin statements go
 * to the commands, reading statements to the client's reader.
 */
import { HoldfastError } from '../../foundation/errors.ts';
import { ClientReader } from './client-reader.ts';
import type { ParsedStatement } from './parse.ts';
import type { Reader } from './reader.ts';
import type { CommandEvent } from './results.ts';
import type { SqlSession } from './session.ts';
import { type AdminStatement, STATEMENT_NAMES } from './statements.ts';
import type { Frame } from './wire/frames.ts';

/** Runs an admin statement. Throws HoldfastError; stops waiting when `signal` aborts. */
export type ExecuteCommand = (
  statement: AdminStatement,
  session: SqlSession,
  signal: AbortSignal,
) => AsyncIterable<CommandEvent>;

export type SqlServices = {
  readonly executeCommand: ExecuteCommand;
  readonly reader: Reader;
  readonly queryTimeoutMs: () => number;
};

/** One client: its session and its place in the catalog. */
export type SqlClient = AsyncDisposable & {
  readonly session: SqlSession;
  readonly reader: ClientReader;
};

export function createClient(services: SqlServices, session: SqlSession): SqlClient {
  const reader = new ClientReader(services);
  return { session, reader, [Symbol.asyncDispose]: () => reader[Symbol.asyncDispose]() };
}

/** `frame`: a message of the reader as it is (row description, row, tag, notice, parameter status); `E` is the last. */
export type StatementEvent = CommandEvent | { readonly kind: 'frame'; readonly frame: Frame };

/**
 * Runs one statement. Throws HoldfastError, except for the reader's own errors, which are an `E` frame. A consumer that
 * leaves before the end costs the client its reading session.
 */
export async function* runStatement(
  services: SqlServices,
  client: SqlClient,
  parsed: ParsedStatement,
  signal: AbortSignal,
): AsyncGenerator<StatementEvent> {
  switch (parsed.kind) {
    case 'refused':
      throw parsed.error;
    case 'admin':
      checkTransaction(parsed.statement, client);
      yield* runAdmin(services, client.session, parsed.statement, signal);
      return;
    case 'reading':
      for await (const frame of client.reader.query(parsed.sql, parsed.verb, signal))
        yield { kind: 'frame', frame };
  }
}

/** Runs an admin statement and ends with its tag. */
export async function* runAdmin(
  services: Pick<SqlServices, 'executeCommand'>,
  session: SqlSession,
  statement: AdminStatement,
  signal: AbortSignal,
): AsyncGenerator<CommandEvent> {
  let rows: number | undefined;
  let complete = false;
  for await (const event of setInSession(statement, session) ??
    services.executeCommand(statement, session, signal)) {
    if (event.kind === 'rowDescription') rows = 0;
    if (event.kind === 'row') rows = (rows ?? 0) + 1;
    if (event.kind === 'complete') complete = true;
    yield event;
  }
  if (!complete)
    yield { kind: 'complete', tag: rows === undefined ? STATEMENT_NAMES[statement.kind] : `SELECT ${rows}` };
}

/** True when the statement's answer is a table, whose columns a client may ask for before it runs. It then only reads. */
export function returnsRows(statement: AdminStatement): boolean {
  switch (statement.kind) {
    case 'showParameters':
    case 'showRestoreWindows':
    case 'showRestorePreview':
      return true;
    case 'restore':
      return statement.preview;
    default:
      return false;
  }
}

/** Admin statements take effect at once and cannot be rolled back: not inside BEGIN, as PostgreSQL's ALTER SYSTEM. */
export function checkTransaction(statement: AdminStatement, client: SqlClient): void {
  const { status } = client.reader;
  if (status === 'I' || (status === 'T' && returnsRows(statement))) return;
  const state = status === 'T' ? 'inside a transaction block' : 'in a failed transaction block';
  throw new HoldfastError('TRANSACTION_STATE', `${STATEMENT_NAMES[statement.kind]} cannot run ${state}`, {
    hint: status === 'T' ? 'COMMIT first, or switch autocommit on.' : 'ROLLBACK;',
  });
}

/** SET ENCRYPTION and SET DECRYPTION concern nothing but the session. Throws INVALID_ARGUMENT; the session stays as it was then. */
function setInSession(
  statement: AdminStatement,
  session: SqlSession,
): AsyncIterable<CommandEvent> | undefined {
  if (statement.kind === 'setEncryption') {
    const { password, only } = statement;
    session.encryption = password === undefined ? undefined : { password: checkPassword(password), only };
  } else if (statement.kind === 'setDecryption')
    session.decryptionPasswords = statement.passwords.map(checkPassword);
  else return undefined;
  return nothing();
}

/** The password. Throws INVALID_ARGUMENT, without it, when the lines of a --password-file could not give it. */
function checkPassword(password: string): string {
  if (password !== '' && !/[\r\n\0]/.test(password)) return password;
  const fault = password === '' ? 'is empty' : 'has a line break or a character of code zero in it';
  throw new HoldfastError('INVALID_ARGUMENT', `a password of backups ${fault}`, {
    hint: 'Give one of one line: `holdfast restore --password-file` reads one password a line, and leaves out empty lines.',
  });
}

async function* nothing(): AsyncGenerator<CommandEvent> {
  // yields no events
}
