/**
 * Runs the tasks that the coordinator gives, each known by (task id, attempt). Tasks do not depend on the stream: they
 * go on while it is down; what they have to say waits here.
 *
 * ```
 *  StartTask of          this attempt runs or has its result    nothing new: said again
 *                        an older attempt runs                  that one is ended first, then this one starts
 *                        a newer attempt was seen               ignored
 *  running ──ends──► result kept until it was sent and RESULT_KEPT_MS have passed (the stream may break behind a sent one)
 *  running ──cancel──► aborted, or drained; its result says so
 *  running ──progress──► only the newest is kept, sent at most every PROGRESS_INTERVAL_MS
 * ```
 */
import { create } from '@bufbuild/protobuf';
import type { Clock } from '../foundation/clock.ts';
import { HoldfastError, toHoldfastError } from '../foundation/errors.ts';
import type { Logger } from '../foundation/log.ts';
import { type Lsn, toLsn } from '../foundation/lsn.ts';
import {
  type AgentMessage,
  AgentMessageSchema,
  type CancelTask,
  type CopyLimits,
  type FlushLog,
  type LimitTask,
  type StartTask,
  type TaskProgress,
  TaskProgressSchema,
  type TaskResult,
  TaskResultSchema,
} from '../proto/gen/holdfast/v1/agent_pb.ts';
import { toErrorDetail } from '../proto/grpc-service.ts';
import type { TaskControl } from './task-context.ts';

export const PROGRESS_INTERVAL_MS = 200;
const RESULT_KEPT_MS = 600_000;
const RESULTS_KEPT = 200;
/** How long an archiver may flush and seal after a drain was ordered. */
const DRAIN_LIMIT_MS = 60_000;

export type TaskOutcome = TaskResult['kind'];
export type TaskReport = TaskProgress['kind'];

/** Runs one task of any kind to its end; throws when it failed. */
export type RunTask = (
  task: StartTask,
  control: TaskControl,
  report: (progress: TaskReport) => void,
  signal: AbortSignal,
) => Promise<TaskOutcome>;

type Running = {
  readonly task: StartTask;
  readonly abort: AbortController;
  readonly drain: AbortController;
  readonly flushListeners: ((lsn: Lsn, seal: boolean) => void)[];
  flushLsn: Lsn | undefined;
  sealLsn: Lsn | undefined;
  readonly limitListeners: ((limits: CopyLimits) => void)[];
  limits: CopyLimits | undefined;
  progress: TaskReport | undefined;
  progressIsNew: boolean;
  ended: Promise<void>;
};

type KeptResult = { readonly result: TaskResult; sentMs: number | undefined; isDue: boolean };

export class TaskRunner {
  readonly #runTask: RunTask;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #running = new Map<bigint, Running>();
  readonly #results = new Map<bigint, KeptResult>();
  readonly #accepted: StartTask[] = [];
  #stopping = false;
  #wake = Promise.withResolvers<void>();

  constructor(runTask: RunTask, clock: Clock, logger: Logger) {
    this.#runTask = runTask;
    this.#clock = clock;
    this.#logger = logger;
  }

  /** Idempotent. Returns at once. */
  start(task: StartTask): void {
    const running = this.#running.get(task.taskId);
    const kept = this.#results.get(task.taskId);
    const newest = Math.max(running?.task.attempt ?? -1, kept?.result.attempt ?? -1);
    if (this.#stopping || task.attempt < newest) return;
    this.#accepted.push(task);
    if (task.attempt > newest) {
      this.#results.delete(task.taskId);
      running?.abort.abort(new HoldfastError('CANCELLED', `attempt ${task.attempt} replaces this one`));
      this.#launch(task, running?.ended);
    } else if (kept !== undefined) {
      kept.isDue = true;
    }
    this.#notify();
  }

  cancel(order: CancelTask): void {
    const running = this.#find(order.taskId, order.attempt);
    if (running === undefined) return;
    const error = new HoldfastError('CANCELLED', order.reason === '' ? 'cancelled' : order.reason);
    if (order.drain && running.task.kind.case === 'archive') this.#drain(running, error);
    else running.abort.abort(error);
  }

  flushLog(order: FlushLog): void {
    const running = this.#find(order.taskId, order.attempt);
    if (running === undefined) return;
    const lsn = toLsn(order.lsn);
    if (running.flushLsn === undefined || lsn > running.flushLsn) running.flushLsn = lsn;
    if (order.seal && (running.sealLsn === undefined || lsn > running.sealLsn)) running.sealLsn = lsn;
    for (const listener of running.flushListeners) listener(lsn, order.seal);
  }

  limitTask({ taskId, attempt, limits }: LimitTask): void {
    const running = this.#find(taskId, attempt);
    if (running === undefined || limits === undefined) return;
    running.limits = limits;
    for (const listener of running.limitListeners) listener(limits);
  }

  /** Tasks that run, and those whose results may not have arrived: what Hello declares. */
  known(): readonly { readonly taskId: bigint; readonly attempt: number }[] {
    return [
      ...[...this.#running.values()].map(({ task }) => ({ taskId: task.taskId, attempt: task.attempt })),
      ...[...this.#results.values()].map(({ result }) => ({
        taskId: result.taskId,
        attempt: result.attempt,
      })),
    ];
  }

  /** Everything is said again: a new stream was opened, or the coordinator asked. */
  repeatReports(): void {
    for (const running of this.#running.values()) running.progressIsNew = true;
    for (const kept of this.#results.values()) kept.isDue = true;
    this.#notify();
  }

  /** Resolves when there is something to send. */
  pending(): Promise<void> {
    return this.#wake.promise;
  }

  /** What is to be sent now, in order; it counts as sent. */
  takeMessages(): readonly AgentMessage[] {
    this.#wake = Promise.withResolvers<void>();
    this.#forgetOldResults();
    return [
      ...this.#accepted
        .splice(0)
        .map(({ taskId, attempt }) => message({ case: 'taskAccepted', value: { taskId, attempt } })),
      ...[...this.#running.values()].flatMap((running) => this.#takeProgress(running)),
      ...[...this.#results.values()].flatMap((kept) => this.#takeResult(kept)),
    ];
  }

  /** Accepts nothing more, drains archivers, aborts the rest, and waits until all have ended. */
  async shutdown(): Promise<void> {
    this.#stopping = true;
    const error = new HoldfastError('SHUTTING_DOWN', 'the agent is shutting down');
    for (const running of this.#running.values()) {
      if (running.task.kind.case === 'archive') this.#drain(running, error);
      else running.abort.abort(error);
    }
    await Promise.all([...this.#running.values()].map(({ ended }) => ended));
  }

  #launch(task: StartTask, before: Promise<void> | undefined): void {
    const running: Running = {
      task,
      abort: new AbortController(),
      drain: new AbortController(),
      flushListeners: [],
      flushLsn: undefined,
      sealLsn: undefined,
      limitListeners: [],
      limits: undefined,
      progress: undefined,
      progressIsNew: false,
      ended: Promise.resolve(),
    };
    this.#running.set(task.taskId, running);
    running.ended = this.#runToEnd(running, before);
  }

  /** Never rejects: whatever happens becomes the task's result. */
  async #runToEnd(running: Running, before: Promise<void> | undefined): Promise<void> {
    const { task } = running;
    const logger = this.#logger.child({
      task: String(task.taskId),
      attempt: task.attempt,
      kind: task.kind.case,
    });
    await before;
    const deadline =
      task.deadlineMs === 0
        ? undefined
        : setTimeout(
            () => running.abort.abort(new HoldfastError('TIMEOUT', 'the task has passed its deadline')),
            task.deadlineMs,
          );
    let outcome: TaskOutcome;
    try {
      running.abort.signal.throwIfAborted();
      logger.info('task begins');
      const report = (progress: TaskReport) => this.#noteProgress(running, progress);
      outcome = await this.#runTask(task, controlOf(running), report, running.abort.signal);
      logger.info('task ended');
    } catch (error) {
      const failure = toHoldfastError(running.abort.signal.aborted ? running.abort.signal.reason : error);
      logger.warn({ err: failure.code === 'INTERNAL' ? error : failure }, 'task failed');
      outcome = { case: 'error', value: toErrorDetail(failure) };
    } finally {
      clearTimeout(deadline);
    }
    this.#noteResult(running, outcome);
  }

  #noteProgress(running: Running, progress: TaskReport): void {
    running.progress = progress;
    running.progressIsNew = true;
    this.#notify();
  }

  #noteResult(running: Running, kind: TaskOutcome): void {
    const { taskId, attempt } = running.task;
    // A newer attempt may have taken the place already; then nobody waits for this result.
    if (this.#running.get(taskId) !== running) return;
    this.#running.delete(taskId);
    const result = create(TaskResultSchema, { taskId, attempt, kind });
    this.#results.set(taskId, { result, sentMs: undefined, isDue: true });
    this.#notify();
  }

  #drain(running: Running, error: HoldfastError): void {
    if (running.drain.signal.aborted) return;
    running.drain.abort(error);
    const timer = setTimeout(() => running.abort.abort(error), DRAIN_LIMIT_MS);
    const clear = () => clearTimeout(timer);
    running.ended.then(clear, clear);
  }

  #takeProgress(running: Running): readonly AgentMessage[] {
    if (!running.progressIsNew || running.progress === undefined) return [];
    running.progressIsNew = false;
    const { taskId, attempt } = running.task;
    const timeUs = BigInt(this.#clock.nowMs()) * 1000n;
    const progress = create(TaskProgressSchema, { taskId, attempt, timeUs, kind: running.progress });
    return [message({ case: 'taskProgress', value: progress })];
  }

  #takeResult(kept: KeptResult): readonly AgentMessage[] {
    if (!kept.isDue) return [];
    kept.isDue = false;
    kept.sentMs = this.#clock.nowMs();
    return [message({ case: 'taskResult', value: kept.result })];
  }

  #forgetOldResults(): void {
    const oldest = this.#clock.nowMs() - RESULT_KEPT_MS;
    for (const [taskId, kept] of this.#results) {
      if (kept.isDue || kept.sentMs === undefined) continue; // it is declared, and waited for
      if (this.#results.size > RESULTS_KEPT || kept.sentMs < oldest) this.#results.delete(taskId);
    }
  }

  #find(taskId: bigint, attempt: number): Running | undefined {
    const running = this.#running.get(taskId);
    return running?.task.attempt === attempt ? running : undefined;
  }

  #notify(): void {
    this.#wake.resolve();
  }
}

function controlOf(running: Running): TaskControl {
  return {
    drain: running.drain.signal,
    onFlushLog(listener) {
      running.flushListeners.push(listener);
      if (running.flushLsn !== undefined) listener(running.flushLsn, false);
      if (running.sealLsn !== undefined) listener(running.sealLsn, true);
    },
    onLimits(listener) {
      running.limitListeners.push(listener);
      if (running.limits !== undefined) listener(running.limits);
    },
  };
}

type MessageKind = Parameters<typeof create<typeof AgentMessageSchema>>[1];

function message(kind: NonNullable<NonNullable<MessageKind>['kind']>): AgentMessage {
  return create(AgentMessageSchema, { kind });
}
