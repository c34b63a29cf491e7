/** What a validation reads and leaves out, and which agents do it. */
import { create } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { placeValidations } from '../../../coordinator/jobs/placement.ts';
import { checkedSince, planValidation, wasRightSince } from '../../../coordinator/jobs/plan-validation.ts';
import type { TaskKind, TaskState } from '../../../coordinator/jobs/task-states.ts';
import { type Note, NoteSchema } from '../../../proto/gen/holdfast/v1/records_pb.ts';

function note(
  beginUs: bigint,
  findingCount = 0n,
  ranges: readonly (readonly [number, number])[] = [],
  endUs = beginUs,
): Note {
  const logs = ranges.map(([begin, end]) => ({
    partitionGroup: 'p0',
    timeline: 1,
    begin: BigInt(begin),
    end: BigInt(end),
  }));
  return create(NoteSchema, { kind: { case: 'validated', value: { beginUs, endUs, findingCount, logs } } });
}

const KEY = { tenantId: 1n, fullSetId: 1n, setId: 1n };
const set = (setId: bigint, notes: readonly Note[]) => ({
  key: { ...KEY, setId },
  groups: [
    { partitionGroup: 'p0', bytes: 10n },
    { partitionGroup: 'p1', bytes: 20n },
  ],
  notes,
});

describe('the plan of a validation', () => {
  test('has a task for every partition group of every set and round', () => {
    const rounds = [{ round: 7n, groups: [{ partitionGroup: 'p0', bytes: 5n }], notes: [] }];
    const { tasks, skipped } = planValidation([set(1n, []), set(2n, [])], rounds, undefined);
    expect(skipped).toEqual([]);
    expect(tasks.map((task) => [task.kind, task.partitionGroup, task.bytes])).toEqual([
      ['set', 'p0', 10n],
      ['set', 'p1', 20n],
      ['set', 'p0', 10n],
      ['set', 'p1', 20n],
      ['log', 'p0', 5n],
    ]);
  });

  test('leaves out what was found right at the age given, and nothing without one', () => {
    const sets = [set(1n, [note(50n)]), set(2n, [note(49n)]), set(3n, [note(60n, 1n)]), set(4n, [])];
    expect(planValidation(sets, [], 50n).skipped).toEqual([1n]);
    expect(planValidation(sets, [], undefined).skipped).toEqual([]);
    expect(planValidation(sets, [], 50n).tasks).toHaveLength(6);
  });

  test('a later finding takes back what was right before, and a later success holds again', () => {
    expect(wasRightSince([note(50n), note(60n, 1n)], 10n)).toBe(false);
    expect(wasRightSince([note(50n), note(60n, 1n), note(70n)], 10n)).toBe(true);
    const log = [note(50n, 0n, [[0, 100]]), note(60n, 2n, [[100, 150]])];
    expect(checkedSince(log, 'p0', 10n)).toEqual([]);
    expect(checkedSince([...log, note(70n, 0n, [[0, 30]])], 'p0', 10n)).toMatchObject([
      { begin: 0n, end: 30n },
    ]);
  });

  test('what was found right by one that began before another had found damage is read again', () => {
    const bad = note(60n, 1n, [], 80n);
    expect(wasRightSince([bad, note(70n)], 10n)).toBe(false);
    expect(wasRightSince([bad, note(80n)], 10n)).toBe(true);
    expect(wasRightSince([bad, note(80n), note(75n)], 10n)).toBe(false);
    expect(checkedSince([bad, note(70n, 0n, [[0, 30]])], 'p0', 10n)).toEqual([]);
    expect(checkedSince([bad, note(80n, 0n, [[0, 30]])], 'p0', 10n)).toHaveLength(1);
  });

  test('what was checked of a round is not expected to be read', () => {
    const planned = (notes: readonly Note[], sinceUs?: bigint) => {
      const until = { timeline: 2, lsn: 1000n };
      const group = { partitionGroup: 'p0', bytes: 900n, until };
      return planValidation([], [{ round: 7n, groups: [group], notes }], sinceUs).tasks[0]?.bytes;
    };
    expect(planned([], 10n)).toBe(900n);
    expect(planned([note(20n, 0n, [[100, 990]])], 10n)).toBe(10n);
    expect(planned([note(20n, 0n, [[100, 990]])])).toBe(900n);
    const inParts = [
      note(20n, 0n, [[0, 150]]),
      note(30n, 0n, [
        [140, 200],
        [300, 400],
      ]),
    ];
    expect(planned(inParts, 10n)).toBe(700n);
    expect(planned([note(20n, 0n, [[0, 5000]])], 10n)).toBe(0n);
  });

  test('log of other groups, and what was checked too long ago, is read again', () => {
    const notes = [note(5n, 0n, [[0, 10]]), note(20n, 0n, [[10, 20]]), note(30n, 0n, [[20, 40]])];
    expect(checkedSince(notes, 'p0', 10n)).toMatchObject([{ begin: 10n, end: 40n }]);
    expect(checkedSince(notes, 'p1', 10n)).toEqual([]);
  });

  test('of log, a position is left out if and only if a note that holds covers it', () => {
    const range = fc.tuple(fc.integer({ min: 0, max: 60 }), fc.integer({ min: 1, max: 20 }));
    const arbitrary = fc.array(
      fc.record({
        beginUs: fc.bigInt({ min: 0n, max: 20n }),
        bad: fc.boolean(),
        ranges: fc.array(range, { maxLength: 3 }),
      }),
      { maxLength: 6 },
    );
    fc.assert(
      fc.property(arbitrary, (given) => {
        const notes = given.map(({ beginUs, bad, ranges }) =>
          note(
            beginUs,
            bad ? 1n : 0n,
            ranges.map(([begin, length]) => [begin, begin + length] as const),
          ),
        );
        const lastBad = given.findLastIndex(({ bad }) => bad);
        const badUs = given.filter(({ bad }) => bad).map(({ beginUs }) => beginUs);
        const fromUs = [10n, ...badUs].reduce((a, b) => (a > b ? a : b));
        const holding = given.filter(({ beginUs }, index) => index > lastBad && beginUs >= fromUs);
        const found = checkedSince(notes, 'p0', 10n);
        for (let at = 0; at < 90; at += 1) {
          const covered = holding.some(({ ranges }) =>
            ranges.some(([begin, length]) => begin <= at && at < begin + length),
          );
          expect(found.some((log) => log.begin <= BigInt(at) && BigInt(at) < log.end)).toBe(covered);
        }
        for (const [index, log] of found.slice(1).entries())
          expect((found[index]?.end ?? 0n) < log.begin).toBe(true);
      }),
    );
  });
});

describe('the agents of a validation', () => {
  const task = (id: number, state: TaskState, server = 0, kind: TaskKind = 'VALIDATE') => ({
    task_id: BigInt(id),
    kind,
    state,
    server_id: BigInt(server),
  });

  test('each free agent gets one task, in the order of the tasks; the rest waits', () => {
    const tasks = [task(1, 'RUNNING', 1), task(4, 'PENDING'), task(3, 'PENDING'), task(2, 'PENDING')];
    expect([...placeValidations(tasks, new Set([1n, 2n, 3n]))]).toEqual([
      [2n, 2n],
      [3n, 3n],
    ]);
  });

  test('a task that failed goes to another agent, where there is one', () => {
    expect(placeValidations([task(1, 'PENDING', 1)], new Set([1n, 2n])).get(1n)).toBe(2n);
    expect(placeValidations([task(1, 'PENDING', 1)], new Set([1n])).get(1n)).toBe(1n);
  });

  test('other kinds of tasks take no place, and are given none', () => {
    const tasks = [task(1, 'RUNNING', 1, 'ARCHIVE'), task(2, 'PENDING', 0, 'BACKUP'), task(3, 'PENDING')];
    expect([...placeValidations(tasks, new Set([1n]))]).toEqual([[3n, 1n]]);
  });

  test('no agent has two, none is idle while a task waits, and only attached agents are used', () => {
    const arbitrary = fc.array(
      fc.record({
        state: fc.constantFrom<TaskState>('PENDING', 'RUNNING', 'CANCELLING'),
        server: fc.integer({ min: 1, max: 5 }),
      }),
      { maxLength: 12 },
    );
    fc.assert(
      fc.property(arbitrary, fc.subarray([1n, 2n, 3n, 4n]), (given, servers) => {
        const tasks = given.map(({ state, server }, index) => task(index + 1, state, server));
        const attached = new Set(servers);
        const places = placeValidations(tasks, attached);
        const taken = [...places.values()];
        expect(new Set(taken).size).toBe(taken.length);
        const busy = new Set(
          tasks.filter(({ state }) => state !== 'PENDING').map(({ server_id }) => server_id),
        );
        for (const server of taken) expect(attached.has(server) && !busy.has(server)).toBe(true);
        const free = servers.filter((server) => !busy.has(server)).length;
        const waiting = tasks.filter(({ state }) => state === 'PENDING').length;
        expect(places.size).toBe(Math.min(free, waiting));
      }),
    );
  });
});
