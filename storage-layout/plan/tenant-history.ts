/**
 * What a destination holds of a tenant, read from the write-once files alone: a set exists if its backup_info is there,
 * a round if its round_begin is; how far a log is archived follows from the log files. Summaries are not read.
 */
import { type HoldfastError, isError } from '../../foundation/errors.ts';
import { type Timeline, toTimeline } from '../../foundation/lsn.ts';
import {
  type BackupInfo,
  BackupInfoSchema,
  RoundBeginSchema,
  RoundEndSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { describeCut, isCutOff } from '../clog/log-file.ts';
import { LogLookup } from '../clog/lookup.ts';
import type { Medium } from '../media/medium.ts';
import { RECORD } from '../records/framing.ts';
import { readBytes, readInfo, readInfoIfThere } from '../records/info-file.ts';
import { type RoundKey, type SetKey, type TreeRoot, tree } from '../tree.ts';
import type { GroupLog } from './lineage.ts';
import type { RoundHistory, TenantHistory } from './windows.ts';

type Problem = { readonly key: string; readonly reason: string };

/**
 * Reads a tenant's sets and rounds. Damage in one of them is noted in `unreadable` and leaves only that one out. Throws
 * the medium's errors.
 */
export async function readTenantHistory(
  medium: Medium,
  root: TreeRoot,
  tenantId: bigint,
  signal?: AbortSignal,
): Promise<TenantHistory> {
  const unreadable: Problem[] = [];
  const sets: BackupInfo[] = [];
  for (const key of await listSets(medium, root, tenantId, signal)) {
    const set = await tolerate(tree.backupInfo(root, key), unreadable, () =>
      readPublished(medium, root, key, signal),
    );
    if (set !== undefined) sets.push(set);
  }
  const rounds: RoundHistory[] = [];
  for (const round of await listRounds(medium, root, tenantId, signal)) {
    const key = { tenantId, round };
    const history = await tolerate(tree.roundBegin(root, key), unreadable, () =>
      readRound(medium, root, key, unreadable, signal),
    );
    if (history !== undefined) rounds.push(history);
  }
  sets.sort((a, b) => (a.backupSetId < b.backupSetId ? -1 : 1));
  const newest = sets.at(-1)?.tenantName ?? rounds.at(-1)?.begin.tenantName;
  return { tenantId, tenantName: newest ?? String(tenantId), sets, rounds, unreadable };
}

/** The keys of every set that was begun, published or not, in no order. */
export async function listSets(
  medium: Medium,
  root: TreeRoot,
  tenantId: bigint,
  signal?: AbortSignal,
): Promise<readonly SetKey[]> {
  const keys: SetKey[] = [];
  for (const name of await medium.listNames(tree.dataDirectory(root, tenantId), signal)) {
    const fullSetId = idIn(name, 'backup_set_');
    if (fullSetId === undefined) continue;
    const directory = tree.backupSetDirectory(root, tenantId, fullSetId);
    for (const backup of await medium.listNames(directory, signal)) {
      const setId = idIn(backup, 'backup_');
      if (setId !== undefined) keys.push({ tenantId, fullSetId, setId });
    }
  }
  return keys;
}

/** The ids of every round that was begun, ascending. */
export async function listRounds(
  medium: Medium,
  root: TreeRoot,
  tenantId: bigint,
  signal?: AbortSignal,
): Promise<readonly bigint[]> {
  const names = await medium.listNames(tree.clogDirectory(root, tenantId), signal);
  const rounds = names.map((name) => idIn(name, '')).filter((round) => round !== undefined);
  return rounds.sort((a, b) => (a < b ? -1 : 1));
}

/** One partition group's log in one round. Throws LOG_CONFLICT, DATA_CORRUPT and the medium's errors. */
export async function readGroupLog(
  medium: Medium,
  root: TreeRoot,
  round: RoundKey,
  group: { readonly partitionGroup: string; readonly segmentSizeBytes: number },
  signal?: AbortSignal,
): Promise<GroupLog & { readonly lookup: LogLookup }> {
  const lookup = await LogLookup.open(medium, root, round, group.partitionGroup, signal);
  const coverage = await lookup.coverage(signal);
  const histories = new Map<Timeline, Uint8Array>();
  for (const timeline of await listHistories(medium, root, round, group.partitionGroup, signal)) {
    const key = tree.history(root, round, group.partitionGroup, timeline);
    histories.set(timeline, await readBytes(medium, key, RECORD.timelineHistory, signal));
  }
  return {
    partitionGroup: group.partitionGroup,
    segmentSizeBytes: group.segmentSizeBytes,
    coverage,
    histories,
    lookup,
  };
}

async function readPublished(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  signal: AbortSignal | undefined,
): Promise<BackupInfo | undefined> {
  if ((await medium.stat(tree.deleteMark(root, key), signal)) !== undefined) return undefined;
  return await readInfoIfThere(medium, tree.backupInfo(root, key), BackupInfoSchema, signal);
}

async function readRound(
  medium: Medium,
  root: TreeRoot,
  key: RoundKey,
  unreadable: Problem[],
  signal: AbortSignal | undefined,
): Promise<RoundHistory | undefined> {
  const begin = await readInfoIfThere(medium, tree.roundBegin(root, key), RoundBeginSchema, signal);
  if (begin === undefined) return undefined;
  const endKey = tree.roundEnd(root, key);
  const end =
    (await medium.stat(endKey, signal)) === undefined
      ? undefined
      : await readInfo(medium, endKey, RoundEndSchema, signal);
  const groups: GroupLog[] = [];
  for (const group of begin.groups) {
    const directory = tree.logDataDirectory(root, key, group.partitionGroup);
    const log = await tolerate(directory, unreadable, () => readGroupLog(medium, root, key, group, signal));
    if (log === undefined) continue;
    groups.push(log);
    for (const file of [...log.lookup.files.cut.values()].filter(isCutOff))
      unreadable.push({ key: file.key, reason: describeCut(file) });
    for (const lost of log.lookup.lost)
      unreadable.push({ key: lost, reason: 'the file is gone, its index is there' });
  }
  return { begin, end, groups };
}

async function listHistories(
  medium: Medium,
  root: TreeRoot,
  round: RoundKey,
  group: string,
  signal: AbortSignal | undefined,
): Promise<readonly Timeline[]> {
  const directory = tree.history(root, round, group, 1).replace(/\/[^/]*$/, '');
  const names = await medium.listNames(directory, signal);
  return names.flatMap((name) => {
    const match = /^([1-9][0-9]{0,9})\.history$/.exec(name);
    return match?.[1] === undefined ? [] : [toTimeline(Number(match[1]))];
  });
}

/** What `read` gives, or undefined with the damage noted. */
async function tolerate<T>(
  key: string,
  unreadable: Problem[],
  read: () => Promise<T | undefined>,
): Promise<T | undefined> {
  try {
    return await read();
  } catch (error) {
    if (!isDamage(error)) throw error;
    unreadable.push({ key, reason: error.message });
    return undefined;
  }
}

function isDamage(error: unknown): error is HoldfastError {
  return isError(error, 'DATA_CORRUPT', 'FORMAT_UNKNOWN', 'FILE_NOT_FOUND', 'LOG_CONFLICT');
}

function idIn(name: string, prefix: string): bigint | undefined {
  const digits = name.startsWith(prefix) ? name.slice(prefix.length) : '';
  return /^[1-9][0-9]{0,18}$/.test(digits) ? BigInt(digits) : undefined;
}
