/**
 * Every path of the destination, built and parsed from one table; no other file spells one. Keys are '/'-separated and
 * relative to the medium's root. Ids are decimal without leading zeros. `[…]` in a template is left out when its field
 * is zero. Names are checked, so that no key can leave its directory.
 */
import { HoldfastError } from '../foundation/errors.ts';

/** Where one cluster's tree begins. */
export type TreeRoot = { readonly clusterName: string; readonly clusterId: bigint };
/** One archive round of a tenant. */
export type RoundKey = { readonly tenantId: bigint; readonly round: bigint };
/** One backup set; `fullSetId` = `setId` for a full one. */
export type SetKey = { readonly tenantId: bigint; readonly fullSetId: bigint; readonly setId: bigint };
/** A database node as `clog_info` names it. */
export type ServerKey = { readonly serverId: bigint; readonly ip: string; readonly port: number };

/** Below `<cluster_name>/<cluster_id>/incarnation_1/`. */
const TEMPLATES = {
  clusterOwner: 'cluster_owner',
  clusterConfigInfo: 'cluster_config_info',
  audit: 'audit/{ordinal}',
  clusterDataBackupInfo: 'cluster_data_backup_info',
  clusterClogBackupInfo: 'cluster_clog_backup_info',
  tenantInfo: 'tenant_info',
  tenantNameInfo: 'tenant_name_info',
  clogInfo: 'clog_info/{serverId}_{ip}_{port}',
  tenantClogBackupInfo: '{tenantId}/clog/tenant_clog_backup_info',
  mountFile: '{tenantId}/clog/{round}/mount_file',
  roundBegin: '{tenantId}/clog/{round}/round_begin',
  roundEnd: '{tenantId}/clog/{round}/round_end',
  memberJoined: '{tenantId}/clog/{round}/members/{group}/{membership}.joined',
  memberBegin: '{tenantId}/clog/{round}/members/{group}/{membership}.begin',
  memberLeft: '{tenantId}/clog/{round}/members/{group}/{membership}.left',
  roundNote: '{tenantId}/clog/{round}/note_{ordinal}',
  roundKeyRecord: '{tenantId}/clog/{round}/key_{ordinal}',
  history: '{tenantId}/clog/{round}/history/{group}/{timeline}.history',
  logData: '{tenantId}/clog/{round}/data/{group}/{fileId}.{epoch}',
  logDataPart: '{tenantId}/clog/{round}/data/{group}/{fileId}.{epoch}.part_{part}',
  logIndex: '{tenantId}/clog/{round}/index/{group}/{fileId}.{epoch}',
  tenantDataBackupInfo: '{tenantId}/data/tenant_data_backup_info',
  backupSetInfo: '{tenantId}/data/backup_set_{fullSetId}/backup_set_info',
  backupInfo: '{tenantId}/data/backup_set_{fullSetId}/backup_{setId}/backup_info',
  pgList: '{tenantId}/data/backup_set_{fullSetId}/backup_{setId}/pg_list',
  note: '{tenantId}/data/backup_set_{fullSetId}/backup_{setId}/note_{ordinal}',
  keyRecord: '{tenantId}/data/backup_set_{fullSetId}/backup_{setId}/key_{ordinal}',
  deleteMark: '{tenantId}/data/backup_set_{fullSetId}/backup_{setId}/delete_mark',
  metaFile: '{tenantId}/data/backup_set_{fullSetId}/backup_{setId}/meta_file_{taskId}',
  metaIndexFile: '{tenantId}/data/backup_set_{fullSetId}/backup_{setId}/meta_index_file_{taskId}',
  localityInfo: '{tenantId}/data/backup_set_{fullSetId}/backup_{setId}/tenant_locality_info',
  diagnoseInfo: '{tenantId}/data/backup_set_{fullSetId}/backup_{setId}/tenant_diagnose_info',
  macroBlock: '{tenantId}/data/backup_set_{fullSetId}/data/{group}/macro_block_{setId}.{subTaskId}',
  subTaskIndex: '{tenantId}/data/backup_set_{fullSetId}/data/{group}/macro_block_{setId}.{subTaskId}.index',
  macroBlockIndex: '{tenantId}/data/backup_set_{fullSetId}/data/{group}/macro_block_index_{setId}[.{retry}]',
} as const;

type FieldTypes = {
  readonly tenantId: bigint;
  readonly round: bigint;
  readonly fullSetId: bigint;
  readonly setId: bigint;
  readonly fileId: bigint;
  readonly epoch: bigint;
  readonly serverId: bigint;
  readonly port: number;
  readonly ordinal: number;
  readonly timeline: number;
  readonly membership: number;
  readonly part: number;
  readonly taskId: number;
  readonly subTaskId: number;
  readonly retry: number;
  readonly group: string;
  readonly ip: string;
};
type Field = keyof FieldTypes;
type FieldsOf<Template extends string> = Template extends `${string}{${infer Name}}${infer Rest}`
  ? (Name & Field) | FieldsOf<Rest>
  : never;
type Kind = keyof typeof TEMPLATES;

/** What a key stands for: the kind of file, its cluster and the numbers and names in its path. */
export type TreePath = {
  [K in Kind]: { readonly kind: K; readonly root: TreeRoot } & {
    readonly [F in FieldsOf<(typeof TEMPLATES)[K]>]: FieldTypes[F];
  };
}[Kind];
type Fields<K extends Kind> = { readonly [F in FieldsOf<(typeof TEMPLATES)[K]>]: FieldTypes[F] };

const NAME = '[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}';
const IP = '[0-9A-Za-z.:%-]{1,64}';
const ID = '0|[1-9][0-9]{0,19}';
const SMALL_ID = '0|[1-9][0-9]{0,9}';
const BIGINT_FIELDS: ReadonlySet<string> = new Set<Field>([
  'tenantId',
  'round',
  'fullSetId',
  'setId',
  'fileId',
  'epoch',
  'serverId',
]);
const TEXT_FIELDS: ReadonlySet<string> = new Set<Field>(['group', 'ip']);

/** Builds every key and directory of the tree. A directory's key has no trailing slash. */
export const tree = {
  root: (r: TreeRoot): string => {
    checkName('cluster', r.clusterName);
    return `${r.clusterName}/${formatId('cluster id', r.clusterId)}/incarnation_1`;
  },
  clusterOwner: (r: TreeRoot): string => build(r, 'clusterOwner', {}),
  clusterConfigInfo: (r: TreeRoot): string => build(r, 'clusterConfigInfo', {}),
  audit: (r: TreeRoot, ordinal: number): string => build(r, 'audit', { ordinal }),
  clusterDataBackupInfo: (r: TreeRoot): string => build(r, 'clusterDataBackupInfo', {}),
  clusterClogBackupInfo: (r: TreeRoot): string => build(r, 'clusterClogBackupInfo', {}),
  tenantInfo: (r: TreeRoot): string => build(r, 'tenantInfo', {}),
  tenantNameInfo: (r: TreeRoot): string => build(r, 'tenantNameInfo', {}),
  clogInfoDirectory: (r: TreeRoot): string => `${tree.root(r)}/clog_info`,
  clogInfo: (r: TreeRoot, server: ServerKey): string => build(r, 'clogInfo', server),

  tenantDirectory: (r: TreeRoot, tenantId: bigint): string =>
    `${tree.root(r)}/${formatId('tenant id', tenantId)}`,
  clogDirectory: (r: TreeRoot, tenantId: bigint): string => `${tree.tenantDirectory(r, tenantId)}/clog`,
  tenantClogBackupInfo: (r: TreeRoot, tenantId: bigint): string =>
    build(r, 'tenantClogBackupInfo', { tenantId }),
  roundDirectory: (r: TreeRoot, key: RoundKey): string => parent(tree.mountFile(r, key)),
  mountFile: (r: TreeRoot, key: RoundKey): string => build(r, 'mountFile', key),
  roundBegin: (r: TreeRoot, key: RoundKey): string => build(r, 'roundBegin', key),
  roundEnd: (r: TreeRoot, key: RoundKey): string => build(r, 'roundEnd', key),
  /** One directory per partition group that joined or left while the round ran. */
  membersDirectory: (r: TreeRoot, key: RoundKey): string => `${tree.roundDirectory(r, key)}/members`,
  memberDirectory: (r: TreeRoot, key: RoundKey, group: string): string =>
    parent(tree.memberJoined(r, key, group, 1)),
  memberJoined: (r: TreeRoot, key: RoundKey, group: string, membership: number): string =>
    build(r, 'memberJoined', { ...key, group, membership }),
  memberBegin: (r: TreeRoot, key: RoundKey, group: string, membership: number): string =>
    build(r, 'memberBegin', { ...key, group, membership }),
  memberLeft: (r: TreeRoot, key: RoundKey, group: string, membership: number): string =>
    build(r, 'memberLeft', { ...key, group, membership }),
  roundNote: (r: TreeRoot, key: RoundKey, ordinal: number): string =>
    build(r, 'roundNote', { ...key, ordinal }),
  roundKeyRecord: (r: TreeRoot, key: RoundKey, ordinal: number): string =>
    build(r, 'roundKeyRecord', { ...key, ordinal }),
  historyDirectory: (r: TreeRoot, key: RoundKey, group: string): string =>
    parent(tree.history(r, key, group, 1)),
  history: (r: TreeRoot, key: RoundKey, group: string, timeline: number): string =>
    build(r, 'history', { ...key, group, timeline }),
  logDataDirectory: (r: TreeRoot, key: RoundKey, group: string): string =>
    parent(tree.logData(r, key, group, 1n, 1n)),
  logData: (r: TreeRoot, key: RoundKey, group: string, fileId: bigint, epoch: bigint): string =>
    build(r, 'logData', { ...key, group, fileId, epoch }),
  /** One flush of a log file on a medium without append. */
  logDataPart: (
    r: TreeRoot,
    key: RoundKey,
    group: string,
    fileId: bigint,
    epoch: bigint,
    part: number,
  ): string => build(r, 'logDataPart', { ...key, group, fileId, epoch, part }),
  logIndexDirectory: (r: TreeRoot, key: RoundKey, group: string): string =>
    parent(tree.logIndex(r, key, group, 1n, 1n)),
  logIndex: (r: TreeRoot, key: RoundKey, group: string, fileId: bigint, epoch: bigint): string =>
    build(r, 'logIndex', { ...key, group, fileId, epoch }),

  dataDirectory: (r: TreeRoot, tenantId: bigint): string => `${tree.tenantDirectory(r, tenantId)}/data`,
  tenantDataBackupInfo: (r: TreeRoot, tenantId: bigint): string =>
    build(r, 'tenantDataBackupInfo', { tenantId }),
  backupSetDirectory: (r: TreeRoot, tenantId: bigint, fullSetId: bigint): string =>
    parent(tree.backupSetInfo(r, tenantId, fullSetId)),
  backupSetInfo: (r: TreeRoot, tenantId: bigint, fullSetId: bigint): string =>
    build(r, 'backupSetInfo', { tenantId, fullSetId }),
  backupDirectory: (r: TreeRoot, key: SetKey): string => parent(tree.backupInfo(r, key)),
  backupInfo: (r: TreeRoot, key: SetKey): string => build(r, 'backupInfo', key),
  pgList: (r: TreeRoot, key: SetKey): string => build(r, 'pgList', key),
  note: (r: TreeRoot, key: SetKey, ordinal: number): string => build(r, 'note', { ...key, ordinal }),
  keyRecord: (r: TreeRoot, key: SetKey, ordinal: number): string =>
    build(r, 'keyRecord', { ...key, ordinal }),
  deleteMark: (r: TreeRoot, key: SetKey): string => build(r, 'deleteMark', key),
  metaFile: (r: TreeRoot, key: SetKey, taskId: number): string => build(r, 'metaFile', { ...key, taskId }),
  metaIndexFile: (r: TreeRoot, key: SetKey, taskId: number): string =>
    build(r, 'metaIndexFile', { ...key, taskId }),
  localityInfo: (r: TreeRoot, key: SetKey): string => build(r, 'localityInfo', key),
  diagnoseInfo: (r: TreeRoot, key: SetKey): string => build(r, 'diagnoseInfo', key),
  /** Macroblock files and their indexes: shared by the full backup and its increments. */
  macroDirectory: (r: TreeRoot, tenantId: bigint, fullSetId: bigint, group: string): string => {
    checkName('partition group', group);
    return `${tree.backupSetDirectory(r, tenantId, fullSetId)}/data/${group}`;
  },
  macroBlock: (r: TreeRoot, key: SetKey, group: string, subTaskId: number): string =>
    build(r, 'macroBlock', { ...key, group, subTaskId }),
  subTaskIndex: (r: TreeRoot, key: SetKey, group: string, subTaskId: number): string =>
    build(r, 'subTaskIndex', { ...key, group, subTaskId }),
  macroBlockIndex: (r: TreeRoot, key: SetKey, group: string, retry: number): string =>
    build(r, 'macroBlockIndex', { ...key, group, retry }),
};

/** The inverse of `tree`: undefined for a key that no function of it builds (directories included). */
export function parseTreePath(key: string): TreePath | undefined {
  const head = ROOT_PATTERN.exec(key);
  if (head?.[1] === undefined || head[2] === undefined || head[3] === undefined) return undefined;
  const root = { clusterName: head[1], clusterId: BigInt(head[2]) };
  for (const [kind, pattern] of PATTERNS) {
    const match = pattern.exec(head[3]);
    if (match === null) continue;
    const fields = Object.fromEntries(
      Object.entries(match.groups ?? {}).map(([name, text]) => [name, parseField(name, text)]),
    );
    if (fields['retry'] === 0 && match[0].endsWith('.0')) return undefined; // retry 0 has no suffix
    return { kind, root, ...fields } as TreePath; // the pattern of `kind` has exactly its fields as groups
  }
  return undefined;
}

/** Refuses a cluster or partition group name that cannot stand in a path. Throws INVALID_ARGUMENT. */
export function checkName(kind: 'cluster' | 'partition group', name: string): void {
  if (!NAME_PATTERN.test(name)) {
    throw new HoldfastError('INVALID_ARGUMENT', `not a ${kind} name: ${JSON.stringify(name)}`, {
      hint: 'Use 1 to 63 letters, digits, "_", "." or "-", and begin with a letter, a digit or "_".',
    });
  }
}

const NAME_PATTERN = new RegExp(`^${NAME}$`);
const IP_PATTERN = new RegExp(`^${IP}$`);
const ROOT_PATTERN = new RegExp(`^(${NAME})/(${ID})/incarnation_1/(.+)$`);
// Object.keys of a const table: the keys are exactly its kinds.
const PATTERNS: readonly (readonly [Kind, RegExp])[] = (Object.keys(TEMPLATES) as Kind[]).map((kind) => [
  kind,
  templatePattern(TEMPLATES[kind]),
]);

function templatePattern(template: string): RegExp {
  const source = template
    .replaceAll('.', '\\.')
    .replace('[', '(?:')
    .replace(']', ')?')
    .replaceAll(/\{(\w+)\}/g, (_, name: string) => `(?<${name}>${fieldPattern(name)})`);
  return new RegExp(`^${source}$`);
}

function fieldPattern(name: string): string {
  if (name === 'group') return NAME;
  if (name === 'ip') return IP;
  return BIGINT_FIELDS.has(name) ? ID : SMALL_ID;
}

function parseField(name: string, text: string | undefined): bigint | number | string {
  if (TEXT_FIELDS.has(name)) return text ?? '';
  return BIGINT_FIELDS.has(name) ? BigInt(text ?? 0) : Number(text ?? 0);
}

function build<K extends Kind>(root: TreeRoot, kind: K, fields: Fields<K>): string {
  const values: Readonly<Record<string, bigint | number | string>> = fields;
  const template = TEMPLATES[kind].replace(/\[(.*)\]/, (_, optional: string) =>
    values['retry'] === 0 ? '' : optional,
  );
  const path = template.replaceAll(/\{(\w+)\}/g, (_, name: string) => formatField(name, values[name]));
  return `${tree.root(root)}/${path}`;
}

function formatField(name: string, value: bigint | number | string | undefined): string {
  if (typeof value === 'string') {
    if (name === 'group') checkName('partition group', value);
    else if (!IP_PATTERN.test(value))
      throw new HoldfastError('INVALID_ARGUMENT', `not an address: ${JSON.stringify(value)}`);
    return value;
  }
  return formatId(name, value);
}

function formatId(name: string, value: bigint | number | undefined): string {
  const valid = typeof value === 'bigint' ? value >= 0n : Number.isSafeInteger(value) && Number(value) >= 0;
  if (!valid) throw new HoldfastError('INVALID_ARGUMENT', `not a ${name}: ${String(value)}`);
  return String(value);
}

function parent(key: string): string {
  return key.slice(0, key.lastIndexOf('/'));
}
