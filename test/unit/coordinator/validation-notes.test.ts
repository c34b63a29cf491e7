/** What is noted of what a validation found, whatever became of its tasks. */
import { create } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { wasRightSince } from '../../../coordinator/jobs/plan-validation.ts';
import { messageToJson } from '../../../coordinator/jobs/task-results.ts';
import type { TaskState } from '../../../coordinator/jobs/task-states.ts';
import { notesOf, outcomesOf } from '../../../coordinator/jobs/validation-notes.ts';
import {
  ValidateProgressSchema,
  type ValidateResult,
  ValidateResultSchema,
} from '../../../proto/gen/holdfast/v1/agent_pb.ts';
import { tree } from '../../../storage-layout/tree.ts';

const ROOT = { clusterName: 'c', clusterId: 1n };
const TENANT = 1001n;
const STAMP = { jobId: 7n, epoch: 1n, timeUs: 500n };
const key = (setId: bigint, fullSetId = 1n) => ({ tenantId: TENANT, fullSetId, setId });
const ROUND = { tenantId: TENANT, round: 3n };
/** Sets 1 to 3 share macroblocks; set 4 is a full backup of its own. */
const ALL = { sets: [key(1n), key(2n), key(3n), key(4n, 4n)], rounds: [ROUND] };

type Found = { readonly object?: string; readonly offset?: bigint; readonly sets: readonly bigint[] };

const found = ({ object = 'c/1/block', offset = 1n, sets }: Found) => ({
  code: 'DATA_CORRUPT',
  object,
  offset,
  message: 'bad',
  backupSetIds: [...sets],
});

function result(
  findings: readonly Found[],
  more: Partial<Pick<ValidateResult, 'findingCount' | 'logs'>> = {},
): object {
  const all = findings.map(found);
  const value = { beginUs: 100n, endUs: 200n, bytes: 10n, findings: all, findingCount: BigInt(all.length) };
  return messageToJson(ValidateResultSchema, create(ValidateResultSchema, { ...value, ...more }));
}

function task(subject: object, state: TaskState, value: object | null, reported = 0n) {
  const progress = messageToJson(
    ValidateProgressSchema,
    create(ValidateProgressSchema, { findingCount: reported }),
  );
  const spec = { task: {}, destination: '', subject, bytes: '1' };
  return { state, spec, result: value, progress, started_us: 50n, ended_us: 300n };
}

const ofSet = (setId: bigint, state: TaskState, value: object | null = null, reported = 0n) =>
  task({ setId: String(setId), fullSetId: setId === 4n ? '4' : '1' }, state, value, reported);
const ofRound = (state: TaskState, value: object | null = null, reported = 0n) =>
  task({ round: '3' }, state, value, reported);

/** `set 1: 0` is right, any other number damaged. */
function noted(tasks: readonly ReturnType<typeof task>[]): readonly string[] {
  return notesOf(ROOT, STAMP, outcomesOf(TENANT, tasks), ALL).map(({ place, note }) => {
    if (note.kind.case !== 'validated') throw new Error('another note');
    const name = place.kind === 'set' ? `set ${place.key.setId}` : `round ${place.key.round}`;
    return `${name}: ${note.kind.value.findingCount}`;
  });
}

describe('the notes of a validation', () => {
  test('a set is right when all its tasks found nothing; one that is not done is not noted', () => {
    const right = ofSet(1n, 'SUCCEEDED', result([]));
    expect(noted([right, right])).toEqual(['set 1: 0']);
    for (const undone of ['FAILED', 'CANCELLED'] as const)
      expect(noted([right, ofSet(1n, undone), ofSet(4n, 'SUCCEEDED', result([]))])).toEqual(['set 4: 0']);
  });

  test('one partition group with findings makes the set damaged, whatever became of the other', () => {
    const bad = ofSet(1n, 'SUCCEEDED', result([{ sets: [1n] }]));
    for (const other of ['SUCCEEDED', 'FAILED', 'CANCELLED'] as const)
      expect(noted([bad, ofSet(1n, other, other === 'SUCCEEDED' ? result([]) : null)])).toEqual(['set 1: 1']);
  });

  test('every set that a finding names is damaged, also one whose own tasks found nothing or that was not read', () => {
    const bad = ofSet(3n, 'SUCCEEDED', result([{ sets: [1n, 2n, 3n] }]));
    expect(noted([ofSet(1n, 'SUCCEEDED', result([])), bad, ofSet(4n, 'SUCCEEDED', result([]))])).toEqual([
      'set 1: 1',
      'set 3: 1',
      'set 4: 0',
      'set 2: 1',
    ]);
  });

  test('what several sets found in one place counts once', () => {
    const same = [{ sets: [1n, 2n] }];
    const tasks = [ofSet(1n, 'SUCCEEDED', result(same)), ofSet(2n, 'SUCCEEDED', result(same))];
    expect(noted(tasks)).toEqual(['set 1: 1', 'set 2: 1']);
  });

  test('log that is damaged is so for its round and for the sets that need it, whoever found it', () => {
    const object = tree.logData(ROOT, ROUND, 'p0', 1n, 1n);
    const bySet = ofSet(4n, 'SUCCEEDED', result([{ object, sets: [4n] }]));
    expect(noted([bySet])).toEqual(['set 4: 1', 'round 3: 1']);
    const byRound = ofRound('SUCCEEDED', result([{ object, sets: [2n] }]));
    expect(noted([byRound, ofSet(2n, 'SUCCEEDED', result([]))])).toEqual(['round 3: 1', 'set 2: 1']);
    const other = tree.logData(ROOT, { ...ROUND, round: 31n }, 'p0', 1n, 1n);
    expect(noted([ofSet(4n, 'SUCCEEDED', result([{ object: other, sets: [4n] }]))])).toEqual(['set 4: 1']);
  });

  test('where it is not known what a finding hits, all that it may hit is noted', () => {
    expect(noted([ofSet(2n, 'CANCELLED', null, 5n), ofSet(4n, 'SUCCEEDED', result([]))])).toEqual([
      'set 2: 5',
      'set 4: 0',
      'set 1: 5',
      'set 3: 5',
      'round 3: 5',
    ]);
    const many = result([{ sets: [4n] }], { findingCount: 9n });
    expect(noted([ofSet(4n, 'SUCCEEDED', many)])).toEqual(['set 4: 9', 'round 3: 8']);
    expect(noted([ofRound('FAILED', null, 1n)])).toEqual([
      'round 3: 1',
      'set 1: 1',
      'set 2: 1',
      'set 3: 1',
      'set 4: 1',
    ]);
  });

  test('of a round what is right is noted as far as it was read', () => {
    const logs = [{ partitionGroup: 'p0', timeline: 1, begin: 1n, end: 9n }];
    const read = create(ValidateResultSchema, { logs }).logs;
    const tasks = [ofRound('SUCCEEDED', result([], { logs: read })), ofRound('CANCELLED')];
    const [first] = notesOf(ROOT, STAMP, outcomesOf(TENANT, tasks), { sets: [], rounds: [] });
    expect(first?.note).toMatchObject({ ...STAMP, kind: { value: { logs, findingCount: 0n } } });
  });

  test('no set that a finding names is ever passed over because of what was noted with it', () => {
    const arbitrary = fc.array(
      fc.record({
        setId: fc.constantFrom(1n, 2n, 3n, 4n),
        isDone: fc.boolean(),
        sets: fc.array(fc.subarray([1n, 2n, 3n, 4n], { minLength: 1 }), { maxLength: 2 }),
      }),
      { minLength: 1, maxLength: 6 },
    );
    fc.assert(
      fc.property(arbitrary, (given) => {
        const tasks = given.map(({ setId, isDone, sets }) =>
          isDone
            ? ofSet(setId, 'SUCCEEDED', result(sets.map((named) => ({ sets: [...named, setId] }))))
            : ofSet(setId, 'FAILED'),
        );
        const named = new Set(
          given.flatMap(({ setId, isDone, sets }) =>
            isDone && sets.length > 0 ? [...sets.flat(), setId] : [],
          ),
        );
        const notes = notesOf(ROOT, STAMP, outcomesOf(TENANT, tasks), ALL);
        for (const set of ALL.sets) {
          const own = notes.filter(({ place }) => place.kind === 'set' && place.key.setId === set.setId);
          expect(own.length).toBeLessThan(2);
          const all = given.filter(({ setId }) => setId === set.setId);
          const isRight = all.length > 0 && all.every(({ isDone }) => isDone) && !named.has(set.setId);
          const passed = wasRightSince(
            own.map(({ note }) => note),
            0n,
          );
          expect(passed).toBe(isRight);
          expect(own.length > 0).toBe(isRight || named.has(set.setId));
        }
      }),
    );
  });
});
