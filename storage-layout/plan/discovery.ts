/** Finding one's way in a destination of which only the URI is known: the clusters in it, and a tenant by its name. */
import { HoldfastError } from '../../foundation/errors.ts';
import {
  BackupInfoSchema,
  TenantInfoListSchema,
  TenantNameInfoListSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../media/medium.ts';
import { readInfo, readInfoIfThere } from '../records/info-file.ts';
import { checkName, type TreeRoot, tree } from '../tree.ts';
import { listSets } from './tenant-history.ts';

export type FoundTenant = {
  readonly tenantId: bigint;
  readonly name: string;
  /** Microseconds; undefined: it exists, or nobody knows. */
  readonly droppedUs: bigint | undefined;
};

/** The clusters whose trees are at the destination, by name and id. */
export async function findRoots(medium: Medium, signal?: AbortSignal): Promise<readonly TreeRoot[]> {
  const roots: TreeRoot[] = [];
  for (const clusterName of (await medium.listNames('', signal)).toSorted()) {
    if (!isName(clusterName)) continue;
    for (const id of await medium.listNames(clusterName, signal)) {
      if (!/^(0|[1-9][0-9]{0,18})$/.test(id)) continue;
      const names = await medium.listNames(`${clusterName}/${id}`, signal);
      if (names.includes('incarnation_1')) roots.push({ clusterName, clusterId: BigInt(id) });
    }
  }
  return roots;
}

/** The only cluster, or the one that is named. Throws INVALID_ARGUMENT when there is none or a choice. */
export async function findRoot(
  medium: Medium,
  wanted: { readonly clusterName?: string | undefined; readonly clusterId?: bigint | undefined },
  signal?: AbortSignal,
): Promise<TreeRoot> {
  const all = await findRoots(medium, signal);
  const found = all.filter(
    (root) =>
      (wanted.clusterName === undefined || root.clusterName === wanted.clusterName) &&
      (wanted.clusterId === undefined || root.clusterId === wanted.clusterId),
  );
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  const names = all.map((root) => `${root.clusterName} (id ${root.clusterId})`).join(', ');
  throw new HoldfastError(
    'INVALID_ARGUMENT',
    found.length === 0
      ? `there is no such cluster at ${medium.displayUri}`
      : `there are several clusters at ${medium.displayUri}`,
    {
      detail: all.length === 0 ? 'There is none at all.' : `There are: ${names}.`,
      hint: 'Name the cluster and its id.',
    },
  );
}

/**
 * Every tenant of the cluster, by id: from tenant_info and tenant_name_info, and, because those are summaries, from the
 * backup sets of the tenant directories that they do not name.
 */
export async function findTenants(
  medium: Medium,
  root: TreeRoot,
  signal?: AbortSignal,
): Promise<readonly FoundTenant[]> {
  const tenants = new Map<bigint, FoundTenant>();
  const names = await readSummary(() =>
    readInfoIfThere(medium, tree.tenantNameInfo(root), TenantNameInfoListSchema, signal),
  );
  for (const { tenantId, name, untilUs } of names?.names ?? [])
    if (untilUs === 0n) tenants.set(tenantId, { tenantId, name, droppedUs: undefined });
  const infos = await readSummary(() =>
    readInfoIfThere(medium, tree.tenantInfo(root), TenantInfoListSchema, signal),
  );
  for (const { tenantId, name, droppedUs } of infos?.tenants ?? [])
    tenants.set(tenantId, { tenantId, name, droppedUs: droppedUs === 0n ? undefined : droppedUs });
  for (const directory of await medium.listNames(tree.root(root), signal)) {
    if (!/^[1-9][0-9]{0,18}$/.test(directory)) continue;
    const tenantId = BigInt(directory);
    if (tenants.has(tenantId)) continue;
    const name = await nameFromSets(medium, root, tenantId, signal);
    if (name !== undefined) tenants.set(tenantId, { tenantId, name, droppedUs: undefined });
  }
  return [...tenants.values()].sort((a, b) => (a.tenantId < b.tenantId ? -1 : 1));
}

/** The tenant of that name; of several, the one that was not dropped. Throws TENANT_NOT_EXIST, INVALID_ARGUMENT. */
export async function findTenant(
  medium: Medium,
  root: TreeRoot,
  name: string,
  signal?: AbortSignal,
): Promise<FoundTenant> {
  const all = await findTenants(medium, root, signal);
  const named = all.filter((tenant) => tenant.name === name || String(tenant.tenantId) === name);
  const living = named.filter((tenant) => tenant.droppedUs === undefined);
  const candidates = living.length > 0 ? living : named;
  const [only] = candidates;
  if (only === undefined) {
    throw new HoldfastError('TENANT_NOT_EXIST', `there is no tenant "${name}" at ${medium.displayUri}`, {
      detail:
        all.length === 0
          ? 'There is none at all.'
          : `There are: ${all.map((tenant) => tenant.name).join(', ')}.`,
    });
  }
  if (candidates.length > 1) {
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `several tenants were called "${name}": ids ${candidates.map((tenant) => tenant.tenantId).join(', ')}`,
      { hint: 'Give the id instead of the name.' },
    );
  }
  return only;
}

/** A summary that cannot be read is as good as none: nothing depends on it. */
async function readSummary<T>(read: () => Promise<T | undefined>): Promise<T | undefined> {
  try {
    return await read();
  } catch (error) {
    if (error instanceof HoldfastError && !error.facts.retryable) return undefined;
    throw error;
  }
}

async function nameFromSets(
  medium: Medium,
  root: TreeRoot,
  tenantId: bigint,
  signal: AbortSignal | undefined,
): Promise<string | undefined> {
  const keys = [...(await listSets(medium, root, tenantId, signal))];
  keys.sort((a, b) => (a.setId > b.setId ? -1 : 1));
  for (const key of keys) {
    const name = await readSummary(async () => {
      const stat = await medium.stat(tree.backupInfo(root, key), signal);
      if (stat === undefined) return undefined;
      return (await readInfo(medium, tree.backupInfo(root, key), BackupInfoSchema, signal)).tenantName;
    });
    if (name !== undefined) return name;
  }
  return undefined;
}

function isName(name: string): boolean {
  try {
    checkName('cluster', name);
    return true;
  } catch {
    return false; // checkName's only error
  }
}
