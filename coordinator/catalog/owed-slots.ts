/** Replication slots of dropped tenants, which their agents have not dropped yet. */
import type { Queryable } from './catalog.ts';

export type OwedSlot = {
  readonly server_id: bigint;
  readonly instance: string;
  readonly slot_name: string;
};

export async function insertOwedSlot(tx: Queryable, slot: OwedSlot, nowUs: bigint): Promise<void> {
  await tx.query(
    `INSERT INTO holdfast.owed_slots (server_id, instance, slot_name, since_us) VALUES ($1, $2, $3, $4)
     ON CONFLICT DO NOTHING`,
    [slot.server_id, slot.instance, slot.slot_name, nowUs],
  );
}

export async function listOwedSlots(db: Queryable): Promise<readonly OwedSlot[]> {
  return await db.query<OwedSlot>(
    'SELECT server_id, instance, slot_name FROM holdfast.owed_slots ORDER BY server_id, instance, slot_name',
  );
}

/** True when it was owed. */
export async function deleteOwedSlot(tx: Queryable, slot: OwedSlot): Promise<boolean> {
  const rows = await tx.query(
    'DELETE FROM holdfast.owed_slots WHERE server_id = $1 AND instance = $2 AND slot_name = $3 RETURNING 1',
    [slot.server_id, slot.instance, slot.slot_name],
  );
  return rows.length > 0;
}
