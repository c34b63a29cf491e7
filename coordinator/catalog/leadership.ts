/**
 * Who leads. The epoch in holdfast.leadership grows by one with every coordinator that takes over; each writing
 * transaction holds the row shared, so a takeover waits for writes under way and later ones of the old leader fail.
 *
 * Each leader's task ids begin at its clock: a catalog that has lost its last minutes must not give the ids of lost tasks
 * to others, because agents still have those tasks, and their results, under (task id, attempt).
 */
import { HoldfastError } from '../../foundation/errors.ts';
import type { Queryable } from './catalog.ts';

/** Task ids begin at the milliseconds since 2026: a leader gives fewer than a thousand a second. */
const TASK_IDS_BEGIN_US = 1_767_225_600_000_000n;

/** Takes leadership over and returns the new epoch. Run inside a transaction. */
export async function claimLeadership(tx: Queryable, holder: string, nowUs: bigint): Promise<bigint> {
  const rows = await tx.query<{ epoch: bigint }>(
    'UPDATE holdfast.leadership SET epoch = epoch + 1, holder = $1, since_us = $2 RETURNING epoch',
    [holder, nowUs],
  );
  const epoch = rows[0]?.epoch;
  if (epoch === undefined) throw new Error('bug: holdfast.leadership has no row');
  await tx.query(
    `SELECT setval('holdfast.tasks_task_id_seq',
                   greatest((SELECT last_value FROM holdfast.tasks_task_id_seq), $1::bigint))`,
    [(nowUs - TASK_IDS_BEGIN_US) / 1000n],
  );
  return epoch;
}

/** Throws BACKUP_IO_PROHIBITED unless `epoch` still leads. Holds the row until the transaction ends. */
export async function checkLeadership(tx: Queryable, epoch: bigint): Promise<void> {
  const rows = await tx.query<{ epoch: bigint; holder: string }>(
    'SELECT epoch, holder FROM holdfast.leadership FOR SHARE',
  );
  if (rows[0]?.epoch !== epoch) {
    throw new HoldfastError(
      'BACKUP_IO_PROHIBITED',
      `another coordinator leads since epoch ${rows[0]?.epoch ?? 0n}`,
      {
        detail: `This coordinator leads with epoch ${epoch}; the leader is ${rows[0]?.holder ?? 'unknown'}.`,
      },
    );
  }
}
