/**
 * Claims at the destination: who owns the tree, and which ids are taken. An id is max(catalog, destination) + 1, and its
 * first file is written create-exclusive before the id is used (layout.md): the catalog may have lost its last minutes,
 * the destination has not.
 */
import { randomBytes } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { HoldfastError, isError } from '../../foundation/errors.ts';
import {
  ClusterOwnerSchema,
  MountFileSchema,
  type PartitionGroupList,
  PartitionGroupListSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { readInfoIfThere, writeOnce } from '../../storage-layout/records/info-file.ts';
import { type RoundKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';
import type { Deployment } from '../catalog/deployment.ts';

/** How many ids others may take while we look for a free one. */
const MAX_TRIES = 20;
/** What file servers put at the root of an empty share. */
const HARMLESS_NAMES: ReadonlySet<string> = new Set([
  'lost+found',
  '.snapshot',
  '.snapshots',
  '.zfs',
  'check_file',
]);

export function rootOf(deployment: Deployment): TreeRoot {
  return { clusterName: deployment.clusterName, clusterId: deployment.clusterId };
}

/**
 * Makes this deployment the owner of its tree at the destination. Throws INVALID_BACKUP_DEST when another deployment
 * owns it, or when the destination holds something that is no backup.
 */
export async function claimDestination(
  medium: Medium,
  deployment: Deployment,
  nowUs: bigint,
  signal: AbortSignal,
): Promise<void> {
  await refuseForeignFiles(medium, signal);
  const root = rootOf(deployment);
  try {
    await writeOnce(
      medium,
      tree.clusterOwner(root),
      ClusterOwnerSchema,
      create(ClusterOwnerSchema, {
        deploymentUuid: deployment.deploymentUuid,
        clusterName: root.clusterName,
        clusterId: root.clusterId,
        createdUs: nowUs,
      }),
      signal,
    );
  } catch (error) {
    if (!isError(error, 'FILE_EXISTS')) throw error;
    await checkOwner(medium, deployment, signal);
  }
}

/** Throws INVALID_BACKUP_DEST unless this deployment owns its tree at the destination. */
export async function checkOwner(medium: Medium, deployment: Deployment, signal: AbortSignal): Promise<void> {
  const root = rootOf(deployment);
  const owner = await readInfoIfThere(medium, tree.clusterOwner(root), ClusterOwnerSchema, signal);
  if (owner?.deploymentUuid === deployment.deploymentUuid) return;
  throw new HoldfastError(
    'INVALID_BACKUP_DEST',
    owner === undefined
      ? `${medium.displayUri} has no ${tree.clusterOwner(root)}: it is not the destination it was`
      : `another deployment writes cluster ${root.clusterName} (${root.clusterId}) to ${medium.displayUri}`,
    {
      detail:
        owner === undefined
          ? 'A share that is not mounted looks like this.'
          : `${tree.clusterOwner(root)} names deployment ${owner.deploymentUuid}; this one is ${deployment.deploymentUuid}.`,
      hint:
        owner === undefined
          ? 'Mount the share. If it was emptied, set backup_dest again: that begins anew there.'
          : 'Use another directory, or give this deployment another cluster_id.',
    },
  );
}

/**
 * True when the round's mount_file is there. False: this is our destination, but the round is gone from it. Throws
 * INVALID_BACKUP_DEST when it is another one, or empty: nothing may be written there.
 */
export async function hasRound(
  medium: Medium,
  deployment: Deployment,
  key: RoundKey,
  signal: AbortSignal,
): Promise<boolean> {
  const mount = await readInfoIfThere(
    medium,
    tree.mountFile(rootOf(deployment), key),
    MountFileSchema,
    signal,
  );
  if (mount?.round === key.round && mount.tenantId === key.tenantId) return true;
  await checkOwner(medium, deployment, signal);
  return false;
}

/** A destination is empty or holds trees of Holdfast only. */
export async function refuseForeignFiles(medium: Medium, signal: AbortSignal): Promise<void> {
  const names = (await medium.listNames('', signal)).filter((name) => !HARMLESS_NAMES.has(name));
  for (const name of names.slice(0, 100)) {
    if (!(await isTree(medium, name, signal))) {
      throw new HoldfastError(
        'INVALID_BACKUP_DEST',
        `${medium.displayUri} is not empty and holds something else than backups: "${name}"`,
        { hint: 'Use an empty directory, or one that holds only Holdfast destinations.' },
      );
    }
  }
}

async function isTree(medium: Medium, name: string, signal: AbortSignal): Promise<boolean> {
  if (!/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$/.test(name)) return false;
  const ids = await namesBelow(medium, name, signal);
  if (ids.length === 0) return false;
  for (const id of ids) {
    if (!/^\d+$/.test(id)) return false;
    if (!(await namesBelow(medium, `${name}/${id}`, signal)).includes('incarnation_1')) return false;
  }
  return true;
}

/** The names below a directory; none when there is no such directory. */
export async function namesBelow(
  medium: Medium,
  directory: string,
  signal: AbortSignal,
): Promise<readonly string[]> {
  try {
    return await medium.listNames(directory, signal);
  } catch (error) {
    if (isError(error, 'FILE_NOT_FOUND')) return [];
    throw error;
  }
}

async function idsBelow(
  medium: Medium,
  directory: string,
  pattern: RegExp,
  signal: AbortSignal,
): Promise<readonly bigint[]> {
  return (await namesBelow(medium, directory, signal))
    .flatMap((name) => pattern.exec(name)?.[1] ?? [])
    .map(BigInt);
}

/** Ids of the tenants that have anything at the destination. */
export function tenantIds(medium: Medium, root: TreeRoot, signal: AbortSignal): Promise<readonly bigint[]> {
  return idsBelow(medium, tree.root(root), /^(\d{1,18})$/, signal);
}

/** Ids of the rounds that were ever claimed. */
export function roundIds(
  medium: Medium,
  root: TreeRoot,
  tenantId: bigint,
  signal: AbortSignal,
): Promise<readonly bigint[]> {
  return idsBelow(medium, tree.clogDirectory(root, tenantId), /^(\d{1,18})$/, signal);
}

/** Every backup set that was ever begun: its full set's id and its own. */
export async function setIds(
  medium: Medium,
  root: TreeRoot,
  tenantId: bigint,
  signal: AbortSignal,
): Promise<readonly { readonly fullSetId: bigint; readonly setId: bigint }[]> {
  const found: { fullSetId: bigint; setId: bigint }[] = [];
  const fullIds = await idsBelow(
    medium,
    tree.dataDirectory(root, tenantId),
    /^backup_set_(\d{1,18})$/,
    signal,
  );
  for (const fullSetId of fullIds) {
    const directory = tree.backupSetDirectory(root, tenantId, fullSetId);
    for (const setId of await idsBelow(medium, directory, /^backup_(\d{1,18})$/, signal))
      found.push({ fullSetId, setId });
  }
  return found.sort((a, b) => (a.setId < b.setId ? -1 : 1));
}

export function maxId(ids: readonly bigint[], atLeast: bigint): bigint {
  return ids.reduce((a, b) => (a > b ? a : b), atLeast);
}

/** Claims the next round's id by its mount_file, and returns it. */
export async function claimRound(
  medium: Medium,
  deployment: Deployment,
  tenantId: bigint,
  highestInCatalog: bigint,
  nowUs: bigint,
  signal: AbortSignal,
): Promise<bigint> {
  const root = rootOf(deployment);
  let round = maxId(await roundIds(medium, root, tenantId, signal), highestInCatalog) + 1n;
  for (let attempt = 0; attempt < MAX_TRIES; attempt += 1, round += 1n) {
    const mountFile = create(MountFileSchema, {
      deploymentUuid: deployment.deploymentUuid,
      tenantId,
      round,
      createdUs: nowUs,
      token: randomBytes(16),
    });
    const key = tree.mountFile(root, { tenantId, round });
    if (await isCreated(() => writeOnce(medium, key, MountFileSchema, mountFile, signal))) return round;
  }
  throw new HoldfastError(
    'INVALID_BACKUP_DEST',
    `no free round id for tenant ${tenantId}: others keep taking them`,
  );
}

/**
 * Claims the next backup set's id by its pg_list, made by `listFor`, and returns it. `fullSetId`: of the set that an
 * increment belongs to; undefined: a full backup, whose own id it is.
 */
export async function claimSet(
  medium: Medium,
  root: TreeRoot,
  tenantId: bigint,
  highestInCatalog: bigint,
  fullSetId: bigint | undefined,
  listFor: (setId: bigint) => PartitionGroupList,
  signal: AbortSignal,
): Promise<bigint> {
  const known = await setIds(medium, root, tenantId, signal);
  let setId =
    maxId(
      known.flatMap((set) => [set.setId, set.fullSetId]),
      highestInCatalog,
    ) + 1n;
  for (let attempt = 0; attempt < MAX_TRIES; attempt += 1, setId += 1n) {
    const id = setId;
    const key = tree.pgList(root, { tenantId, fullSetId: fullSetId ?? id, setId: id });
    if (!(await isCreated(() => writeOnce(medium, key, PartitionGroupListSchema, listFor(id), signal))))
      continue;
    // The id may be taken in another full set's directory, where no exclusive create meets this one: then both give it up.
    const claims = (await setIds(medium, root, tenantId, signal)).filter((set) => set.setId === id);
    if (claims.length === 1) return id;
  }
  throw new HoldfastError(
    'INVALID_BACKUP_DEST',
    `no free set id for tenant ${tenantId}: others keep taking them`,
  );
}

/** The highest epoch that any log file of the group carries; 0n when there is no log file yet. */
export async function highestLogEpoch(
  medium: Medium,
  root: TreeRoot,
  key: RoundKey,
  group: string,
  signal: AbortSignal,
): Promise<bigint> {
  const data = await idsBelow(
    medium,
    tree.logDataDirectory(root, key, group),
    /^\d+\.(\d{1,18})(?:\.part_\d+)?$/,
    signal,
  );
  const index = await idsBelow(medium, tree.logIndexDirectory(root, key, group), /^\d+\.(\d{1,18})$/, signal);
  return maxId([...data, ...index], 0n);
}

async function isCreated(write: () => Promise<void>): Promise<boolean> {
  try {
    await write();
    return true;
  } catch (error) {
    if (isError(error, 'FILE_EXISTS')) return false;
    throw error;
  }
}
