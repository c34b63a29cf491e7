/**
 * Random histories of a server, for increments: rows and pages change, relations are cut, rewritten, dropped and made anew,
 * databases come and go by both strategies, tables move to other tablespaces. Every table has a name of its own history.
 */
import { chown, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type pg from 'pg';
import { serverUser, type TestServer } from './postgres.ts';
import type { Random } from './random.ts';

export class IncrementHistory {
  readonly #database: string;
  readonly #random: Random;
  #server: TestServer;
  #client: pg.Client;
  readonly #counts = new Map<string, number>();
  #tables: string[] = [];
  #databases: string[] = [];
  #made = 0;

  private constructor(server: TestServer, random: Random, database: string, client: pg.Client) {
    this.#server = server;
    this.#random = random;
    this.#database = database;
    this.#client = client;
  }

  /** A tablespace and the first tables; one of them is large enough for several macroblocks. */
  static async begin(server: TestServer, random: Random, database: string): Promise<IncrementHistory> {
    const location = join(server.directory, 'history-disk');
    await mkdir(location);
    const user = serverUser();
    if (user !== undefined) await chown(location, user.uid, user.gid);
    await server.query(`CREATE TABLESPACE history LOCATION '${location}'`);
    const history = new IncrementHistory(server, random, database, await server.connect(database));
    for (const rows of [60_000, 4000, 500]) await history.#create(rows);
    return history;
  }

  /** How often each kind of step was done. */
  get counts(): ReadonlyMap<string, number> {
    return this.#counts;
  }

  async run(steps: number): Promise<void> {
    for (let step = 0; step < steps; step += 1) {
      const [name, action] = STEPS[this.#random.between(0, STEPS.length)] ?? STEPS[0];
      this.#counts.set(name, (this.#counts.get(name) ?? 0) + 1);
      await action(this.#act);
    }
  }

  /** Every kind of step once, in order. */
  async runEach(): Promise<void> {
    for (const [name, action] of STEPS) {
      this.#counts.set(name, (this.#counts.get(name) ?? 0) + 1);
      await action(this.#act);
    }
  }

  /** Rows and a table of a transaction that is never committed: what is left of it when its server dies. */
  async leaveUnfinished(): Promise<pg.Client> {
    const client = await this.#server.connect(this.#database);
    await client.query('BEGIN');
    await client.query(`UPDATE ${this.#act.table()} SET body = body || 'lost' WHERE id % 40 = 1`);
    await client.query('CREATE TABLE lost AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i');
    return client;
  }

  /** Goes on at another server with the same contents, or at one that was started again. */
  async goOnAt(server: TestServer): Promise<void> {
    await this.#client.end().catch(() => undefined); // its server may be gone
    this.#server = server;
    this.#client = await server.connect(this.#database);
  }

  async end(): Promise<void> {
    await this.#client.end();
  }

  readonly #act: Acting = {
    table: () => this.#tables[this.#random.between(0, this.#tables.length)] ?? '',
    between: (begin, end) => this.#random.between(begin, end),
    query: async (sql) => {
      await this.#client.query(sql);
    },
    create: async () => await this.#create(this.#random.between(1, 3000)),
    drop: async (table) => {
      this.#tables = this.#tables.filter((name) => name !== table);
      await this.#client.query(`DROP TABLE ${table}`);
      if (this.#tables.length === 0) await this.#create(1000);
    },
    createDatabase: async (strategy) => await this.#createDatabase(strategy),
    dropDatabase: async () => {
      const name = this.#databases.shift();
      if (name !== undefined) await this.#client.query(`DROP DATABASE ${name}`);
    },
    moveDatabase: async () => {
      const [name] = this.#databases;
      const to = this.#random.next() < 0.5 ? 'history' : 'pg_default';
      if (name !== undefined) await this.#client.query(`ALTER DATABASE ${name} SET TABLESPACE ${to}`);
    },
    changeDatabase: async () => {
      const [name] = this.#databases;
      if (name === undefined) return;
      const client = await this.#server.connect(name);
      try {
        await client.query('CREATE TABLE IF NOT EXISTS inside (id int PRIMARY KEY, body text)');
        await client.query(
          `INSERT INTO inside SELECT i, md5(i::text) FROM generate_series(1, ${this.#random.between(10, 5000)}) i
           ON CONFLICT (id) DO UPDATE SET body = inside.body || 'x'`,
        );
      } finally {
        await client.end();
      }
    },
  };

  async #create(rows: number): Promise<void> {
    this.#made += 1;
    const name = `h${this.#made}`;
    const tablespace = this.#random.next() < 0.3 ? 'TABLESPACE history' : '';
    await this.#client.query(`CREATE TABLE ${name} (id int, n int, body text) ${tablespace}`);
    await this.#client.query(
      `INSERT INTO ${name} SELECT i, i % 97, repeat(md5(i::text), 4) FROM generate_series(1, ${rows}) i`,
    );
    await this.#client.query(`ALTER TABLE ${name} ADD PRIMARY KEY (id)`);
    await this.#client.query(`CREATE INDEX ON ${name} (n, id)`);
    this.#tables.push(name);
  }

  async #createDatabase(strategy: string): Promise<void> {
    this.#made += 1;
    const name = `d${this.#made}`;
    const option = this.#server.major >= 15 ? `STRATEGY ${strategy}` : '';
    await this.#client.query(`CREATE DATABASE ${name} ${option}`);
    this.#databases.push(name);
    if (this.#databases.length > 2)
      await this.#client.query(`DROP DATABASE ${this.#databases.shift() ?? ''}`);
  }
}

/** What a step may do. */
type Acting = {
  table(): string;
  between(begin: number, end: number): number;
  query(sql: string): Promise<void>;
  create(): Promise<void>;
  drop(table: string): Promise<void>;
  createDatabase(strategy: 'wal_log' | 'file_copy'): Promise<void>;
  dropDatabase(): Promise<void>;
  moveDatabase(): Promise<void>;
  changeDatabase(): Promise<void>;
};

const STEPS: readonly [
  readonly [string, (act: Acting) => Promise<void>],
  ...(readonly [string, (act: Acting) => Promise<void>])[],
] = [
  [
    'update a few rows everywhere',
    async (act) =>
      await act.query(
        `UPDATE ${act.table()} SET body = md5(body) || n WHERE id % ${act.between(500, 5000)} = ${act.between(0, 100)}`,
      ),
  ],
  [
    'update many rows',
    async (act) =>
      await act.query(`UPDATE ${act.table()} SET body = body || 'x' WHERE n % ${act.between(2, 9)} = 0`),
  ],
  [
    'insert',
    async (act) => {
      const table = act.table();
      await act.query(
        `INSERT INTO ${table} SELECT m + i, i % 97, repeat(md5(i::text), 4)
         FROM (SELECT coalesce(max(id), 0) AS m FROM ${table}) x, generate_series(1, ${act.between(1, 8000)}) i`,
      );
    },
  ],
  [
    'delete',
    async (act) => await act.query(`DELETE FROM ${act.table()} WHERE id % 7 = ${act.between(0, 7)}`),
  ],
  [
    'delete the end and cut it off',
    async (act) => {
      const table = act.table();
      await act.query(`DELETE FROM ${table} WHERE id > ${act.between(0, 40_000)}`);
      await act.query(`VACUUM (TRUNCATE) ${table}`);
    },
  ],
  ['vacuum and freeze', async (act) => await act.query(`VACUUM (FREEZE) ${act.table()}`)],
  ['vacuum', async (act) => await act.query(`VACUUM ${act.table()}`)],
  // Rows are locked, deleted and updated on pages that are all-visible: their bits are cleared.
  [
    'clear visibility bits',
    async (act) => {
      const table = act.table();
      await act.query(`VACUUM (FREEZE) ${table}`);
      await act.query(`DELETE FROM ${table} WHERE id % 611 = 3`);
      await act.query(`BEGIN; SELECT id FROM ${table} WHERE id % 701 = 5 FOR UPDATE; COMMIT`);
    },
  ],
  ['vacuum full', async (act) => await act.query(`VACUUM FULL ${act.table()}`)],
  [
    'cluster',
    async (act) => {
      const table = act.table();
      await act.query(`CLUSTER ${table} USING ${table}_pkey`);
    },
  ],
  [
    'truncate',
    async (act) => {
      const table = act.table();
      await act.query(`TRUNCATE ${table}`);
      await act.query(`INSERT INTO ${table} SELECT i, i % 7, 'again' FROM generate_series(1, 300) i`);
    },
  ],
  [
    'drop and create again',
    async (act) => {
      await act.drop(act.table());
      await act.create();
    },
  ],
  [
    'create, fill and roll back',
    async (act) =>
      await act.query(`BEGIN; CREATE TABLE gone AS SELECT * FROM ${act.table()}; TRUNCATE gone; ROLLBACK`),
  ],
  ['create a database by log', async (act) => await act.createDatabase('wal_log')],
  ['create a database by file copy', async (act) => await act.createDatabase('file_copy')],
  ['change a database', async (act) => await act.changeDatabase()],
  ['move a database', async (act) => await act.moveDatabase()],
  ['drop a database', async (act) => await act.dropDatabase()],
  [
    'move a table',
    async (act) => {
      const to = act.between(0, 2) === 0 ? 'history' : 'pg_default';
      await act.query(`ALTER TABLE ${act.table()} SET TABLESPACE ${to}`);
    },
  ],
  ['reindex', async (act) => await act.query(`REINDEX TABLE ${act.table()}`)],
  ['checkpoint', async (act) => await act.query('CHECKPOINT')],
];
