/**
 * The embedded catalog: PGlite in a data directory of its own. It does not fsync (architecture.md); what matters in it
 * can be rebuilt from a destination. One process at a time: a lock file names it.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { PGlite, types } from '@electric-sql/pglite';
import type { ViewDefinition } from '../sql/reader.ts';
import type { Catalog, Queryable, SqlParameter } from './catalog.ts';
import { lockDirectory } from './directory-lock.ts';
import { checkLeadership, claimLeadership } from './leadership.ts';
import { migrate } from './migrations.ts';
import { Mutex } from './mutex.ts';
import { listViews, readViewAsJson } from './view-source.ts';

/** int8 exact, numeric, pg_lsn and times as text. */
const PARSERS = {
  [types.INT8]: (text: string) => BigInt(text),
  [types.NUMERIC]: (text: string) => text,
  [types.TIMESTAMPTZ]: (text: string) => text,
};

/**
 * Opens (and creates) the catalog below `directory`; undefined keeps it in memory, for tests. Takes leadership as
 * `holder`. Throws INVALID_CONFIG when another process has it open.
 */
export async function openPgliteCatalog(
  directory: string | undefined,
  holder: string,
  nowUs: bigint,
): Promise<{ readonly catalog: Catalog; readonly epoch: bigint }> {
  if (directory !== undefined) await mkdir(directory, { recursive: true, mode: 0o700 });
  const lock = directory === undefined ? undefined : await lockDirectory(directory);
  let database: PGlite | undefined;
  try {
    database = await PGlite.create({
      ...(directory === undefined ? {} : { dataDir: join(directory, 'catalog') }),
      parsers: PARSERS,
    });
    const opened = database;
    const epoch = await opened.transaction(async (tx) => {
      await migrate({
        exec: async (sql) => void (await tx.exec(sql)),
        versions: async (sql) =>
          (await tx.query<{ version: number }>(sql)).rows.map(({ version }) => version),
      });
      return await claimLeadership(queryableOf(tx), holder, nowUs);
    });
    const views = await listViews(queryableOf(opened));
    return { catalog: new PgliteCatalog(opened, epoch, views, lock), epoch };
  } catch (error) {
    await database?.close();
    await lock?.[Symbol.asyncDispose]();
    throw error;
  }
}

function queryableOf(target: Pick<PGlite, 'query'>): Queryable {
  return {
    query: async <Row extends object>(sql: string, values: readonly SqlParameter[] = []) =>
      (await target.query<Row>(sql, [...values])).rows,
  };
}

class PgliteCatalog implements Catalog {
  readonly kind = 'pglite';
  readonly readerLogin = undefined;
  readonly views: readonly ViewDefinition[];
  readonly #database: PGlite;
  readonly #reader: Queryable;
  readonly #epoch: bigint;
  readonly #lock: AsyncDisposable | undefined;
  readonly #writes = new Mutex();
  #commits = 0;

  constructor(
    database: PGlite,
    epoch: bigint,
    views: readonly ViewDefinition[],
    lock: AsyncDisposable | undefined,
  ) {
    this.#database = database;
    this.#reader = queryableOf(database);
    this.#epoch = epoch;
    this.views = views;
    this.#lock = lock;
  }

  query<Row extends object>(sql: string, values: readonly SqlParameter[] = []): Promise<readonly Row[]> {
    return this.#reader.query<Row>(sql, values);
  }

  transaction<T>(run: (tx: Queryable) => Promise<T>): Promise<T> {
    return this.#writes.run(async () => {
      const result = await this.#database.transaction(async (tx) => {
        const queryable = queryableOf(tx);
        await checkLeadership(queryable, this.#epoch);
        return await run(queryable);
      });
      this.#commits += 1;
      return result;
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
    await this.#writes.run(() => this.#database.close());
    await this.#lock?.[Symbol.asyncDispose]();
  }
}
