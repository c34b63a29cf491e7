/**
 * The agents that are attached now: one session each. What they report is kept here only until the reconcile loop has put
 * it into the catalog; a result is put there before the next message is read.
 *
 * Hub invariants:
 * H1. At most one session per agent: a second Attach of the same agent ends the first.
 * H2. A session knows the tasks its agent has: those it declared and those it was sent.
 */
import { create } from '@bufbuild/protobuf';
import type { Clock } from '../../foundation/clock.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import {
  type AgentMessage,
  type CoordinatorMessage,
  CoordinatorMessageSchema,
  type Heartbeat,
  type TaskProgress,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import type { MessageStream } from '../../proto/grpc-service.ts';

export type AgentStream = MessageStream<AgentMessage, CoordinatorMessage>;

/** A message that waits longer than this for room in the stream ends the session. */
const WRITE_TIMEOUT_MS = 10_000;

export class AgentSession {
  readonly serverId: bigint;
  readonly attachedMs: number;
  readonly #stream: AgentStream;
  readonly #signal: AbortSignal;
  readonly #tasks = new Map<bigint, number>();
  #writes: Promise<void> = Promise.resolve();

  constructor(serverId: bigint, stream: AgentStream, signal: AbortSignal, attachedMs: number) {
    this.serverId = serverId;
    this.#stream = stream;
    this.#signal = signal;
    this.attachedMs = attachedMs;
  }

  hasTask(taskId: bigint, attempt: number): boolean {
    return this.#tasks.get(taskId) === attempt;
  }

  addTask(taskId: bigint, attempt: number): void {
    this.#tasks.set(taskId, attempt);
  }

  /** Of that attempt only: the result of an earlier one may come behind the dispatch of the next. */
  removeTask(taskId: bigint, attempt: number): void {
    if (this.hasTask(taskId, attempt)) this.#tasks.delete(taskId);
  }

  /** Messages go out in order. A failure ends the session; what was not sent is noticed by its absence (T3). */
  send(kind: CoordinatorMessage['kind']): void {
    const message = create(CoordinatorMessageSchema, { kind });
    this.#writes = this.#writeAfter(this.#writes, message);
  }

  async #writeAfter(earlier: Promise<void>, message: CoordinatorMessage): Promise<void> {
    await earlier;
    try {
      await this.#stream.write(
        message,
        AbortSignal.any([this.#signal, AbortSignal.timeout(WRITE_TIMEOUT_MS)]),
      );
    } catch {
      this.#stream.cancel();
    }
  }

  end(): void {
    this.#stream.cancel();
  }
}

export type ReportedProgress = {
  readonly attempt: number;
  readonly kind: TaskProgress['kind'];
};

export class AgentHub {
  readonly #clock: Clock;
  readonly #startedMs: number;
  readonly #sessions = new Map<bigint, AgentSession>();
  readonly #lastSeenMs = new Map<bigint, number>();
  #heartbeats = new Map<bigint, Heartbeat>();
  #progress = new Map<bigint, ReportedProgress>();

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#startedMs = clock.monotonicMs();
  }

  /** The agent of the server, if it is attached. */
  session(serverId: bigint): AgentSession | undefined {
    return this.#sessions.get(serverId);
  }

  attachedServers(): readonly bigint[] {
    return [...this.#sessions.keys()];
  }

  open(session: AgentSession): void {
    this.#sessions.get(session.serverId)?.end();
    this.#sessions.set(session.serverId, session);
    this.seen(session.serverId);
  }

  close(session: AgentSession): void {
    if (this.#sessions.get(session.serverId) === session) this.#sessions.delete(session.serverId);
  }

  seen(serverId: bigint): void {
    this.#lastSeenMs.set(serverId, this.#clock.monotonicMs());
  }

  /** How long nothing was heard of the server; counted from this coordinator's start when nothing ever was. */
  silentMs(serverId: bigint): number {
    return this.#clock.monotonicMs() - (this.#lastSeenMs.get(serverId) ?? this.#startedMs);
  }

  /** Sends to the server's agent. Throws AGENT_UNREACHABLE when it is not attached. */
  send(serverId: bigint, kind: CoordinatorMessage['kind']): void {
    const session = this.#sessions.get(serverId);
    if (session === undefined)
      throw new HoldfastError('AGENT_UNREACHABLE', `the agent of server ${serverId} is not attached`);
    session.send(kind);
  }

  reportHeartbeat(serverId: bigint, heartbeat: Heartbeat): void {
    this.#heartbeats.set(serverId, heartbeat);
  }

  reportProgress(progress: TaskProgress): void {
    this.#progress.set(progress.taskId, { attempt: progress.attempt, kind: progress.kind });
  }

  /** What was reported since the last call. */
  take(): {
    readonly heartbeats: ReadonlyMap<bigint, Heartbeat>;
    readonly progress: ReadonlyMap<bigint, ReportedProgress>;
  } {
    const taken = { heartbeats: this.#heartbeats, progress: this.#progress };
    this.#heartbeats = new Map();
    this.#progress = new Map();
    return taken;
  }

  endAll(): void {
    for (const session of this.#sessions.values()) session.end();
  }
}
