/** Random changes to relation files: the same for the same random numbers, up to what the server decides by itself. */

import type { TestServer } from './postgres.ts';
import type { Random } from './random.ts';

/**
 * Runs `steps` random statements, several of them as transactions with subtransactions, prepared ones and rollbacks, on new
 * tables, new databases and in `tablespace`, which is there.
 */
export async function runRandomWorkload(
  server: TestServer,
  random: Random,
  steps: number,
  tablespace: string,
): Promise<void> {
  const client = await server.connect();
  const tables: string[] = [];
  const one = () => tables[random.between(0, tables.length)] ?? 'r0';
  const create = async () => {
    const name = `r${tables.length}`;
    await client.query(`CREATE TABLE ${name} (id serial PRIMARY KEY, body text, n int)`);
    await client.query(`CREATE INDEX ON ${name} (n)`);
    tables.push(name);
  };
  const rows = () => random.between(1, 3000);
  const insert = (table: string) =>
    `INSERT INTO ${table} (body, n) SELECT repeat(md5(i::text), ${random.between(1, 40)}), i % 97 FROM generate_series(1, ${rows()}) i`;
  const strategies = server.major >= 15 ? [' STRATEGY wal_log', ' STRATEGY file_copy'] : [''];
  const createDatabase = async () => {
    const name = `d${random.between(0, 1_000_000_000)}`;
    const where = random.next() < 0.5 ? ` TABLESPACE ${tablespace}` : '';
    await client.query(
      `CREATE DATABASE ${name}${strategies[random.between(0, strategies.length)] ?? ''}${where}`,
    );
    const inside = await server.connect(name);
    try {
      await inside.query('CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 2000) i');
      await inside.query('UPDATE t SET i = -i WHERE i % 3 = 0');
    } finally {
      await inside.end();
    }
    if (random.next() < 0.5) await client.query(`DROP DATABASE ${name}`);
  };
  const actions: readonly (() => Promise<unknown>)[] = [
    create,
    async () => await client.query(insert(one())),
    async () => await client.query(insert(one())),
    async () =>
      await client.query(`UPDATE ${one()} SET body = body || 'x' WHERE n % ${random.between(2, 9)} = 0`),
    async () => await client.query(`DELETE FROM ${one()} WHERE id > ${random.between(0, 4000)}`),
    async () => await client.query(`VACUUM ${one()}`), // may cut the end off
    async () => await client.query(`TRUNCATE ${one()}`),
    async () => await client.query(`REINDEX TABLE ${one()}`),
    async () => await client.query('CHECKPOINT'),
    async () => {
      const table = one();
      await client.query(
        `BEGIN; ${insert(table)}; SAVEPOINT a; ${insert(table)}; ROLLBACK TO a; ${insert(one())}; COMMIT`,
      );
    },
    async () => {
      await client.query(`BEGIN; CREATE TABLE gone AS SELECT * FROM ${one()}; ROLLBACK`);
    },
    async () => {
      await client.query(`CREATE TABLE brief AS SELECT * FROM ${one()} LIMIT 100`);
      await client.query(`BEGIN; DROP TABLE brief; PREPARE TRANSACTION 'p'`);
      await client.query(random.next() < 0.5 ? `COMMIT PREPARED 'p'` : `ROLLBACK PREPARED 'p'`);
      await client.query('DROP TABLE IF EXISTS brief');
    },
    createDatabase,
    async () => {
      const space = random.next() < 0.5 ? tablespace : 'pg_default';
      await client.query(`ALTER TABLE ${one()} SET TABLESPACE ${space}`);
    },
  ];
  try {
    await create();
    for (let step = 0; step < steps; step += 1) await actions[random.between(0, actions.length)]?.();
  } finally {
    await client.end();
  }
}
