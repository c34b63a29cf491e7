/** Physical replication slots: what makes the server keep its log for the archiver. */
import type pg from 'pg';
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn, type Lsn, parseLsn } from '../../foundation/lsn.ts';
import type { SlotState } from '../engine.ts';
import { APPLICATION_NAME } from './connection.ts';

const DUPLICATE_OBJECT = '42710';
const UNDEFINED_OBJECT = '42704';
const OBJECT_IN_USE = '55006';
const OBJECT_NOT_IN_PREREQUISITE_STATE = '55000';

/** Throws INVALID_ARGUMENT unless `name` is one that PostgreSQL takes (63 of a-z, 0-9 and _); it may then stand in a command. */
export function checkSlotName(name: string): void {
  if (!/^[a-z0-9_]{1,63}$/.test(name)) {
    throw new HoldfastError('INVALID_ARGUMENT', `not a replication slot's name: "${name}"`, {
      hint: 'Use at most 63 lower-case letters, digits and underscores.',
    });
  }
}

/** invalidation_reason exists since 17; before it only wal_status tells. */
export async function readSlot(client: pg.Client, major: number, slotName: string): Promise<SlotState> {
  const reason = major >= 17 ? "coalesce(invalidation_reason, '')" : "''";
  const { rows } = await client.query<{
    slot_type: string;
    active: boolean;
    restart_lsn: string | null;
    wal_status: string | null;
    reason: string;
    retained: string;
    streaming: boolean;
    sync_state: string | null;
    standby_names: string;
  }>(
    `SELECT slot_type, active, restart_lsn::text, wal_status, ${reason} AS reason,
            r.pid IS NOT NULL AS streaming, r.sync_state,
            current_setting('synchronous_standby_names') AS standby_names,
            greatest(coalesce(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END
                              - restart_lsn, 0), 0)::bigint::text AS retained
       FROM pg_replication_slots LEFT JOIN pg_stat_replication r ON r.pid = active_pid
      WHERE slot_name = $1`,
    [slotName],
  );
  const row = rows[0];
  if (row === undefined)
    return {
      exists: false,
      active: false,
      restartLsn: undefined,
      walStatus: '',
      invalidationReason: '',
      retainedBytes: 0n,
      synchronous: false,
    };
  if (row.slot_type !== 'physical') {
    throw new HoldfastError(
      'SERVER_PRECHECK_FAILED',
      `replication slot "${slotName}" is ${row.slot_type}, not physical`,
      {
        hint: `Drop it if nobody uses it: SELECT pg_drop_replication_slot('${slotName}').`,
      },
    );
  }
  return {
    exists: true,
    active: row.active,
    restartLsn: row.restart_lsn === null ? undefined : parseLsn(row.restart_lsn),
    walStatus: row.wal_status ?? '',
    invalidationReason: row.reason,
    retainedBytes: BigInt(row.retained),
    synchronous: row.streaming && isSynchronous(row.sync_state, row.standby_names),
  };
}

/**
 * Whether commits may wait for our stream. Without pg_read_all_stats the server tells no state: then whoever is named
 * counts, since a commit that waits in vain is worse than a flush too many. Pure.
 */
export function isSynchronous(syncState: string | null, standbyNames: string): boolean {
  if (syncState !== null) return syncState === 'sync' || syncState === 'quorum';
  const names = standbyNames.match(/"(?:[^"]|"")*"|[^\s,()"]+/g) ?? [];
  return names.some((name) => name === '*' || name.replaceAll('"', '').toLowerCase() === APPLICATION_NAME);
}

/**
 * Makes the slot with the log reserved from the last checkpoint's redo position, or leaves one alone that already
 * reserves log. One that reserves nothing, or was invalidated, holds nothing: it is made anew. Whether the server still
 * has the log that is wanted shows when it is asked for. Returns where the reserved log begins.
 */
export async function ensurePhysicalSlot(client: pg.Client, major: number, slotName: string): Promise<Lsn> {
  checkSlotName(slotName);
  const found = await readSlot(client, major, slotName);
  if (found.restartLsn !== undefined && !isSlotLost(found)) return found.restartLsn;
  if (found.exists) await dropPhysicalSlot(client, slotName);
  try {
    await client.query('SELECT pg_create_physical_replication_slot($1, true)', [slotName]);
  } catch (error) {
    if (sqlState(error) !== DUPLICATE_OBJECT) throw error; // made by another session just now: read it below
  }
  const made = await readSlot(client, major, slotName);
  if (made.restartLsn === undefined)
    throw new HoldfastError('SERVER_UNREACHABLE', `replication slot "${slotName}" reserves no log yet`);
  return made.restartLsn;
}

/**
 * The slot of a standby, which the archiver finds there when it is promoted: it holds what is not archived yet. Does
 * nothing on a primary, where the slot is the archiver's own.
 */
export async function keepSlotInStep(
  client: pg.Client,
  major: number,
  slotName: string,
  archived: Lsn,
): Promise<void> {
  if (!(await isStandby(client))) return;
  const restart = await ensurePhysicalSlot(client, major, slotName);
  if (restart >= archived) return;
  try {
    // The function goes no further than what was replayed.
    await client.query('SELECT pg_replication_slot_advance($1, $2::pg_lsn)', [slotName, formatLsn(archived)]);
  } catch (error) {
    if (sqlState(error) !== OBJECT_IN_USE && sqlState(error) !== OBJECT_NOT_IN_PREREQUISITE_STATE)
      throw error;
  }
}

/** Drops the slot unless a stream holds it. True when there is none then. */
export async function dropUnusedSlot(client: pg.Client, slotName: string): Promise<boolean> {
  await client.query(
    'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND NOT active',
    [slotName],
  );
  const { rows } = await client.query('SELECT FROM pg_replication_slots WHERE slot_name = $1', [slotName]);
  return rows.length === 0;
}

async function isStandby(client: pg.Client): Promise<boolean> {
  const { rows } = await client.query<{ standby: boolean }>('SELECT pg_is_in_recovery() AS standby');
  return rows[0]?.standby === true;
}

/** No error when there is no such slot. */
export async function dropPhysicalSlot(client: pg.Client, slotName: string): Promise<void> {
  try {
    await client.query('SELECT pg_drop_replication_slot($1)', [slotName]);
  } catch (error) {
    if (sqlState(error) !== UNDEFINED_OBJECT) throw error;
  }
}

function isSlotLost(slot: SlotState): boolean {
  return slot.walStatus === 'lost' || slot.invalidationReason !== '';
}

function sqlState(error: unknown): string | undefined {
  return (error as { code?: string }).code; // pg's DatabaseError has the SQLSTATE there; anything else compares unequal
}
