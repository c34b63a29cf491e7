/**
 * The archiver of one partition group: runs the state machine of states.ts. All it knows for sure it reads at the
 * destination, each time anew; what it keeps here is for its progress only.
 */
import { create } from '@bufbuild/protobuf';
import type { InstanceIdentity, LogPoint } from '../../engine/engine.ts';
import { connectInstance } from '../../engine/postgres/engine.ts';
import { createLogInspector } from '../../engine/postgres/wal/inspector.ts';
import { defined } from '../../foundation/assert.ts';
import {
  formatError,
  type HoldfastError,
  isError,
  isOfDestination,
  toHoldfastError,
} from '../../foundation/errors.ts';
import type { Lsn } from '../../foundation/lsn.ts';
import {
  type ArchiveProgress,
  ArchiveProgressSchema,
  type ArchiveResult,
  ArchiveResultSchema,
  type ArchiveTask,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { type LogHole, type LogPosition, LogPositionSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { AbandonedLogFile } from '../../storage-layout/clog/log-file.ts';
import { parseCompression } from '../../storage-layout/macroblock/compress.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { withDataKeys } from '../../storage-layout/media/with-keys.ts';
import { dataKeysOf } from '../data-keys.ts';
import { checkMountFile } from '../mount-file.ts';
import type { TaskContext } from '../task-context.ts';
import { abandonable } from './abandonable.ts';
import { noteInClogInfo } from './clog-info.ts';
import { dropSlot } from './drop-slot.ts';
import { type FileSequenceOptions, LogFileSequence } from './file-sequence.ts';
import { describeHole, findResumption, type Resumption } from './hole.ts';
import { keepLookout, type Sight } from './lookout.ts';
import { destinationOf, type LogPlace, placeOf } from './place.ts';
import { backoffMs, type Checkpoint, NO_CHECKPOINT } from './policy.ts';
import { describeReach, failReach, lookAtReach, type Reach } from './reach.ts';
import { inspectorFor, openSource, readServer, type Source } from './source.ts';
import { type ArchiverEvent, type ArchiverState, classifyFailure, nextState } from './states.ts';
import { Streaming } from './streaming.ts';
import { type LogSoFar, refuseNewerEpoch, takeOver } from './takeover.ts';

const CLOG_INFO_MS = 10_000;
const MEASURE_HOLE_MS = 10_000;
/**
 * A share that is mounted again within this time costs nothing. After it the medium counts as another one, and what was
 * archived of the round as lost.
 */
export const MOUNT_FILE_GRACE_MS = 30_000;

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

const DESTINATION = 'the destination';

class Archiver {
  readonly #context: TaskContext;
  readonly #task: ArchiveTask;
  readonly #report: (progress: ArchiveProgress) => void;
  #state: ArchiverState = 'opening';
  #failures = 0;
  /** Monotonic; since when the mount_file is missing. */
  #unmountedMs: number | undefined;
  #lastError = '';
  #waitingFor = '';
  /** Monotonic; since when it waits for that. */
  #waitingSinceMs = 0;
  #reach: Reach = { kind: 'unknown' };
  /** Monotonic; since when the session streams. */
  #streamingSinceMs: number | undefined;
  #identity: InstanceIdentity | undefined;
  #startUs = 0n;
  #start: LogPoint | undefined;
  #durable: LogPoint | undefined;
  /** What was read at the destination; it counts as durable when it is sealed. */
  #found: { readonly end: LogPoint; readonly checkpointUs: bigint } | undefined;
  #checkpoint: Checkpoint = NO_CHECKPOINT;
  #asked = { flushUpTo: NO_CHECKPOINT.lsn, sealUpTo: NO_CHECKPOINT.lsn };
  #streaming: Streaming | undefined;
  #files: LogFileSequence | undefined;
  #sight: Sight | undefined;
  /** Fires when the server has given up what is due next. */
  readonly #logGone = new AbortController();
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
    this.#context.control.onFlushLog((lsn, seal) => this.#flush(lsn, seal));
    const lookoutScope = new AbortController();
    const watching = this.#keepLookout(AbortSignal.any([signal, lookoutScope.signal]));
    try {
      return await this.#archive(signal);
    } finally {
      lookoutScope.abort();
      await watching;
    }
  }

  async #archive(signal: AbortSignal): Promise<ArchiveResult> {
    const { control, clock } = this.#context;
    // What is gone from the server ends the waiting for the destination too.
    const live = AbortSignal.any([signal, this.#logGone.signal]);
    for (;;) {
      try {
        live.throwIfAborted();
        await abandonable(this.#session(live), live);
        if (this.#state === 'streaming' && !control.drain.aborted) {
          this.#step('timelineEnded');
          continue;
        }
        this.#step(this.#state === 'draining' ? 'drained' : 'drain');
        return await this.#endDrained(signal);
      } catch (error) {
        const gone = this.#logGone.signal.aborted && this.#state !== 'draining';
        const ended = await this.#fail(gone ? this.#logGone.signal.reason : error, signal);
        if (ended !== undefined) return ended;
      }
      await clock
        .sleep(backoffMs(this.#failures), AbortSignal.any([live, control.drain]))
        .catch(() => undefined);
      signal.throwIfAborted();
      if (control.drain.aborted) {
        this.#step('drain');
        return await this.#endDrained(signal);
      }
      this.#step('waited');
    }
  }

  /** Never rejects. */
  async #keepLookout(signal: AbortSignal): Promise<void> {
    try {
      await keepLookout(
        {
          connect: (it) => connectInstance(this.#context.instanceConfig(this.#task.instance), it),
          slotName: this.#task.slotName,
          clock: this.#context.clock,
          due: () => (this.#state === 'waiting' || this.#state === 'opening' ? this.#durable : undefined),
          seen: (sight) => {
            this.#sight = sight;
            this.#streaming?.setSynchronous(sight.synchronous);
            this.#lookAtDestination();
            this.#report(this.#progress());
          },
        },
        signal,
      );
    } catch (error) {
      this.#logGone.abort(error);
    }
  }

  /** From `opening` to the end of `streaming`. Resolves when it was drained, or when the timeline was at its end. */
  async #session(signal: AbortSignal): Promise<void> {
    const { control } = this.#context;
    const begin = AbortSignal.any([signal, control.drain]);
    try {
      this.#waitFor(DESTINATION);
      const open = this.#context.openMedium ?? openMedium;
      const destination = destinationOf(this.#task);
      await using medium = withDataKeys(await open(destination.uri, begin), dataKeysOf(destination));
      const place = placeOf(this.#task, medium);
      await checkMountFile(place, begin);
      this.#unmountedMs = undefined;
      this.#step('opened');
      this.#waitFor(`instance ${this.#task.instance}`);
      await using instance = await connectInstance(this.#context.instanceConfig(this.#task.instance), begin);
      const server = await readServer(instance, begin);
      this.#waitFor(DESTINATION);
      const { lastFileId, lastEpoch, log, seal, promise } = await takeOver(
        place,
        createLogInspector,
        begin,
        this.#abandoned,
        { ...server.identity, lineage: server.lineage },
      );
      refuseNewerEpoch(lastEpoch, this.#task.epoch);
      if (log !== undefined) {
        this.#start = log.start;
        this.#found = {
          end: { timeline: log.timeline, lsn: log.end },
          checkpointUs: log.checkpoint?.timeUs ?? 0n,
        };
      }
      // A round that had begun is never begun anew: when its log is gone, that is a hole.
      const fresh = log === undefined && this.#start === undefined && this.#task.fresh;
      const { slotName, expectedSystemIdentifier } = this.#task;
      const order = { slotName, expectedSystemIdentifier, fresh };
      this.#waitFor(`instance ${this.#task.instance}`);
      const source = await openSource(instance, server, place, log, order, begin);
      await using stream = source.stream;
      // The slot is ours: nobody else's bytes are acknowledged from now on, so what is there now is all that may count.
      this.#waitFor(DESTINATION);
      await seal(begin);
      this.#abandoned.length = 0;
      if (log !== undefined) {
        this.#countLogSoFar(log);
        // A commit that waits for these bytes may have nothing behind it that would be streamed and acknowledged.
        stream.acknowledge(source.from.lsn);
      }
      const unbroken = await promise(source.from, this.#task.epoch, begin);
      await using files = this.#openFiles(place, source, { lastFileId, unbroken }, log);
      await this.#noteServer(place, source, signal);
      this.#identity = source.identity;
      if (this.#startUs === 0n) this.#startUs = source.identity.clockUs;
      this.#files = files;
      this.#streaming = new Streaming({
        instance,
        stream,
        inspector: log?.inspector ?? inspectorFor(source),
        files,
        checkpointIntervalMs: Math.max(100, this.#task.checkpointIntervalMs),
        clock: this.#context.clock,
        // Positions that were polled before may be another timeline's.
        checkpoint: { ...this.#checkpoint, candidates: [] },
        ...this.#asked,
        synchronous: this.#sight?.synchronous ?? false,
        until: log?.until,
        drain: control.drain,
        changed: () => this.#streamed(source.from),
      });
      this.#step('streaming');
      this.#waitFor('');
      this.#streamingSinceMs = this.#context.clock.monotonicMs();
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

  #openFiles(
    place: LogPlace,
    source: Source,
    { lastFileId, unbroken }: Pick<FileSequenceOptions, 'lastFileId' | 'unbroken'>,
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
      unbroken,
      maxCommitUs: log?.maxCommitUs,
    });
  }

  #countLogSoFar(log: LogSoFar): void {
    // Times of another timeline say nothing of this one: behind the fork it was another server's clock and commits.
    if (this.#durable !== undefined && this.#durable.timeline !== log.timeline)
      this.#checkpoint = NO_CHECKPOINT;
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

  #waitFor(what: string): void {
    this.#waitingFor = what;
    this.#waitingSinceMs = this.#context.clock.monotonicMs();
  }

  #lookAtDestination(): void {
    const nowMs = this.#context.clock.monotonicMs();
    const atDestination = this.#waitingFor === DESTINATION && this.#state !== 'waiting';
    this.#reach = lookAtReach(this.#reach, {
      callMs: this.#streaming?.callMs ?? 0,
      openingMs: atDestination ? nowMs - this.#waitingSinceMs : 0,
      streamedMs: this.#streamingSinceMs === undefined ? 0 : nowMs - this.#streamingSinceMs,
      nowUs: this.#context.clock.nowUs(),
    });
  }

  #closeSession(): void {
    this.#streamingSinceMs = undefined;
    this.#inputBytes += this.#streaming?.inputBytes ?? 0;
    this.#outputBytes += this.#files?.outputBytes ?? 0;
    if (this.#files?.abandoned !== undefined) this.#abandoned.push(this.#files.abandoned);
    this.#streaming = undefined;
    this.#files = undefined;
  }

  #flush(lsn: Lsn, seal: boolean): void {
    if (lsn > this.#asked.flushUpTo) this.#asked.flushUpTo = lsn;
    if (seal && lsn > this.#asked.sealUpTo) this.#asked.sealUpTo = lsn;
    this.#streaming?.flush(lsn, seal);
  }

  /** The result, when the archiver ends by this error; undefined: try again. Throws when the attempt is over. */
  async #fail(error: unknown, signal: AbortSignal): Promise<ArchiveResult | undefined> {
    signal.throwIfAborted();
    const failure = toHoldfastError(error);
    const { logger, clock } = this.#context;
    this.#lastError = formatError(failure);
    if (isOfDestination(failure)) {
      this.#reach = failReach(this.#reach, clock.nowUs());
      this.#waitFor(DESTINATION);
    }
    if (this.#state === 'draining') {
      logger.warn({ err: failure }, 'not all that was received could be archived before the end');
      this.#step('failed');
      return await this.#endDrained(signal);
    }
    const kind = this.#isAnotherMedium(failure) ? 'interrupted' : classifyFailure(failure);
    if (kind === 'fatal') throw error;
    if (kind === 'interrupted') {
      logger.error({ err: failure }, 'log archive interrupted');
      const hole = await this.#findHole(failure, signal);
      this.#step('interrupted');
      return create(ArchiveResultSchema, {
        final: this.#progress(),
        interruptedReason: this.#lastError,
        hole,
      });
    }
    this.#failures += 1;
    if (isPowerOfTwo(this.#failures))
      logger.warn({ err: failure, failures: this.#failures }, 'archiving waits');
    this.#step('failed');
    return undefined;
  }

  /** True when the mount_file of a round that had begun was missing for too long. */
  #isAnotherMedium(failure: HoldfastError): boolean {
    if (failure.code !== 'BACKUP_MOUNT_FILE_NOT_VALID') return false;
    const nowMs = this.#context.clock.monotonicMs();
    this.#unmountedMs ??= nowMs;
    const begun = this.#start !== undefined || !this.#task.fresh;
    return begun && nowMs - this.#unmountedMs >= MOUNT_FILE_GRACE_MS;
  }

  async #findHole(failure: HoldfastError, signal: AbortSignal): Promise<LogHole> {
    const { instance, slotName, newRoundFollows } = this.#task;
    const limit = AbortSignal.any([signal, AbortSignal.timeout(MEASURE_HOLE_MS)]);
    const expectedSystemIdentifier = this.#identity?.systemIdentifier ?? this.#task.expectedSystemIdentifier;
    let resumption: Resumption | undefined;
    try {
      await using server = await connectInstance(this.#context.instanceConfig(instance), limit);
      const order = { slotName, expectedSystemIdentifier, newRoundFollows };
      resumption = await findResumption(server, order, limit);
    } catch (error) {
      signal.throwIfAborted();
      this.#context.logger.warn({ err: error }, 'where the log can go on is not known');
    }
    // With the medium all that the round had archived is lost: the coordinator knows where that began.
    if (failure.code === 'BACKUP_MOUNT_FILE_NOT_VALID')
      return describeHole(undefined, 0n, resumption, this.#lastError);
    const archived = this.#durable ?? this.#found?.end;
    const foundUs = this.#found?.checkpointUs ?? 0n;
    const checkpointUs = this.#checkpoint.timeUs > foundUs ? this.#checkpoint.timeUs : foundUs;
    return describeHole(archived, checkpointUs, resumption, this.#lastError);
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
    const connect = (it: AbortSignal) => connectInstance(this.#context.instanceConfig(instance), it);
    const failure = await dropSlot(connect, slotName, this.#context.clock, signal);
    if (failure === undefined) return;
    this.#lastError = `replication slot "${slotName}" could not be dropped: ${failure.message}`;
    this.#context.logger.warn(
      { err: failure, slotName, instance },
      'the slot stays: it keeps log on the server until it is dropped there',
    );
  }

  #step(event: ArchiverEvent): void {
    const before = this.#state;
    this.#state = nextState(before, event);
    this.#context.logger.debug({ before, event, state: this.#state }, 'archiver');
    this.#report(this.#progress());
  }

  #progress(): ArchiveProgress {
    const streaming = this.#streaming;
    const sight = this.#sight;
    const server = streaming?.server ?? { end: sight?.serverEnd ?? 0n, clockUs: sight?.serverClockUs ?? 0n };
    const durable = this.#durable?.lsn ?? 0n;
    return create(ArchiveProgressSchema, {
      state: this.#shownState(),
      ...(this.#start === undefined ? {} : { start: position(this.#start) }),
      ...(this.#durable === undefined ? {} : { durable: position(this.#durable) }),
      checkpointUs: this.#checkpoint.timeUs,
      serverLsn: server.end,
      serverUs: server.clockUs,
      inputBytes: BigInt(this.#inputBytes + (streaming?.inputBytes ?? 0)),
      outputBytes: BigInt(this.#outputBytes + (this.#files?.outputBytes ?? 0)),
      systemIdentifier: this.#identity?.systemIdentifier ?? 0n,
      segmentSizeBytes: this.#identity?.segmentSizeBytes ?? 0,
      postgresMajor: this.#identity?.major ?? 0,
      fileId: this.#files?.fileId ?? 0n,
      waitingFor: this.#waitingFor,
      lastError: this.#lastError,
      startUs: this.#startUs,
      backlogBytes: durable > 0n && server.end > durable ? server.end - durable : 0n,
      slotState: sight?.slotState ?? '',
      slotRetainedBytes: sight?.slotRetainedBytes ?? 0n,
      walFreeBytes: sight?.logDiskFreeBytes ?? 0n,
      timeline: this.#durable?.timeline ?? 0,
      ...describeReach(this.#reach),
    });
  }

  #shownState(): string {
    if (this.#state === 'draining' || this.#state === 'ended') return 'STOPPING';
    return this.#start === undefined ? 'BEGINNING' : 'DOING';
  }
}

function position(point: LogPoint): LogPosition {
  return create(LogPositionSchema, { timeline: point.timeline, lsn: point.lsn });
}

function isPowerOfTwo(value: number): boolean {
  return (value & (value - 1)) === 0;
}
