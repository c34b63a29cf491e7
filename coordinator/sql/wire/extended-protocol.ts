/**
 * The extended query protocol: which prepared statement and portal is the reader's and which is ours, and what each
 * message does. Reading statements' messages are forwarded as they came.
 */
import { assertNever } from '../../../foundation/assert.ts';
import { HoldfastError } from '../../../foundation/errors.ts';
import { checkTransaction, returnsRows, runAdmin, type SqlClient, type SqlServices } from '../execute.ts';
import { parseSql } from '../parse.ts';
import type { ResultColumn, SqlValue } from '../results.ts';
import type { AdminStatement } from '../statements.ts';
import {
  bindComplete,
  closeComplete,
  commandComplete,
  dataRow,
  emptyQueryResponse,
  noData,
  noticeResponse,
  parameterDescription,
  parseComplete,
  portalSuspended,
  rowDescription,
  type ValueFormat,
} from './backend-messages.ts';
import { type GatheredMessage, LocalObjects, type LocalPortal, type LocalStatement } from './extended.ts';
import { type Frame } from './frames.ts';
import type { FrontendMessage } from './frontend-messages.ts';

type MessageOf<K extends FrontendMessage['kind']> = Extract<FrontendMessage, { readonly kind: K }>;
/** The SQL and verb behind a portal of the reader. */
type ReaderStatement = { readonly sql: string; readonly verb: string };

export class ExtendedProtocol {
  readonly #services: SqlServices;
  readonly #client: SqlClient;
  readonly #write: (bytes: Buffer) => Promise<void>;
  readonly #local = new LocalObjects();
  readonly #verbs = new Map<string, ReaderStatement>();
  readonly #portalVerbs = new Map<string, ReaderStatement>();

  constructor(services: SqlServices, client: SqlClient, write: (bytes: Buffer) => Promise<void>) {
    this.#services = services;
    this.#client = client;
    this.#write = write;
  }

  /** Handles messages in order. False when the reader answered one with an error: the rest is then skipped. */
  async run(gathered: readonly GatheredMessage[], signal: AbortSignal): Promise<boolean> {
    const texts = gathered.flatMap(({ message }) => this.#textOf(message));
    for (const { message, frame } of gathered) {
      const ours = await this.#handleLocally(message, signal);
      if (ours) continue;
      await this.#client.reader.begin(this.#needsAll(gathered) ? undefined : texts, signal);
      if (!(await this.#forward(message, frame, signal))) return false;
    }
    return true;
  }

  /** Sync: ends the reader's run; portals end with the transaction. */
  async endRun(signal: AbortSignal): Promise<void> {
    await this.#client.reader.sync(signal);
    if (this.#client.reader.status !== 'I') return;
    this.#local.endTransaction();
    this.#portalVerbs.clear();
  }

  /** A simple query replaces the unnamed statement and portal. */
  dropUnnamed(): void {
    this.#local.forgetStatement('');
    this.#local.forgetPortal('');
    this.#verbs.delete('');
    this.#portalVerbs.delete('');
  }

  noteExecuted(verb: string): void {
    if (verb !== 'DISCARD') return;
    this.#local.clear();
    this.#verbs.clear();
  }

  /** BEGIN freezes what the views show: all of them must be fresh. */
  #needsAll(gathered: readonly GatheredMessage[]): boolean {
    return gathered.some(({ message }) => {
      const text =
        message.kind === 'parse'
          ? message.sql
          : message.kind === 'bind'
            ? this.#verbs.get(message.statement)?.sql
            : '';
      return /^\s*(begin|start)\b/i.test(text ?? '');
    });
  }

  #textOf(message: GatheredMessage['message']): readonly string[] {
    if (message.kind === 'parse') return [message.sql];
    const sql = message.kind === 'bind' ? this.#verbs.get(message.statement)?.sql : undefined;
    return sql === undefined ? [] : [sql];
  }

  /** True when the message is about an admin statement. */
  async #handleLocally(message: GatheredMessage['message'], signal: AbortSignal): Promise<boolean> {
    switch (message.kind) {
      case 'parse':
        return await this.#parse(message);
      case 'bind':
        return await this.#bind(message);
      case 'describe':
        return await this.#describe(message, signal);
      case 'close':
        return await this.#close(message);
      case 'execute': {
        const portal = this.#local.portal(message.portal);
        if (portal !== undefined) await this.#execute(portal, message.maxRows, signal);
        else if (!this.#portalVerbs.has(message.portal))
          throw new HoldfastError('STATEMENT_NOT_EXIST', `portal "${message.portal}" does not exist`);
        return portal !== undefined;
      }
      default:
        return assertNever(message);
    }
  }

  async #parse({ name, sql }: MessageOf<'parse'>): Promise<boolean> {
    const statements = parseSql(sql);
    const [first] = statements;
    if (statements.length > 1)
      throw new HoldfastError('SYNTAX_ERROR', 'cannot insert multiple commands into a prepared statement');
    if (name !== '' && this.#local.statement(name) !== undefined)
      throw new HoldfastError('PROTOCOL_VIOLATION', `prepared statement "${name}" already exists`);
    this.#local.forgetStatement(name);
    if (first?.kind === 'refused') throw first.error;
    if (first?.kind === 'reading') {
      this.#verbs.set(name, { sql, verb: first.verb });
      return false;
    }
    this.#verbs.delete(name);
    this.#local.prepare(
      name,
      first === undefined ? { kind: 'empty' } : { kind: 'admin', statement: first.statement },
    );
    await this.#write(parseComplete());
    return true;
  }

  async #bind({ portal, statement, parameters, resultFormats }: MessageOf<'bind'>): Promise<boolean> {
    const local = this.#local.statement(statement);
    if (local === undefined) {
      const reading = this.#verbs.get(statement);
      if (reading === undefined)
        throw new HoldfastError('STATEMENT_NOT_EXIST', `prepared statement "${statement}" does not exist`);
      this.#local.forgetPortal(portal);
      this.#portalVerbs.set(portal, reading);
      return false;
    }
    if (parameters > 0)
      throw new HoldfastError('PROTOCOL_VIOLATION', 'admin statements take no parameters', {
        hint: 'Write the values into the statement as strings.',
      });
    this.#portalVerbs.delete(portal);
    this.#local.bind(portal, local, resultFormats);
    await this.#write(bindComplete());
    return true;
  }

  async #describe({ target, name }: MessageOf<'describe' | 'close'>, signal: AbortSignal): Promise<boolean> {
    if (target === 'statement') {
      const statement = this.#local.statement(name);
      if (statement === undefined) {
        if (!this.#verbs.has(name))
          throw new HoldfastError('STATEMENT_NOT_EXIST', `prepared statement "${name}" does not exist`);
        return false;
      }
      await this.#write(parameterDescription());
      await this.#writeColumns(await this.#table(statement, signal), []);
      return true;
    }
    const portal = this.#local.portal(name);
    if (portal === undefined) {
      if (!this.#portalVerbs.has(name))
        throw new HoldfastError('STATEMENT_NOT_EXIST', `portal "${name}" does not exist`);
      return false;
    }
    portal.table ??= await this.#table(portal.statement, signal);
    await this.#writeColumns(portal.table, portal.formats);
    return true;
  }

  async #close({ target, name }: MessageOf<'describe' | 'close'>): Promise<boolean> {
    if (target === 'statement' && this.#verbs.has(name)) {
      this.#verbs.delete(name);
      this.#client.reader.forget(name);
      return false;
    }
    if (target === 'portal' && this.#portalVerbs.delete(name)) return false;
    if (target === 'statement') this.#local.forgetStatement(name);
    else this.#local.forgetPortal(name);
    await this.#write(closeComplete());
    return true;
  }

  async #execute(portal: LocalPortal, maxRows: number, signal: AbortSignal): Promise<void> {
    if (portal.statement.kind === 'empty') return await this.#write(emptyQueryResponse());
    const { statement } = portal.statement;
    checkTransaction(statement, this.#client);
    portal.table ??= await this.#table(portal.statement, signal);
    if (portal.table !== undefined) return await this.#sendRows(portal, portal.table, maxRows);
    for await (const event of runAdmin(this.#services, this.#client.session, statement, signal)) {
      // Its rows, if any, were not announced by Describe, and so cannot be sent.
      if (event.kind === 'notice') await this.#write(noticeResponse(event));
      if (event.kind === 'complete') await this.#write(commandComplete(event.tag));
    }
  }

  async #sendRows(portal: LocalPortal, table: Table, maxRows: number): Promise<void> {
    const end = maxRows > 0 ? Math.min(table.rows.length, portal.sent + maxRows) : table.rows.length;
    const begin = portal.sent;
    for (const row of table.rows.slice(begin, end))
      await this.#write(dataRow(row, table.columns, portal.formats));
    portal.sent = end;
    if (end < table.rows.length) await this.#write(portalSuspended());
    else await this.#write(commandComplete(`SELECT ${end - begin}`));
  }

  /** Runs a statement that only shows; undefined for any other. */
  async #table(local: LocalStatement, signal: AbortSignal): Promise<Table | undefined> {
    if (local.kind === 'empty' || !returnsRows(local.statement)) return undefined;
    return await this.#runTable(local.statement, signal);
  }

  async #runTable(statement: AdminStatement, signal: AbortSignal): Promise<Table> {
    let columns: readonly ResultColumn[] = [];
    const rows: (readonly SqlValue[])[] = [];
    for await (const event of runAdmin(this.#services, this.#client.session, statement, signal)) {
      if (event.kind === 'rowDescription') columns = event.columns;
      if (event.kind === 'row') rows.push(event.values);
      if (event.kind === 'notice') await this.#write(noticeResponse(event));
    }
    return { columns, rows };
  }

  async #writeColumns(table: Table | undefined, formats: readonly ValueFormat[]): Promise<void> {
    await this.#write(table === undefined ? noData() : rowDescription(table.columns, formats));
  }

  /** False when the reader's answer was an error. */
  async #forward(message: GatheredMessage['message'], frame: Frame, signal: AbortSignal): Promise<boolean> {
    const { reader } = this.#client;
    let failed = false;
    for await (const answer of this.#exchange(message, frame, signal)) {
      failed ||= answer.type === 'E';
      await this.#write(answer.bytes);
    }
    if (message.kind === 'parse') {
      if (failed) this.#verbs.delete(message.name);
      else reader.remember(message.name, message.sql, frame.bytes);
    }
    const executed = message.kind === 'execute' ? this.#portalVerbs.get(message.portal) : undefined;
    if (executed !== undefined && !failed) {
      reader.noteExecuted(executed.sql, executed.verb);
      this.noteExecuted(executed.verb);
    }
    return !failed;
  }

  #exchange(message: GatheredMessage['message'], frame: Frame, signal: AbortSignal): AsyncIterable<Frame> {
    const { reader } = this.#client;
    if (message.kind === 'execute' && message.maxRows <= 0) return reader.sendExecute(message.portal, signal);
    return reader.send(frame.bytes, signal);
  }
}

type Table = { readonly columns: readonly ResultColumn[]; readonly rows: readonly (readonly SqlValue[])[] };
