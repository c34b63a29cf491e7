/**
 * Customers who buy while a backup runs: concurrent transactions on the shop, with a log of what each was told.
 *
 * The log is an oracle. For every transaction it has the time just before its COMMIT was sent and the time its
 * acknowledgement had come, both of this machine's wall clock (the server's too, since it runs here), rounded outwards.
 * The commit lies between them. So of a restore to an instant T: what was acknowledged before T must be there, what was
 * sent after T must not, and what was on its way may be either.
 */
import { setTimeout as wait } from 'node:timers/promises';
import type pg from 'pg';
import { defined } from '../../foundation/assert.ts';

export type TransactionRecord = {
  /** As in the table `transactions`. */
  readonly id: number;
  readonly client: number;
  /** Microseconds since 1970; not later than the sending of COMMIT. Undefined while it was not sent. */
  sentUs: bigint | undefined;
  /** Microseconds since 1970; not earlier than the acknowledgement. Undefined while it has not come. */
  acknowledgedUs: bigint | undefined;
  /** `running` until COMMIT or ROLLBACK was answered; it stays so when the connection is lost in between. */
  outcome: 'running' | 'committed' | 'rolledBack';
};

export type WorkloadOptions = {
  readonly connect: () => Promise<pg.Client>;
  readonly clients: number;
  /** First transaction id; a second workload on the same database begins above the first one's. */
  readonly firstId?: number;
  /** `stop`: an error ends the workload and `stop()` rejects. `reconnect`: a lost connection is made again until it succeeds. */
  readonly onLostConnection?: 'stop' | 'reconnect';
  /** How long a customer thinks before paying: the transaction is open meanwhile. Default: not at all. */
  readonly thinkMs?: number;
};

export type Workload = AsyncDisposable & {
  readonly log: readonly TransactionRecord[];
  committed(): number;
  /** Ends every client after its current transaction. Rejects with the first error that was not foreseen. */
  stop(): Promise<void>;
};

/** Starts the clients; they have connected when it resolves. */
export async function startWorkload(options: WorkloadOptions): Promise<Workload> {
  const log: TransactionRecord[] = [];
  const state: RunState = { stopping: false, nextId: options.firstId ?? 1 };
  const connections = await Promise.all(Array.from({ length: options.clients }, () => options.connect()));
  const [first] = connections;
  const bounds = await readBounds(defined(first, 'a connection'));
  const runs = connections.map((connection, number) =>
    runClient(number, connection, options, bounds, log, state),
  );
  for (const run of runs) run.catch(() => (state.stopping = true)); // stop() reports it
  let stopped: Promise<void> | undefined;
  const stop = () => {
    state.stopping = true;
    stopped ??= Promise.all(runs).then(() => undefined);
    return stopped;
  };
  return {
    log,
    committed: () => log.filter((each) => each.outcome === 'committed').length,
    stop,
    async [Symbol.asyncDispose]() {
      await stop().catch(() => undefined); // who cares for the outcome has called stop() before
    },
  };
}

type RunState = { stopping: boolean; nextId: number };
type Bounds = { readonly customers: number; readonly products: number };

async function readBounds(client: pg.Client): Promise<Bounds> {
  const { rows } = await client.query<{ customers: number; products: number }>(
    'SELECT (SELECT max(id)::int FROM customers) AS customers, (SELECT max(id) FROM products) AS products',
  );
  return defined(rows[0], 'the row of a query without FROM');
}

async function runClient(
  number: number,
  first: pg.Client,
  options: WorkloadOptions,
  bounds: Bounds,
  log: TransactionRecord[],
  state: RunState,
): Promise<void> {
  let client = first;
  try {
    while (!state.stopping) {
      const record: TransactionRecord = {
        id: state.nextId,
        client: number,
        sentUs: undefined,
        acknowledgedUs: undefined,
        outcome: 'running',
      };
      state.nextId += 1;
      log.push(record);
      try {
        await runTransaction(client, record, bounds, options.thinkMs);
      } catch (error) {
        if (options.onLostConnection !== 'reconnect') throw error;
        await client.end().catch(() => undefined);
        client = await reconnect(options, state, client);
      }
    }
  } finally {
    await client.end().catch(() => undefined);
  }
}

/** A server that was killed comes back: tries until it does, or until the workload is stopped. */
async function reconnect(options: WorkloadOptions, state: RunState, last: pg.Client): Promise<pg.Client> {
  while (!state.stopping) {
    try {
      return await options.connect();
    } catch {
      await wait(50);
    }
  }
  return last;
}

/** One purchase: an order with lines and payment, stock and balance; every tenth is given up, every seventh deletes an old order. */
async function runTransaction(
  client: pg.Client,
  record: TransactionRecord,
  bounds: Bounds,
  thinkMs = 0,
): Promise<void> {
  const { id } = record;
  const customer = 1 + ((id * 7919) % bounds.customers);
  await client.query('BEGIN');
  await client.query({
    name: 'order',
    text: `WITH new_order AS (
             INSERT INTO orders (customer_id, status, note, transaction_id, created_at)
             VALUES ($1, 'open', 'bought in transaction ' || $2::bigint, $2::bigint, clock_timestamp()) RETURNING id),
           new_lines AS (
             INSERT INTO order_lines SELECT id, line, 1 + ($2::bigint * 13 + line) % $3::int, 1 + line, 9.99
             FROM new_order, generate_series(1, 3) line RETURNING order_id)
           INSERT INTO payments (order_id, amount, details)
           SELECT id, 39.96, jsonb_build_object('transaction', $2::bigint) FROM new_order`,
    values: [customer, id, bounds.products],
  });
  await client.query({
    name: 'stock',
    text: 'UPDATE products SET stock = stock - 1 WHERE id = $1',
    values: [1 + ((id * 13) % bounds.products)],
  });
  await client.query({
    name: 'balance',
    text: `UPDATE customers SET balance = balance - 39.96, profile = profile || jsonb_build_object('last', $2::bigint) WHERE id = $1`,
    values: [customer, id],
  });
  if (id % 7 === 0)
    await client.query({
      name: 'cancel',
      text: `DELETE FROM orders WHERE id = (SELECT id FROM orders WHERE transaction_id IS NULL AND status = 'open'
               ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)`,
    });
  await client.query({
    name: 'log',
    text: 'INSERT INTO transactions (id, client, orders) VALUES ($1, $2, 1)',
    values: [id, record.client],
  });
  if (thinkMs > 0) await wait(thinkMs);
  if (id % 10 === 0) {
    await client.query('ROLLBACK');
    record.outcome = 'rolledBack';
    return;
  }
  record.sentUs = BigInt(Date.now()) * 1000n; // rounded down by the clock itself
  await client.query('COMMIT');
  record.acknowledgedUs = BigInt(Date.now() + 1) * 1000n; // rounded up
  record.outcome = 'committed';
}
