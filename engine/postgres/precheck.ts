/**
 * What must hold on an instance before its log is archived or a backup of it is taken. Facts are read once
 * (`readPrecheckFacts`); the verdicts are a pure table (`judge`), so that every item is reported, passed or not, with
 * the statement that mends it.
 */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import type pg from 'pg';
import { assertNever, defined } from '../../foundation/assert.ts';
import type { CheckItem, InstanceConfig } from '../engine.ts';
import { APPLICATION_NAME, closeClient, connectClient } from './connection.ts';
import { SEGMENT_PAGES } from './relation-files.ts';

export const OLDEST_MAJOR = 14;
export const NEWEST_MAJOR = 18;

export type PrecheckFacts = {
  readonly user: string;
  readonly major: number;
  readonly serverVersion: string;
  readonly systemIdentifier: bigint;
  readonly standby: boolean;
  readonly walLevel: string;
  readonly maxWalSenders: number;
  /** By others; Holdfast's own are not counted, nor in `usedSlots`. */
  readonly usedWalSenders: number;
  readonly maxSlots: number;
  readonly usedSlots: number;
  readonly fullPageWrites: boolean;
  readonly maxSlotWalKeepSize: string;
  /** Undefined before 18. */
  readonly idleSlotTimeout: string | undefined;
  readonly replicationRight: boolean;
  readonly readsAllSettings: boolean;
  readonly runsBackupFunctions: boolean;
  readonly walBlockSizeBytes: number;
  readonly relationSegmentPages: number;
  /** What opening a replication connection and IDENTIFY_SYSTEM gave: the system identifier, or what went wrong. */
  readonly replication:
    | { readonly kind: 'open'; readonly systemIdentifier: bigint }
    | { readonly kind: 'refused'; readonly message: string; readonly hint: string | undefined };
  /** The data directory as the agent sees it: whose control file it is, or why it cannot be read. */
  readonly directory:
    | { readonly kind: 'readable'; readonly path: string; readonly systemIdentifier: bigint }
    | { readonly kind: 'unreadable'; readonly path: string; readonly message: string };
};

/** Every verdict for the purpose, in a fixed order. Pure. */
export function judge(purpose: 'archive' | 'standby' | 'backup', facts: PrecheckFacts): readonly CheckItem[] {
  const role = facts.user;
  const items: CheckItem[] = [
    {
      name: 'server_version',
      passed: facts.major >= OLDEST_MAJOR && facts.major <= NEWEST_MAJOR,
      found: facts.serverVersion,
      wanted: `${OLDEST_MAJOR} to ${NEWEST_MAJOR}`,
      fix: 'Upgrade the server, or use a Holdfast that knows this version.',
    },
    {
      name: 'wal_level',
      passed: facts.walLevel === 'replica' || facts.walLevel === 'logical',
      found: facts.walLevel,
      wanted: 'replica or logical',
      fix: "ALTER SYSTEM SET wal_level = 'replica'; then restart the server",
    },
    {
      name: 'full_page_writes',
      passed: facts.fullPageWrites,
      found: facts.fullPageWrites ? 'on' : 'off',
      wanted: 'on',
      fix: "ALTER SYSTEM SET full_page_writes = 'on'; SELECT pg_reload_conf()",
    },
    {
      name: 'wal_block_size',
      passed: facts.walBlockSizeBytes === 8192,
      found: String(facts.walBlockSizeBytes),
      wanted: '8192',
      fix: 'A server built with another WAL block size cannot be archived.',
    },
    {
      name: 'segment_size',
      passed: facts.relationSegmentPages === SEGMENT_PAGES,
      found: `${facts.relationSegmentPages} pages`,
      wanted: `${SEGMENT_PAGES} pages`,
      fix: 'A server built with --with-segsize, whose relations are split into files of another size, is not supported.',
    },
    {
      name: 'pg_read_all_settings',
      passed: facts.readsAllSettings,
      found: facts.readsAllSettings ? 'granted' : 'missing',
      wanted: `role ${role} may read all settings`,
      fix: `GRANT pg_read_all_settings TO ${role}`,
    },
  ];
  switch (purpose) {
    case 'archive':
      return [...items, ...judgeLeader(facts), ...judgeSlots(facts), judgeReplicationConnection(facts)];
    case 'standby':
      return [...items, ...judgeSlots(facts)];
    case 'backup':
      return [...items, ...judgeBackup(facts)];
    default:
      return assertNever(purpose);
  }
}

function judgeLeader(facts: PrecheckFacts): readonly CheckItem[] {
  const freeSenders = facts.maxWalSenders - facts.usedWalSenders;
  return [
    {
      name: 'role',
      passed: !facts.standby,
      found: facts.standby ? 'standby' : 'primary',
      wanted: 'primary',
      fix: 'Archive the leader of the partition group, not this standby.',
    },
    {
      name: 'replication_right',
      passed: facts.replicationRight,
      found: facts.replicationRight ? 'granted' : 'missing',
      wanted: `role ${facts.user} has REPLICATION`,
      fix: `ALTER ROLE ${facts.user} REPLICATION`,
    },
    {
      name: 'max_wal_senders',
      passed: facts.maxWalSenders > 0 && freeSenders > 0,
      found: `${facts.maxWalSenders}, ${facts.usedWalSenders} in use`,
      wanted: 'at least one free',
      fix: `ALTER SYSTEM SET max_wal_senders = ${Math.max(10, facts.maxWalSenders + 2)}; then restart the server`,
    },
  ];
}

/** What every member needs: the leader's slot, and the one that each standby keeps in step with it. */
function judgeSlots(facts: PrecheckFacts): readonly CheckItem[] {
  const freeSlots = facts.maxSlots - facts.usedSlots;
  return [
    {
      name: 'max_replication_slots',
      passed: facts.maxSlots > 0 && freeSlots > 0,
      found: `${facts.maxSlots}, ${facts.usedSlots} in use`,
      wanted: 'at least one free',
      fix: `ALTER SYSTEM SET max_replication_slots = ${Math.max(10, facts.maxSlots + 2)}; then restart the server`,
    },
    // Advice only: whether a limit is wanted depends on backup_log_archive_option, which the agent does not know.
    {
      name: 'max_slot_wal_keep_size',
      passed: true,
      found: facts.maxSlotWalKeepSize,
      wanted: 'a limit under OPTIONAL archiving, -1 under MANDATORY',
      fix: "ALTER SYSTEM SET max_slot_wal_keep_size = '16GB'; SELECT pg_reload_conf()",
    },
    {
      name: 'idle_replication_slot_timeout',
      passed: true,
      found: facts.idleSlotTimeout ?? '0',
      wanted: '0 under MANDATORY archiving',
      fix: "ALTER SYSTEM SET idle_replication_slot_timeout = '0'; SELECT pg_reload_conf()",
    },
  ];
}

function judgeReplicationConnection(facts: PrecheckFacts): CheckItem {
  const { replication } = facts;
  const fix = `Add "host replication ${facts.user} <address of the agent>/32 scram-sha-256" to pg_hba.conf; SELECT pg_reload_conf()`;
  const wanted = `IDENTIFY_SYSTEM answers ${facts.systemIdentifier}`;
  if (replication.kind === 'refused') {
    return {
      name: 'replication_connection',
      passed: false,
      found: replication.message,
      wanted,
      fix: replication.hint ?? fix,
    };
  }
  return {
    name: 'replication_connection',
    passed: replication.systemIdentifier === facts.systemIdentifier,
    found: `IDENTIFY_SYSTEM answers ${replication.systemIdentifier}`,
    wanted,
    fix: 'The connection leads to different servers (a load balancer?): name one server in the agent configuration.',
  };
}

function judgeBackup(facts: PrecheckFacts): readonly CheckItem[] {
  const { directory } = facts;
  const start = facts.major >= 15 ? 'pg_backup_start(text, bool)' : 'pg_start_backup(text, bool, bool)';
  const stop = facts.major >= 15 ? 'pg_backup_stop(bool)' : 'pg_stop_backup(bool, bool)';
  return [
    {
      name: 'backup_functions',
      passed: facts.runsBackupFunctions,
      found: facts.runsBackupFunctions ? 'granted' : 'missing',
      wanted: `role ${facts.user} may run ${start} and ${stop}`,
      fix: `GRANT EXECUTE ON FUNCTION ${start}, ${stop} TO ${facts.user}`,
    },
    {
      name: 'data_directory',
      passed: directory.kind === 'readable' && directory.systemIdentifier === facts.systemIdentifier,
      found:
        directory.kind === 'readable'
          ? `${directory.path} of system ${directory.systemIdentifier}`
          : `${directory.path || '(unknown)'}: ${directory.message}`,
      wanted: `readable by the agent, of system ${facts.systemIdentifier}`,
      fix: "Run the agent as the server's user or in its group (initdb --allow-group-access), or set data_directory in the agent configuration.",
    },
  ];
}

const FACTS = `
SELECT current_user AS user,
       current_setting('server_version') AS server_version,
       current_setting('server_version_num')::int AS version_number,
       (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
       (SELECT wal_block_size FROM pg_control_init()) AS wal_block_size,
       (SELECT blocks_per_segment FROM pg_control_init()) AS relation_segment_pages,
       pg_is_in_recovery() AS standby,
       current_setting('wal_level') AS wal_level,
       current_setting('max_wal_senders')::int AS max_wal_senders,
       (SELECT count(*)::int FROM pg_stat_replication WHERE application_name <> '${APPLICATION_NAME}') AS used_wal_senders,
       current_setting('max_replication_slots')::int AS max_slots,
       (SELECT count(*)::int FROM pg_replication_slots WHERE slot_name NOT LIKE 'holdfast%') AS used_slots,
       current_setting('full_page_writes') = 'on' AS full_page_writes,
       current_setting('max_slot_wal_keep_size') AS max_slot_wal_keep_size,
       current_setting('idle_replication_slot_timeout', true) AS idle_slot_timeout,
       (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user) AS replication_right,
       pg_has_role(current_user, 'pg_read_all_settings', 'USAGE') AS reads_all_settings,
       (SELECT setting FROM pg_settings WHERE name = 'data_directory') AS data_directory,
       (SELECT coalesce(bool_and(has_function_privilege(p.oid, 'EXECUTE')), false) FROM pg_proc p
         WHERE p.pronamespace = 'pg_catalog'::regnamespace
           AND (p.proname IN ('pg_backup_start', 'pg_backup_stop', 'pg_start_backup')
                OR p.proname = 'pg_stop_backup' AND p.pronargs > 0)) AS runs_backup_functions`;

type FactsRow = {
  readonly user: string;
  readonly server_version: string;
  readonly version_number: number;
  readonly system_identifier: string;
  readonly wal_block_size: number;
  readonly relation_segment_pages: number;
  readonly standby: boolean;
  readonly wal_level: string;
  readonly max_wal_senders: number;
  readonly used_wal_senders: number;
  readonly max_slots: number;
  readonly used_slots: number;
  readonly full_page_writes: boolean;
  readonly max_slot_wal_keep_size: string;
  readonly idle_slot_timeout: string | null;
  readonly replication_right: boolean;
  readonly reads_all_settings: boolean;
  readonly data_directory: string | null;
  readonly runs_backup_functions: boolean;
};

/** Reads all that `judge` needs: over SQL, by opening a replication connection, and by looking at the data directory. */
export async function readPrecheckFacts(
  client: pg.Client,
  config: InstanceConfig,
  signal: AbortSignal,
): Promise<PrecheckFacts> {
  const { rows } = await client.query<FactsRow>(FACTS);
  const row = defined(rows[0], 'the precheck row');
  return {
    user: row.user,
    major: Math.floor(row.version_number / 10_000),
    serverVersion: row.server_version,
    systemIdentifier: BigInt(row.system_identifier),
    standby: row.standby,
    walLevel: row.wal_level,
    maxWalSenders: row.max_wal_senders,
    usedWalSenders: row.used_wal_senders,
    maxSlots: row.max_slots,
    usedSlots: row.used_slots,
    fullPageWrites: row.full_page_writes,
    maxSlotWalKeepSize: row.max_slot_wal_keep_size,
    idleSlotTimeout: row.idle_slot_timeout ?? undefined,
    replicationRight: row.replication_right,
    readsAllSettings: row.reads_all_settings,
    runsBackupFunctions: row.runs_backup_functions,
    walBlockSizeBytes: row.wal_block_size,
    relationSegmentPages: row.relation_segment_pages,
    replication: await tryReplication(config, signal),
    directory: await readDirectoryFacts(config.dataDirectory ?? row.data_directory ?? ''),
  };
}

async function tryReplication(
  config: InstanceConfig,
  signal: AbortSignal,
): Promise<PrecheckFacts['replication']> {
  try {
    const client = await connectClient(config, 'replication', signal);
    try {
      const { rows } = await client.query<{ systemid: string }>('IDENTIFY_SYSTEM');
      return { kind: 'open', systemIdentifier: BigInt(defined(rows[0], 'the IDENTIFY_SYSTEM row').systemid) };
    } finally {
      await closeClient(client);
    }
  } catch (error) {
    signal.throwIfAborted();
    const hint = (error as { hint?: string }).hint; // a HoldfastError's advice, if it has one
    return { kind: 'refused', message: error instanceof Error ? error.message : String(error), hint };
  }
}

/** The control file begins with the system identifier, in the byte order of the machine that both run on. */
async function readDirectoryFacts(path: string): Promise<PrecheckFacts['directory']> {
  if (path === '')
    return { kind: 'unreadable', path, message: 'the role may not read the setting data_directory' };
  try {
    await using file = await open(join(path, 'global', 'pg_control'));
    const { buffer, bytesRead } = await file.read(Buffer.alloc(8), 0, 8, 0);
    if (bytesRead < 8) return { kind: 'unreadable', path, message: 'its control file is too short' };
    return { kind: 'readable', path, systemIdentifier: buffer.readBigUInt64LE(0) };
  } catch (error) {
    return { kind: 'unreadable', path, message: error instanceof Error ? error.message : String(error) };
  }
}
