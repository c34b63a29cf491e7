import { create } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import type { Task } from '../../../coordinator/catalog/jobs.ts';
import { messageToJson } from '../../../coordinator/jobs/task-results.ts';
import type { TaskState } from '../../../coordinator/jobs/task-states.ts';
import { notesOf } from '../../../coordinator/jobs/validation-notes.ts';
import { ValidateResultSchema } from '../../../proto/gen/holdfast/v1/agent_pb.ts';
import { tree } from '../../../storage-layout/tree.ts';

const ROOT = { clusterName: 'c', clusterId: 1n };
const JOB = { job_id: 7n, tenant_id: 1001n };
const blockOf = (setId: bigint) => tree.macroBlock(ROOT, { tenantId: 1001n, fullSetId: 1n, setId }, 'p0', 1);

type Found = { readonly object: string; readonly backupSetIds: readonly bigint[] };

function task(
  setId: bigint | 'round',
  state: TaskState,
  findings: readonly Found[] = [],
  findingCount = findings.length,
): Task {
  const result = create(ValidateResultSchema, {
    beginUs: 1n,
    endUs: 2n,
    bytes: 100n,
    findings: findings.map(({ object, backupSetIds }) => ({
      code: 'DATA_CORRUPT',
      object,
      backupSetIds: [...backupSetIds],
    })),
    findingCount: BigInt(findingCount),
  });
  const subject = setId === 'round' ? { round: '1' } : { setId: String(setId), fullSetId: '1' };
  return {
    state,
    spec: { task: {}, destination: '', subject, bytes: '0' },
    result: state === 'SUCCEEDED' ? messageToJson(ValidateResultSchema, result) : undefined,
  } as unknown as Task; // what is read of it
}

/** What is noted, by set: how many findings. */
function noted(...tasks: readonly Task[]): Record<string, number> {
  return Object.fromEntries(
    notesOf(JOB, 3n, 9n, tasks).map(({ place, note }) => [
      place.kind === 'set' ? `set ${place.key.fullSetId}.${place.key.setId}` : `round ${place.key.round}`,
      note.kind.case === 'validated' ? Number(note.kind.value.findingCount) : -1,
    ]),
  );
}

test('a set is noted right when all of its tasks were done, and found nothing', () => {
  expect(noted(task(1n, 'SUCCEEDED'), task(1n, 'SUCCEEDED'))).toEqual({ 'set 1.1': 0 });
  for (const undone of ['FAILED', 'CANCELLED', 'RUNNING'] as const)
    expect(noted(task(1n, 'SUCCEEDED'), task(1n, undone))).toEqual({});
});

test('a set with findings is noted as damaged, whatever became of its other tasks', () => {
  const found = [{ object: blockOf(1n), backupSetIds: [1n] }];
  for (const other of ['SUCCEEDED', 'FAILED', 'CANCELLED'] as const)
    expect(noted(task(1n, 'SUCCEEDED', found), task(1n, other))).toEqual({ 'set 1.1': 1 });
});

test('so is each set that needs the object, validated here or not', () => {
  const found = [
    { object: blockOf(1n), backupSetIds: [1n, 2n, 3n] },
    { object: blockOf(2n), backupSetIds: [2n, 3n] },
  ];
  expect(noted(task(3n, 'SUCCEEDED', found))).toEqual({ 'set 1.1': 1, 'set 1.2': 2, 'set 1.3': 2 });
  expect(noted(task(1n, 'SUCCEEDED'), task(3n, 'SUCCEEDED', found))).toEqual({
    'set 1.1': 1,
    'set 1.2': 2,
    'set 1.3': 2,
  });
});

test('damaged log is the note of its round', () => {
  const log = tree.logData(ROOT, { tenantId: 1001n, round: 1n }, 'p0', 1n, 1n);
  const found = [{ object: log, backupSetIds: [1n, 5n] }];
  expect(noted(task(1n, 'SUCCEEDED', found), task('round', 'SUCCEEDED', found))).toEqual({
    'set 1.1': 1,
    'round 1': 1,
  });
});
