/**
 * What every task function of the agent is given besides its task. A task function has the shape
 * `(context, task, report, signal) => Promise<result>`: `report` sends progress upward (at most once a second leaves
 * the agent; the newest wins), `signal` fires when the task is cancelled or its deadline has passed. It throws a
 * HoldfastError when the task failed.
 */
import type { Instance, InstanceConfig } from '../engine/engine.ts';
import type { Clock } from '../foundation/clock.ts';
import type { Logger } from '../foundation/log.ts';
import type { Lsn } from '../foundation/lsn.ts';
import type { CopyLimits } from '../proto/gen/holdfast/v1/agent_pb.ts';
import type { Medium } from '../storage-layout/media/medium.ts';

/** One instance of this node as the configuration (or a RESTORE on this node) declares it. */
export type DeclaredInstance = InstanceConfig & {
  /** Undefined: it belongs to nobody; it is watched, so that a copy of a member is seen, and does no task. */
  readonly tenant: string | undefined;
  readonly partitionGroup: string;
  /** Set when a RESTORE on this node made the instance. */
  readonly restoredTenantId: bigint | undefined;
};

export type RestoreSettings = {
  /** Where restored data directories are laid down: an existing or creatable directory. */
  readonly directory: string;
  /** Where `postgres` and `pg_ctl` of each major version are. */
  readonly binDirectories: ReadonlyMap<number, string>;
  /** Who the restored servers run as; undefined: whoever the agent is. */
  readonly runAs: { readonly uid: number; readonly gid: number } | undefined;
  /** Ports for restored servers, [begin, end). */
  readonly portRange: { readonly begin: number; readonly end: number };
  /** How the agent connects to what it restored. */
  readonly connect: { readonly host: string; readonly user: string; readonly database: string };
};

export type ServerIdentity = { readonly serverId: bigint; readonly ip: string; readonly port: number };

/** Orders that reach a running task, other than its cancellation. */
export type TaskControl = {
  /** Fires when the task is to finish what it has and end well (an archiver: flush, seal, end). */
  readonly drain: AbortSignal;
  /**
   * Calls `listener` for every FlushLog from now on, and at once for the highest ones that came before. `seal`: the log file
   * that ends there is to be sealed.
   */
  onFlushLog(listener: (lsn: Lsn, seal: boolean) => void): void;
  /** Calls `listener` for every LimitTask from now on, and at once for the last that came before. */
  onLimits(listener: (limits: CopyLimits) => void): void;
};

export type TaskContext = {
  readonly logger: Logger;
  readonly clock: Clock;
  /** Connects to a declared instance; the caller disposes it. INVALID_ARGUMENT when this agent declares none of that name. */
  instance(name: string, signal: AbortSignal): Promise<Instance>;
  instanceConfig(name: string): DeclaredInstance;
  /** The agent's own directory; a task that keeps files makes a directory of its own below it. */
  readonly stateDirectory: string;
  /** Undefined: this agent takes no restores. */
  readonly restore: RestoreSettings | undefined;
  readonly server: ServerIdentity;
  /** Opens destinations by URI; default: media/open.ts. Worker threads open their own by it. */
  readonly openMedium?: (uri: string, signal: AbortSignal) => Promise<Medium>;
  readonly control: TaskControl;
};
