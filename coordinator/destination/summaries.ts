/**
 * The `*_info` summaries: rebuilt whole from write-once files (and, for the tenants' names and the progress of running
 * rounds, from the catalog). Nothing is ever decided from them, so a stale one harms nothing.
 */
import { create } from '@bufbuild/protobuf';
import { parseLsn, toTimeline } from '../../foundation/lsn.ts';
import {
  type BackupInfo,
  BackupInfoSchema,
  type ClogBackupInfo,
  ClogBackupInfoListSchema,
  ClogBackupInfoSchema,
  DataBackupInfoListSchema,
  type LogHole,
  LogHoleSchema,
  type PartitionGroupInfo,
  PartitionGroupInfoSchema,
  RoundBeginSchema,
  RoundEndSchema,
  RoundGroupEndSchema,
  RoundState,
  type TenantInfo,
  TenantInfoListSchema,
  TenantInfoSchema,
  type TenantNameInfo,
  TenantNameInfoListSchema,
  TenantNameInfoSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { archivedGroups } from '../../storage-layout/plan/membership.ts';
import { readMembers } from '../../storage-layout/plan/read-members.ts';
import { readInfoIfThere, replaceSummary } from '../../storage-layout/records/info-file.ts';
import { type TreeRoot, tree } from '../../storage-layout/tree.ts';
import type { RoundStateName } from '../archive/round-states.ts';
import type { Queryable } from '../catalog/catalog.ts';
import { findRound, listRoundGroups, type RoundGroup } from '../catalog/rounds.ts';
import {
  type EarlierMembership,
  leftUsOf,
  listAllGroups,
  listEarlierMemberships,
  listTenants,
} from '../catalog/tenants.ts';
import { roundIds, setIds, tenantIds } from './claims.ts';

const ROUND_STATES: Readonly<Record<RoundStateName, RoundState>> = {
  STOP: RoundState.STOP,
  BEGINNING: RoundState.BEGINNING,
  DOING: RoundState.DOING,
  STOPPING: RoundState.STOPPING,
  INTERRUPTED: RoundState.INTERRUPTED,
};

export function toRoundState(state: RoundStateName): RoundState {
  return ROUND_STATES[state];
}

/**
 * tenant_info and tenant_name_info: what the catalog knows, and what only the destination still knows. A group that is
 * declared no more is written as having left: the catalog follows.
 */
export async function writeTenantSummaries(
  medium: Medium,
  root: TreeRoot,
  db: Queryable,
  signal: AbortSignal,
): Promise<void> {
  const tenants = await listTenants(db);
  const groups = [
    ...(await listEarlierMemberships(db)).map((earlier) => ({ ...earlier, undeclared_us: 0n })),
    ...(await listAllGroups(db)),
  ];
  const known = await readInfoIfThere(medium, tree.tenantInfo(root), TenantInfoListSchema, signal);
  const infos = new Map<bigint, TenantInfo>((known?.tenants ?? []).map((info) => [info.tenantId, info]));
  for (const tenant of tenants) {
    infos.set(
      tenant.tenant_id,
      create(TenantInfoSchema, {
        tenantId: tenant.tenant_id,
        name: tenant.tenant_name,
        createdUs: tenant.created_us,
        droppedUs: tenant.dropped_us,
        partitionGroups: memberships(
          groups.filter((group) => group.tenant_id === tenant.tenant_id),
          infos.get(tenant.tenant_id)?.partitionGroups ?? [],
        ),
      }),
    );
  }
  const list = [...infos.values()].sort((a, b) => (a.tenantId < b.tenantId ? -1 : 1));
  await replaceSummary(
    medium,
    tree.tenantInfo(root),
    TenantInfoListSchema,
    create(TenantInfoListSchema, { tenants: list }),
    signal,
  );
  const names: TenantNameInfo[] = list.map((info) =>
    create(TenantNameInfoSchema, {
      name: info.name,
      tenantId: info.tenantId,
      fromUs: info.createdUs,
      untilUs: info.droppedUs,
    }),
  );
  await replaceSummary(
    medium,
    tree.tenantNameInfo(root),
    TenantNameInfoListSchema,
    create(TenantNameInfoListSchema, { names }),
    signal,
  );
}

/** What the catalog knows, and memberships that are over and that it has lost. */
function memberships(
  groups: readonly (EarlierMembership & { readonly undeclared_us: bigint })[],
  known: readonly PartitionGroupInfo[],
): PartitionGroupInfo[] {
  const own = groups.map((group) =>
    create(PartitionGroupInfoSchema, {
      name: group.partition_group,
      joinedUs: group.joined_us,
      leftUs: leftUsOf(group),
      systemIdentifier: BigInt(group.system_identifier),
    }),
  );
  const lost = known.filter(
    (info) =>
      info.leftUs !== 0n &&
      !own.some(({ name, joinedUs }) => name === info.name && joinedUs === info.joinedUs),
  );
  return [...own, ...lost].sort((a, b) => compareText(a.name, b.name) || (a.joinedUs < b.joinedUs ? -1 : 1));
}

/** The published sets of a tenant, in order of their ids. */
export async function readPublishedSets(
  medium: Medium,
  root: TreeRoot,
  tenantId: bigint,
  signal: AbortSignal,
): Promise<readonly BackupInfo[]> {
  const infos: BackupInfo[] = [];
  for (const { fullSetId, setId } of await setIds(medium, root, tenantId, signal)) {
    const key = tree.backupInfo(root, { tenantId, fullSetId, setId });
    const info = await readInfoIfThere(medium, key, BackupInfoSchema, signal);
    if (info !== undefined) infos.push(info);
  }
  return infos;
}

/** backup_set_info and tenant_data_backup_info of the tenant, cluster_data_backup_info of all. */
export async function writeDataSummaries(
  medium: Medium,
  root: TreeRoot,
  tenantId: bigint,
  signal: AbortSignal,
): Promise<void> {
  const own = await readPublishedSets(medium, root, tenantId, signal);
  const write = (key: string, backups: readonly BackupInfo[]) =>
    replaceSummary(
      medium,
      key,
      DataBackupInfoListSchema,
      create(DataBackupInfoListSchema, { backups: [...backups] }),
      signal,
    );
  for (const [fullSetId, backups] of Map.groupBy(own, (info) => info.fullSetId))
    await write(tree.backupSetInfo(root, tenantId, fullSetId), backups);
  await write(tree.tenantDataBackupInfo(root, tenantId), own);
  const all: BackupInfo[] = [];
  for (const id of await tenantIds(medium, root, signal))
    all.push(...(id === tenantId ? own : await readPublishedSets(medium, root, id, signal)));
  await write(tree.clusterDataBackupInfo(root), all);
}

/** tenant_clog_backup_info of the tenant, cluster_clog_backup_info of all. */
export async function writeClogSummaries(
  medium: Medium,
  root: TreeRoot,
  db: Queryable,
  tenantId: bigint,
  signal: AbortSignal,
): Promise<void> {
  const write = (key: string, rounds: readonly ClogBackupInfo[]) =>
    replaceSummary(
      medium,
      key,
      ClogBackupInfoListSchema,
      create(ClogBackupInfoListSchema, { rounds: [...rounds] }),
      signal,
    );
  const own = await readRounds(medium, root, db, tenantId, signal);
  await write(tree.tenantClogBackupInfo(root, tenantId), own);
  const all: ClogBackupInfo[] = [];
  for (const id of await tenantIds(medium, root, signal))
    all.push(...(id === tenantId ? own : await readRounds(medium, root, db, id, signal)));
  await write(tree.clusterClogBackupInfo(root), all);
}

async function readRounds(
  medium: Medium,
  root: TreeRoot,
  db: Queryable,
  tenantId: bigint,
  signal: AbortSignal,
): Promise<readonly ClogBackupInfo[]> {
  const infos: ClogBackupInfo[] = [];
  const ids = [...(await roundIds(medium, root, tenantId, signal))].sort((a, b) => (a < b ? -1 : 1));
  for (const round of ids) {
    const key = { tenantId, round };
    const begin = await readInfoIfThere(medium, tree.roundBegin(root, key), RoundBeginSchema, signal);
    if (begin === undefined) continue; // claimed, never begun
    const end = await readInfoIfThere(medium, tree.roundEnd(root, key), RoundEndSchema, signal);
    const members = await readMembers(medium, root, key, begin, signal);
    const present = new Set(
      members.filter(({ leftUs }) => leftUs === 0n).map(({ partitionGroup }) => partitionGroup),
    );
    const row = await findRound(db, tenantId, round);
    const groups = end === undefined ? await runningGroups(db, tenantId, round) : end.groups;
    const bytes = await listRoundGroups(db, tenantId, round);
    infos.push(
      create(ClogBackupInfoSchema, {
        tenantId,
        tenantName: begin.tenantName,
        round,
        state: end?.state ?? toRoundState(row?.state ?? 'DOING'),
        startUs: begin.beginUs,
        checkpointUs: groups
          .filter((group) => present.has(group.partitionGroup))
          .reduce((a, group) => (a === 0n || group.checkpointUs < a ? group.checkpointUs : a), 0n),
        starts: [...archivedGroups(members)],
        checkpoints: groups,
        inputBytes: bytes.reduce((sum, group) => sum + group.earlier_input_bytes + group.input_bytes, 0n),
        outputBytes: bytes.reduce((sum, group) => sum + group.earlier_output_bytes + group.output_bytes, 0n),
        comment: end?.reason ?? '',
      }),
    );
  }
  return infos;
}

/** How far each group of a round is archived, as the catalog knows it. */
export async function runningGroups(db: Queryable, tenantId: bigint, round: bigint) {
  const groups = await listRoundGroups(db, tenantId, round);
  return groups.flatMap((group) =>
    group.checkpoint_lsn === null
      ? []
      : [
          create(RoundGroupEndSchema, {
            partitionGroup: group.partition_group,
            end: {
              timeline: toTimeline(Number(group.checkpoint_timeline)),
              lsn: parseLsn(group.checkpoint_lsn),
            },
            checkpointUs: group.checkpoint_us,
            ...(group.hole_timeline === 0n ? {} : { hole: holeOf(group) }),
          }),
        ],
  );
}

function compareText(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

function holeOf(group: RoundGroup): LogHole {
  return create(LogHoleSchema, {
    ...(group.hole_begin === null
      ? {}
      : { begin: { timeline: Number(group.hole_timeline), lsn: parseLsn(group.hole_begin) } }),
    end: group.hole_end === null ? 0n : parseLsn(group.hole_end),
    beginUs: group.hole_begin_us,
    endUs: group.hole_end_us,
    reason: group.hole_reason,
  });
}
