/**
 * The oracle's verdict on a restore. The workload (cli/demo/workload.ts) knows of every transaction when its COMMIT was sent
 * and when it was acknowledged; `judgeRestore` compares that with what a restored server holds.
 */
import type pg from 'pg';
import type { TransactionRecord } from '../../cli/demo/workload.ts';

/** How many violations are told at most: enough to see a pattern. */
const MAX_TOLD = 10;

/**
 * What is wrong with a copy that should hold the state of `targetUs` (microseconds since 1970); empty when it is right:
 * acknowledged before it → there; sent after it → not there; rolled back → not there; and every transaction is there whole.
 */
export async function judgeRestore(
  copy: pg.Client,
  log: readonly TransactionRecord[],
  targetUs: bigint,
): Promise<string[]> {
  const { rows } = await copy.query<{ id: string }>('SELECT id FROM transactions');
  const there = new Set(rows.map((row) => Number(row.id)));
  const problems = [...judgeTransactions(log, there, targetUs), ...(await findTornTransactions(copy))];
  return problems.length <= MAX_TOLD
    ? problems
    : [...problems.slice(0, MAX_TOLD), `… ${problems.length - MAX_TOLD} more`];
}

/** The oracle's rules alone. Pure. */
export function judgeTransactions(
  log: readonly TransactionRecord[],
  there: ReadonlySet<number>,
  targetUs: bigint,
): string[] {
  const problems: string[] = [];
  for (const { id, outcome, sentUs, acknowledgedUs } of log) {
    const present = there.has(id);
    if (!present && acknowledgedUs !== undefined && acknowledgedUs <= targetUs)
      problems.push(
        `transaction ${id} is missing: acknowledged ${targetUs - acknowledgedUs} us before the target`,
      );
    if (present && outcome === 'rolledBack') problems.push(`transaction ${id} is there, but was rolled back`);
    if (present && sentUs === undefined && outcome === 'running')
      problems.push(`transaction ${id} is there, but its COMMIT was never sent`);
    if (present && sentUs !== undefined && sentUs > targetUs)
      problems.push(`transaction ${id} is there: sent ${sentUs - targetUs} us after the target`);
  }
  const known = new Set(log.map((record) => record.id));
  for (const id of there) if (!known.has(id)) problems.push(`transaction ${id} is there, but nobody made it`);
  return problems;
}

/** A transaction wrote an order, three lines, a payment and a row in `transactions`: all of them or none. */
async function findTornTransactions(copy: pg.Client): Promise<string[]> {
  const { rows } = await copy.query<{ id: string; lines: string; payments: string; logged: boolean }>(
    `SELECT o.transaction_id AS id, t.id IS NOT NULL AS logged,
            (SELECT count(*) FROM order_lines l WHERE l.order_id = o.id) AS lines,
            (SELECT count(*) FROM payments p WHERE p.order_id = o.id) AS payments
     FROM (SELECT * FROM orders WHERE transaction_id IS NOT NULL) o FULL JOIN transactions t ON t.id = o.transaction_id
     WHERE t.id IS NULL OR o.id IS NULL OR (SELECT count(*) FROM order_lines l WHERE l.order_id = o.id) <> 3
        OR (SELECT count(*) FROM payments p WHERE p.order_id = o.id) <> 1`,
  );
  return rows.map(
    (row) =>
      `transaction ${row.id} is torn: logged ${row.logged}, ${row.lines} lines, ${row.payments} payments`,
  );
}
