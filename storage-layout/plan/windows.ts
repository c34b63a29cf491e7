/**
 * To which instants a tenant can be restored, and from which set. Pure: decided from the write-once files that
 * tenant-history.ts read.
 *
 * 1. A set can be restored to any instant from its stop (its pages are consistent from there on) to the checkpoint of
 *    the archived log that follows it without a hole in its own round.
 * 2. A window of several partition groups begins when the last of them begins and ends when the first ends.
 * 3. An instant is restored with the partition groups that were members at that instant: a set that lacks one of them, or
 *    whose log does not reach the instant, does not restore it; of one that is no member it needs nothing. So a set's
 *    windows end where a group joins that it lacks, and go on without a group that left.
 * 4. Among the sets whose window holds the target the newest is chosen: the least log to replay.
 */
import { assertNever } from '../../foundation/assert.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn, type Lsn, type Timeline, toLsn, toTimeline } from '../../foundation/lsn.ts';
import type {
  BackupInfo,
  PartitionGroupBackup,
  RoundBegin,
  RoundEnd,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { findLogPath, type GroupLog, type LogPath } from './lineage.ts';
import {
  type GroupMembership,
  type MembershipPeriod,
  membershipChanges,
  membershipPeriods,
} from './membership.ts';

export type RoundHistory = {
  readonly begin: RoundBegin;
  readonly end: RoundEnd | undefined;
  readonly members: readonly GroupMembership[];
  readonly groups: readonly GroupLog[];
};

export type TenantHistory = {
  readonly tenantId: bigint;
  readonly tenantName: string;
  /** Published sets that are not marked for deletion, by id. */
  readonly sets: readonly BackupInfo[];
  readonly rounds: readonly RoundHistory[];
  /** Files that could not be read, and why: what depends on them is left out. */
  readonly unreadable: readonly { readonly key: string; readonly reason: string }[];
};

/** One set's instants, [fromUs, untilUs], both restorable. */
export type RestorableWindow = {
  readonly setId: bigint;
  readonly fullSetId: bigint;
  readonly round: bigint;
  readonly fromUs: bigint;
  readonly untilUs: bigint;
  /** Members at each of these instants, and no others. */
  readonly groups: readonly WindowGroup[];
  /** Set when members changed behind the set's stop: the windows that go before are of other groups. */
  readonly changedAtUs: bigint | undefined;
  /** Set when members change behind the window: its groups' log may go on, as that of another tenant, so to speak. */
  readonly changesAtUs: bigint | undefined;
};

export type WindowGroup = {
  readonly partitionGroup: string;
  /** The baseline's stop: the earliest position. */
  readonly fromLsn: Lsn;
  /** End of the archived log on `path.timeline`: the latest position. */
  readonly untilLsn: Lsn;
  readonly path: LogPath;
};

/** Instants that some set restores, without a hole in between. */
export type MergedWindow = {
  readonly fromUs: bigint;
  readonly untilUs: bigint;
  readonly windows: readonly RestorableWindow[];
};

export type RestoreTarget = {
  /** Undefined: the newest that descends from the set. */
  readonly timeline?: Timeline | undefined;
} & (
  | { readonly kind: 'endOfLog' }
  | { readonly kind: 'immediate' }
  | { readonly kind: 'time'; readonly timeUs: bigint }
  /** Of a tenant with one partition group. */
  | { readonly kind: 'lsn'; readonly lsn: Lsn }
  /** The end of a transaction, of a tenant with one partition group: where it is, only who reads the log finds out. */
  | { readonly kind: 'xid'; readonly xid: number }
  /** A restore point. `places`: where indexes have it; none: it may still stand in log without an index. */
  | { readonly kind: 'name'; readonly name: string; readonly places: readonly RestorePointPlace[] }
);

/** `lsn`: the end of the restore point's record; `timeUs`: when its server wrote it. */
export type RestorePointPlace = {
  readonly round: bigint;
  readonly partitionGroup: string;
  readonly timeline: Timeline;
  readonly lsn: Lsn;
  readonly timeUs: bigint;
};

export type ChosenSet = {
  readonly set: BackupInfo;
  readonly round: bigint;
  readonly window: RestorableWindow;
};

/** Every set's windows, by set id and time; sets without one are left out. `timeline` as in RestoreTarget. */
export function restorableWindows(history: TenantHistory, timeline?: Timeline): readonly RestorableWindow[] {
  return history.sets.flatMap((set) => windowsOf(history, set, timeline));
}

/** The windows of all sets, overlapping ones joined, by time. */
export function mergeWindows(windows: readonly RestorableWindow[]): readonly MergedWindow[] {
  const merged: { fromUs: bigint; untilUs: bigint; windows: RestorableWindow[] }[] = [];
  for (const window of [...windows].sort((a, b) => compare(a.fromUs, b.fromUs))) {
    const last = merged.at(-1);
    if (last === undefined || window.fromUs > last.untilUs + 1n) {
      merged.push({ fromUs: window.fromUs, untilUs: window.untilUs, windows: [window] });
    } else {
      last.windows.push(window);
      if (window.untilUs > last.untilUs) last.untilUs = window.untilUs;
    }
  }
  return merged;
}

/**
 * True when the second window's log is the first one's, gone on: what lies between them is no hole, its log is only not
 * known yet to be complete up to an instant.
 */
export function isSameLog(before: MergedWindow, after: MergedWindow): boolean {
  return before.windows.some((one) =>
    after.windows.some(
      (other) =>
        other.round === one.round &&
        one.changesAtUs === undefined &&
        one.groups.every((group) => endsAlike(group, other)),
    ),
  );
}

function endsAlike({ partitionGroup, path }: WindowGroup, other: RestorableWindow): boolean {
  const twin = other.groups.find((group) => group.partitionGroup === partitionGroup);
  return twin !== undefined && twin.path.timeline === path.timeline && twin.path.end === path.end;
}

/**
 * The set to restore for a target. `setId` demands one set. Throws TARGET_NOT_RESTORABLE, which names the windows that
 * there are, INVALID_BACKUP_SET_ID for a set that is not there, and INVALID_ARGUMENT for an LSN of a tenant with
 * several partition groups. The groups to restore are those of the window.
 */
export function chooseSet(
  history: TenantHistory,
  target: RestoreTarget,
  nowUs: bigint,
  setId?: bigint,
): ChosenSet {
  if (setId !== undefined && !history.sets.some((set) => set.backupSetId === setId)) {
    const damaged = history.unreadable.find(({ key }) => key.endsWith(`/backup_${setId}/backup_info`));
    if (damaged !== undefined)
      throw new HoldfastError('DATA_CORRUPT', `backup set ${setId} cannot be read: ${damaged.reason}`);
    throw new HoldfastError(
      'INVALID_BACKUP_SET_ID',
      `tenant "${history.tenantName}" has no backup set ${setId}`,
    );
  }
  const all = restorableWindows(history, target.timeline);
  const windows = setId === undefined ? all : all.filter((window) => window.setId === setId);
  const one =
    target.kind === 'lsn' ? 'a log position' : target.kind === 'xid' ? 'a transaction id' : undefined;
  if (one !== undefined && windows.some(hasSeveralGroups)) {
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `tenant "${history.tenantName}" has several partition groups: ${one} is one group's`,
      { hint: 'Give a time.' },
    );
  }
  const window = windows
    .filter((candidate) => holds(candidate, target))
    .reduce<RestorableWindow | undefined>(
      (best, candidate) => (best === undefined || candidate.fromUs >= best.fromUs ? candidate : best),
      undefined,
    );
  const set = history.sets.find((candidate) => candidate.backupSetId === window?.setId);
  if (window === undefined || set === undefined) throw notRestorable(history, windows, target, nowUs);
  return { set, round: window.round, window };
}

/** `2026-11-21 01:05:30.123456Z` */
export function formatInstant(timeUs: bigint): string {
  const iso = new Date(Number(timeUs / 1000n)).toISOString();
  const micros = String(timeUs % 1_000_000n).padStart(6, '0');
  return `${iso.slice(0, 10)} ${iso.slice(11, 19)}.${micros}Z`;
}

/** `2026-… to 2026-…` for each, one per line; says so when there is none. */
export function describeWindows(windows: readonly RestorableWindow[]): string {
  const merged = mergeWindows(windows);
  if (merged.length === 0) return 'nothing is restorable: no complete backup set has its log archived';
  return merged
    .map((window) => {
      const lsns = window.windows.flatMap((one) => one.groups);
      const span =
        window.windows.every((one) => one.groups.length === 1) && lsns.length > 0
          ? ` (${formatLsn(minimum(lsns.map((group) => group.fromLsn)))} to ${formatLsn(maximum(lsns.map((group) => group.untilLsn)))})`
          : '';
      const sets = [...new Set(window.windows.map((one) => one.setId))].join(', ');
      return `${formatInstant(window.fromUs)} to ${formatInstant(window.untilUs)}${span}, from backup set ${sets}`;
    })
    .join('\n');
}

function windowsOf(
  history: TenantHistory,
  set: BackupInfo,
  timeline: Timeline | undefined,
): readonly RestorableWindow[] {
  const round = history.rounds.find((candidate) => candidate.begin.round === set.round);
  if (round === undefined || set.partitionGroups.length === 0) return [];
  return periodsOf(round, set).flatMap((period) => windowIn(period, round, set, timeline) ?? []);
}

/** A group of which the round knows no membership counts as a member: nothing says that it may be left out. */
function periodsOf(round: RoundHistory, set: BackupInfo): readonly MembershipPeriod[] {
  const unknown = set.partitionGroups
    .map((backup) => backup.partitionGroup)
    .filter((name) => !round.members.some((member) => member.partitionGroup === name));
  return membershipPeriods(round.members).map((period) => ({
    ...period,
    groups: new Set([...period.groups, ...unknown]),
  }));
}

function windowIn(
  period: MembershipPeriod,
  round: RoundHistory,
  set: BackupInfo,
  timeline: Timeline | undefined,
): RestorableWindow | undefined {
  const backups = set.partitionGroups.filter((backup) => period.groups.has(backup.partitionGroup));
  if (backups.length === 0 || backups.length < period.groups.size) return undefined;
  const groups = backups.flatMap((backup) => groupWindow(round, backup, timeline) ?? []);
  if (groups.length < backups.length) return undefined;
  const stopUs = maximum(backups.map((backup) => backup.stopUs));
  const fromUs = maximum([stopUs, period.beginUs]);
  if (period.endUs !== undefined && fromUs >= period.endUs) return undefined;
  // The log covers every stop, so what begins there holds at least its own beginning.
  const logUntilUs = minimum(groups.map((group) => group.path.checkpointUs ?? stopUs));
  const untilUs = fromUs === stopUs && logUntilUs < fromUs ? fromUs : logUntilUs;
  if (untilUs < fromUs) return undefined;
  const allStopsUs = maximum(set.partitionGroups.map((backup) => backup.stopUs));
  return {
    setId: set.backupSetId,
    fullSetId: set.fullSetId,
    round: set.round,
    fromUs,
    untilUs: period.endUs === undefined || untilUs < period.endUs ? untilUs : period.endUs - 1n,
    groups,
    changedAtUs: period.beginUs > allStopsUs ? period.beginUs : undefined,
    changesAtUs: period.endUs,
  };
}

function groupWindow(
  round: RoundHistory,
  backup: PartitionGroupBackup,
  timeline: Timeline | undefined,
): WindowGroup | undefined {
  const log = round.groups.find((group) => group.partitionGroup === backup.partitionGroup);
  const baseline = baselineLog(backup);
  if (log === undefined || baseline === undefined) return undefined;
  const path = findLogPath(log, baseline, timeline);
  if (path === undefined) return undefined;
  return {
    partitionGroup: backup.partitionGroup,
    fromLsn: baseline.stop,
    untilLsn: path.end,
    path,
  };
}

/** Undefined when the record lacks its positions. */
function baselineLog(
  backup: PartitionGroupBackup,
): { readonly timeline: Timeline; readonly start: Lsn; readonly stop: Lsn } | undefined {
  if (backup.start === undefined || backup.stop === undefined || backup.start.timeline === 0)
    return undefined;
  return {
    timeline: toTimeline(backup.start.timeline),
    start: toLsn(backup.start.lsn),
    stop: toLsn(backup.stop.lsn),
  };
}

/** A target that tells no time is in a window only where members do not change before or behind it. */
function holds(window: RestorableWindow, target: RestoreTarget): boolean {
  switch (target.kind) {
    case 'endOfLog':
      return window.changesAtUs === undefined;
    case 'immediate':
      return window.changedAtUs === undefined;
    case 'time':
      return target.timeUs >= window.fromUs && target.timeUs <= window.untilUs;
    case 'lsn':
      return window.groups.every((group) => target.lsn >= group.fromLsn && target.lsn <= group.untilLsn);
    case 'xid':
      return true;
    case 'name':
      return target.places.length === 0
        ? window.changedAtUs === undefined && window.changesAtUs === undefined
        : window.groups.every((group) => target.places.some((place) => isInWindow(place, group, window)));
    default:
      return assertNever(target);
  }
}

function isInWindow(place: RestorePointPlace, group: WindowGroup, window: RestorableWindow): boolean {
  const { changedAtUs, changesAtUs } = window;
  return (
    place.round === window.round &&
    place.partitionGroup === group.partitionGroup &&
    (changedAtUs === undefined || place.timeUs >= changedAtUs) &&
    (changesAtUs === undefined || place.timeUs < changesAtUs) &&
    place.lsn > group.fromLsn &&
    place.lsn <= group.untilLsn &&
    group.path.ranges.some(
      (range) => range.timeline === place.timeline && range.begin < place.lsn && place.lsn <= range.end,
    )
  );
}

/** Positions and transaction ids are one group's: they name no instant of a tenant that has, or had, several. */
function hasSeveralGroups(window: RestorableWindow): boolean {
  const { groups, changedAtUs, changesAtUs } = window;
  return groups.length !== 1 || changedAtUs !== undefined || changesAtUs !== undefined;
}

function notRestorable(
  history: TenantHistory,
  windows: readonly RestorableWindow[],
  target: RestoreTarget,
  nowUs: bigint,
): HoldfastError {
  const unreadable = history.unreadable.map((file) => `unreadable: ${file.key}: ${file.reason}`);
  return new HoldfastError(
    'TARGET_NOT_RESTORABLE',
    `tenant "${history.tenantName}" cannot be restored ${describeRefusal(history, windows, target, nowUs)}`,
    {
      detail: [`Restorable windows:\n${describeWindows(windows)}`, ...unreadable].join('\n'),
      hint:
        windows.length === 0
          ? 'Back the tenant up while its log is archived.'
          : 'Choose a time inside a restorable window.',
    },
  );
}

function describeRefusal(
  history: TenantHistory,
  windows: readonly RestorableWindow[],
  target: RestoreTarget,
  nowUs: bigint,
): string {
  if (history.sets.length === 0) return 'at all: it has no backup set';
  if (windows.length === 0) return 'at all: no backup set has its log archived up to its stop';
  if (target.kind === 'lsn') {
    const first = minimum(windows.flatMap((window) => window.groups.map((group) => group.fromLsn)));
    const last = maximum(windows.flatMap((window) => window.groups.map((group) => group.untilLsn)));
    const why =
      target.lsn < first
        ? `it lies before the first backup set's end, ${formatLsn(first)}`
        : target.lsn > last
          ? `the log is archived up to ${formatLsn(last)}`
          : 'it lies in a hole of the archived log';
    return `to log position ${formatLsn(target.lsn)}: ${why}`;
  }
  if (target.kind === 'endOfLog') {
    const last = mergeWindows(windows).at(-1);
    const why = last === undefined ? undefined : changesBehind(history, last, undefined);
    return `to the end of its log: ${why ?? 'no backup set reaches it'}`;
  }
  if (target.kind === 'name')
    return `to restore point "${target.name}": no backup set that ended before it reaches it`;
  if (target.kind !== 'time') return 'to that point';
  const merged = mergeWindows(windows);
  const at = `to ${formatInstant(target.timeUs)}`;
  const first = merged[0];
  const last = merged.at(-1);
  if (target.timeUs > nowUs) return `${at}: that time is in the future`;
  if (first !== undefined && target.timeUs < first.fromUs)
    return `${at}: the first restorable time is ${formatInstant(first.fromUs)}, when the first backup set ended`;
  if (last !== undefined && target.timeUs > last.untilUs)
    return `${at}: ${changesBehind(history, last, undefined) ?? `the log is archived up to ${formatInstant(last.untilUs)}`}`;
  const before = merged.findLast((window) => window.untilUs < target.timeUs);
  const after = merged.find((window) => window.fromUs > target.timeUs);
  const why = before === undefined ? undefined : changesBehind(history, before, after?.fromUs);
  return `${at}: that time lies in a hole between restorable windows${why === undefined ? '' : `: ${why}`}`;
}

/** Who joined or left behind a window, as describeChanges says it. */
export function changesBehind(
  history: TenantHistory,
  window: MergedWindow,
  untilUs: bigint | undefined,
): string | undefined {
  return describeChanges(history, window.windows.at(-1)?.round, window.untilUs, untilUs);
}

/**
 * Which partition groups joined or left in the round between two instants, for people; undefined when none did. Without
 * `untilUs`: who joined since and is a member.
 */
function describeChanges(
  history: TenantHistory,
  round: bigint | undefined,
  afterUs: bigint,
  untilUs: bigint | undefined,
): string | undefined {
  const members = history.rounds.find(({ begin }) => begin.round === round)?.members ?? [];
  const changes = membershipChanges(members, afterUs, untilUs).map(
    ({ partitionGroup, what, timeUs }) =>
      `partition group ${partitionGroup} ${what} at ${formatInstant(timeUs)}`,
  );
  return changes.length === 0 ? undefined : changes.join(', ');
}

function compare(a: bigint, b: bigint): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Of a list that is not empty. */
function maximum<T extends bigint>(values: readonly T[]): T {
  return values.reduce((a, b) => (a > b ? a : b));
}

function minimum<T extends bigint>(values: readonly T[]): T {
  return values.reduce((a, b) => (a < b ? a : b));
}
