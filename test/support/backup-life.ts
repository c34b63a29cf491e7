/**
 * One deployment over its whole history: a real coordinator, real copies of a real server, an agent that archives a log in
 * which nothing is ever changed, and a destination that fails. Invariants 1 to 3 of backup-medium.test.ts are checked
 * after each backup.
 */
import { cp, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'vitest';
import { runBackupTask } from '../../agent/backup/run-backup-task.ts';
import { defined } from '../../foundation/assert.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import type { BackupProgress, BackupTask } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { BackupType, type PartitionGroupBackup } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { taskContext } from './backup-task.ts';
import { CoordinatorInTest } from './coordinator-in-test.ts';
import { FakeAgent } from './fake-agent.ts';
import { type Fault, FaultyMedium, seededPlan } from './faulty-medium.ts';
import type { TestServer } from './postgres.ts';
import { publishedSets, verifyPublished, WriteOnceFiles } from './published-sets.ts';
import type { Random } from './random.ts';

const TENANT = 1001n;
const { signal } = new AbortController();

export class BackupLife implements AsyncDisposable {
  readonly counts: Map<Fault, number>;
  readonly #server: TestServer;
  readonly #random: Random;
  readonly #plan: ReturnType<typeof seededPlan>;
  readonly #directory: string;
  readonly #destination: string;
  readonly #once: WriteOnceFiles;
  readonly #verified = new Map<bigint, BackupType>();
  readonly #did = new Map<string, number>();
  readonly #copies = new Set<Promise<unknown>>();
  readonly #end = new AbortController();
  #coordinator: CoordinatorInTest;
  #agent: FakeAgent;

  static async begin(server: TestServer, base: string, random: Random): Promise<BackupLife> {
    const plan = seededPlan(random, 0, 20);
    const directory = join(base, 'life');
    await mkdir(join(directory, 'destination'), { recursive: true });
    const coordinator = await CoordinatorInTest.start(join(directory, 'state'), plan);
    const [system] = await server.query<{ id: string }>(
      'SELECT system_identifier::text AS id FROM pg_control_system()',
    );
    const life = new BackupLife(server, random, plan, directory, coordinator, BigInt(system?.id ?? 0));
    const { context } = coordinator;
    await coordinator.until('the tenant', async () => context.hub.attachedServers().length === 1);
    await coordinator.run({
      kind: 'setParameter',
      name: 'backup_dest',
      value: `file://${directory}/destination`,
    });
    await life.#archive();
    await life.#settle();
    return life;
  }

  private constructor(
    server: TestServer,
    random: Random,
    plan: ReturnType<typeof seededPlan>,
    directory: string,
    coordinator: CoordinatorInTest,
    systemIdentifier: bigint,
  ) {
    this.#server = server;
    this.#random = random;
    this.#plan = plan;
    this.counts = plan.counts;
    this.#directory = directory;
    this.#destination = join(directory, 'destination');
    this.#once = new WriteOnceFiles(this.#destination);
    this.#coordinator = coordinator;
    this.#agent = new FakeAgent({
      address: `127.0.0.1:${coordinator.port}`,
      tenant: 'orders',
      token: 'shared',
      seals: true,
      systemIdentifier,
      copy: (task, report) => {
        const copying = this.#copy(task, report);
        this.#copies.add(copying);
        copying.catch(() => undefined).finally(() => this.#copies.delete(copying));
        return copying;
      },
    });
  }

  /** The real thing. An agent that is restarted leaves it running beside the next attempt's. */
  async #copy(task: BackupTask, report: (progress: BackupProgress) => void): Promise<PartitionGroupBackup> {
    const open = async (uri: string) => new FaultyMedium(await openMedium(uri), this.#plan);
    const one = { ...task, concurrency: 1 };
    const { backup } = await runBackupTask(
      taskContext(this.#server.port, open),
      { ...one, destinationWaitMs: 500 },
      report,
      this.#end.signal,
    );
    return { ...defined(backup, 'a copy'), systemIdentifier: 0n };
  }

  /** Published sets that were found whole. */
  get published(): number {
    return this.#verified.size;
  }

  /** Those of them that are increments. */
  get increments(): number {
    return [...this.#verified.values()].filter((type) => type === BackupType.INCREMENTAL).length;
  }

  summary(): string {
    const did = [...this.#did].map(([what, count]) => `${what} ${count}`).join(', ');
    return `${this.published} published sets, ${this.increments} of them increments; ${did}`;
  }

  async refusesAnotherServersCopy(): Promise<void> {
    const { copy } = this.#agent.options;
    this.#agent.options.copy = async (task) => ({
      ...(await defined(copy, 'a copy')(task, () => undefined)),
      systemIdentifier: 5n,
    });
    await this.#try('foreign copy', () => this.#backUp('full'));
    await this.#settle();
    this.#agent.options.copy = defined(copy, 'a copy');
    expect(await this.#coordinator.sets()).toMatchObject([{ bs_key: 1, status: 'FAILED' }]);
    await this.#check();
  }

  /** A backup, something that happens to it, peace, and then the invariants. */
  async liveThrough(): Promise<void> {
    this.#plan.rate = this.#random.next() * 0.5;
    const mode = this.#random.next() < 0.5 ? 'full' : 'incremental';
    await this.#try(`${mode} backup`, () => this.#backUp(mode));
    await sleep(this.#random.between(0, 1500));
    await this.#happen();
    await sleep(this.#random.between(0, 800));
    this.#plan.rate = 0;
    await this.#settle();
    await this.#check();
  }

  async #happen(): Promise<void> {
    const roll = this.#random.next();
    if (roll < 0.15) await this.#try('cancel', () => this.#cancel());
    else if (roll < 0.3) await this.#try('agent restart', () => this.#restartAgent());
    else if (roll < 0.45) await this.#try('coordinator restart', () => this.#restart(false));
    else if (roll < 0.6) await this.#try('catalog loss', () => this.#restart(true));
    else if (roll < 0.7) await this.#try('new round', () => this.#newRound());
  }

  async #try(what: string, act: () => Promise<unknown>): Promise<void> {
    this.#did.set(what, (this.#did.get(what) ?? 0) + 1);
    try {
      await act();
    } catch (error) {
      if (!(error instanceof HoldfastError) || error.code === 'INTERNAL') throw error;
    }
  }

  #backUp(mode: 'full' | 'incremental'): Promise<unknown> {
    return this.#coordinator.run({
      kind: 'backup',
      mode,
      tenants: 'all',
      plusArchivelog: false,
      wait: false,
    });
  }

  #cancel(): Promise<unknown> {
    return this.#coordinator.run({ kind: 'cancelBackup', tenants: 'all', force: false });
  }

  async #restartAgent(): Promise<void> {
    this.#agent.goAway();
    await this.#agent.forget();
    this.#agent.comeBack();
  }

  /** `robbed`: with the catalog as it was at the last restart. */
  async #restart(robbed: boolean): Promise<void> {
    const { port } = this.#coordinator;
    const state = join(this.#directory, 'state');
    const kept = join(this.#directory, 'state-before');
    await this.#coordinator[Symbol.asyncDispose]();
    const earlier = robbed && this.#did.has('coordinator restart');
    if (earlier) await rm(state, { recursive: true });
    else await rm(kept, { recursive: true, force: true });
    await cp(earlier ? kept : state, earlier ? state : kept, { recursive: true });
    this.#coordinator = await CoordinatorInTest.start(state, this.#plan, port);
  }

  async #newRound(): Promise<void> {
    await this.#coordinator.run({ kind: 'noArchiveLog', tenants: 'all' });
    await sleep(this.#random.between(0, 500));
    await this.#archive();
  }

  #archive(): Promise<unknown> {
    return this.#coordinator.run({ kind: 'archiveLog', tenants: 'all' });
  }

  /** Nothing runs any more but the archiving, which is begun again where it has ended. */
  async #settle(): Promise<void> {
    await this.#coordinator.until(
      'the end of every backup',
      async () => !(await this.#coordinator.isBackingUp()),
    );
    await this.#coordinator.until('a round that is DOING', async () => {
      const state = await this.#coordinator.roundState();
      if (state === 'STOP' || state === 'INTERRUPTED' || state === undefined)
        await this.#try('archive', () => this.#archive());
      return state === 'DOING';
    });
  }

  /** Invariants 1 to 3. */
  async #check(): Promise<void> {
    await this.#once.check();
    await using medium = await openMedium(`file://${this.#destination}`);
    const { root } = this.#coordinator.context;
    const infos = await publishedSets(medium, root, TENANT, signal);
    for (const info of infos) {
      if (this.#verified.has(info.backupSetId)) continue;
      expect(info.partitionGroups.length).toBe(1);
      const key = { tenantId: TENANT, fullSetId: info.fullSetId, setId: info.backupSetId };
      for (const backup of info.partitionGroups)
        await verifyPublished(medium, root, key, backup, info.round, signal);
      this.#verified.set(info.backupSetId, info.type);
    }
    const published = new Set(infos.map((info) => Number(info.backupSetId)));
    for (const row of await this.#coordinator.sets())
      if (row['status'] === 'SUCCESS') expect(published).toContain(row['bs_key']);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#plan.rate = 0;
    await this.#agent[Symbol.asyncDispose]();
    this.#end.abort(new HoldfastError('CANCELLED', 'the test ends it'));
    await Promise.allSettled(this.#copies);
    await this.#coordinator[Symbol.asyncDispose]();
  }
}
