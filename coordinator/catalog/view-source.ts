/** What the catalog offers to those who read its views: their names, columns and rows. */
import { HoldfastError } from '../../foundation/errors.ts';
import type { ViewDefinition } from '../sql/reader.ts';
import type { Queryable } from './catalog.ts';

/** The views of schema oceanbase with their columns, as the database itself describes them. */
export async function listViews(database: Queryable): Promise<readonly ViewDefinition[]> {
  const rows = await database.query<{ view: string; name: string; type: string }>(
    `SELECT c.relname::text AS view, a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE n.nspname = 'oceanbase' AND c.relkind = 'v' ORDER BY c.relname, a.attnum`,
  );
  return [...Map.groupBy(rows, ({ view }) => view)].map(([name, columns]) => ({
    name,
    columns: columns.map((column) => ({ name: column.name, type: column.type })),
  }));
}

/** The rows of one of `views` as the text of a JSON array. Throws ENTRY_NOT_EXIST for another name. */
export async function readViewAsJson(
  database: Queryable,
  views: readonly ViewDefinition[],
  name: string,
): Promise<string> {
  if (!views.some((view) => view.name === name))
    throw new HoldfastError('ENTRY_NOT_EXIST', `no view "${name}"`);
  const rows = await database.query<{ rows: string }>(
    `SELECT coalesce(json_agg(to_json(v)), '[]')::text AS rows FROM oceanbase.${name} v`, // a name of our own list
  );
  return rows[0]?.rows ?? '[]';
}
