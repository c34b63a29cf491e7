/**
 * What there is to validate at a destination: the destination itself says which sets and rounds there are, and what was
 * noted of them; the catalog adds those whose commit points are gone, so that the loss is found.
 */
import { isError } from '../../foundation/errors.ts';
import { parseLsn } from '../../foundation/lsn.ts';
import {
  BackupInfoSchema,
  type RoundBegin,
  RoundBeginSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { rangeBytes, windowOf } from '../../storage-layout/clog/set-window.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { archivedGroups } from '../../storage-layout/plan/membership.ts';
import { readMembers } from '../../storage-layout/plan/read-members.ts';
import { listRounds, listSets } from '../../storage-layout/plan/tenant-history.ts';
import { readInfoIfThere } from '../../storage-layout/records/info-file.ts';
import { readNotes } from '../../storage-layout/records/notes.ts';
import { type RoundKey, type SetKey, tree } from '../../storage-layout/tree.ts';
import { findRound, highestRound, listRoundGroups, type RoundGroup } from '../catalog/rounds.ts';
import { listAvailableSets } from '../catalog/sets.ts';
import { listGroups } from '../catalog/tenants.ts';
import type { CoordinatorContext } from '../context.ts';
import type { RoundToValidate, SetToValidate } from '../jobs/plan-validation.ts';

type Place = { readonly medium: Medium; readonly display: string; readonly tenantId: bigint };

/** Damage makes a file say nothing; the agent that reads it names it. */
async function readOrNothing<T>(read: () => Promise<T | undefined>): Promise<T | 'damaged' | undefined> {
  try {
    return await read();
  } catch (error) {
    if (!isError(error, 'DATA_CORRUPT', 'FORMAT_UNKNOWN')) throw error;
    return 'damaged';
  }
}

/** The tenant's sets that are published, or that the catalog shows as available. Those marked for deletion are left out. */
export async function findSets(
  context: CoordinatorContext,
  { medium, display, tenantId }: Place,
  signal: AbortSignal,
): Promise<readonly SetToValidate[]> {
  const { root, catalog } = context;
  const known = await listAvailableSets(catalog, tenantId, display);
  const keys = new Map<bigint, SetKey>(
    known.map((set) => [
      set.backup_set_id,
      { tenantId, fullSetId: set.full_set_id, setId: set.backup_set_id },
    ]),
  );
  const available = new Set(keys.keys());
  for (const key of await listSets(medium, root, tenantId, signal)) keys.set(key.setId, key);
  const members = (await listGroups(catalog, tenantId)).map((group) => group.partition_group);
  const sets: SetToValidate[] = [];
  for (const key of [...keys.values()].sort((a, b) => (a.setId < b.setId ? -1 : 1))) {
    if ((await medium.stat(tree.deleteMark(root, key), signal)) !== undefined) continue;
    const info = await readOrNothing(() =>
      readInfoIfThere(medium, tree.backupInfo(root, key), BackupInfoSchema, signal),
    );
    if (info === undefined && !available.has(key.setId)) continue; // never published
    const groups =
      info === undefined || info === 'damaged'
        ? members.slice(0, 1).map((partitionGroup) => ({ partitionGroup, bytes: 0n }))
        : info.partitionGroups.map((group) => ({
            partitionGroup: group.partitionGroup,
            bytes: group.inputBytes + rangeBytes(windowOf(group)),
          }));
    sets.push({ key, groups, notes: await readNotes(medium, root, { kind: 'set', key }, signal) });
  }
  return sets;
}

/** The tenant's rounds that have begun, or that the catalog says so of. */
export async function findRounds(
  context: CoordinatorContext,
  { medium, display, tenantId }: Place,
  signal: AbortSignal,
): Promise<readonly RoundToValidate[]> {
  const { root, catalog } = context;
  const rounds: RoundToValidate[] = [];
  const known = await highestRound(catalog, tenantId);
  const ids = new Set(await listRounds(medium, root, tenantId, signal));
  for (let round = 1n; round <= known; round += 1n) ids.add(round); // their directories may be gone
  for (const round of [...ids].sort((a, b) => (a < b ? -1 : 1))) {
    const key = { tenantId, round };
    const begin = await readOrNothing(() =>
      readInfoIfThere(medium, tree.roundBegin(root, key), RoundBeginSchema, signal),
    );
    const row = await findRound(catalog, tenantId, round);
    const isOurs = row?.display_destination === display && row.start_us !== 0n;
    if (begin === undefined && !isOurs) continue; // it never began
    const rows = isOurs ? await listRoundGroups(catalog, tenantId, round) : [];
    const names = await namesOf(context, { medium, key, begin, rows }, signal);
    rounds.push({
      round,
      groups: names.map((partitionGroup) => ({
        partitionGroup,
        ...archivedOf(rows.find((group) => group.partition_group === partitionGroup)),
      })),
      notes: await readNotes(medium, root, { kind: 'round', key }, signal),
    });
  }
  return rounds;
}

/** The groups whose log the round holds. */
async function namesOf(
  { root }: CoordinatorContext,
  {
    medium,
    key,
    begin,
    rows,
  }: {
    readonly medium: Medium;
    readonly key: RoundKey;
    readonly begin: RoundBegin | 'damaged' | undefined;
    readonly rows: readonly RoundGroup[];
  },
  signal: AbortSignal,
): Promise<readonly string[]> {
  const known = rows.filter((group) => group.begun).map((group) => group.partition_group);
  if (begin === undefined || begin === 'damaged') return known.slice(0, 1);
  const members = await readOrNothing(() => readMembers(medium, root, key, begin, signal));
  const named = members === undefined || members === 'damaged' ? begin.groups : archivedGroups(members);
  const names = named.map((group) => group.partitionGroup);
  return members === 'damaged' ? [...new Set([...names, ...known])] : names;
}

/** How far the catalog knows the group's log to be archived, and about how much that is. */
function archivedOf(row: RoundGroup | undefined): Pick<RoundToValidate['groups'][number], 'bytes' | 'until'> {
  if (row?.start_lsn === undefined || row.start_lsn === null || row.checkpoint_lsn === null)
    return { bytes: 0n };
  const lsn = parseLsn(row.checkpoint_lsn);
  const start = parseLsn(row.start_lsn);
  return {
    bytes: lsn > start ? lsn - start : 0n,
    until: { timeline: Number(row.checkpoint_timeline), lsn },
  };
}
