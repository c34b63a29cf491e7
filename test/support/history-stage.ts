/**
 * A random history with all that a server goes through: a shop with a standby, a deployment that archives them, steps of
 * the history, the death of a server and its recovery, promotions, page checksums toggled while both are stopped.
 */
import { waitFor } from '../../cli/demo/wait.ts';
import { type Deployment, startDeployment } from './holdfast-processes.ts';
import { IncrementHistory } from './increment-history.ts';
import { disableChecksums, enableChecksums } from './page-checksums.ts';
import { type Major, startAgain, type TestServer } from './postgres.ts';
import type { Random } from './random.ts';
import { copyStandby, promote, standbysStream } from './replicas.ts';
import { beginArchiving, DATABASE, startShop, TENANT } from './scenario.ts';

type Progress = { readonly instance: string; readonly timeline: string; readonly status: string };

export class HistoryStage implements AsyncDisposable {
  readonly deployment: Deployment;
  readonly history: IncrementHistory;
  #leader: TestServer;
  #standby: TestServer;
  #timeline = 1;

  static async start(major: Major, random: Random): Promise<HistoryStage> {
    const { server: leader } = await startShop({ major, settings: { hot_standby: 'on' } });
    const history = await IncrementHistory.begin(leader, random, DATABASE);
    await leader.stop();
    const standby = await copyStandby(leader);
    for (const server of [leader, standby]) await server.start();
    await history.goOnAt(leader);
    const deployment = await startDeployment({
      servers: [leader, standby].map(({ port }) => ({ name: `i${port}`, tenant: TENANT, port })),
    });
    const stage = new HistoryStage(deployment, history, leader, standby);
    try {
      await beginArchiving(deployment);
      await standbysStream(leader, 1);
      return stage;
    } catch (error) {
      await stage[Symbol.asyncDispose]().catch(() => undefined); // the first error is the one to see
      throw error;
    }
  }

  private constructor(
    deployment: Deployment,
    history: IncrementHistory,
    leader: TestServer,
    standby: TestServer,
  ) {
    this.deployment = deployment;
    this.history = history;
    this.#leader = leader;
    this.#standby = standby;
  }

  /** The server that is backed up: another one after a promotion. */
  get leader(): TestServer {
    return this.#leader;
  }

  /** kill -9 of the leader in the middle of transactions; it starts again by itself. */
  async crash(): Promise<void> {
    const unfinished = await this.history.leaveUnfinished();
    await this.#leader.kill();
    await startAgain(this.#leader);
    await unfinished.end().catch(() => undefined); // it is gone with its server
    await this.history.goOnAt(this.#leader);
    await standbysStream(this.#leader, 1);
    await this.#isArchived();
  }

  /** kill -9 of the leader, whose standby has all that was committed and is promoted; another takes the dead one's place. */
  async promote(): Promise<void> {
    const dead = this.#leader;
    const unfinished = await this.history.leaveUnfinished();
    await this.#standbyCatchesUp();
    await dead.kill();
    await promote(this.#standby);
    this.#leader = this.#standby;
    this.#timeline += 1;
    await unfinished.end().catch(() => undefined); // it is gone with its server
    await dead[Symbol.asyncDispose]();
    await this.history.goOnAt(this.#leader);
    await this.#isArchived();
    await this.#leader.stop();
    this.#standby = await copyStandby(this.#leader, dead.port);
    await this.#startBoth();
  }

  /** Offline, on both. */
  async toggleChecksums(to: 'on' | 'off'): Promise<void> {
    const servers = [this.#leader, this.#standby];
    for (const server of servers) await server.stop();
    for (const { dataDirectory } of servers)
      await (to === 'on' ? enableChecksums : disableChecksums)(dataDirectory);
    await this.#startBoth();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.history.end().catch(() => undefined); // its server may be gone
    try {
      await this.deployment[Symbol.asyncDispose]();
    } finally {
      for (const server of [this.#standby, this.#leader]) await server[Symbol.asyncDispose]();
    }
  }

  async #startBoth(): Promise<void> {
    for (const server of [this.#leader, this.#standby]) await server.start();
    await this.history.goOnAt(this.#leader);
    await standbysStream(this.#leader, 1);
    await this.#isArchived();
  }

  async #standbyCatchesUp(): Promise<void> {
    const [row] = await this.#leader.query<{ lsn: string }>('SELECT pg_current_wal_flush_lsn()::text AS lsn');
    await waitFor(
      async () => {
        const [reached] = await this.#standby.query<{ done: boolean }>(
          `SELECT pg_last_wal_replay_lsn() >= '${row?.lsn}' AS done`,
        );
        return reached?.done === true ? true : undefined;
      },
      { what: 'the standby to catch up', timeoutMs: 60_000 },
    );
  }

  /** By the leader's archiver, on its timeline. */
  async #isArchived(): Promise<void> {
    await this.deployment.waitForRow<Progress>(
      'SELECT instance, timeline, status FROM CDB_OB_BACKUP_ARCHIVELOG_PROGRESS',
      ({ instance, timeline, status }) =>
        instance === `i${this.#leader.port}` && Number(timeline) >= this.#timeline && status === 'DOING',
      120_000,
    );
  }
}
