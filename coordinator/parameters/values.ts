/** The values that hold now: a tenant's own, else the cluster's, else the default. */
import { parseDurationMs, parseSizeBytes } from '../../foundation/units.ts';
import type { Queryable } from '../catalog/catalog.ts';
import { findParameterValue } from '../catalog/parameters.ts';
import type { SecretBox } from './secrets.ts';
import { findParameter, type ParameterName } from './table.ts';

const CLUSTER = 0n;

export async function parameterText(
  db: Queryable,
  name: Exclude<ParameterName, 'backup_dest'>,
  tenantId = CLUSTER,
): Promise<string> {
  return (await findParameterValue(db, name, tenantId))?.value ?? findParameter(name)?.defaultValue ?? '';
}

export async function parameterMs(
  db: Queryable,
  name: 'log_archive_checkpoint_interval' | 'query_timeout',
  tenantId = CLUSTER,
): Promise<number> {
  return parseDurationMs(await parameterText(db, name, tenantId));
}

export async function parameterBytes(
  db: Queryable,
  name: 'backup_net_limit' | 'log_archive_max_retained',
  tenantId = CLUSTER,
): Promise<number> {
  return parseSizeBytes(await parameterText(db, name, tenantId));
}

export async function parameterNumber(
  db: Queryable,
  name: 'backup_concurrency' | 'restore_concurrency',
  tenantId = CLUSTER,
): Promise<number> {
  return Number(await parameterText(db, name, tenantId));
}

export async function parameterIsOn(
  db: Queryable,
  name: 'archive_auto_new_round' | 'backup_encryption' | 'backup_page_check',
  tenantId = CLUSTER,
): Promise<boolean> {
  return (await parameterText(db, name, tenantId)) === 'on';
}

/** The destination's URI, with its secrets, and its masked form; undefined: none is set. */
export async function destinationParameter(
  db: Queryable,
  secrets: SecretBox,
): Promise<{ readonly uri: string; readonly display: string } | undefined> {
  const row = await findParameterValue(db, 'backup_dest', CLUSTER);
  if (row === undefined || row.value === '') return undefined;
  const uri = secrets.decrypt(row.value);
  return uri === '' ? undefined : { uri, display: row.display };
}
