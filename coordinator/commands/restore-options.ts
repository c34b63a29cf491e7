/** The options of `RESTORE … WITH 'k=v&…'`. Pure. */
import { HoldfastError } from '../../foundation/errors.ts';
import { didYouMean } from '../../foundation/suggest.ts';

export type RestoreOptions = {
  readonly pools: readonly string[];
  /** Empty: any zone of the pools. */
  readonly zones: readonly string[];
  /** Undefined: the parameter restore_concurrency. */
  readonly concurrency: number | undefined;
  /** Source location -> location of the copy. */
  readonly tablespaceMap: Readonly<Record<string, string>>;
  readonly clusterName: string | undefined;
  readonly clusterId: bigint | undefined;
};

const KNOWN = [
  'pool_list',
  'zone',
  'concurrency',
  'tablespace_map',
  'backup_cluster_name',
  'backup_cluster_id',
];
const LATER: Readonly<Record<string, string>> = {
  databases: 'the restore of single databases',
  replicas: 'restored standbys',
  locality: 'restored standbys',
  primary_zone: 'restored standbys',
  kms_encrypt: 'encrypted backups',
  restore_job_id: 'naming the job',
};

/** Throws INVALID_ARGUMENT for an unknown, missing or bad option, NOT_SUPPORTED for one of a later version. */
export function parseRestoreOptions(options: Readonly<Record<string, string>>): RestoreOptions {
  for (const name of Object.keys(options)) {
    const later = LATER[name];
    if (later !== undefined)
      throw new HoldfastError('NOT_SUPPORTED', `the restore option ${name} (${later}) is not supported yet`);
    if (!KNOWN.includes(name))
      throw new HoldfastError('INVALID_ARGUMENT', `unknown restore option "${name}"`, {
        hint: `${didYouMean(name, KNOWN)} Known: ${KNOWN.join(', ')}.`.trim(),
      });
  }
  const pools = list(options['pool_list']);
  if (pools.length === 0)
    throw new HoldfastError('INVALID_ARGUMENT', 'a restore needs a resource pool', {
      hint: "CREATE RESOURCE UNIT u MAX_MEMORY '1G'; CREATE RESOURCE POOL p UNIT = 'u', UNIT_NUM = 1, ZONE_LIST = ('z1'); then WITH 'pool_list=p'.",
    });
  return {
    pools,
    zones: list(options['zone']),
    concurrency: options['concurrency'] === undefined ? undefined : parseConcurrency(options['concurrency']),
    tablespaceMap: parseTablespaceMap(options['tablespace_map']),
    clusterName: options['backup_cluster_name'],
    clusterId:
      options['backup_cluster_id'] === undefined ? undefined : parseClusterId(options['backup_cluster_id']),
  };
}

function list(text: string | undefined): readonly string[] {
  return (text ?? '')
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '');
}

function parseConcurrency(text: string): number {
  const value = /^\d{1,3}$/.test(text) ? Number(text) : Number.NaN;
  if (value <= 512) return value;
  throw new HoldfastError('INVALID_ARGUMENT', `concurrency=${text} is out of range`, {
    detail: 'Range: 0 to 512; 0 is automatic.',
  });
}

function parseClusterId(text: string): bigint {
  if (/^\d{1,18}$/.test(text)) return BigInt(text);
  throw new HoldfastError('INVALID_ARGUMENT', `backup_cluster_id=${text} is no number`);
}

/** `/old:/new,/old2:/new2`: both absolute; a copy never shares a directory. */
function parseTablespaceMap(text: string | undefined): Readonly<Record<string, string>> {
  const pairs = list(text).map((pair) => {
    const match = /^(\/[^:]*):(\/[^:]+)$/.exec(pair);
    if (match?.[1] === undefined || match[2] === undefined)
      throw new HoldfastError('INVALID_ARGUMENT', `not a tablespace mapping: "${pair}"`, {
        hint: 'Write tablespace_map=/old/location:/new/location.',
      });
    return [match[1], match[2]] as const;
  });
  if (new Set(pairs.map(([, target]) => target)).size !== pairs.length)
    throw new HoldfastError('INVALID_ARGUMENT', 'two tablespaces are mapped to one directory');
  return Object.fromEntries(pairs);
}
