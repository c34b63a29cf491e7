/**
 * The catalog on a PostgreSQL server, by URL. Readers log in as holdfast_reader: a role with rights on the views of
 * schema oceanbase and nothing else, whose password is made anew at every start and kept in memory only.
 */
import { randomBytes } from 'node:crypto';
import { Pool, type PoolClient, type QueryResultRow } from 'pg';
import { HoldfastError } from '../../foundation/errors.ts';
import type { ViewDefinition } from '../sql/reader.ts';
import { type Catalog, type Queryable, READER_ROLE, type ReaderLogin, type SqlParameter } from './catalog.ts';
import { checkLeadership, claimLeadership } from './leadership.ts';
import { migrate } from './migrations.ts';
import { Mutex } from './mutex.ts';
import { listViews, readViewAsJson } from './view-source.ts';

const POOL_CONNECTIONS = 6;
const CONNECT_TIMEOUT_MS = 10_000;
const STATEMENT_TIMEOUT_MS = 60_000;
/** PostgreSQL's type oids that need a reader of their own; all others stay text. */
const PARSERS: Readonly<Record<number, (text: string) => unknown>> = {
  16: (text) => text === 't',
  20: BigInt,
  21: Number,
  23: Number,
  26: Number,
  700: Number,
  701: Number,
  114: (text) => JSON.parse(text) as unknown,
  3802: (text) => JSON.parse(text) as unknown,
};
const TYPES = { getTypeParser: (oid: number) => PARSERS[oid] ?? ((text: string) => text) };

/** Connects, migrates, makes the reader role and takes leadership as `holder`. Throws INVALID_CONFIG naming what is missing. */
export async function openPostgresqlCatalog(
  url: string,
  holder: string,
  nowUs: bigint,
): Promise<{ readonly catalog: Catalog; readonly epoch: bigint }> {
  const pool = new Pool({
    connectionString: url,
    max: POOL_CONNECTIONS,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    statement_timeout: STATEMENT_TIMEOUT_MS,
    application_name: 'holdfast coordinator',
    options: '-c TimeZone=UTC -c DateStyle=ISO,MDY -c search_path=pg_catalog',
    types: TYPES,
  });
  pool.on('error', () => undefined); // an idle connection that breaks is replaced; the next query says so if it cannot be
  try {
    const client = await connect(pool, url);
    try {
      await client.query('BEGIN');
      await migrate({
        exec: async (sql) => void (await client.query(sql)),
        versions: async (sql) =>
          (await client.query<{ version: number }>(sql)).rows.map(({ version }) => version),
      });
      const epoch = await claimLeadership(queryableOf(client), holder, nowUs);
      const readerLogin = await prepareReader(client);
      await client.query('COMMIT');
      const views = await listViews(queryableOf(client));
      return { catalog: new PostgresqlCatalog(pool, epoch, views, readerLogin), epoch };
    } finally {
      client.release();
    }
  } catch (error) {
    await pool.end();
    throw error;
  }
}

async function connect(pool: Pool, url: string): Promise<PoolClient> {
  try {
    return await pool.connect();
  } catch (error) {
    const { host, pathname } = new URL(url);
    throw new HoldfastError('INVALID_CONFIG', `cannot connect to the catalog at ${host}${pathname}`, {
      cause: error,
      detail: error instanceof Error ? error.message : String(error),
      hint: 'Check catalog.url_file: host, port, database, user and password.',
    });
  }
}

/** Only a superuser may take such attributes away; a role that was made here has none. Throws INVALID_CONFIG. */
async function refusePower(client: PoolClient): Promise<void> {
  const { rowCount } = await client.query(
    `SELECT FROM pg_roles WHERE rolname = '${READER_ROLE}'
     AND (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls)`,
  );
  if (rowCount === 0) return;
  throw new HoldfastError('INVALID_CONFIG', `the role ${READER_ROLE} of the catalog may do more than read`, {
    hint: `ALTER ROLE ${READER_ROLE} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;`,
  });
}

/** Gives holdfast_reader a new password and rights on the views only. Runs in the caller's transaction. */
async function prepareReader(client: PoolClient): Promise<ReaderLogin> {
  const password = randomBytes(24).toString('base64url');
  try {
    await client.query(`
      DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '${READER_ROLE}') THEN CREATE ROLE ${READER_ROLE}; END IF;
      END $$;
      ALTER ROLE ${READER_ROLE} LOGIN NOINHERIT PASSWORD '${password}';
      ALTER ROLE ${READER_ROLE} SET search_path = oceanbase, pg_catalog;
      ALTER ROLE ${READER_ROLE} SET default_transaction_read_only = on;
      REVOKE CREATE ON SCHEMA public FROM PUBLIC;
      REVOKE ALL ON ALL TABLES IN SCHEMA holdfast FROM PUBLIC, ${READER_ROLE};
      GRANT USAGE ON SCHEMA holdfast, oceanbase TO ${READER_ROLE};
      GRANT SELECT ON ALL TABLES IN SCHEMA oceanbase TO ${READER_ROLE};
      DO $$ BEGIN EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database()); END $$;`);
  } catch (error) {
    throw new HoldfastError('INVALID_CONFIG', `cannot make the role ${READER_ROLE} in the catalog`, {
      cause: error,
      detail: error instanceof Error ? error.message : String(error),
      hint: 'The catalog user needs CREATEROLE and must own the database.',
    });
  }
  await refusePower(client);
  const { host, port, database, ssl } = client;
  return { host, port, database: database ?? 'postgres', user: READER_ROLE, password, ssl };
}

function queryableOf(target: Pool | PoolClient): Queryable {
  return {
    query: async <Row extends object>(sql: string, values: readonly SqlParameter[] = []) =>
      (await target.query<Row & QueryResultRow>(sql, [...values])).rows,
  };
}

class PostgresqlCatalog implements Catalog {
  readonly kind = 'postgresql';
  readonly views: readonly ViewDefinition[];
  readonly readerLogin: ReaderLogin;
  readonly #pool: Pool;
  readonly #reader: Queryable;
  readonly #epoch: bigint;
  readonly #writes = new Mutex();
  #commits = 0;

  constructor(pool: Pool, epoch: bigint, views: readonly ViewDefinition[], readerLogin: ReaderLogin) {
    this.#pool = pool;
    this.#reader = queryableOf(pool);
    this.#epoch = epoch;
    this.views = views;
    this.readerLogin = readerLogin;
  }

  query<Row extends object>(sql: string, values: readonly SqlParameter[] = []): Promise<readonly Row[]> {
    return this.#reader.query<Row>(sql, values);
  }

  transaction<T>(run: (tx: Queryable) => Promise<T>): Promise<T> {
    return this.#writes.run(async () => {
      const client = await this.#pool.connect();
      let broken: Error | undefined;
      try {
        await client.query('BEGIN');
        const queryable = queryableOf(client);
        await checkLeadership(queryable, this.#epoch);
        const result = await run(queryable);
        await client.query('COMMIT');
        this.#commits += 1;
        return result;
      } catch (error) {
        await client.query('ROLLBACK').catch((cause: unknown) => {
          broken = cause instanceof Error ? cause : new Error(String(cause));
        });
        throw error;
      } finally {
        client.release(broken);
      }
    });
  }

  /** Moves with every commit and every second: lags and rates in the views follow the clock. */
  changeCounter(): number {
    return this.#commits + Math.floor(performance.now() / 1000);
  }

  async readView(name: string, signal: AbortSignal): Promise<string> {
    signal.throwIfAborted();
    return await readViewAsJson(this.#reader, this.views, name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#writes.run(() => this.#pool.end());
  }
}
