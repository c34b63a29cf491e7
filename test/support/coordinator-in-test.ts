/** A whole coordinator without its SQL front end, in this process, over a medium that may fail. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type GrpcServer, startGrpcServer } from '../../coordinator/agents/grpc-server.ts';
import { executeCommand } from '../../coordinator/commands/execute.ts';
import type { CoordinatorContext } from '../../coordinator/context.ts';
import { Destinations } from '../../coordinator/destination/destinations.ts';
import { reconcileForever } from '../../coordinator/jobs/reconcile.ts';
import { type OpenCoordinator, openCoordinator } from '../../coordinator/open.ts';
import { createSession } from '../../coordinator/sql/session.ts';
import type { AdminStatement } from '../../coordinator/sql/statements.ts';
import { type Clock, systemClock } from '../../foundation/clock.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { silentLogger } from '../../foundation/log.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { seedStateDirectory } from './catalog-template.ts';
import { type FaultPlan, FaultyMedium } from './faulty-medium.ts';

const { signal } = new AbortController();
/** Back-off is not what is tested: monotonic time passes five times as fast. */
const IMPATIENT_CLOCK: Clock = {
  ...systemClock,
  monotonicMs: () => systemClock.monotonicMs() * 5,
  sleep: (durationMs, abort) => systemClock.sleep(durationMs / 5, abort),
};
const UNTIL_MS = 40_000;
const NO_FAULTS: FaultPlan = { next: () => undefined };

/** Each time a new medium around the same store: one that was killed is opened again. */
class FaultyDestinations extends Destinations {
  readonly #plan: FaultPlan;

  constructor(plan: FaultPlan) {
    super();
    this.#plan = plan;
  }

  override async open(uri: string, abort: AbortSignal): Promise<Medium> {
    return new FaultyMedium(await super.open(uri, abort), this.#plan);
  }
}

export class CoordinatorInTest implements AsyncDisposable {
  readonly context: CoordinatorContext;
  readonly port: number;
  readonly #opened: OpenCoordinator;
  readonly #server: GrpcServer;
  readonly #stop: AbortController;
  readonly #loop: Promise<void>;

  static async start(
    stateDirectory: string,
    plan: FaultPlan = NO_FAULTS,
    port = 0,
  ): Promise<CoordinatorInTest> {
    await seedStateDirectory(stateDirectory);
    const opened = await openCoordinator({
      clusterName: 'c',
      clusterId: 1n,
      stateDirectory,
      catalogUrl: undefined,
      logger: silentLogger(),
      clock: IMPATIENT_CLOCK,
      timing: { agentLeaseMs: 50_000, stopTimeoutMs: 1500, reconcileIntervalMs: 100 },
    });
    const destinations = new FaultyDestinations(plan);
    const context = { ...opened.context, destinations };
    const stop = new AbortController();
    const loop = reconcileForever(context, stop.signal);
    const server = await startGrpcServer(context, {
      host: '127.0.0.1',
      port,
      agentToken: 'shared',
      admin: {
        // oxlint-disable-next-line require-yield
        execute: async function* () {
          throw new HoldfastError('NOT_SUPPORTED', 'not in this test');
        },
        // oxlint-disable-next-line require-yield
        watchEvents: async function* () {
          throw new HoldfastError('NOT_SUPPORTED', 'not in this test');
        },
      },
    });
    return new CoordinatorInTest(context, opened, server, stop, loop);
  }

  private constructor(
    context: CoordinatorContext,
    opened: OpenCoordinator,
    server: GrpcServer,
    stop: AbortController,
    loop: Promise<void>,
  ) {
    this.context = context;
    this.port = server.port;
    this.#opened = opened;
    this.#server = server;
    this.#stop = stop;
    this.#loop = loop;
    loop.catch(() => undefined); // awaited when it is disposed
  }

  /** Executes one statement to its end. */
  async run(statement: AdminStatement): Promise<void> {
    for await (const _ of executeCommand(this.context, statement, createSession('root'), signal));
  }

  async view(name: string): Promise<Record<string, unknown>[]> {
    return JSON.parse(await this.context.catalog.readView(name, signal)) as Record<string, unknown>[];
  }

  sets(): Promise<Record<string, unknown>[]> {
    return this.view('cdb_ob_backup_set_files');
  }

  async isBackingUp(): Promise<boolean> {
    const rows = await this.context.catalog.query(
      "SELECT job_id FROM holdfast.jobs WHERE kind = 'BACKUP' AND NOT final",
    );
    return rows.length > 0;
  }

  /** Of the newest round. */
  async roundState(): Promise<string | undefined> {
    const rows = await this.context.catalog.query<{ state: string }>(
      'SELECT state FROM holdfast.rounds ORDER BY round DESC LIMIT 1',
    );
    return rows[0]?.state;
  }

  /** Throws, with what happened last, when `look` does not come true. */
  async until(what: string, look: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + UNTIL_MS;
    while (!(await look())) {
      if (performance.now() > deadline) {
        const events = (await this.view('cdb_ob_event_history')).slice(-12);
        const jobs = await this.context.catalog.query(
          "SELECT kind, state, comment, error_code FROM holdfast.jobs WHERE NOT final OR kind = 'BACKUP' ORDER BY job_id DESC LIMIT 4",
        );
        throw new Error(`never came: ${what}; ${JSON.stringify({ jobs, events })}`);
      }
      await sleep(30);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server[Symbol.asyncDispose]();
    this.#stop.abort(new HoldfastError('SHUTTING_DOWN', 'the test ends it'));
    await this.#loop.catch((error: unknown) => {
      if (!(error instanceof HoldfastError)) throw error; // replaced, as the test wanted
    });
    await this.context.destinations[Symbol.asyncDispose]();
    await this.#opened[Symbol.asyncDispose]();
  }
}
