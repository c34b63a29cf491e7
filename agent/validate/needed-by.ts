/**
 * Which published sets need an object at the destination. A macroblock is needed by every set whose index names it (the
 * increments of one full backup share theirs); log by the sets whose start to stop it lies in, and, behind their stop, by
 * every restore to a later instant.
 */
import { type BackupInfo, BackupInfoSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { LogRange } from '../../storage-layout/clog/ranges.ts';
import { windowOf } from '../../storage-layout/clog/set-window.ts';
import type { MacroBlockPlace } from '../../storage-layout/macroblock/entry.ts';
import { readMacroBlockIndex } from '../../storage-layout/macroblock/index.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { listSets } from '../../storage-layout/plan/tenant-history.ts';
import { readInfoIfThere } from '../../storage-layout/records/info-file.ts';
import { parseTreePath, type RoundKey, type SetKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';
import { type Finding, findingOf, type NewFinding } from './findings.ts';

/** What of the log a set needs to be restored at all. */
export type SetWindow = LogRange & { readonly setId: bigint };

/** The published sets of the round that hold the partition group. Sets that cannot be read need nothing any more. */
export async function readWindows(
  medium: Medium,
  root: TreeRoot,
  round: RoundKey,
  group: string,
  signal: AbortSignal,
): Promise<readonly SetWindow[]> {
  const windows: SetWindow[] = [];
  for (const key of await listSets(medium, root, round.tenantId, signal)) {
    const info = await readPublished(medium, root, key, signal);
    const backup = info?.partitionGroups.find(({ partitionGroup }) => partitionGroup === group);
    if (info?.round !== round.round || backup === undefined) continue;
    const window = windowOf(backup);
    if (window !== undefined) windows.push({ setId: key.setId, ...window });
  }
  return windows.sort((a, b) => (a.setId < b.setId ? -1 : 1));
}

/** The sets that need log of this range. Pure. */
export function setsNeedingLog(
  range: LogRange,
  windows: readonly SetWindow[],
): Pick<Finding, 'setIds' | 'shortenedSetIds'> {
  const needs = (window: SetWindow) =>
    window.timeline === range.timeline && window.begin < range.end && window.end > range.begin;
  const isBefore = (window: SetWindow) => window.timeline <= range.timeline && window.end <= range.begin;
  return {
    setIds: windows.filter(needs).map(({ setId }) => setId),
    shortenedSetIds: windows.filter(isBefore).map(({ setId }) => setId),
  };
}

/** Damaged places by macroblock file. */
type DamagedPlaces = ReadonlyMap<string, readonly NewFinding[]>;

/**
 * The sets that need what block findings are about, by finding: `own`, and every other published set of the same full
 * backup whose index names the place.
 */
export async function findSetsSharing(
  medium: Medium,
  root: TreeRoot,
  own: SetKey,
  group: string,
  findings: readonly NewFinding[],
  signal: AbortSignal,
): Promise<(finding: NewFinding) => readonly bigint[]> {
  const damaged = damagedPlaces(findings);
  const sharing = new Map<string, bigint[]>();
  const others = (await listSets(medium, root, own.tenantId, signal)).filter(
    (key) => key.fullSetId === own.fullSetId && key.setId !== own.setId,
  );
  for (const key of damaged.size === 0 ? [] : others) {
    const info = await readPublished(medium, root, key, signal);
    const backup = info?.partitionGroups.find(({ partitionGroup }) => partitionGroup === group);
    const directory = tree.backupSetDirectory(root, key.tenantId, key.fullSetId);
    const index = backup?.files
      .map(({ path }) => `${directory}/${path}`)
      .find((path) => parseTreePath(path)?.kind === 'macroBlockIndex');
    if (index === undefined) continue;
    for (const place of await readNamedPlaces(medium, root, key, group, index, damaged, signal))
      sharing.set(place, [...(sharing.get(place) ?? []), key.setId]);
  }
  return (finding) =>
    [...(sharing.get(placeOf(finding)) ?? []), own.setId].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
}

function damagedPlaces(findings: readonly NewFinding[]): DamagedPlaces {
  const inBlocks = findings.filter(({ key }) => parseTreePath(key)?.kind === 'macroBlock');
  return Map.groupBy(inBlocks, ({ key }) => key);
}

function placeOf({ key, offset }: Pick<NewFinding, 'key' | 'offset'>): string {
  return offset === undefined ? key : `${key}@${offset}`;
}

/** True when the record at `place` is lost or damaged by what was found in its file. Pure. */
export function isAffected(
  place: Pick<MacroBlockPlace, 'offset' | 'storedBytes'>,
  { offset, isCut }: NewFinding,
): boolean {
  if (offset === undefined) return true;
  const end = place.offset + place.storedBytes;
  return offset < end && (isCut === true || offset >= place.offset);
}

/** Which of the damaged places the index names. */
async function readNamedPlaces(
  medium: Medium,
  root: TreeRoot,
  set: SetKey,
  group: string,
  indexKey: string,
  damaged: DamagedPlaces,
  signal: AbortSignal,
): Promise<ReadonlySet<string>> {
  const named = new Set<string>();
  const look = (place: MacroBlockPlace) => {
    const key = tree.macroBlock(root, { ...set, setId: place.setId }, group, place.subTaskId);
    for (const finding of damaged.get(key) ?? []) if (isAffected(place, finding)) named.add(placeOf(finding));
  };
  try {
    for await (const entries of readMacroBlockIndex(medium, indexKey, signal)) {
      for (const entry of entries) {
        look(entry);
        if (entry.delta !== undefined) look(entry.delta);
      }
    }
  } catch (error) {
    if (findingOf(error, indexKey) === undefined) throw error; // a damaged index is that set's own finding
  }
  return named;
}

async function readPublished(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  signal: AbortSignal,
): Promise<BackupInfo | undefined> {
  const infoKey = tree.backupInfo(root, key);
  try {
    if ((await medium.stat(tree.deleteMark(root, key), signal)) !== undefined) return undefined;
    return await readInfoIfThere(medium, infoKey, BackupInfoSchema, signal);
  } catch (error) {
    if (findingOf(error, infoKey) === undefined) throw error;
    return undefined; // that set's own finding
  }
}
