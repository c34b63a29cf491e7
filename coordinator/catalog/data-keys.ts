/** Data keys of backups and rounds as rows, encrypted under the coordinator's own key. They are never shown. */
import type { Queryable } from './catalog.ts';

/** One that is known already stays. `stored`: encrypted. */
export async function insertDataKey(
  tx: Queryable,
  key: { readonly id: string; readonly stored: string; readonly nowUs: bigint },
): Promise<void> {
  await tx.query(
    `INSERT INTO holdfast.data_keys (key_id, data_key, created_us) VALUES ($1, $2, $3) ON CONFLICT (key_id) DO NOTHING`,
    [key.id, key.stored, key.nowUs],
  );
}

/** As it is stored: encrypted. */
export async function findDataKey(db: Queryable, id: string): Promise<string | undefined> {
  const rows = await db.query<{ data_key: string }>(
    'SELECT data_key FROM holdfast.data_keys WHERE key_id = $1',
    [id],
  );
  return rows[0]?.data_key;
}
