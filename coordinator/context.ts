/** What every part of the coordinator works with. One per running coordinator; nothing in it is global. */
import type { Clock } from '../foundation/clock.ts';
import type { Logger } from '../foundation/log.ts';
import type { TreeRoot } from '../storage-layout/tree.ts';
import type { AgentHub } from './agents/hub.ts';
import type { Catalog, Queryable } from './catalog/catalog.ts';
import type { Deployment } from './catalog/deployment.ts';
import { type NewEvent, recordEvent } from './catalog/events.ts';
import type { Destinations } from './destination/destinations.ts';
import type { ChangeBus } from './events/bus.ts';
import type { SecretBox } from './parameters/secrets.ts';

export type Timing = {
  /** An agent that was silent for longer is lost, and its tasks with it. */
  readonly agentLeaseMs: number;
  /** How often an agent is asked to say that it lives. */
  readonly heartbeatIntervalMs: number;
  /** The reconcile loop runs at least this often. */
  readonly reconcileIntervalMs: number;
  /** How long a statement waits for the agents' checks. */
  readonly checkTimeoutMs: number;
  /** How long NOARCHIVELOG and CANCEL wait for agents before they go on without. */
  readonly stopTimeoutMs: number;
  /** How long a backup waits for its log at the destination. */
  readonly logWaitTimeoutMs: number;
  /** How long one step at the destination may take. */
  readonly stepTimeoutMs: number;
};

export const DEFAULT_TIMING: Timing = {
  agentLeaseMs: 15_000,
  heartbeatIntervalMs: 1000,
  reconcileIntervalMs: 500,
  checkTimeoutMs: 30_000,
  stopTimeoutMs: 60_000,
  logWaitTimeoutMs: 600_000,
  stepTimeoutMs: 120_000,
};

export type CoordinatorContext = {
  readonly catalog: Catalog;
  readonly epoch: bigint;
  readonly deployment: Deployment;
  readonly root: TreeRoot;
  readonly destinations: Destinations;
  readonly secrets: SecretBox;
  readonly hub: AgentHub;
  readonly bus: ChangeBus;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly timing: Timing;
  /** The coordinator's own directory on this machine. */
  readonly dataDirectory: string;
  /** The key file that wraps and opens data keys; undefined: none is configured. Read whenever it is needed. */
  readonly keyFile?: string | undefined;
};

export type Transaction = Queryable & {
  /** Records an event in this transaction. */
  event(event: NewEvent): Promise<void>;
  readonly nowUs: bigint;
};

/** A writing transaction with the time and events at hand; wakes whoever waits for a change when it has committed. */
export async function write<T>(
  context: CoordinatorContext,
  run: (tx: Transaction) => Promise<T>,
): Promise<T> {
  const nowUs = context.clock.nowUs();
  const result = await context.catalog.transaction((queryable) =>
    run({
      query: (sql, values) => queryable.query(sql, values),
      event: (event) => recordEvent(queryable, event, nowUs),
      nowUs,
    }),
  );
  context.bus.notify();
  return result;
}
