/** A server with a database whose pages compress about 3:1. */
import { createServer, type Major, type TestServer } from '../test/support/postgres.ts';

const ROWS_PER_STATEMENT = 200_000;

/**
 * Order lines: some columns that repeat, some that do not (a token of random digits), prose, two indexes. Pages have room
 * for some new versions of their rows.
 */
const SCHEMA = `
  CREATE TABLE order_line (
    id bigint, customer int, placed timestamptz, status text, amount numeric(12,2), token text, note text
  ) WITH (fillfactor = 90)`;

/** Made when the table is full, which is several times as fast; they are an eighth of the whole. */
const INDEXES = ['CREATE INDEX ON order_line (id)', 'CREATE INDEX ON order_line (customer)'];
const TABLE_SHARE = 0.88;
const WRITERS = 2;

const FILL = `
  INSERT INTO order_line
  SELECT $1::bigint + i, (random() * 1e6)::int, now() - ($1::bigint + i) * interval '7 seconds',
         (ARRAY['new','paid','packed','shipped','returned'])[1 + floor(random() * 5)::int],
         (random() * 100000)::numeric(12,2), md5(random()::text) || md5(random()::text) || md5(random()::text),
         repeat('to be delivered between nine and noon, ', 1 + floor(random() * 4)::int)
    FROM generate_series(1, ${ROWS_PER_STATEMENT}) i`;

/** Makes and fills it; the caller disposes it. Nothing changes in it that is not asked for. */
export async function createBenchServer(
  major: Major,
  sizeBytes: number,
  socketDirectory: string,
): Promise<TestServer> {
  await using stack = new AsyncDisposableStack();
  const server = stack.use(
    await createServer({
      major,
      settings: {
        unix_socket_directories: `'${socketDirectory}'`,
        shared_buffers: "'256MB'",
        max_wal_size: "'4GB'",
        synchronous_commit: 'off',
        wal_keep_size: "'256MB'",
        fsync: 'on',
        full_page_writes: 'on',
        max_slot_wal_keep_size: "'4GB'",
        autovacuum: 'off',
        ...(major >= 17 ? { summarize_wal: 'on' } : {}),
      },
    }),
  );
  await server.query(SCHEMA);
  let rows = 0;
  const fill = async () => {
    while ((await databaseBytes(server)) < sizeBytes * TABLE_SHARE) {
      const begin = rows;
      rows += ROWS_PER_STATEMENT;
      await server.query(FILL, [begin]);
    }
  };
  await Promise.all(Array.from({ length: WRITERS }, fill));
  for (const index of INDEXES) await server.query(index);
  await server.query('VACUUM (FREEZE, ANALYZE)');
  await server.query('CHECKPOINT');
  stack.move();
  return server;
}

export async function databaseBytes(server: TestServer): Promise<number> {
  const [row] = await server.query<{ bytes: string }>(
    'SELECT sum(pg_database_size(oid))::bigint::text AS bytes FROM pg_database',
  );
  return Number(row?.bytes ?? 0);
}
