import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  isRunning,
  ROUND_TRANSITIONS,
  type RoundEvent,
  type RoundStateName,
} from '../../../coordinator/archive/round-states.ts';
import {
  BACKUP_TRANSITIONS,
  type BackupEvent,
  type BackupState,
  isFinalJobState,
  type JobState,
  RESTORE_TRANSITIONS,
  SIMPLE_TRANSITIONS,
  VALIDATE_TRANSITIONS,
  type ValidateEvent,
  type ValidateState,
} from '../../../coordinator/jobs/job-states.ts';
import { phaseEvent } from '../../../coordinator/jobs/restore-job.ts';
import { isFinal, step, type TransitionTable } from '../../../coordinator/jobs/state-machine.ts';
import {
  decideAfterFailure,
  TASK_TRANSITIONS,
  type TaskEvent,
  type TaskState,
} from '../../../coordinator/jobs/task-states.ts';

/** Every walk of at most 40 events from `start`, refused ones left out. */
function walks<State extends string, Event extends string>(
  table: TransitionTable<State, Event>,
  start: State,
  events: readonly Event[],
  check: (visited: readonly State[]) => void,
): void {
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...events), { maxLength: 40 }), (walk) => {
      const visited: State[] = [start];
      for (const event of walk) {
        const next = step(table, visited.at(-1) ?? start, event);
        if (next !== undefined) visited.push(next);
      }
      check(visited);
    }),
  );
}

describe('rounds', () => {
  const events: RoundEvent[] = ['begin', 'allStarted', 'stop', 'ended', 'interrupt', 'acknowledge'];

  test('the whole table is as documented', () => {
    const table = Object.entries(ROUND_TRANSITIONS).flatMap(([from, row]) =>
      Object.entries(row).map(([event, to]) => `${from} ${event} ${to}`),
    );
    expect(table).toEqual([
      'STOP begin BEGINNING',
      'BEGINNING allStarted DOING',
      'BEGINNING stop STOPPING',
      'BEGINNING interrupt INTERRUPTED',
      'DOING stop STOPPING',
      'DOING interrupt INTERRUPTED',
      'STOPPING ended STOP',
      'STOPPING interrupt STOPPING',
      'INTERRUPTED acknowledge STOP',
    ]);
  });

  test('R2: DOING is entered from BEGINNING only', () => {
    walks(ROUND_TRANSITIONS, 'STOP', events, (visited) => {
      for (const [index, state] of visited.entries())
        if (state === 'DOING') expect(visited[index - 1]).toBe('BEGINNING');
    });
  });

  test('R3: between INTERRUPTED and the next DOING lies STOP', () => {
    walks(ROUND_TRANSITIONS, 'STOP', events, (visited) => {
      let interrupted = false;
      for (const state of visited) {
        if (state === 'INTERRUPTED') interrupted = true;
        if (state === 'STOP') interrupted = false;
        if (state === 'DOING') expect(interrupted).toBe(false);
      }
    });
  });

  test('R6: STOP can be reached from every running state without the destination', () => {
    const states: RoundStateName[] = ['BEGINNING', 'DOING', 'STOPPING'];
    for (const state of states) {
      expect(isRunning(state)).toBe(true);
      const stopping = state === 'STOPPING' ? state : step(ROUND_TRANSITIONS, state, 'stop');
      expect(step(ROUND_TRANSITIONS, stopping ?? 'STOP', 'ended')).toBe('STOP');
    }
  });
});

describe('tasks', () => {
  const events: TaskEvent[] = ['dispatch', 'succeed', 'fail', 'retry', 'lose', 'cancel', 'stopped'];

  test('T2: a final state never changes', () => {
    const finals: TaskState[] = ['SUCCEEDED', 'FAILED', 'CANCELLED'];
    for (const state of finals) expect(isFinal(TASK_TRANSITIONS, state)).toBe(true);
    walks(TASK_TRANSITIONS, 'PENDING', events, (visited) => {
      const first = visited.findIndex((state) => finals.includes(state));
      if (first >= 0) expect(visited).toHaveLength(first + 1);
    });
  });

  test('T1: every RUNNING is entered by a dispatch, so by a new attempt', () => {
    for (const [from, row] of Object.entries(TASK_TRANSITIONS))
      for (const [event, to] of Object.entries(row))
        if (to === 'RUNNING') expect([from, event]).toEqual(['PENDING', 'dispatch']);
  });

  test('what is being cancelled is never begun again', () => {
    walks(TASK_TRANSITIONS, 'PENDING', events, (visited) => {
      const at = visited.indexOf('CANCELLING');
      if (at >= 0)
        for (const state of visited.slice(at + 1)) expect(['SUCCEEDED', 'CANCELLED']).toContain(state);
    });
  });

  test('archiving is tried again after any error that does not prove a hole, with growing delays', () => {
    const delays = [1, 2, 3, 20].map((failures) => decideAfterFailure('ARCHIVE', 'INTERNAL', failures));
    expect(delays).toEqual([
      { kind: 'retry', delayMs: 500 },
      { kind: 'retry', delayMs: 1000 },
      { kind: 'retry', delayMs: 2000 },
      { kind: 'retry', delayMs: 30_000 },
    ]);
    expect(decideAfterFailure('ARCHIVE', 'LOG_GAP', 1)).toEqual({ kind: 'giveUp' });
    expect(decideAfterFailure('ARCHIVE', 'LOG_CONFLICT', 1)).toEqual({ kind: 'giveUp' });
  });

  test('a backup is tried again only when that can help, and not for ever', () => {
    expect(decideAfterFailure('BACKUP', 'DESTINATION_IO', 1).kind).toBe('retry');
    // A destination that is away for a minute costs nothing but time: what was copied is taken over.
    for (const code of ['DESTINATION_IO', 'BACKUP_MOUNT_FILE_NOT_VALID', 'INVALID_BACKUP_DEST'] as const) {
      expect(decideAfterFailure('BACKUP', code, 7).kind).toBe('retry');
      expect(decideAfterFailure('BACKUP', code, 8).kind).toBe('giveUp');
    }
    expect(decideAfterFailure('RESTORE', 'INVALID_BACKUP_DEST', 1).kind).toBe('giveUp');
    expect(decideAfterFailure('BACKUP', 'SERVER_UNREACHABLE', 7).kind).toBe('retry'); // it recovers from a crash
    expect(decideAfterFailure('BACKUP', 'SERVER_UNREACHABLE', 8).kind).toBe('giveUp');
    expect(decideAfterFailure('BACKUP', 'BACKUP_FAILED', 1).kind).toBe('giveUp');
  });
});

describe('jobs', () => {
  test('J3: COMPLETED is entered from PUBLISH only, and PUBLISH from WAIT_LOG only', () => {
    const events: BackupEvent[] = ['claimed', 'copied', 'covered', 'published', 'fail', 'cancel', 'stopped'];
    walks<BackupState, BackupEvent>(BACKUP_TRANSITIONS, 'PREPARE', events, (visited) => {
      if (visited.includes('COMPLETED'))
        expect(visited).toEqual(['PREPARE', 'DOING', 'WAIT_LOG', 'PUBLISH', 'COMPLETED']);
    });
  });

  test('what is being published cannot be cancelled', () => {
    expect(step(BACKUP_TRANSITIONS, 'PUBLISH', 'cancel')).toBeUndefined();
  });

  test('the final states are those without events', () => {
    for (const table of [BACKUP_TRANSITIONS, RESTORE_TRANSITIONS, VALIDATE_TRANSITIONS, SIMPLE_TRANSITIONS])
      for (const [state, row] of Object.entries(table))
        expect(isFinalJobState(state as JobState)).toBe(Object.keys(row).length === 0);
  });

  test('the whole table of a validation is as documented', () => {
    const table = Object.entries(VALIDATE_TRANSITIONS).flatMap(([from, row]) =>
      Object.entries(row).map(([event, to]) => `${from} ${event} ${to}`),
    );
    expect(table).toEqual([
      'SCHEDULE planned DOING',
      'SCHEDULE fail FAILED',
      'SCHEDULE cancel CANCELLING',
      'DOING checked RECORD',
      'DOING cancel CANCELLING',
      'RECORD recorded FINISHED',
      'RECORD fail FAILED',
      'RECORD cancel CANCELLING',
      'CANCELLING stopped CANCELLED',
    ]);
  });

  test('V1: a validation is FINISHED only after all was read and noted', () => {
    const events: ValidateEvent[] = ['planned', 'checked', 'recorded', 'fail', 'cancel', 'stopped'];
    walks<ValidateState, ValidateEvent>(VALIDATE_TRANSITIONS, 'SCHEDULE', events, (visited) => {
      if (visited.includes('FINISHED')) expect(visited).toEqual(['SCHEDULE', 'DOING', 'RECORD', 'FINISHED']);
      if (visited.includes('CANCELLING')) expect(visited).not.toContain('FAILED');
    });
  });

  test('a validation is tried again where that can help, elsewhere too', () => {
    expect(decideAfterFailure('VALIDATE', 'DESTINATION_IO', 1).kind).toBe('retry');
    expect(decideAfterFailure('VALIDATE', 'DESTINATION_IO', 3).kind).toBe('giveUp');
    expect(decideAfterFailure('VALIDATE', 'FORMAT_UNKNOWN', 1).kind).toBe('giveUp');
  });

  test('a restore is as far as its slowest partition group', () => {
    const task = (phase: string, state: TaskState = 'RUNNING') => ({ state, progress: { phase } });
    expect(phaseEvent([task('LOG'), task('USER_DATA')])).toBe('userData');
    expect(phaseEvent([task('LOG'), task('CREATE')])).toBeUndefined();
    expect(phaseEvent([task('LOG'), task('USER_DATA', 'SUCCEEDED')])).toBe('log');
  });
});
