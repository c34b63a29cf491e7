import { create } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { toLsn, toTimeline } from '../../../../foundation/lsn.ts';
import {
  BackupInfoSchema,
  RoundBeginSchema,
  RoundMemberBeginSchema,
  RoundMemberJoinedSchema,
  RoundMemberLeftSchema,
} from '../../../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../../../../storage-layout/media/medium.ts';
import {
  archivedGroups,
  type GroupMembership,
  membershipPeriods,
} from '../../../../storage-layout/plan/membership.ts';
import { readMembers } from '../../../../storage-layout/plan/read-members.ts';
import {
  chooseSet,
  describeWindows,
  isSameLog,
  mergeWindows,
  restorableWindows,
  type TenantHistory,
} from '../../../../storage-layout/plan/windows.ts';
import { writeOnce } from '../../../../storage-layout/records/info-file.ts';
import { tree } from '../../../../storage-layout/tree.ts';
import { openTestMedium, type TestMedium } from '../support.ts';

const ROOT = { clusterName: 'c', clusterId: 1n };
const KEY = { tenantId: 1001n, round: 1n };

type Interval = { readonly joinedUs: number; readonly leftUs: number };
type SetInput = Readonly<Record<string, number>>;
/** Of one round: who was a member when, each group's log (it begins at 0), and each set's stops by group. */
type Scene = {
  readonly members: Readonly<Record<string, readonly Interval[]>>;
  readonly checkpoints: Readonly<Record<string, number>>;
  readonly sets: readonly SetInput[];
};

/** Positions are times here: a group's log reaches as far as its clock. */
function historyOf({ members, checkpoints, sets }: Scene): TenantHistory {
  return {
    tenantId: 1001n,
    tenantName: 'orders',
    sets: sets.map((stops, index) =>
      create(BackupInfoSchema, {
        tenantName: 'orders',
        backupSetId: BigInt(index + 1),
        fullSetId: BigInt(index + 1),
        round: 1n,
        partitionGroups: Object.entries(stops).map(([partitionGroup, stop]) => ({
          partitionGroup,
          start: { timeline: 1, lsn: BigInt(stop) },
          stop: { timeline: 1, lsn: BigInt(stop) },
          stopUs: BigInt(stop),
        })),
      }),
    ),
    rounds: [
      {
        begin: create(RoundBeginSchema, { round: 1n }),
        end: undefined,
        members: membersOf(members),
        groups: Object.entries(checkpoints).map(([partitionGroup, checkpoint]) => ({
          partitionGroup,
          segmentSizeBytes: 1,
          coverage: [
            {
              timeline: toTimeline(1),
              begin: toLsn(0n),
              end: toLsn(1000n),
              checkpointUs: BigInt(checkpoint),
            },
          ],
          histories: new Map(),
        })),
      },
    ],
    unreadable: [],
  };
}

function membersOf(members: Scene['members']): readonly GroupMembership[] {
  return Object.entries(members).flatMap(([partitionGroup, intervals]) =>
    intervals.map(({ joinedUs, leftUs }, index) => ({
      partitionGroup,
      membership: index + 1,
      joinedUs: BigInt(joinedUs),
      leftUs: BigInt(leftUs),
      start: undefined,
    })),
  );
}

const ALWAYS = { joinedUs: 0, leftUs: 0 };

describe('memberships of a round', () => {
  test('a group that joins ends the windows of the sets that lack it, and a set that has it goes on', () => {
    const history = historyOf({
      members: { a: [ALWAYS], b: [ALWAYS], c: [{ joinedUs: 50, leftUs: 0 }] },
      checkpoints: { a: 100, b: 90, c: 95 },
      sets: [
        { a: 10, b: 12 },
        { a: 60, b: 62, c: 64 },
      ],
    });
    const [first, second, ...none] = mergeWindows(restorableWindows(history));
    expect([first?.fromUs, first?.untilUs, second?.fromUs, second?.untilUs, none]).toEqual([
      12n,
      49n,
      64n,
      90n,
      [],
    ]);
    expect(first !== undefined && second !== undefined && isSameLog(first, second)).toBe(false);
    expect(() => chooseSet(history, { kind: 'time', timeUs: 55n }, 1000n)).toThrow(
      /hole .*partition group c joined at 1970-01-01 00:00:00\.000050Z/,
    );
    expect(names(chooseSet(history, { kind: 'time', timeUs: 49n }, 1000n))).toEqual(['a', 'b']);
    expect(names(chooseSet(history, { kind: 'endOfLog' }, 1000n))).toEqual(['a', 'b', 'c']);
    expect(() => chooseSet(history, { kind: 'endOfLog' }, 1000n, 1n)).toThrow(/partition group c joined/);
    expect(names(chooseSet(history, { kind: 'immediate' }, 1000n, 1n))).toEqual(['a', 'b']);
  });

  test('what follows a group that joined is unrestorable until it is backed up, and the refusal says why', () => {
    const history = historyOf({
      members: { a: [ALWAYS], b: [{ joinedUs: 50, leftUs: 0 }] },
      checkpoints: { a: 100 },
      sets: [{ a: 10 }],
    });
    expect(restorableWindows(history)).toMatchObject([{ fromUs: 10n, untilUs: 49n }]);
    for (const target of [{ kind: 'endOfLog' }, { kind: 'time', timeUs: 80n }] as const)
      expect(() => chooseSet(history, target, 1000n)).toThrow(/partition group b joined/);
    expect(() => chooseSet(history, { kind: 'lsn', lsn: toLsn(20n) }, 1000n)).toThrow(/several/);
    expect(() => chooseSet(history, { kind: 'name', name: 'x', places: [] }, 1000n)).toThrow(/"x"/);
    const place = { round: 1n, partitionGroup: 'a', timeline: toTimeline(1), lsn: toLsn(49n), timeUs: 49n };
    const choose = (timeUs: bigint) =>
      chooseSet(history, { kind: 'name', name: 'x', places: [{ ...place, timeUs }] }, 1000n);
    expect(choose(49n).set.backupSetId).toBe(1n);
    expect(() => choose(50n)).toThrow(/"x"/);
  });

  test('what follows a group that left needs the others only; what precedes it needs its log', () => {
    const history = historyOf({
      members: { a: [ALWAYS], b: [{ joinedUs: 0, leftUs: 50 }] },
      checkpoints: { a: 100, b: 48 },
      sets: [{ a: 10, b: 12 }, { a: 60 }],
    });
    expect(
      restorableWindows(history).map(({ setId, fromUs, untilUs, groups }) => [
        setId,
        fromUs,
        untilUs,
        groups.map(({ partitionGroup }) => partitionGroup).join(),
      ]),
    ).toEqual([
      [1n, 12n, 48n, 'a,b'],
      [1n, 50n, 100n, 'a'],
      [2n, 60n, 100n, 'a'],
    ]);
    expect(names(chooseSet(history, { kind: 'immediate' }, 1000n, 1n))).toEqual(['a', 'b']);
    expect(names(chooseSet(history, { kind: 'endOfLog' }, 1000n, 1n))).toEqual(['a']);
    expect(() => chooseSet(history, { kind: 'time', timeUs: 49n }, 1000n)).toThrow(/partition group b left/);
    expect(describeWindows(restorableWindows(history))).toMatch(/from backup set 1, 2$/);
  });

  test('windows that follow each other without an instant between them are one', () => {
    const history = historyOf({
      members: { a: [ALWAYS], b: [{ joinedUs: 0, leftUs: 50 }] },
      checkpoints: { a: 100, b: 70 },
      sets: [{ a: 10, b: 12 }],
    });
    expect(mergeWindows(restorableWindows(history))).toMatchObject([{ fromUs: 12n, untilUs: 100n }]);
  });

  test('a group of a set of which the round knows nothing is never left out', () => {
    const history = historyOf({
      members: { a: [ALWAYS] },
      checkpoints: { a: 100, b: 70 },
      sets: [{ a: 10, b: 12 }],
    });
    expect(restorableWindows(history)).toMatchObject([{ fromUs: 12n, untilUs: 70n }]);
    expect(names(chooseSet(history, { kind: 'endOfLog' }, 1000n))).toEqual(['a', 'b']);
  });

  test('hold exactly the instants at which every member has a baseline and log, and restore exactly the members', () => {
    fc.assert(
      fc.property(SCENES, (scene) => {
        const history = historyOf(scene);
        const windows = restorableWindows(history);
        for (let at = 0; at <= LAST + 5; at += 1) {
          const holding = windows.filter(({ fromUs, untilUs }) => fromUs <= at && at <= untilUs);
          const expected = scene.sets.flatMap((set, index) =>
            restores(scene, set, at) ? [BigInt(index + 1)] : [],
          );
          expect(holding.map(({ setId }) => setId)).toEqual(expected);
          for (const { groups } of holding)
            expect(groups.map(({ partitionGroup }) => partitionGroup).toSorted()).toEqual(
              required(scene, at),
            );
        }
      }),
      { numRuns: 500 },
    );
  });
});

function names({ window }: ReturnType<typeof chooseSet>): readonly string[] {
  return window.groups.map(({ partitionGroup }) => partitionGroup);
}

/** The naive model: one instant, one set. */
function required({ members }: Scene, at: number): readonly string[] {
  return Object.entries(members)
    .filter(([, intervals]) =>
      intervals.some(({ joinedUs, leftUs }) => joinedUs <= at && (leftUs === 0 || at < leftUs)),
    )
    .map(([name]) => name)
    .toSorted();
}

function restores(scene: Scene, stops: SetInput, at: number): boolean {
  const wanted = required(scene, at);
  const stopOf = (name: string) => stops[name] ?? Number.POSITIVE_INFINITY;
  const latest = Math.max(...wanted.map(stopOf));
  return (
    wanted.length > 0 &&
    latest <= at &&
    // At the last stop itself the set is whole whatever the checkpoints say.
    (at === latest || wanted.every((name) => at <= (scene.checkpoints[name] ?? -1)))
  );
}

const LAST = 60;
const TIME = fc.integer({ min: 1, max: LAST });
const INTERVALS: fc.Arbitrary<readonly Interval[]> = fc
  .tuple(fc.boolean(), fc.uniqueArray(TIME, { maxLength: 4 }))
  .map(([fromTheBeginning, changes]) => {
    const times = [...(fromTheBeginning ? [0] : []), ...changes.toSorted((a, b) => a - b)];
    return times.flatMap((joinedUs, index) =>
      index % 2 === 0 ? [{ joinedUs, leftUs: times[index + 1] ?? 0 }] : [],
    );
  });
const SCENES: fc.Arbitrary<Scene> = fc
  .record({
    members: fc.record({ a: fc.constant([ALWAYS]), b: INTERVALS, c: INTERVALS }),
    checkpoints: fc.record({ a: TIME, b: TIME, c: TIME }),
    sets: fc.array(fc.record({ a: TIME, b: TIME, c: TIME }, { requiredKeys: ['a'] }), { maxLength: 3 }),
  })
  .map(({ members, checkpoints, sets }) => ({
    members,
    checkpoints,
    // A set holds groups that were members at some time.
    sets: sets.map((set) =>
      Object.fromEntries(Object.entries(set).filter(([name]) => members[name as 'a' | 'b' | 'c'].length > 0)),
    ),
  }));

describe('the records under members/', () => {
  let opened: TestMedium;
  let medium: Medium;
  const start = (partitionGroup: string) => ({ partitionGroup, segmentSizeBytes: 16, startUs: 7n });
  const begin = create(RoundBeginSchema, { round: 1n, groups: [start('a'), start('b')] });
  const joined = (partitionGroup: string, membership: number, joinedUs: bigint) =>
    writeOnce(
      medium,
      tree.memberJoined(ROOT, KEY, partitionGroup, membership),
      RoundMemberJoinedSchema,
      create(RoundMemberJoinedSchema, { partitionGroup, membership, joinedUs }),
    );
  const left = (partitionGroup: string, membership: number, leftUs: bigint) =>
    writeOnce(
      medium,
      tree.memberLeft(ROOT, KEY, partitionGroup, membership),
      RoundMemberLeftSchema,
      create(RoundMemberLeftSchema, { partitionGroup, membership, leftUs }),
    );

  beforeEach(async () => {
    opened = await openTestMedium();
    medium = opened.medium;
  });
  afterEach(async () => {
    await opened[Symbol.asyncDispose]();
  });

  test('without any, the groups of round_begin are members all along', async () => {
    const members = await readMembers(medium, ROOT, KEY, begin);
    expect(members.map(({ partitionGroup, joinedUs, leftUs }) => [partitionGroup, joinedUs, leftUs])).toEqual(
      [
        ['a', 0n, 0n],
        ['b', 0n, 0n],
      ],
    );
    expect(membershipPeriods(members)).toEqual([
      { beginUs: 0n, endUs: undefined, groups: new Set(['a', 'b']) },
    ]);
  });

  test('tell several memberships of one group, and which logs there are', async () => {
    await left('b', 1, 20n);
    await joined('b', 2, 30n);
    await joined('b.2', 1, 40n);
    await writeOnce(
      medium,
      tree.memberBegin(ROOT, KEY, 'b.2', 1),
      RoundMemberBeginSchema,
      create(RoundMemberBeginSchema, { membership: 1, start: start('b.2') }),
    );
    await joined('d', 1, 50n);
    const members = await readMembers(medium, ROOT, KEY, begin);
    expect(
      members.map((each) => [
        each.partitionGroup,
        each.membership,
        each.joinedUs,
        each.leftUs,
        each.start?.startUs,
      ]),
    ).toEqual([
      ['a', 1, 0n, 0n, 7n],
      ['b', 1, 0n, 20n, 7n],
      ['b', 2, 30n, 0n, undefined],
      ['b.2', 1, 40n, 0n, 7n],
      ['d', 1, 50n, 0n, undefined],
    ]);
    expect(archivedGroups(members).map(({ partitionGroup }) => partitionGroup)).toEqual(['a', 'b', 'b.2']);
    expect(membershipPeriods(members).map(({ beginUs, groups }) => [beginUs, [...groups].join()])).toEqual([
      [0n, 'a,b'],
      [20n, 'a'],
      [30n, 'a,b'],
      [40n, 'a,b,b.2'],
      [50n, 'a,b,b.2,d'],
    ]);
  });

  test('that end what never began are damage, not passed over', async () => {
    await left('c', 1, 20n);
    await expect(readMembers(medium, ROOT, KEY, begin)).rejects.toMatchObject({ code: 'DATA_CORRUPT' });
  });
});
