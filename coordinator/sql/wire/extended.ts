/**
 * Prepared statements and portals of admin statements, which live here and not in the reader; and what Describe and
 * Execute say of them. A portal of a SHOW runs when it is first described or executed, any other when executed.
 */
import { HoldfastError } from '../../../foundation/errors.ts';
import type { ResultColumn, SqlValue } from '../results.ts';
import type { AdminStatement } from '../statements.ts';
import type { ValueFormat } from './backend-messages.ts';
import type { Frame } from './frames.ts';
import type { FrontendMessage } from './frontend-messages.ts';

/** `empty`: a string without a statement. */
export type LocalStatement =
  | { readonly kind: 'admin'; readonly statement: AdminStatement }
  | { readonly kind: 'empty' };

export type LocalPortal = {
  readonly statement: LocalStatement;
  readonly formats: readonly ValueFormat[];
  /** The rows of a SHOW once it ran. */
  table:
    | { readonly columns: readonly ResultColumn[]; readonly rows: readonly (readonly SqlValue[])[] }
    | undefined;
  /** How many of the rows were sent. */
  sent: number;
};

/** A message of the extended protocol as it came. */
export type GatheredMessage = {
  readonly message: Extract<FrontendMessage, { kind: 'parse' | 'bind' | 'describe' | 'close' | 'execute' }>;
  readonly frame: Frame;
};

const MAX_LOCAL = 1000;

export class LocalObjects {
  readonly #statements = new Map<string, LocalStatement>();
  readonly #portals = new Map<string, LocalPortal>();

  statement(name: string): LocalStatement | undefined {
    return this.#statements.get(name);
  }

  portal(name: string): LocalPortal | undefined {
    return this.#portals.get(name);
  }

  /** Throws TOO_MANY_SESSIONS when there are too many. */
  prepare(name: string, statement: LocalStatement): void {
    if (this.#statements.size >= MAX_LOCAL)
      throw new HoldfastError('TOO_MANY_SESSIONS', `more than ${MAX_LOCAL} prepared statements`);
    this.#statements.set(name, statement);
  }

  bind(name: string, statement: LocalStatement, formats: readonly ValueFormat[]): void {
    this.#portals.set(name, { statement, formats, table: undefined, sent: 0 });
  }

  forgetStatement(name: string): void {
    this.#statements.delete(name);
  }

  forgetPortal(name: string): void {
    this.#portals.delete(name);
  }

  /** Portals end with their transaction. */
  endTransaction(): void {
    this.#portals.clear();
  }

  clear(): void {
    this.#statements.clear();
    this.#portals.clear();
  }
}
