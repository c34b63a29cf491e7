/**
 * Who leads. The epoch in holdfast.leadership grows by one with every coordinator that takes over; each writing
 * transaction holds the row shared, so a takeover waits for writes under way and later ones of the old leader fail.
 */
import { HoldfastError } from '../../foundation/errors.ts';
import type { Queryable } from './catalog.ts';

/** Takes leadership over and returns the new epoch. Run inside a transaction. */
export async function claimLeadership(tx: Queryable, holder: string, nowUs: bigint): Promise<bigint> {
  const rows = await tx.query<{ epoch: bigint }>(
    'UPDATE holdfast.leadership SET epoch = epoch + 1, holder = $1, since_us = $2 RETURNING epoch',
    [holder, nowUs],
  );
  const epoch = rows[0]?.epoch;
  if (epoch === undefined) throw new Error('bug: holdfast.leadership has no row');
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
