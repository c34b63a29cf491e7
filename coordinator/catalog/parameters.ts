/** Values of parameters that were set. Tenant 0 is the cluster. */
import type { Queryable } from './catalog.ts';

export type ParameterRow = {
  readonly name: string;
  readonly tenant_id: bigint;
  /** As stored: secrets are encrypted. */
  readonly value: string;
  /** For people: secrets are masked. */
  readonly display: string;
};

export async function listParameterValues(db: Queryable): Promise<readonly ParameterRow[]> {
  return await db.query<ParameterRow>('SELECT name, tenant_id, value, display FROM holdfast.parameters');
}

/** The tenant's value, else the cluster's, else undefined. */
export async function findParameterValue(
  db: Queryable,
  name: string,
  tenantId: bigint,
): Promise<ParameterRow | undefined> {
  const rows = await db.query<ParameterRow>(
    `SELECT name, tenant_id, value, display FROM holdfast.parameters
     WHERE name = $1 AND tenant_id IN (0, $2) ORDER BY tenant_id DESC LIMIT 1`,
    [name, tenantId],
  );
  return rows[0];
}

export async function storeParameterValue(tx: Queryable, row: ParameterRow, nowUs: bigint): Promise<void> {
  await tx.query(
    `INSERT INTO holdfast.parameters (name, tenant_id, value, display, updated_us) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (name, tenant_id) DO UPDATE SET value = EXCLUDED.value, display = EXCLUDED.display,
       updated_us = EXCLUDED.updated_us`,
    [row.name, row.tenant_id, row.value, row.display, nowUs],
  );
}
