/**
 * The archiver of one partition group: runs the state machine of states.ts. All it knows for sure it reads at the
 * destination, each time anew; what it keeps here is for its progress only.
 */
import { create } from '@bufbuild/protobuf';
import type { InstanceIdentity, LogPoint } from '../../engine/engine.ts';
import { connectInstance } from '../../engine/postgres/engine.ts';
import { createLogInspector } from '../../engine/postgres/wal/inspector.ts';
import { defined } from '../../foundation/assert.ts';
import { formatError, HoldfastError, isError, toHoldfastError } from '../../foundation/errors.ts';
import type { Lsn } from '../../foundation/lsn.ts';
import {
  type ArchiveProgress,
  ArchiveProgressSchema,
  type ArchiveResult,
  ArchiveResultSchema,
  type ArchiveTask,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { type LogPosition, LogPositionSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { AbandonedLogFile } from '../../storage-layout/clog/log-file.ts';
import { parseCompression } from '../../storage-layout/macroblock/compress.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import type { TaskContext } from '../task-context.ts';
import { noteInClogInfo } from './clog-info.ts';
import { LogFileSequence } from './file-sequence.ts';
import { checkMountFile, type LogPlace } from './place.ts';
import { backoffMs, type Checkpoint, NO_CHECKPOINT } from './policy.ts';
import { openSource, type Source } from './source.ts';
import { type ArchiverEvent, type ArchiverState, classifyFailure, nextState } from './states.ts';
import { Streaming } from './streaming.ts';
import { type LogSoFar, takeOver } from './takeover.ts';

/** A destination that hangs is left alone this long after the task was told to end. */
const ABANDON_MS = 5000;
const DROP_SLOT_MS = 10_000;
const CLOG_INFO_MS = 10_000;

/**
 * Archives until it is drained (the result has no reason), or until the log has or would get a hole (the result names it).
 * Throws LOG_ARCHIVE_LEADER_CHANGED, CANCELLED, SHUTTING_DOWN, INVALID_ARGUMENT; everything else is retried for ever.
 */
export async function runArchiveTask(
  context: TaskContext,
  task: ArchiveTask,
  report: (progress: ArchiveProgress) => void,
  signal: AbortSignal,
): Promise<ArchiveResult> {
  return await new Archiver(context, task, report).run(signal);
}

class Archiver {
  readonly #context: TaskContext;
  readonly #task: ArchiveTask;
  readonly #report: (progress: ArchiveProgress) => void;
  #state: ArchiverState = 'opening';
  #failures = 0;
  #lastError = '';
  #waitingFor = '';
  #identity: InstanceIdentity | undefined;
  #startUs = 0n;
  #start: LogPoint | undefined;
  #durable: LogPoint | undefined;
  #checkpoint: Checkpoint = NO_CHECKPOINT;
  #flushUpTo: Lsn = NO_CHECKPOINT.lsn;
  #streaming: Streaming | undefined;
  #files: LogFileSequence | undefined;
  /** Of the sessions before the present one. */
  #inputBytes = 0;
  #outputBytes = 0;
  /** Files of earlier sessions that this archiver failed to write, until they are sealed. */
  readonly #abandoned: AbandonedLogFile[] = [];

  constructor(context: TaskContext, task: ArchiveTask, report: (progress: ArchiveProgress) => void) {
    this.#context = context;
    this.#task = task;
    this.#report = report;
  }

  async run(signal: AbortSignal): Promise<ArchiveResult> {
    const { control, clock } = this.#context;
    control.onFlushLog((lsn) => this.#flush(lsn));
    for (;;) {
      try {
        await abandonable(this.#session(signal), signal);
        this.#step(this.#state === 'draining' ? 'drained' : 'drain');
        return await this.#endDrained(signal);
      } catch (error) {
        const ended = await this.#fail(error, signal);
        if (ended !== undefined) return ended;
      }
      await clock
        .sleep(backoffMs(this.#failures), AbortSignal.any([signal, control.drain]))
        .catch(() => undefined);
      signal.throwIfAborted();
      if (control.drain.aborted) {
        this.#step('drain');
        return await this.#endDrained(signal);
      }
      this.#step('waited');
    }
  }

  /** From `opening` to the end of `streaming`. Resolves when it was drained. */
  async #session(signal: AbortSignal): Promise<void> {
    const { control } = this.#context;
    const begin = AbortSignal.any([signal, control.drain]);
    try {
      this.#waitingFor = 'the destination';
      const open = this.#context.openMedium ?? openMedium;
      await using medium = await open(destinationOf(this.#task).uri, begin);
      const place = this.#placeOn(medium);
      await checkMountFile(place, begin);
      const { lastFileId, lastEpoch, log, seal } = await takeOver(
        place,
        createLogInspector,
        begin,
        this.#abandoned,
      );
      this.#refuseNewerEpoch(lastEpoch);
      if (log !== undefined) this.#start = { timeline: log.timeline, lsn: log.begin };
      this.#step('opened');
      this.#waitingFor = `instance ${this.#task.instance}`;
      await using instance = await connectInstance(this.#context.instanceConfig(this.#task.instance), begin);
      // A round that had begun is never begun anew: when its log is gone, that is a hole.
      const fresh = log === undefined && this.#start === undefined && this.#task.fresh;
      const { slotName, expectedSystemIdentifier } = this.#task;
      const order = { slotName, expectedSystemIdentifier, fresh };
      const source = await openSource(instance, place, log, order, begin);
      await using stream = source.stream;
      // The slot is ours: nobody else's bytes are acknowledged from now on, so what is there now is all that may count.
      await seal(begin);
      this.#abandoned.length = 0;
      if (log !== undefined) this.#countLogSoFar(log);
      await using files = this.#openFiles(place, source, lastFileId, log);
      await this.#noteServer(place, source, signal);
      this.#identity = source.identity;
      if (this.#startUs === 0n) this.#startUs = source.identity.clockUs;
      this.#files = files;
      this.#streaming = new Streaming({
        instance,
        slotName: this.#task.slotName,
        stream,
        inspector: log?.inspector ?? inspectorFor(source),
        files,
        checkpointIntervalMs: Math.max(100, this.#task.checkpointIntervalMs),
        clock: this.#context.clock,
        checkpoint: this.#checkpoint,
        flushUpTo: this.#flushUpTo,
        drain: control.drain,
        changed: () => this.#streamed(source.from),
      });
      this.#step('streaming');
      this.#waitingFor = '';
      const draining = () => this.#step('drain');
      control.drain.addEventListener('abort', draining, { once: true });
      if (control.drain.aborted) draining();
      try {
        await this.#streaming.run(signal);
      } finally {
        control.drain.removeEventListener('abort', draining);
      }
    } catch (error) {
      if (this.#state !== 'draining' && control.drain.aborted && !signal.aborted) return;
      throw error;
    } finally {
      this.#closeSession();
    }
  }

  #placeOn(medium: LogPlace['medium']): LogPlace {
    const { clusterName, clusterId } = destinationOf(this.#task);
    const { tenantId, round, partitionGroup } = this.#task;
    return { medium, root: { clusterName, clusterId }, round: { tenantId, round }, group: partitionGroup };
  }

  #openFiles(
    place: LogPlace,
    source: Source,
    lastFileId: bigint,
    log: LogSoFar | undefined,
  ): LogFileSequence {
    return new LogFileSequence({
      place,
      epoch: this.#task.epoch,
      timeline: source.from.timeline,
      systemIdentifier: source.identity.systemIdentifier,
      segmentSizeBytes: source.identity.segmentSizeBytes,
      compression: parseCompression(this.#task.compression),
      clock: this.#context.clock,
      lastFileId,
      end: source.from.lsn,
      maxCommitUs: log?.maxCommitUs,
    });
  }

  /** A newer archiver of this group has been at the destination: it, not this one, goes on. */
  #refuseNewerEpoch(lastEpoch: bigint): void {
    if (lastEpoch <= this.#task.epoch) return;
    throw new HoldfastError(
      'LOG_ARCHIVE_LEADER_CHANGED',
      `the archiver with epoch ${lastEpoch} has taken over from this one, ${this.#task.epoch}`,
    );
  }

  #countLogSoFar(log: LogSoFar): void {
    this.#durable = { timeline: log.timeline, lsn: log.end };
    if (log.checkpoint !== undefined && log.checkpoint.timeUs > this.#checkpoint.timeUs)
      this.#checkpoint = { ...log.checkpoint, candidates: [] };
  }

  async #noteServer(place: LogPlace, source: Source, signal: AbortSignal): Promise<void> {
    const { tenantId, round, partitionGroup, epoch } = this.#task;
    await noteInClogInfo(
      place,
      this.#context.server,
      {
        tenantId,
        partitionGroup,
        round,
        epoch,
        start: position(source.from),
        sinceUs: source.identity.clockUs,
      },
      AbortSignal.any([signal, AbortSignal.timeout(CLOG_INFO_MS)]),
    );
  }

  /** The start counts from the first byte that is durable: before it nothing was promised. */
  #streamed(from: LogPoint): void {
    const { files, streaming } = this.#current();
    if (files.durable > from.lsn || this.#start !== undefined) {
      this.#start ??= from;
      this.#durable = { timeline: from.timeline, lsn: files.durable };
    }
    if (files.durable > from.lsn || streaming.checkpoint.timeUs > this.#checkpoint.timeUs) {
      this.#failures = 0;
      this.#lastError = '';
    }
    this.#checkpoint = streaming.checkpoint;
    this.#report(this.#progress());
  }

  #current(): { readonly files: LogFileSequence; readonly streaming: Streaming } {
    return {
      files: defined(this.#files, "the session's files"),
      streaming: defined(this.#streaming, "the session's stream"),
    };
  }

  #closeSession(): void {
    this.#inputBytes += this.#streaming?.inputBytes ?? 0;
    this.#outputBytes += this.#files?.outputBytes ?? 0;
    if (this.#files?.abandoned !== undefined) this.#abandoned.push(this.#files.abandoned);
    this.#streaming = undefined;
    this.#files = undefined;
  }

  #flush(lsn: Lsn): void {
    if (lsn > this.#flushUpTo) this.#flushUpTo = lsn;
    this.#streaming?.flush(lsn);
  }

  /** The result, when the archiver ends by this error; undefined: try again. Throws when the attempt is over. */
  async #fail(error: unknown, signal: AbortSignal): Promise<ArchiveResult | undefined> {
    signal.throwIfAborted();
    const failure = toHoldfastError(error);
    const { logger } = this.#context;
    this.#lastError = formatError(failure);
    if (this.#state === 'draining') {
      logger.warn({ err: failure }, 'not all that was received could be archived before the end');
      this.#step('failed');
      return await this.#endDrained(signal);
    }
    const kind = classifyFailure(failure);
    if (kind === 'fatal') throw error;
    if (kind === 'interrupted') {
      logger.error({ err: failure }, 'log archive interrupted');
      this.#step('interrupted');
      return create(ArchiveResultSchema, { final: this.#progress(), interruptedReason: this.#lastError });
    }
    this.#failures += 1;
    if (isPowerOfTwo(this.#failures))
      logger.warn({ err: failure, failures: this.#failures }, 'archiving waits');
    this.#step('failed');
    return undefined;
  }

  /** The agent's own end is no end of the round: it says so by an error. An ordered end gives the slot up. */
  async #endDrained(signal: AbortSignal): Promise<ArchiveResult> {
    const reason: unknown = this.#context.control.drain.reason;
    if (isError(reason, 'SHUTTING_DOWN')) throw reason;
    await this.#dropSlot(signal);
    return create(ArchiveResultSchema, { final: this.#progress() });
  }

  async #dropSlot(signal: AbortSignal): Promise<void> {
    const { instance, slotName } = this.#task;
    const limit = AbortSignal.any([signal, AbortSignal.timeout(DROP_SLOT_MS)]);
    // The session that streamed may hold the slot for a moment after its end.
    for (;;) {
      try {
        await using server = await connectInstance(this.#context.instanceConfig(instance), limit);
        await server.dropSlot(slotName, limit);
        return;
      } catch (error) {
        this.#lastError = `replication slot "${slotName}" could not be dropped: ${toHoldfastError(error).message}`;
        await this.#context.clock.sleep(200, limit).catch(() => undefined);
        if (!limit.aborted) continue;
        this.#context.logger.warn(
          { err: error, slotName, instance },
          'the slot stays: it keeps log on the server until it is dropped there',
        );
        return;
      }
    }
  }

  #step(event: ArchiverEvent): void {
    const before = this.#state;
    this.#state = nextState(before, event);
    this.#context.logger.debug({ before, event, state: this.#state }, 'archiver');
    this.#report(this.#progress());
  }

  #progress(): ArchiveProgress {
    const streaming = this.#streaming;
    const server = streaming?.server;
    const durable = this.#durable?.lsn ?? 0n;
    return create(ArchiveProgressSchema, {
      state: this.#shownState(),
      ...(this.#start === undefined ? {} : { start: position(this.#start) }),
      ...(this.#durable === undefined ? {} : { durable: position(this.#durable) }),
      checkpointUs: this.#checkpoint.timeUs,
      serverLsn: server?.end ?? 0n,
      serverUs: server?.clockUs ?? 0n,
      inputBytes: BigInt(this.#inputBytes + (streaming?.inputBytes ?? 0)),
      outputBytes: BigInt(this.#outputBytes + (this.#files?.outputBytes ?? 0)),
      systemIdentifier: this.#identity?.systemIdentifier ?? 0n,
      segmentSizeBytes: this.#identity?.segmentSizeBytes ?? 0,
      postgresMajor: this.#identity?.major ?? 0,
      fileId: this.#files?.fileId ?? 0n,
      waitingFor: this.#waitingFor,
      lastError: this.#lastError,
      startUs: this.#startUs,
      backlogBytes: server !== undefined && server.end > durable ? server.end - durable : 0n,
      slotState: streaming?.slotState ?? '',
    });
  }

  #shownState(): string {
    if (this.#state === 'draining' || this.#state === 'ended') return 'STOPPING';
    return this.#start === undefined ? 'BEGINNING' : 'DOING';
  }
}

function inspectorFor(source: Source): ReturnType<typeof createLogInspector> {
  return createLogInspector({
    segmentSizeBytes: source.identity.segmentSizeBytes,
    timeline: source.from.timeline,
    systemIdentifier: source.identity.systemIdentifier,
    begin: source.from.lsn,
    collectTouches: true,
  });
}

function destinationOf(task: ArchiveTask): NonNullable<ArchiveTask['destination']> {
  if (task.destination !== undefined) return task.destination;
  throw new HoldfastError('INVALID_ARGUMENT', 'the archive task names no destination');
}

function position(point: LogPoint): LogPosition {
  return create(LogPositionSchema, { timeline: point.timeline, lsn: point.lsn });
}

function isPowerOfTwo(value: number): boolean {
  return (value & (value - 1)) === 0;
}

/** A store that hangs cannot be made to answer: some time after the signal its call is left behind. */
async function abandonable<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: abandoned, reject } = Promise.withResolvers<never>();
  let timer: NodeJS.Timeout | undefined;
  const onAbort = () => {
    timer = setTimeout(() => reject(toHoldfastError(signal.reason)), ABANDON_MS);
  };
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  try {
    return await Promise.race([work, abandoned]);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
    work.catch(() => undefined); // left behind, or reported already
  }
}
