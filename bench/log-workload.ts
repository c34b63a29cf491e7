/** What the log that is archived and replayed is about. */
import { type Lsn, parseLsn } from '../foundation/lsn.ts';
import type { TestServer } from '../test/support/postgres.ts';

export type LogName = keyof typeof WORKLOADS;

type Workload = {
  readonly prepare: (server: TestServer) => Promise<void>;
  /** Writes log until the server has written it up to `until`. */
  readonly write: (server: TestServer, until: Lsn) => Promise<void>;
};

/**
 * `mixed` is what a busy server writes; replaying it is mostly work on pages. `fewPages` is much log about 500 pages: what
 * is replayed fastest, so that reading the log counts most.
 */
export const WORKLOADS = {
  mixed: { prepare: makeMixedTables, write: writeMixedLog },
  fewPages: { prepare: makeFewPages, write: writeFewPagesLog },
} as const satisfies Record<string, Workload>;

export async function currentLsn(server: TestServer): Promise<Lsn> {
  const [row] = await server.query<{ lsn: string }>('SELECT pg_current_wal_flush_lsn()::text AS lsn');
  return parseLsn(row?.lsn ?? '');
}

export async function makeMixedTables(server: TestServer): Promise<void> {
  await server.query('CREATE TABLE account (id int PRIMARY KEY, balance int, filler text)');
  await server.query(
    `INSERT INTO account SELECT i, 0, repeat(md5(i::text), 2) FROM generate_series(1, 400000) i`,
  );
  await server.query(
    'CREATE TABLE history (id bigserial PRIMARY KEY, account int, at timestamptz, filler text)',
  );
}

/** Small transactions with page images and without, bulk loads, index builds. */
export async function writeMixedLog(server: TestServer, until: Lsn): Promise<void> {
  const client = await server.connect();
  try {
    for (let round = 0; (await currentLsn(server)) < until; round += 1) {
      await client.query(
        `DO $$ DECLARE chosen int; BEGIN FOR i IN 1 .. 20000 LOOP
           chosen := 1 + floor(random() * 400000);
           UPDATE account SET balance = balance + 1 WHERE id = chosen;
           INSERT INTO history (account, at, filler) VALUES (i, now(), md5(random()::text));
           IF i % 5 = 0 THEN COMMIT; END IF;
         END LOOP; END $$`,
      );
      await client.query(
        `INSERT INTO history (account, at, filler) SELECT i, now(), md5(random()::text) FROM generate_series(1, 100000) i`,
      );
      if (round % 10 === 9) await client.query('CREATE INDEX ON history (account)');
    }
  } finally {
    await client.end();
  }
}

/** 2000 wide rows in some 500 pages, and 8 MB of texts to fill them with, more than a block of log repeats. */
async function makeFewPages(server: TestServer): Promise<void> {
  await server.query('CREATE TABLE text_pool (id int PRIMARY KEY, body text)');
  await server.query('ALTER TABLE text_pool ALTER body SET STORAGE PLAIN');
  await server.query(
    `INSERT INTO text_pool SELECT i, (SELECT string_agg(md5(random()::text || (i + j)), '') FROM generate_series(1, 50) j)
       FROM generate_series(0, 4999) i`,
  );
  await server.query('CREATE TABLE few (id int PRIMARY KEY, body text) WITH (fillfactor = 50)');
  await server.query('ALTER TABLE few ALTER body SET STORAGE PLAIN');
  await server.query('INSERT INTO few SELECT id, body FROM text_pool WHERE id < 2000');
}

async function writeFewPagesLog(server: TestServer, until: Lsn): Promise<void> {
  const client = await server.connect();
  try {
    while ((await currentLsn(server)) < until) {
      await client.query(
        `DO $$ DECLARE shift int; BEGIN FOR i IN 1 .. 5 LOOP
           shift := floor(random() * 5000);
           UPDATE few SET body = text_pool.body FROM text_pool WHERE text_pool.id = (few.id + shift) % 5000;
           COMMIT;
         END LOOP; END $$`,
      );
    }
  } finally {
    await client.end();
  }
}
