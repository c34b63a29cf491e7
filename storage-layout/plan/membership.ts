/**
 * Which partition groups a tenant has while a round runs. Those of round_begin are members from the round's beginning;
 * write-once files under members/ say who joined and who left after it. A membership is [joinedUs, leftUs). Pure.
 */
import { HoldfastError } from '../../foundation/errors.ts';
import type {
  RoundBegin,
  RoundGroupStart,
  RoundMemberBegin,
  RoundMemberJoined,
  RoundMemberLeft,
} from '../../proto/gen/holdfast/v1/records_pb.ts';

export type GroupMembership = {
  readonly partitionGroup: string;
  /** Counts the group's memberships in the round, from 1. */
  readonly membership: number;
  /** 0: from the round's beginning on. */
  readonly joinedUs: bigint;
  /** 0: it is a member. */
  readonly leftUs: bigint;
  /** Undefined: nothing of it is archived yet. */
  readonly start: RoundGroupStart | undefined;
};

/** What the files of one group under members/ say. */
export type MemberRecords = {
  readonly partitionGroup: string;
  readonly joined: readonly RoundMemberJoined[];
  readonly begun: readonly RoundMemberBegin[];
  readonly left: readonly RoundMemberLeft[];
};

/** A stretch of time without a change of membership, [beginUs, endUs). */
export type MembershipPeriod = {
  readonly beginUs: bigint;
  /** Undefined: no later change is known. */
  readonly endUs: bigint | undefined;
  readonly groups: ReadonlySet<string>;
};

/** By group and number. Throws DATA_CORRUPT for a membership that began nowhere. */
export function planMemberships(
  begin: RoundBegin,
  records: readonly MemberRecords[],
): readonly GroupMembership[] {
  const found: GroupMembership[] = begin.groups.map((start) => ({
    partitionGroup: start.partitionGroup,
    membership: 1,
    joinedUs: 0n,
    leftUs: leftUsOf(records, start.partitionGroup, 1),
    start,
  }));
  for (const { partitionGroup, joined, begun, left } of records) {
    for (const { membership, joinedUs } of joined) {
      const start = begun.find((record) => record.membership === membership)?.start;
      const leftUs = leftUsOf(records, partitionGroup, membership);
      found.push({ partitionGroup, membership, joinedUs, leftUs, start });
    }
    const numbers = new Set(
      found.filter((each) => each.partitionGroup === partitionGroup).map((each) => each.membership),
    );
    const lost = [...begun, ...left].find((record) => !numbers.has(record.membership));
    if (lost !== undefined)
      throw new HoldfastError(
        'DATA_CORRUPT',
        `round ${begin.round}: membership ${lost.membership} of partition group ${partitionGroup} has no beginning`,
      );
  }
  return found.sort((a, b) => compareText(a.partitionGroup, b.partitionGroup) || a.membership - b.membership);
}

/** The periods of a round from its beginning on, in order of time, without gaps. */
export function membershipPeriods(members: readonly GroupMembership[]): readonly MembershipPeriod[] {
  const changes = new Set(members.flatMap(({ joinedUs, leftUs }) => [joinedUs, leftUs]));
  const begins = [0n, ...[...changes].filter((timeUs) => timeUs > 0n)].sort((a, b) => (a < b ? -1 : 1));
  return begins.map((beginUs, index) => ({
    beginUs,
    endUs: begins[index + 1],
    groups: new Set(
      members
        .filter(({ joinedUs, leftUs }) => joinedUs <= beginUs && (leftUs === 0n || leftUs > beginUs))
        .map(({ partitionGroup }) => partitionGroup),
    ),
  }));
}

/** The groups whose log the round holds, each with where it begins. */
export function archivedGroups(members: readonly GroupMembership[]): readonly RoundGroupStart[] {
  const starts = new Map<string, RoundGroupStart>();
  for (const { partitionGroup, start } of members)
    if (start !== undefined && !starts.has(partitionGroup)) starts.set(partitionGroup, start);
  return [...starts.values()];
}

export type MembershipChange = {
  readonly partitionGroup: string;
  readonly what: 'joined' | 'left';
  readonly timeUs: bigint;
};

/**
 * Who joined or left in (afterUs, untilUs], by time. `untilUs` undefined: who joined since and is a member, which is what
 * keeps all that follows from being restorable.
 */
export function membershipChanges(
  members: readonly GroupMembership[],
  afterUs: bigint,
  untilUs: bigint | undefined,
): readonly MembershipChange[] {
  const isIn = (timeUs: bigint) =>
    timeUs > 0n && timeUs > afterUs && (untilUs === undefined || timeUs <= untilUs);
  return members
    .flatMap(({ partitionGroup, joinedUs, leftUs }): MembershipChange[] => [
      ...(isIn(joinedUs) && (untilUs !== undefined || leftUs === 0n)
        ? [{ partitionGroup, what: 'joined' as const, timeUs: joinedUs }]
        : []),
      ...(isIn(leftUs) && untilUs !== undefined
        ? [{ partitionGroup, what: 'left' as const, timeUs: leftUs }]
        : []),
    ])
    .sort((a, b) => (a.timeUs < b.timeUs ? -1 : 1));
}

function leftUsOf(records: readonly MemberRecords[], group: string, membership: number): bigint {
  return (
    records
      .find(({ partitionGroup }) => partitionGroup === group)
      ?.left.find((record) => record.membership === membership)?.leftUs ?? 0n
  );
}

function compareText(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}
