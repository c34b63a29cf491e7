/**
 * The catalog: what the coordinator remembers. One small interface over embedded PGlite and over a PostgreSQL server,
 * with the same SQL. Only files in coordinator/catalog/ write SQL.
 *
 * Invariants:
 * - Every write is made inside `transaction`, one after the other, and each begins by checking that this coordinator
 *   still leads (its epoch is the one in holdfast.leadership): a stale leader's writes are refused (OB-9063).
 * - int8 is bigint, numeric and pg_lsn are text, json is parsed; times are microseconds in int8 columns.
 */
import type { ViewSource } from '../sql/reader.ts';

export type SqlParameter = string | number | bigint | boolean | null;

/** Runs one statement and gives its rows as objects by column name; the caller names the columns it selected. */
export interface Queryable {
  query<Row extends object>(sql: string, values?: readonly SqlParameter[]): Promise<readonly Row[]>;
}

/** How a reading session of a PostgreSQL catalog connects: a role with rights on the views only. */
export type ReaderLogin = {
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user: string;
  readonly password: string;
  readonly ssl: boolean;
};

export interface Catalog extends Queryable, ViewSource, AsyncDisposable {
  readonly kind: 'pglite' | 'postgresql';
  /** Reads only. Throws what the database throws. */
  query<Row extends object>(sql: string, values?: readonly SqlParameter[]): Promise<readonly Row[]>;
  /** Writes. Commits when `run` resolves, rolls back when it rejects. Throws BACKUP_IO_PROHIBITED when another coordinator leads. */
  transaction<T>(run: (tx: Queryable) => Promise<T>): Promise<T>;
  /** Only with a PostgreSQL catalog. */
  readonly readerLogin: ReaderLogin | undefined;
}

export const READER_ROLE = 'holdfast_reader';
