/** The archived log that a command is about: options that name it, and what is needed to read it. */
import { type Command, InvalidArgumentError } from 'commander';
import { HoldfastError, isError } from '../foundation/errors.ts';
import { RoundBeginSchema, type RoundGroupStart } from '../proto/gen/holdfast/v1/records_pb.ts';
import { LogLookup } from '../storage-layout/clog/lookup.ts';
import type { Medium } from '../storage-layout/media/medium.ts';
import { findRoot, findTenant, findTenants } from '../storage-layout/plan/discovery.ts';
import { archivedGroups } from '../storage-layout/plan/membership.ts';
import { readMembers } from '../storage-layout/plan/read-members.ts';
import { listRounds } from '../storage-layout/plan/tenant-history.ts';
import { readInfoIfThere } from '../storage-layout/records/info-file.ts';
import { type RoundKey, type TreeRoot, tree } from '../storage-layout/tree.ts';
import {
  addBackupKeyOptions,
  type BackupKeyOptions,
  openWithBackupKeys,
  readBackupKeys,
} from './backup-keys.ts';

export type LogSourceOptions = BackupKeyOptions & {
  readonly from: string;
  readonly cluster?: string;
  readonly clusterId?: bigint;
  readonly tenant?: string;
  readonly round?: bigint;
  readonly group?: string;
};

/** One partition group's log in one round. */
export type LogSource = {
  readonly medium: Medium;
  readonly root: TreeRoot;
  readonly round: RoundKey;
  readonly group: string;
  readonly start: RoundGroupStart;
};

export function addLogSourceOptions(command: Command): Command {
  return addBackupKeyOptions(command)
    .requiredOption('--from <uri>', 'the destination, for example file:///backup')
    .option('--cluster <name>', 'the cluster, when the destination holds several')
    .option('--cluster-id <id>', "the cluster's id", parseId)
    .option('--tenant <name>', 'the tenant, by name or id, when there are several')
    .option('--round <id>', 'only this archive round', parseId)
    .option('--group <name>', 'the partition group, when the tenant has several');
}

/** The sources that the options name, newest round first. Throws INVALID_ARGUMENT when they leave a choice. */
export async function findLogSources(
  medium: Medium,
  options: LogSourceOptions,
  signal: AbortSignal,
): Promise<readonly LogSource[]> {
  const root = await findRoot(medium, { clusterName: options.cluster, clusterId: options.clusterId }, signal);
  const tenantId = await tenantOf(medium, root, options, signal);
  const sources: LogSource[] = [];
  for (const id of (await listRounds(medium, root, tenantId, signal)).toReversed()) {
    if (options.round !== undefined && options.round !== id) continue;
    const round = { tenantId, round: id };
    const begin = await readInfoIfThere(medium, tree.roundBegin(root, round), RoundBeginSchema, signal);
    if (begin === undefined) continue;
    const groups = archivedGroups(await readMembers(medium, root, round, begin, signal));
    const start = groupOf(groups, options.group);
    if (start !== undefined) sources.push({ medium, root, round, group: start.partitionGroup, start });
  }
  if (sources.length > 0) return sources;
  throw new HoldfastError(
    'ENTRY_NOT_EXIST',
    `${medium.displayUri} has no ${options.round === undefined ? 'archive round' : `archive round ${options.round}`} of this tenant${options.group === undefined ? '' : ` and partition group "${options.group}"`}`,
  );
}

/** The destination that the options name, with what opens its encrypted log. */
export async function openLogDestination(options: LogSourceOptions, signal: AbortSignal): Promise<Medium> {
  return await openWithBackupKeys(options.from, await readBackupKeys(options), signal);
}

export async function openLog(source: LogSource, signal: AbortSignal): Promise<LogLookup> {
  return await LogLookup.open(source.medium, source.root, source.round, source.group, signal);
}

async function tenantOf(
  medium: Medium,
  root: TreeRoot,
  options: LogSourceOptions,
  signal: AbortSignal,
): Promise<bigint> {
  if (options.tenant !== undefined) return await tenantNamed(medium, root, options.tenant, signal);
  const tenants = await findTenants(medium, root, signal);
  const [only] = tenants;
  if (only !== undefined && tenants.length === 1) return only.tenantId;
  throw new HoldfastError('INVALID_ARGUMENT', `${tenants.length} tenants are at ${medium.displayUri}`, {
    detail: tenants.map((tenant) => tenant.name).join(', '),
    hint: 'Name one with --tenant.',
  });
}

/** An id will do where nothing at the destination tells names yet: before the first backup. */
async function tenantNamed(
  medium: Medium,
  root: TreeRoot,
  name: string,
  signal: AbortSignal,
): Promise<bigint> {
  try {
    return (await findTenant(medium, root, name, signal)).tenantId;
  } catch (error) {
    if (isError(error, 'TENANT_NOT_EXIST') && /^[1-9][0-9]{0,17}$/.test(name)) return BigInt(name);
    throw error;
  }
}

function groupOf(
  groups: readonly RoundGroupStart[],
  wanted: string | undefined,
): RoundGroupStart | undefined {
  if (wanted !== undefined) return groups.find((group) => group.partitionGroup === wanted);
  if (groups.length <= 1) return groups[0];
  throw new HoldfastError('INVALID_ARGUMENT', `the tenant has ${groups.length} partition groups`, {
    hint: `Name one with --group: ${groups.map((group) => group.partitionGroup).join(', ')}.`,
  });
}

export function parseId(text: string): bigint {
  if (!/^[0-9]{1,18}$/.test(text)) throw new InvalidArgumentError('Write a number.');
  return BigInt(text);
}
