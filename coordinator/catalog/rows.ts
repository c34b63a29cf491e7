/** Inserts and updates of whole rows. Table and column names are constants of this folder, values are parameters. */
import type { Queryable, SqlParameter } from './catalog.ts';

export type Values = Readonly<Record<string, SqlParameter | undefined>>;

/** Inserts one row and returns the named column of it. Undefined values take the column's default. */
export async function insertRow<T>(
  tx: Queryable,
  table: string,
  values: Values,
  returning: string,
): Promise<T> {
  const entries = given(values);
  const rows = await tx.query<Record<string, T>>(
    `INSERT INTO holdfast.${table} (${entries.map(([name]) => name).join(', ')})
     VALUES (${entries.map((_, index) => `$${index + 1}`).join(', ')}) RETURNING ${returning}`,
    entries.map(([, value]) => value),
  );
  const value = rows[0]?.[returning];
  if (value === undefined) throw new Error(`bug: an insert into ${table} returned nothing`);
  return value;
}

/** Updates the rows whose columns equal `where`; returns how many. Undefined values are left as they are. */
export async function updateRows(
  tx: Queryable,
  table: string,
  where: Readonly<Record<string, SqlParameter>>,
  values: Values,
): Promise<number> {
  const entries = given(values);
  if (entries.length === 0) return 0;
  const conditions = Object.entries(where);
  const rows = await tx.query(
    `UPDATE holdfast.${table} SET ${entries.map(([name], index) => `${name} = $${index + 1}`).join(', ')}
     WHERE ${conditions.map(([name], index) => `${name} = $${entries.length + index + 1}`).join(' AND ')} RETURNING 1`,
    [...entries.map(([, value]) => value), ...conditions.map(([, value]) => value)],
  );
  return rows.length;
}

function given(values: Values): readonly (readonly [string, SqlParameter])[] {
  return Object.entries(values).flatMap(([name, value]) =>
    value === undefined ? [] : [[name, value] as const],
  );
}
