import { create } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseLsn, toLsn, toTimeline } from '../../../../foundation/lsn.ts';
import { BackupInfoSchema, RoundBeginSchema } from '../../../../proto/gen/holdfast/v1/records_pb.ts';
import {
  type Coverage,
  findFork,
  findLogPath,
  type GroupLog,
  parseHistory,
} from '../../../../storage-layout/plan/lineage.ts';
import {
  chooseSet,
  describeWindows,
  formatInstant,
  isSameLog,
  mergeWindows,
  type RestorableWindow,
  type RestoreTarget,
  restorableWindows,
  type TenantHistory,
} from '../../../../storage-layout/plan/windows.ts';

const SIZE = 16;
const FIRST = toTimeline(1);

function coverage(begin: number, end: number, checkpointUs: bigint | undefined, timeline = 1): Coverage {
  return {
    timeline: toTimeline(timeline),
    begin: toLsn(BigInt(begin)),
    end: toLsn(BigInt(end)),
    checkpointUs,
  };
}

function log(
  ranges: readonly Coverage[],
  histories: GroupLog['histories'] = new Map(),
  group = 'a',
): GroupLog {
  return { partitionGroup: group, segmentSizeBytes: SIZE, coverage: ranges, histories };
}

type SetInput = {
  id: number;
  round: number;
  groups: { name?: string; start: number; stop: number; us: number }[];
};

function set({ id, round, groups }: SetInput) {
  return create(BackupInfoSchema, {
    tenantId: 1001n,
    tenantName: 'orders',
    backupSetId: BigInt(id),
    fullSetId: BigInt(id),
    round: BigInt(round),
    partitionGroups: groups.map((group) => ({
      partitionGroup: group.name ?? 'a',
      start: { timeline: 1, lsn: BigInt(group.start) },
      stop: { timeline: 1, lsn: BigInt(group.stop) },
      stopUs: BigInt(group.us),
    })),
  });
}

function history(sets: SetInput[], rounds: readonly (readonly GroupLog[])[]): TenantHistory {
  return {
    tenantId: 1001n,
    tenantName: 'orders',
    sets: sets.map(set),
    rounds: rounds.map((groups, index) => ({
      begin: create(RoundBeginSchema, { tenantId: 1001n, round: BigInt(index + 1) }),
      end: undefined,
      members: [],
      groups,
    })),
    unreadable: [],
  };
}

/** Two sets in round 1 (100 to 500 and 300 to 500), one in round 2 (700 to 900): a hole from 500 to 700. */
const TWO_ROUNDS = history(
  [
    { id: 1, round: 1, groups: [{ start: 20, stop: 30, us: 100 }] },
    { id: 2, round: 1, groups: [{ start: 40, stop: 50, us: 300 }] },
    { id: 3, round: 2, groups: [{ start: 200, stop: 210, us: 700 }] },
  ],
  [[log([coverage(16, 90, 500n)])], [log([coverage(192, 260, 900n)])]],
);

function refusal(target: RestoreTarget): unknown {
  try {
    return chooseSet(TWO_ROUNDS, target, 1000n);
  } catch (error) {
    return error;
  }
}

describe('restorable windows', () => {
  test("reach from a set's stop to its round's checkpoint, and join where they overlap", () => {
    const windows = restorableWindows(TWO_ROUNDS);
    expect(windows.map(({ setId, fromUs, untilUs }) => [setId, fromUs, untilUs])).toEqual([
      [1n, 100n, 500n],
      [2n, 300n, 500n],
      [3n, 700n, 900n],
    ]);
    expect(mergeWindows(windows).map(({ fromUs, untilUs }) => [fromUs, untilUs])).toEqual([
      [100n, 500n],
      [700n, 900n],
    ]);
  });

  test('need the log from the first byte of the start segment to the stop', () => {
    const sets = [{ id: 1, round: 1, groups: [{ start: 20, stop: 30, us: 100 }] }];
    for (const range of [coverage(17, 90, 500n), coverage(16, 29, 500n), coverage(16, 90, 500n, 2)])
      expect(restorableWindows(history(sets, [[log([range])]]))).toEqual([]);
    expect(restorableWindows(history(sets, [[log([coverage(16, 30, undefined)])]]))).toMatchObject([
      { fromUs: 100n, untilUs: 100n },
    ]);
    expect(restorableWindows(history(sets, []))).toEqual([]);
  });

  test('of several partition groups begin with the last and end with the first', () => {
    const groups = [
      { name: 'a', start: 20, stop: 30, us: 100 },
      { name: 'b', start: 20, stop: 30, us: 150 },
    ];
    const logs = [log([coverage(16, 90, 500n)]), log([coverage(16, 90, 400n)], new Map(), 'b')];
    const both = history([{ id: 1, round: 1, groups }], [logs]);
    expect(restorableWindows(both)).toMatchObject([{ fromUs: 150n, untilUs: 400n }]);
    expect(() => chooseSet(both, { kind: 'lsn', lsn: toLsn(40n) }, 1000n)).toThrow(
      /several partition groups/,
    );
  });

  test('on one log have no hole between them, however far its checkpoint is known', () => {
    const lagging = history(
      [
        { id: 1, round: 1, groups: [{ start: 20, stop: 30, us: 100 }] },
        { id: 2, round: 1, groups: [{ start: 40, stop: 50, us: 300 }] },
      ],
      [[log([coverage(16, 90, 200n)])]],
    );
    const [first, second] = mergeWindows(restorableWindows(lagging));
    expect(first !== undefined && second !== undefined && isSameLog(first, second)).toBe(true);
    const [one, other] = mergeWindows(restorableWindows(TWO_ROUNDS));
    expect(one !== undefined && other !== undefined && isSameLog(one, other)).toBe(false);
  });

  test('joined hold exactly the instants that the single ones hold', () => {
    const arbitrary = fc.array(
      fc.tuple(fc.integer({ min: 0, max: 50 }), fc.integer({ min: 0, max: 20 })).map(([from, length]) => ({
        setId: 1n,
        fullSetId: 1n,
        round: 1n,
        fromUs: BigInt(from),
        untilUs: BigInt(from + length),
        groups: [],
        changedAtUs: undefined,
        changesAtUs: undefined,
      })),
      { maxLength: 8 },
    );
    const inside = (windows: readonly Pick<RestorableWindow, 'fromUs' | 'untilUs'>[], at: bigint) =>
      windows.some((window) => window.fromUs <= at && at <= window.untilUs);
    fc.assert(
      fc.property(arbitrary, (windows) => {
        const merged = mergeWindows(windows);
        for (let at = 0n; at <= 75n; at++) expect(inside(merged, at)).toBe(inside(windows, at));
      }),
    );
  });
});

describe('the choice of a set', () => {
  test('takes the newest whose window holds the target', () => {
    const choose = (target: RestoreTarget) => chooseSet(TWO_ROUNDS, target, 1000n).set.backupSetId;
    expect(choose({ kind: 'time', timeUs: 299n })).toBe(1n);
    expect(choose({ kind: 'time', timeUs: 300n })).toBe(2n);
    expect(choose({ kind: 'time', timeUs: 500n })).toBe(2n);
    expect(choose({ kind: 'time', timeUs: 900n })).toBe(3n);
    expect(choose({ kind: 'lsn', lsn: toLsn(49n) })).toBe(1n);
    expect(choose({ kind: 'endOfLog' })).toBe(3n);
    expect(choose({ kind: 'immediate' })).toBe(3n);
    expect(chooseSet(TWO_ROUNDS, { kind: 'time', timeUs: 400n }, 1000n, 1n).set.backupSetId).toBe(1n);
  });

  test.each([
    [{ kind: 'time', timeUs: 2000n }, /in the future/],
    [{ kind: 'time', timeUs: 99n }, /first restorable time/],
    [{ kind: 'time', timeUs: 600n }, /in a hole/],
    [{ kind: 'time', timeUs: 950n }, /archived up to/],
    [{ kind: 'lsn', lsn: toLsn(29n) }, /before the first backup set/],
    [{ kind: 'lsn', lsn: toLsn(100n) }, /in a hole/],
    [{ kind: 'lsn', lsn: toLsn(261n) }, /archived up to 0\/104/],
  ] as const)('refuses %o and names the windows', (target, message) => {
    const error = refusal(target);
    expect(error).toMatchObject({
      code: 'TARGET_NOT_RESTORABLE',
      message: expect.stringMatching(message),
      detail: expect.stringContaining('1970-01-01 00:00:00.000700Z to 1970-01-01 00:00:00.000900Z'),
    });
  });

  test('of a set whose backup_info is damaged names the file', () => {
    const reason =
      'p/1/incarnation_1/1001/data/backup_set_9/backup_9/backup_info at offset 0: a wrong checksum';
    const key = reason.split(' ')[0] ?? '';
    const damaged = { ...TWO_ROUNDS, unreadable: [{ key, reason }] };
    expect(() => chooseSet(damaged, { kind: 'endOfLog' }, 1000n, 9n)).toThrow(reason);
    expect(chooseSet(damaged, { kind: 'endOfLog' }, 1000n).set.backupSetId).toBe(3n);
  });

  test('refuses a set that is not there, and a tenant that has none', () => {
    expect(() => chooseSet(TWO_ROUNDS, { kind: 'endOfLog' }, 1000n, 9n)).toThrow(/no backup set 9/);
    expect(() => chooseSet(history([], []), { kind: 'endOfLog' }, 1000n)).toThrow(/no backup set/);
    expect(describeWindows([])).toMatch(/nothing is restorable/);
  });
});

describe('the lineage', () => {
  const baseline = { timeline: FIRST, start: toLsn(20n), stop: toLsn(30n) };
  const child = new Map([[toTimeline(2), Buffer.from('1\t0/2D\tno recovery target\n')]]);

  test('goes over a fork, at the very position of the history file', () => {
    const path = findLogPath(
      log([coverage(16, 60, 1n), coverage(45, 80, 2n, 2)], child),
      baseline,
      undefined,
    );
    expect(path).toMatchObject({
      timeline: 2,
      end: 80n,
      checkpointUs: 2n,
      ranges: [
        { timeline: 1, begin: 16n, end: 45n },
        { timeline: 2, begin: 45n, end: 80n },
      ],
    });
  });

  test('stays on a timeline that is named, or when the newer one cannot be reached', () => {
    const ranges = [coverage(16, 60, 1n), coverage(45, 80, 2n, 2)];
    expect(findLogPath(log(ranges, child), baseline, FIRST)?.end).toBe(60n);
    expect(findLogPath(log(ranges), baseline, undefined)?.timeline).toBe(1);
    expect(findLogPath(log(ranges), baseline, toTimeline(2))).toBeUndefined();
    const hole = [coverage(16, 40, 1n), coverage(45, 80, 2n, 2)];
    expect(findLogPath(log(hole, child), baseline, undefined)?.timeline).toBe(1);
  });

  test('a set that ended behind a fork is what the fork left behind: restorable by naming its timeline only', () => {
    const early = new Map([[toTimeline(2), Buffer.from('1\t0/19\tearlier\n')]]);
    const forked = log([coverage(16, 60, 1n), coverage(25, 80, 2n, 2)], early);
    expect(findLogPath(forked, baseline, undefined)).toBeUndefined();
    expect(findLogPath(forked, baseline, toTimeline(1))?.end).toBe(60n);
    expect(findFork(forked, { timeline: FIRST, lsn: baseline.stop })).toEqual({ newest: 2, end: 25n });
    expect(findFork(forked, { timeline: FIRST, lsn: toLsn(25n) })).toBeUndefined();
    expect(findFork(forked, { timeline: toTimeline(2), lsn: toLsn(70n) })).toBeUndefined();
    // Timeline 3 never was on timeline 2.
    const passedBy = new Map([...early, [toTimeline(3), Buffer.from('1\t0/20\tlater\n')] as const]);
    const third = { coverage: [...forked.coverage, coverage(32, 90, 3n, 3)], histories: passedBy };
    expect(findFork(third, { timeline: toTimeline(2), lsn: toLsn(30n) })).toEqual({
      newest: 3,
      end: undefined,
    });
    // A timeline of which nothing is archived, or whose history is not known, says nothing.
    expect(
      findFork({ ...forked, histories: new Map() }, { timeline: FIRST, lsn: toLsn(60n) }),
    ).toBeUndefined();
    expect(
      findFork({ coverage: [coverage(16, 60, 1n)], histories: early }, { timeline: FIRST, lsn: toLsn(60n) }),
    ).toBeUndefined();
  });

  test('without a timeline it goes along the newest one to the first hole, and no further on an older one', () => {
    const forkAt50 = new Map([[toTimeline(2), Buffer.from('1\t0/32\tlater\n')]]);
    // The old timeline goes on behind the fork at 50.
    const whole = findLogPath(
      log([coverage(16, 60, 1n), coverage(50, 80, 2n, 2)], forkAt50),
      baseline,
      undefined,
    );
    expect(whole?.ranges.map(({ timeline, begin, end }) => [timeline, begin, end])).toEqual([
      [1, 16n, 50n],
      [2, 50n, 80n],
    ]);
    // What lies before the fork was not all shipped, and is not back-filled yet.
    const behind = findLogPath(
      log([coverage(16, 45, 1n), coverage(50, 80, 2n, 2)], forkAt50),
      baseline,
      undefined,
    );
    expect([behind?.timeline, behind?.end, behind?.checkpointUs]).toEqual([1, 45n, 1n]);
  });

  test('reads history files with comments', () => {
    expect(parseHistory(Buffer.from('# x\n1\t0/3000000\tr\n\n2\tA/1\tbecause\n'))).toEqual([
      { timeline: 1, end: parseLsn('0/3000000') },
      { timeline: 2, end: parseLsn('A/1') },
    ]);
  });
});

test('instants are shown to the microsecond', () => {
  expect(formatInstant(1_700_000_000_000_007n)).toBe('2023-11-14 22:13:20.000007Z');
});
