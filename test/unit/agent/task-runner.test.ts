import { create } from '@bufbuild/protobuf';
import { describe, expect, test } from 'vitest';
import type { TaskControl } from '../../../agent/task-context.ts';
import { type RunTask, type TaskOutcome, TaskRunner } from '../../../agent/task-runner.ts';
import { type Clock, systemClock } from '../../../foundation/clock.ts';
import { HoldfastError } from '../../../foundation/errors.ts';
import { silentLogger } from '../../../foundation/log.ts';
import {
  CancelTaskSchema,
  FlushLogSchema,
  type StartTask,
  StartTaskSchema,
} from '../../../proto/gen/holdfast/v1/agent_pb.ts';

type Call = {
  readonly task: StartTask;
  readonly control: TaskControl;
  readonly report: Parameters<RunTask>[2];
  readonly signal: AbortSignal;
  readonly end: (outcome: TaskOutcome) => void;
  readonly fail: (error: Error) => void;
};

function makeRunner(clock: Clock = systemClock): { readonly runner: TaskRunner; readonly calls: Call[] } {
  const calls: Call[] = [];
  const runner = new TaskRunner(
    async (task, control, report, signal) => {
      const { promise, resolve, reject } = Promise.withResolvers<TaskOutcome>();
      signal.addEventListener('abort', () => reject(signal.reason as Error)); // HoldfastErrors of the runner
      control.drain.addEventListener('abort', () => reject(control.drain.reason as Error)); // as above
      calls.push({ task, control, report, signal, end: resolve, fail: reject });
      return await promise;
    },
    clock,
    silentLogger(),
  );
  return { runner, calls };
}

function start(
  taskId: number,
  attempt: number,
  kind: 'archive' | 'check' = 'check',
  deadlineMs = 0,
): StartTask {
  const value = kind === 'archive' ? { case: kind, value: {} } : { case: kind, value: {} };
  return create(StartTaskSchema, { taskId: BigInt(taskId), attempt, deadlineMs, kind: value });
}

async function settle(): Promise<void> {
  await systemClock.sleep(5, new AbortController().signal);
}

function said(runner: TaskRunner): string[] {
  return runner.takeMessages().map(({ kind }) => {
    if (kind.case === 'taskResult')
      return `result ${kind.value.taskId}.${kind.value.attempt} ${kind.value.kind.case === 'error' ? kind.value.kind.value.code : kind.value.kind.case}`;
    if (kind.case === 'taskAccepted') return `accepted ${kind.value.taskId}.${kind.value.attempt}`;
    if (kind.case === 'taskProgress') return `progress ${kind.value.taskId}.${kind.value.attempt}`;
    return String(kind.case);
  });
}

const checkResult: TaskOutcome = { case: undefined };

describe('the task runner', () => {
  test('runs a task once, however often it is started, and says the result again when asked for', async () => {
    const { runner, calls } = makeRunner();
    runner.start(start(1, 0));
    runner.start(start(1, 0));
    await settle();
    expect(calls).toHaveLength(1);
    expect(said(runner)).toEqual(['accepted 1.0', 'accepted 1.0']);
    calls[0]?.end(checkResult);
    await settle();
    expect(said(runner)).toEqual(['result 1.0 undefined']);
    expect(said(runner)).toEqual([]);
    expect(runner.known()).toEqual([{ taskId: 1n, attempt: 0 }]);
    runner.repeatReports();
    expect(said(runner)).toEqual(['result 1.0 undefined']);
    runner.start(start(1, 0));
    expect(said(runner)).toEqual(['accepted 1.0', 'result 1.0 undefined']);
    expect(calls).toHaveLength(1);
  });

  test('a result that was said is kept for a while; one that was declared again is said again, however old', async () => {
    let nowMs = 0;
    const { runner, calls } = makeRunner({ ...systemClock, nowMs: () => nowMs });
    runner.start(start(1, 0));
    runner.start(start(2, 0));
    await settle();
    calls[0]?.end(checkResult);
    calls[1]?.end(checkResult);
    await settle();
    expect(said(runner).filter((each) => each.startsWith('result'))).toHaveLength(2);
    nowMs = 601_000; // the coordinator was away
    expect(runner.known()).toHaveLength(2);
    runner.repeatReports();
    expect(said(runner)).toEqual(['result 1.0 undefined', 'result 2.0 undefined']);
    nowMs = 1_200_000;
    expect(said(runner)).toEqual([]);
    expect(runner.known()).toHaveLength(2);
    nowMs = 1_202_000;
    expect(said(runner)).toEqual([]);
    expect(runner.known()).toEqual([]);
  });

  test('a newer attempt ends the older one first; an older attempt is ignored', async () => {
    const { runner, calls } = makeRunner();
    runner.start(start(1, 1));
    await settle();
    runner.start(start(1, 2));
    await settle();
    expect(calls.map((call) => [call.task.attempt, call.signal.aborted])).toEqual([
      [1, true],
      [2, false],
    ]);
    runner.start(start(1, 1));
    await settle();
    expect(calls).toHaveLength(2);
    calls[1]?.end(checkResult);
    await settle();
    expect(said(runner)).toEqual(['accepted 1.1', 'accepted 1.2', 'result 1.2 undefined']);
  });

  test('of progress only the newest is said', async () => {
    const { runner, calls } = makeRunner();
    runner.start(start(1, 0));
    await settle();
    said(runner);
    for (let step = 0; step < 3; step += 1) calls[0]?.report({ case: undefined });
    expect(said(runner)).toEqual(['progress 1.0']);
    expect(said(runner)).toEqual([]);
  });

  test('cancel aborts; cancel with drain drains an archiver and aborts anything else', async () => {
    const { runner, calls } = makeRunner();
    runner.start(start(1, 0, 'archive'));
    runner.start(start(2, 0));
    await settle();
    runner.cancel(create(CancelTaskSchema, { taskId: 1n, attempt: 5, drain: true }));
    await settle();
    expect(calls[0]?.control.drain.aborted).toBe(false);
    runner.cancel(create(CancelTaskSchema, { taskId: 1n, attempt: 0, drain: true, reason: 'NOARCHIVELOG' }));
    runner.cancel(create(CancelTaskSchema, { taskId: 2n, attempt: 0, drain: true }));
    await settle();
    expect(calls[0]?.control.drain.aborted).toBe(true);
    expect(calls[0]?.signal.aborted).toBe(false);
    expect(said(runner)).toEqual([
      'accepted 1.0',
      'accepted 2.0',
      'result 1.0 CANCELLED',
      'result 2.0 CANCELLED',
    ]);
  });

  test('a flush asked for before the task listens reaches it, the highest one', async () => {
    const { runner, calls } = makeRunner();
    runner.start(start(1, 0, 'archive'));
    await settle();
    for (const lsn of [10n, 30n, 20n])
      runner.flushLog(create(FlushLogSchema, { taskId: 1n, attempt: 0, lsn }));
    runner.flushLog(create(FlushLogSchema, { taskId: 1n, attempt: 0, lsn: 15n, seal: true }));
    const heard: [bigint, boolean][] = [];
    calls[0]?.control.onFlushLog((lsn, seal) => heard.push([lsn, seal]));
    runner.flushLog(create(FlushLogSchema, { taskId: 1n, attempt: 0, lsn: 40n }));
    expect(heard).toEqual([
      [30n, false],
      [15n, true],
      [40n, false],
    ]);
    calls[0]?.end(checkResult);
  });

  test('a task past its deadline fails with TIMEOUT, any other failure by its own code', async () => {
    const { runner, calls } = makeRunner();
    runner.start(start(1, 0, 'check', 20));
    runner.start(start(2, 0));
    await settle();
    calls[1]?.fail(new HoldfastError('LOG_GAP', 'x'));
    await systemClock.sleep(50, new AbortController().signal);
    expect(said(runner).filter((line) => line.startsWith('result'))).toEqual([
      'result 2.0 LOG_GAP',
      'result 1.0 TIMEOUT',
    ]);
  });

  test('shutdown drains archivers, aborts the rest, waits for all, and takes nothing more', async () => {
    const { runner, calls } = makeRunner();
    runner.start(start(1, 0, 'archive'));
    runner.start(start(2, 0));
    await settle();
    await runner.shutdown();
    expect(calls[0]?.control.drain.aborted).toBe(true);
    expect(calls[1]?.signal.aborted).toBe(true);
    runner.start(start(3, 0));
    await settle();
    expect(calls).toHaveLength(2);
    expect(said(runner).filter((line) => line.startsWith('result'))).toEqual([
      'result 1.0 SHUTTING_DOWN',
      'result 2.0 SHUTTING_DOWN',
    ]);
  });
});
