/** Every parameter, once: what SHOW PARAMETERS prints and what ALTER SYSTEM SET checks. */
import { HoldfastError } from '../../foundation/errors.ts';
import { parseDurationMs, parseSizeBytes } from '../../foundation/units.ts';
import { parseLoadLimit } from './load-limit.ts';

export type ParameterType = 'uri' | 'duration' | 'size' | 'integer' | 'boolean' | 'enum' | 'text';

export type Parameter = {
  readonly name: string;
  readonly type: ParameterType;
  /** Empty: none. */
  readonly unit: string;
  /** For people; `check` enforces it. */
  readonly range: string;
  readonly defaultValue: string;
  /** `tenant`: a tenant may have a value of its own. */
  readonly scope: 'cluster' | 'tenant';
  /** One sentence. */
  readonly meaning: string;
  /** The value in its stored form, or undefined when it is bad. */
  readonly parse: (value: string) => string | undefined;
};

export const PARAMETERS = [
  {
    name: 'backup_dest',
    type: 'uri',
    unit: '',
    range: 'file:///absolute/path, or empty for none',
    defaultValue: '',
    scope: 'cluster',
    meaning: 'Where backups and the archived log go.',
    parse: (value) => value,
  },
  duration(
    'log_archive_checkpoint_interval',
    '1s',
    100,
    3_600_000,
    '100ms to 1h',
    'tenant',
    'How long log may wait before it is made durable at the destination, and how often an idle database advances.',
  ),
  {
    name: 'backup_log_archive_option',
    type: 'enum',
    unit: '',
    range: 'OPTIONAL | MANDATORY, then COMPRESSION=zstd | none',
    defaultValue: 'OPTIONAL COMPRESSION=zstd',
    scope: 'tenant',
    meaning:
      "MANDATORY keeps the server's log until it is archived; OPTIONAL lets the server give it up at log_archive_max_retained.",
    parse: parseArchiveOption,
  },
  {
    name: 'log_archive_max_retained',
    type: 'size',
    unit: 'bytes',
    range: '64MB or more',
    defaultValue: '16GB',
    scope: 'tenant',
    meaning:
      'How much log a server may keep for its slot under OPTIONAL: the most that max_slot_wal_keep_size may be.',
    parse: sizeOfAtLeast(64 * 2 ** 20),
  },
  boolean(
    'archive_auto_new_round',
    'on',
    'tenant',
    'Whether a new round begins by itself after a hole ended the one before.',
  ),
  {
    name: 'backup_compression',
    type: 'enum',
    unit: '',
    range: 'none | zstd:1 to zstd:19',
    defaultValue: 'zstd:1',
    scope: 'tenant',
    meaning: 'How macroblocks and log blocks are compressed.',
    parse: parseCompression,
  },
  boolean(
    'backup_encryption',
    'off',
    'tenant',
    "Whether backups and new archive rounds are encrypted under the coordinator's key file; a session's password counts also when it is off.",
  ),
  integer('backup_concurrency', '0', 0, 100, 'tenant', 'Readers of one partition group; 0 is automatic.'),
  {
    name: 'backup_net_limit',
    type: 'size',
    unit: 'bytes per second',
    range: '0, or 64kB or more',
    defaultValue: '0',
    scope: 'cluster',
    meaning:
      'How fast all backups together may write, and fetch what they compare, shared evenly among those that run; 0 is no limit.',
    parse: (value) => (value.trim() === '0' ? '0' : sizeOfAtLeast(64 * 1024)(value)),
  },
  {
    name: 'backup_load_limit',
    type: 'text',
    unit: 'commit latency and I/O wait',
    range: '0, a latency from 0.1ms to 60s, a share from 1% to 100%, or both: 20ms,40%',
    defaultValue: '0',
    scope: 'tenant',
    meaning:
      'A backup is slowed while a commit on its server takes longer, or while more of the time is waited for I/O; 0 is no limit.',
    parse: parseLoadLimit,
  },
  boolean('backup_page_check', 'on', 'tenant', 'Whether page checksums are verified while pages are read.'),
  duration(
    'full_backup_max_age',
    '90d',
    0,
    Number.MAX_SAFE_INTEGER,
    '0, or any duration',
    'tenant',
    'How old the last backup that read every page may be: SYNTHETIC and INCREMENTAL make a real full one after it; 0 is no limit.',
  ),
  integer('restore_concurrency', '0', 0, 512, 'cluster', 'Writers of one partition group; 0 is automatic.'),
  duration(
    'query_timeout',
    '30s',
    100,
    86_400_000,
    '100ms to 24h',
    'cluster',
    'How long a reading statement may take.',
  ),
  {
    name: 'log_archive_piece_switch_interval',
    type: 'duration',
    unit: '',
    range: '0',
    defaultValue: '0',
    scope: 'cluster',
    meaning: 'Reserved: rounds are not split into pieces.',
    parse: (value) => (/^0[a-z]*$/i.test(value.trim()) ? '0' : undefined),
  },
] as const satisfies readonly Parameter[];

export type ParameterName = (typeof PARAMETERS)[number]['name'];

/** Parameters of OceanBase's or of the design that this version has no use for: refused by name, not as unknown. */
export const LATER_PARAMETERS: Readonly<Record<string, string>> = {
  backup_backup_dest: 'the secondary backup',
  data_backup_dest: 'a destination per tenant',
  log_archive_dest: 'a destination per tenant',
  backup_dest_option: 'options in one string',
  backup_zone: 'the choice of replicas by zone',
  backup_region: 'the choice of replicas by region',
  backup_recovery_window: 'retention',
  auto_delete_expired_backup: 'retention',
};

export function findParameter(name: string): Parameter | undefined {
  return PARAMETERS.find((parameter) => parameter.name === name);
}

/** The value in its stored form. Throws INVALID_ARGUMENT with type, unit, range, default and meaning. */
export function checkParameterValue(parameter: Parameter, value: string): string {
  const parsed = parameter.parse(value);
  if (parsed !== undefined) return parsed;
  throw new HoldfastError('INVALID_ARGUMENT', `"${value}" is not a value of ${parameter.name}`, {
    detail: `Type ${parameter.type}${parameter.unit === '' ? '' : ` (${parameter.unit})`}, range ${parameter.range}, default '${parameter.defaultValue}'. ${parameter.meaning}`,
    hint: `ALTER SYSTEM SET ${parameter.name} = '${parameter.defaultValue}';`,
  });
}

export type ArchiveOption = { readonly mandatory: boolean; readonly compressed: boolean };

/** Reads a stored `backup_log_archive_option`. */
export function readArchiveOption(value: string): ArchiveOption {
  return { mandatory: value.startsWith('MANDATORY'), compressed: !value.endsWith('=none') };
}

function parseArchiveOption(value: string): string | undefined {
  const match =
    /^\s*(optional|mandatory)?\s*(?:compression\s*=\s*(zstd|none|enable|disable|zstd_1\.3\.8))?\s*$/i.exec(
      value,
    );
  if (match === null || value.trim() === '') return undefined;
  const compression = (match[2] ?? 'zstd').toLowerCase();
  const off = compression === 'none' || compression === 'disable';
  return `${(match[1] ?? 'OPTIONAL').toUpperCase()} COMPRESSION=${off ? 'none' : 'zstd'}`;
}

function parseCompression(value: string): string | undefined {
  const text = value.trim().toLowerCase();
  if (text === 'none') return 'none';
  const level = /^zstd(?::([1-9]|1[0-9]))?$/.exec(text);
  return level === null ? undefined : `zstd:${level[1] ?? '1'}`;
}

function duration<Name extends string>(
  name: Name,
  defaultValue: string,
  minMs: number,
  maxMs: number,
  range: string,
  scope: Parameter['scope'],
  meaning: string,
) {
  const parse = (value: string) => {
    const ms = orUndefined(() => parseDurationMs(value));
    return ms === undefined || ms < minMs || ms > maxMs ? undefined : value.trim();
  };
  return {
    name,
    type: 'duration',
    unit: 'us, ms, s, min, h, d',
    range,
    defaultValue,
    scope,
    meaning,
    parse,
  } as const;
}

function integer<Name extends string>(
  name: Name,
  defaultValue: string,
  min: number,
  max: number,
  scope: Parameter['scope'],
  meaning: string,
) {
  const parse = (value: string) => {
    const number = /^\d+$/.test(value.trim()) ? Number(value) : Number.NaN;
    return number >= min && number <= max ? String(number) : undefined;
  };
  return {
    name,
    type: 'integer',
    unit: '',
    range: `${min} to ${max}`,
    defaultValue,
    scope,
    meaning,
    parse,
  } as const;
}

function boolean<Name extends string>(
  name: Name,
  defaultValue: string,
  scope: Parameter['scope'],
  meaning: string,
) {
  const parse = (value: string) => {
    const text = value.trim().toLowerCase();
    if (['on', 'true', '1', 'yes'].includes(text)) return 'on';
    return ['off', 'false', '0', 'no'].includes(text) ? 'off' : undefined;
  };
  return { name, type: 'boolean', unit: '', range: 'on | off', defaultValue, scope, meaning, parse } as const;
}

function sizeOfAtLeast(minBytes: number): (value: string) => string | undefined {
  return (value) => {
    const bytes = orUndefined(() => parseSizeBytes(value));
    return bytes === undefined || bytes < minBytes ? undefined : value.trim();
  };
}

/** Undefined where the units' own parsers throw: our message says more. */
function orUndefined<T>(parse: () => T): T | undefined {
  try {
    return parse();
  } catch (error) {
    if (error instanceof HoldfastError) return undefined;
    throw error;
  }
}
