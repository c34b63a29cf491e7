/** A workload that writes every kind of WAL that Holdfast reads meaning into, and many others. */
import { chown, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type Major, serverUser, type TestServer } from './postgres.ts';

export const WORKLOAD_SETTINGS: Readonly<Record<string, string>> = {
  wal_level: 'logical', // so that top-level transaction ids are logged
  wal_keep_size: "'2GB'",
  max_prepared_transactions: '10',
  autovacuum: 'off',
  track_commit_timestamp: 'on',
  wal_log_hints: 'on',
};

export const RESTORE_POINT = 'between the acts';

export type WorkloadFacts = {
  /** Where the workload's tablespace is. */
  readonly tablespaceLocation: string;
  /** The server's clock in the middle, microseconds since 1970. */
  readonly middleUs: bigint;
};

/** Runs the workload, `rows` rows a table. */
export async function runWalWorkload(server: TestServer, rows: number): Promise<WorkloadFacts> {
  const tablespaceLocation = await makeTablespaceDirectory(server);
  const client = await server.connect();
  try {
    const run = async (statements: readonly string[]) => {
      for (const statement of statements) await client.query(statement);
    };
    await run(beginning(rows, tablespaceLocation));
    const { rows: clock } = await client.query<{ us: string }>(
      'SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint::text AS us',
    );
    await run(ending(rows, server.major));
    return { tablespaceLocation, middleUs: BigInt(clock[0]?.us ?? 0) };
  } finally {
    await client.end();
  }
}

async function makeTablespaceDirectory(server: TestServer): Promise<string> {
  const location = join(server.directory, 'space');
  await mkdir(location);
  const user = serverUser();
  if (user !== undefined) await chown(location, user.uid, user.gid);
  return location;
}

function beginning(rows: number, tablespaceLocation: string): string[] {
  return [
    'SET synchronous_commit = off',
    'CREATE TABLE plain (id bigserial PRIMARY KEY, body text, tags int[], place point, hashed text)',
    'CREATE INDEX plain_gin ON plain USING gin (tags)',
    'CREATE INDEX plain_gist ON plain USING gist (place)',
    'CREATE INDEX plain_spgist ON plain USING spgist (place)',
    'CREATE INDEX plain_brin ON plain USING brin (id) WITH (pages_per_range = 2)',
    'CREATE INDEX plain_hash ON plain USING hash (hashed)',
    `INSERT INTO plain (body, tags, place, hashed)
       SELECT repeat(md5(n::text), 3), ARRAY[n, n % 17, n % 101], point(n % 71, n % 31), md5((n % 97)::text)
       FROM generate_series(1, ${rows}) n`,
    'UPDATE plain SET body = body || id WHERE id % 3 = 0',
    'DELETE FROM plain WHERE id % 5 = 0',
    'CHECKPOINT',
    'VACUUM plain',
    'UPDATE plain SET hashed = md5(id::text) WHERE id % 7 = 0',
    `CREATE TABLESPACE space LOCATION '${tablespaceLocation}'`,
    `CREATE TABLE spaced TABLESPACE space AS SELECT n AS id FROM generate_series(1, ${rows}) n`,
    // TOAST, compressible and not
    'CREATE TABLE big (id int, body text)',
    `INSERT INTO big SELECT n, (SELECT string_agg(md5((n * i)::text), '') FROM generate_series(1, 700) i)
       FROM generate_series(1, ${Math.ceil(rows / 100)}) n`,
    'SELECT count(*) FROM plain', // hint bits
    'CREATE MATERIALIZED VIEW seen AS SELECT id FROM plain',
    'REFRESH MATERIALIZED VIEW seen',
    // subtransactions: savepoints released, rolled back, many
    'BEGIN',
    "INSERT INTO plain (body) VALUES ('outer')",
    'SAVEPOINT one',
    "INSERT INTO plain (body) VALUES ('one')",
    'SAVEPOINT two',
    "INSERT INTO plain (body) VALUES ('two')",
    'ROLLBACK TO two',
    'RELEASE one',
    'COMMIT',
    `DO $$ BEGIN FOR i IN 1 .. 150 LOOP
       BEGIN INSERT INTO spaced VALUES (-i); IF i % 3 = 0 THEN RAISE 'no'; END IF;
       EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$`,
    'BEGIN',
    'CREATE TABLE never (id int)',
    'INSERT INTO never VALUES (1)',
    'ROLLBACK',
    // prepared transactions, with dropped relations and subtransactions
    'CREATE TABLE doomed (id int PRIMARY KEY)',
    'BEGIN',
    'INSERT INTO doomed VALUES (1)',
    'SAVEPOINT s',
    'DROP TABLE doomed',
    "PREPARE TRANSACTION 'commit me'",
    'BEGIN',
    'CREATE TABLE made_in_prepared (id int)',
    "PREPARE TRANSACTION 'abort me, whose name is longer than the others'",
    "COMMIT PREPARED 'commit me'",
    "ROLLBACK PREPARED 'abort me, whose name is longer than the others'",
    `SELECT pg_create_restore_point('${RESTORE_POINT}')`,
    "SELECT pg_logical_emit_message(true, 'holdfast', repeat('message', 5000))",
    'SELECT pg_switch_wal()',
  ];
}

function ending(rows: number, major: Major): string[] {
  const strategies =
    major >= 15
      ? [
          'CREATE DATABASE by_log STRATEGY wal_log',
          'CREATE DATABASE by_copy STRATEGY file_copy',
          'CREATE DATABASE by_copy_there STRATEGY file_copy TABLESPACE space',
        ]
      : ['CREATE DATABASE by_copy', 'CREATE DATABASE by_copy_there TABLESPACE space'];
  return [
    'TRUNCATE spaced',
    `INSERT INTO spaced SELECT generate_series(1, ${rows})`,
    `DELETE FROM spaced WHERE id > ${Math.ceil(rows / 2)}`,
    'VACUUM spaced', // cuts the table's end off
    'VACUUM FULL big',
    'VACUUM FULL pg_class', // a mapped catalog: the relation map changes
    'CLUSTER plain USING plain_pkey',
    'REINDEX TABLE plain',
    'ALTER TABLE plain ADD COLUMN extra int DEFAULT 7',
    'ALTER TABLE spaced SET TABLESPACE pg_default',
    'CREATE UNLOGGED TABLE unlogged AS SELECT generate_series(1, 100) AS id',
    'ALTER TABLE unlogged SET LOGGED',
    'CREATE TEMPORARY TABLE temporary AS SELECT 1 AS id',
    ...strategies,
    'DROP DATABASE by_copy_there',
    "SET wal_compression = 'on'",
    'CHECKPOINT',
    `UPDATE plain SET extra = id WHERE id % 2 = 1`,
    "SET wal_compression = 'off'",
    'DROP TABLE big',
    `SELECT nextval('plain_id_seq') FROM generate_series(1, 40)`,
    'BEGIN',
    'SELECT * FROM plain LIMIT 20 FOR UPDATE',
    'COMMIT',
    'VACUUM FREEZE plain',
    'ANALYZE',
    'CHECKPOINT',
  ];
}
