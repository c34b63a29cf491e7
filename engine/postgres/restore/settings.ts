/**
 * What a restored copy is told, so that it does not act on the world: it archives nowhere, waits for no standby, asks
 * no primary, applies no subscription, runs no scheduled job, listens on this host only, and writes to no path of its
 * source. The settings stand at the end of postgresql.auto.conf, where they win over every configuration file.
 */
import { isAbsolute, join } from 'node:path';
import { assertNever } from '../../../foundation/assert.ts';
import { HoldfastError } from '../../../foundation/errors.ts';
import { formatLsn, type Lsn, type Timeline } from '../../../foundation/lsn.ts';
import { commentOut, formatSettings, parseList, removeSettings } from './config-text.ts';

/** Where recovery stops, in PostgreSQL's terms. */
export type RecoveryTarget =
  | { readonly kind: 'endOfLog' }
  | { readonly kind: 'immediate' }
  /** Inclusive: after the first record that begins at or after `lsn`; else before it. */
  | { readonly kind: 'lsn'; readonly lsn: Lsn; readonly inclusive: boolean };

export type CopyPlace = {
  readonly major: number;
  readonly dataDirectory: string;
  readonly port: number;
  readonly socketDirectory: string;
  /** What the source said of its settings: name → value. */
  readonly sourceSettings: ReadonlyMap<string, string>;
  /** Upper bounds for the copy; undefined: as the source. */
  readonly unit: { readonly maxMemoryBytes: bigint; readonly maxSessions: number } | undefined;
};

export type RecoveryPlan = {
  readonly target: RecoveryTarget;
  readonly timeline: Timeline;
  /** As recovery runs it; see `formatRestoreCommand`. */
  readonly restoreCommand: string;
};

/** What must not be lower than at the source while its log is replayed. */
const LIMITS = [
  'max_connections',
  'max_worker_processes',
  'max_wal_senders',
  'max_prepared_transactions',
  'max_locks_per_transaction',
] as const;

/** Libraries that start work of their own: left out of shared_preload_libraries. */
const ACTING_LIBRARIES: ReadonlySet<string> = new Set([
  'pg_cron',
  'pg_partman_bgw',
  'pg_squeeze',
  'pg_task',
  'pglogical',
  'pgautofailover',
  'repmgr',
  'spock',
  'bdr',
]);

/** Libraries that a copy needs to be readable, and what keeps their own work quiet. */
const QUIET_SETTINGS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  timescaledb: { 'timescaledb.max_background_workers': '0' },
  citus: { 'citus.recover_2pc_interval': '-1', 'citus.distributed_deadlock_detection_factor': '-1' },
};

/** Settings of a configuration file that would send the copy to its source's files. */
const FILE_LOCATIONS: ReadonlySet<string> = new Set([
  'data_directory',
  'config_file',
  'hba_file',
  'ident_file',
  'external_pid_file',
]);

const INCLUDES: ReadonlySet<string> = new Set(['include', 'include_if_exists', 'include_dir']);

/** postgresql.auto.conf while the log is replayed and the copy is checked. `hbaFile` lets nobody but us in. */
export function recoveryAutoConf(
  source: string,
  place: CopyPlace,
  plan: RecoveryPlan,
  hbaFile: string,
): string {
  const settings = { ...quietSettings(place), ...sourceLimits(place), ...recoverySettings(plan) };
  return autoConf(source, { ...settings, hba_file: hbaFile });
}

/** postgresql.auto.conf of the finished copy: no recovery, the resource unit's limits, its own hba_file. */
export function finalAutoConf(source: string, place: CopyPlace): string {
  const limits: Record<string, string> = { ...sourceLimits(place) };
  if (place.unit !== undefined && place.unit.maxSessions > 0)
    limits['max_connections'] = String(Math.max(place.unit.maxSessions, MINIMUM_SESSIONS));
  return autoConf(source, {
    ...quietSettings(place),
    ...limits,
    hba_file: join(place.dataDirectory, 'pg_hba.conf'),
  });
}

/** Below this a server's own reserved connections leave nothing. */
const MINIMUM_SESSIONS = 10;

/**
 * A postgresql.conf without the lines that lead to the source's files or to an earlier recovery's target, or undefined when it has none of them: then
 * the file stays byte for byte. Includes of absolute paths lead outside the copy.
 */
export function neutraliseConfig(text: string, keepRelativeIncludes: boolean): string | undefined {
  return commentOut(
    text,
    (name, value) =>
      FILE_LOCATIONS.has(name) ||
      isRecoverySetting(name) ||
      (INCLUDES.has(name) && (isAbsolute(value) || !keepRelativeIncludes)),
  );
}

/**
 * Takes a file that is ready in that directory, else runs `<script> "%f" "%p"`: a shell's start less for most segments. What
 * a shell or PostgreSQL would read in the paths is escaped. A script that is gone, or a file that cannot be moved, is status
 * 200: above 125 the server stops, where a lower one would be the end of the log to it.
 */
export function formatRestoreCommand(script: string, readyDirectory: string): string {
  if (/[\n\r]/.test(script + readyDirectory))
    throw new HoldfastError('INVALID_ARGUMENT', 'a directory name has a line break');
  const [quoted, ready] = [script, readyDirectory].map(
    (path) => `'${path.replaceAll("'", "'\\''").replaceAll('%', '%%')}'`,
  );
  return (
    `test -r ${quoted} || exit 200; test -e ${ready}/"%f" || exec /bin/sh ${quoted} "%f" "%p"; ` +
    `mv -f ${ready}/"%f" "%p" || exit 200`
  );
}

function autoConf(source: string, settings: Readonly<Record<string, string>>): string {
  const kept = removeSettings(
    source,
    (name) => isRecoverySetting(name) || FILE_LOCATIONS.has(name) || Object.hasOwn(settings, name),
  );
  const separator = kept === '' || kept.endsWith('\n') ? '' : '\n';
  return `${kept}${separator}# Restored by Holdfast: a copy that does not act on the world.\n${formatSettings(settings)}`;
}

function isRecoverySetting(name: string): boolean {
  return (
    name.startsWith('recovery_target') ||
    [
      'restore_command',
      'recovery_end_command',
      'archive_cleanup_command',
      'recovery_min_apply_delay',
    ].includes(name)
  );
}

function recoverySettings(plan: RecoveryPlan): Readonly<Record<string, string>> {
  return {
    hot_standby: 'off',
    restore_command: plan.restoreCommand,
    recovery_end_command: '',
    archive_cleanup_command: '',
    recovery_min_apply_delay: '0',
    recovery_target_timeline: String(plan.timeline),
    recovery_target_action: 'promote',
    ...targetSettings(plan.target),
  };
}

/** Only the one that holds: setting another to '' counts as a second target in some versions. */
function targetSettings(target: RecoveryTarget): Readonly<Record<string, string>> {
  switch (target.kind) {
    case 'endOfLog':
      return {};
    case 'immediate':
      return { recovery_target: 'immediate' };
    case 'lsn':
      return {
        recovery_target_lsn: formatLsn(target.lsn),
        recovery_target_inclusive: target.inclusive ? 'on' : 'off',
      };
    default:
      return assertNever(target);
  }
}

function quietSettings(place: CopyPlace): Readonly<Record<string, string>> {
  return {
    port: String(place.port),
    listen_addresses: '127.0.0.1',
    unix_socket_directories: `"${place.socketDirectory.replaceAll('"', '""')}"`,
    unix_socket_group: '',
    unix_socket_permissions: '0700',
    archive_mode: 'off',
    archive_command: '',
    synchronous_standby_names: '',
    primary_conninfo: '',
    primary_slot_name: '',
    max_logical_replication_workers: '0',
    ident_file: join(place.dataDirectory, 'pg_ident.conf'),
    ...externalPidFile(place),
    ssl: 'off',
    huge_pages: 'try',
    logging_collector: 'off',
    log_destination: 'stderr',
    log_directory: 'log',
    ...(place.major <= 14 ? { stats_temp_directory: 'pg_stat_tmp' } : {}),
    ...(place.major <= 15 ? { promote_trigger_file: '' } : {}),
    ...(place.major >= 18 ? { io_method: 'worker' } : {}),
    ...memorySettings(place),
    ...librarySettings(place),
  };
}

/** Set only where the source has one: the server takes an empty name for a file that it cannot write. */
function externalPidFile(place: CopyPlace): Readonly<Record<string, string>> {
  const source = place.sourceSettings.get('external_pid_file') ?? '';
  return source === '' ? {} : { external_pid_file: join(place.dataDirectory, 'external.pid') };
}

function memorySettings(place: CopyPlace): Readonly<Record<string, string>> {
  if (place.unit === undefined || place.unit.maxMemoryBytes <= 0n) return {};
  return { shared_buffers: `${place.unit.maxMemoryBytes / 4n / 1024n}kB` };
}

function librarySettings(place: CopyPlace): Readonly<Record<string, string>> {
  const libraries = parseList(place.sourceSettings.get('shared_preload_libraries') ?? '');
  const baseName = (library: string) => (library.split('/').at(-1) ?? library).replace(/\.so$/, '');
  const kept = libraries.filter((library) => !ACTING_LIBRARIES.has(baseName(library)));
  const quiet = Object.assign({}, ...kept.map((library) => QUIET_SETTINGS[baseName(library)] ?? {}));
  if (kept.length === libraries.length) return quiet;
  return { ...quiet, shared_preload_libraries: kept.map((library) => `"${library}"`).join(', ') };
}

function sourceLimits(place: CopyPlace): Readonly<Record<string, string>> {
  const limits: Record<string, string> = {};
  for (const name of LIMITS) {
    const value = place.sourceSettings.get(name);
    if (value !== undefined && value !== '') limits[name] = value;
  }
  return limits;
}
