import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { serveEvents } from '../../../coordinator/agents/admin-service.ts';
import { type GrpcServer, startGrpcServer } from '../../../coordinator/agents/grpc-server.ts';
import { findJob, listTasks } from '../../../coordinator/catalog/jobs.ts';
import { executeCommand } from '../../../coordinator/commands/execute.ts';
import type { CoordinatorContext } from '../../../coordinator/context.ts';
import { watchEvents } from '../../../coordinator/events/bus.ts';
import { reconcileForever } from '../../../coordinator/jobs/reconcile.ts';
import { openCoordinator } from '../../../coordinator/open.ts';
import { makeCredentials } from '../../../coordinator/sql/credentials.ts';
import type { SqlValue } from '../../../coordinator/sql/results.ts';
import { createSession } from '../../../coordinator/sql/session.ts';
import type { AdminStatement } from '../../../coordinator/sql/statements.ts';
import { HoldfastError } from '../../../foundation/errors.ts';
import { silentLogger } from '../../../foundation/log.ts';
import { AdminService, WatchEventsRequestSchema } from '../../../proto/gen/holdfast/v1/admin_pb.ts';
import { BackupInfoSchema, RoundEndSchema, RoundState } from '../../../proto/gen/holdfast/v1/records_pb.ts';
import { makeClient } from '../../../proto/grpc-service.ts';
import { openMedium } from '../../../storage-layout/media/open.ts';
import { readInfo } from '../../../storage-layout/records/info-file.ts';
import { tree } from '../../../storage-layout/tree.ts';
import { seedStateDirectory } from '../../support/catalog-template.ts';
import { FakeAgent } from '../../support/fake-agent.ts';

const { signal } = new AbortController();
const ROOT = { clusterName: 'c', clusterId: 1n };
const TENANT = 1001n;

type Running = AsyncDisposable & { readonly context: CoordinatorContext; readonly port: number };

let directory: string;
let coordinator: Running;
let agent: FakeAgent;

/** A whole coordinator without its SQL front end. */
async function start(port: number): Promise<Running> {
  const stop = new AbortController();
  await seedStateDirectory(join(directory, 'state'));
  const opened = await openCoordinator({
    ...ROOT,
    stateDirectory: join(directory, 'state'),
    catalogUrl: undefined,
    logger: silentLogger(),
    timing: { agentLeaseMs: 10_000, stopTimeoutMs: 1500, reconcileIntervalMs: 100 },
  });
  const loop = reconcileForever(opened.context, stop.signal);
  const credentials = await makeCredentials([{ user: 'root', password: 'secret' }]);
  const server: GrpcServer = await startGrpcServer(opened.context, {
    host: '127.0.0.1',
    port,
    agentToken: 'shared',
    admin: {
      // oxlint-disable-next-line require-yield
      execute: async function* () {
        throw new HoldfastError('NOT_SUPPORTED', 'not in this test');
      },
      watchEvents: (request, callSignal) => serveEvents(opened.context, credentials, request, callSignal),
    },
  });
  return {
    context: opened.context,
    port: server.port,
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
      stop.abort(new HoldfastError('SHUTTING_DOWN', 'the test ends it'));
      await loop;
      await opened[Symbol.asyncDispose]();
    },
  };
}

async function run(
  statement: AdminStatement,
  context = coordinator.context,
): Promise<{ notices: string[]; rows: SqlValue[][] }> {
  const notices: string[] = [];
  const rows: SqlValue[][] = [];
  for await (const event of executeCommand(context, statement, createSession('root'), signal)) {
    if (event.kind === 'notice') notices.push(event.message);
    if (event.kind === 'row') rows.push([...event.values]);
  }
  return { notices, rows };
}

const BACKUP = { kind: 'backup', mode: 'full', tenants: 'all', plusArchivelog: false, wait: false } as const;

async function view(name: string): Promise<Record<string, unknown>[]> {
  return JSON.parse(await coordinator.context.catalog.readView(name, signal)) as Record<string, unknown>[];
}

async function until<T>(what: string, look: () => Promise<T | undefined | false>): Promise<T> {
  const deadline = Date.now() + 50_000;
  for (;;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (Date.now() > deadline)
      throw new Error(
        `never came: ${what}; events: ${JSON.stringify(await view('cdb_ob_event_history'), undefined, 1).slice(-3000)}`,
      );
    await sleep(30);
  }
}

async function roundIs(status: string): Promise<Record<string, unknown>> {
  return await until(`a round that is ${status}`, async () => {
    const [row] = await view('cdb_ob_backup_archivelog');
    return row?.['status'] === status ? row : undefined;
  });
}

function jobIn(notices: readonly string[]): bigint {
  return BigInt(/job (\d+)/.exec(notices.join('\n'))?.[1] ?? 0);
}

async function ended(jobId: bigint): Promise<string> {
  return await until(`the end of job ${jobId}`, async () => {
    const job = await findJob(coordinator.context.catalog, jobId);
    return job?.final === true ? job.state : undefined;
  });
}

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-coordinator-'));
  await mkdir(join(directory, 'dest'));
  coordinator = await start(0);
  agent = new FakeAgent({ address: `127.0.0.1:${coordinator.port}`, tenant: 'orders', token: 'shared' });
}, 120_000);

afterAll(async () => {
  await agent?.[Symbol.asyncDispose]();
  await coordinator?.[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
}, 60_000);

describe('a coordinator with one agent', () => {
  test('an agent with another token is refused', async () => {
    await using stranger = new FakeAgent({
      address: `127.0.0.1:${coordinator.port}`,
      tenant: 'x',
      token: 'wrong',
    });
    expect(await until('the refusal', async () => stranger.refusal)).toMatchObject({ code: 'PRIVILEGE' });
  });

  test('the declared tenant appears, with its leader', async () => {
    await until('a leader', async () =>
      (await view('dba_ob_partition_groups')).find((row) => row['role'] === 'LEADER'),
    );
    expect(await view('dba_ob_tenants')).toMatchObject([
      { tenant_id: 1001, tenant_name: 'orders', status: 'NORMAL' },
    ]);
    expect(await view('dba_ob_servers')).toMatchObject([{ status: 'ACTIVE', zone: 'zone1' }]);
  });

  test('without a destination ARCHIVELOG is refused with OB-9026, NOARCHIVELOG with OB-9024, BACKUP with OB-9026', async () => {
    await expect(run({ kind: 'archiveLog', tenants: 'all' })).rejects.toMatchObject({
      code: 'INVALID_BACKUP_DEST',
    });
    await expect(run({ kind: 'noArchiveLog', tenants: 'all' })).rejects.toMatchObject({
      code: 'ALREADY_NO_LOG_ARCHIVE_BACKUP',
    });
    await expect(run(BACKUP)).rejects.toMatchObject({ code: 'INVALID_BACKUP_DEST' });
  });

  test('a destination is claimed, shown masked and stored encrypted', async () => {
    await run({ kind: 'setParameter', name: 'backup_dest', value: `file://${directory}/dest` });
    const owner = tree.clusterOwner(ROOT);
    expect((await stat(join(directory, 'dest', owner))).isFile()).toBe(true);
    const rows = await coordinator.context.catalog.query<{ value: string }>(
      "SELECT value FROM holdfast.parameters WHERE name = 'backup_dest'",
    );
    expect(rows[0]?.value).toMatch(/^v1:/);
    expect((await run({ kind: 'showParameters', like: 'backup\\_dest' })).rows[0]?.slice(0, 2)).toEqual([
      'backup_dest',
      `file://${directory}/dest`,
    ]);
    await expect(run(BACKUP)).rejects.toMatchObject({ code: 'BACKUP_CAN_NOT_START' });
  });

  test('a failed check refuses ARCHIVELOG, with what mends it in the hint', async () => {
    agent.options.failedCheck = 'wal_level';
    await expect(run({ kind: 'archiveLog', tenants: 'all' })).rejects.toMatchObject({
      code: 'SERVER_PRECHECK_FAILED',
      hint: 'ALTER SYSTEM SET wal_level = replica',
    });
    delete agent.options.failedCheck;
  });

  test('R1, R2: ARCHIVELOG claims the round at the destination, and DOING means that round_begin is there', async () => {
    await run({ kind: 'archiveLog', tenants: ['orders'] });
    const row = await roundIs('DOING');
    expect(row).toMatchObject({ log_archive_round: 1, path: `file://${directory}/dest` });
    for (const key of [tree.mountFile, tree.roundBegin])
      expect(
        (await readFile(join(directory, 'dest', key(ROOT, { tenantId: TENANT, round: 1n })))).length,
      ).toBeGreaterThan(64);
    await expect(run({ kind: 'archiveLog', tenants: 'all' })).rejects.toMatchObject({
      code: 'CANNOT_START_LOG_ARCHIVE_BACKUP',
    });
    await expect(run({ kind: 'setParameter', name: 'backup_dest', value: '' })).rejects.toMatchObject({
      code: 'BACKUP_IN_PROGRESS',
    });
  });

  test('T1: an agent that was restarted gets its task again, as a new attempt under a new epoch', async () => {
    const before = agent.started.findLast((task) => task.kind.case === 'archive');
    agent.goAway();
    await agent.forget();
    agent.comeBack();
    const after = await until('another attempt', async () => {
      const last = agent.started.findLast((task) => task.kind.case === 'archive');
      return last !== undefined && last.attempt > (before?.attempt ?? 0) ? last : undefined;
    });
    expect(after).toMatchObject({
      taskId: before?.taskId,
      attempt: 2,
      kind: { value: { epoch: 2n, fresh: false } },
    });
    await roundIs('DOING');
  });

  test('J1: a coordinator that is restarted in the middle of a backup goes on with it', async () => {
    const hold = Promise.withResolvers<void>();
    agent.options.holdBackup = hold.promise;
    const jobId = jobIn((await run({ ...BACKUP, description: 'nightly' })).notices);
    await until('the task', async () => agent.started.some((task) => task.kind.case === 'backup'));
    await expect(run(BACKUP)).rejects.toMatchObject({ code: 'BACKUP_IN_PROGRESS' });
    const { port } = coordinator;
    await coordinator[Symbol.asyncDispose]();
    coordinator = await start(port);
    hold.resolve();
    expect(await ended(jobId)).toBe('COMPLETED');
    const [task] = await listTasks(coordinator.context.catalog, jobId);
    expect(task).toMatchObject({ state: 'SUCCEEDED', attempt: 1 });
    // J3: backup_info is at the destination.
    await using medium = await openMedium(`file://${directory}/dest`);
    const info = await readInfo(
      medium,
      tree.backupInfo(ROOT, { tenantId: TENANT, fullSetId: 1n, setId: 1n }),
      BackupInfoSchema,
    );
    expect(info).toMatchObject({ tenantName: 'orders', round: 1n, description: 'nightly', epoch: 2n });
    expect(await view('cdb_ob_backup_set_files')).toMatchObject([
      {
        bs_key: 1,
        status: 'SUCCESS',
        file_status: 'AVAILABLE',
        min_restore_lsn: '0/3000200',
        input_bytes: 1000,
      },
    ]);
    expect(await view('cdb_ob_backup_progress')).toMatchObject([
      { status: 'COMPLETED', partition_count: 1, finish_partition_count: 1 },
    ]);
    const windows = await run({ kind: 'showRestoreWindows' });
    expect(windows.rows).toMatchObject([
      [TENANT, 'orders', 'RESTORABLE', expect.anything(), expect.anything(), '1', '1', null, null],
    ]);
  }, 30_000);

  test('CANCEL BACKUP ends the job and frees the next id; without a backup it is refused with OB-9049', async () => {
    agent.options.holdBackup = Promise.withResolvers<void>().promise;
    const jobId = jobIn((await run(BACKUP)).notices);
    await until('the task', async () =>
      (await listTasks(coordinator.context.catalog, jobId)).some((task) => task.state === 'RUNNING'),
    );
    await run({ kind: 'cancelBackup', tenants: 'all', force: false });
    expect(await ended(jobId)).toBe('CANCELLED');
    await expect(run({ kind: 'cancelBackup', tenants: 'all', force: false })).rejects.toMatchObject({
      code: 'CANNOT_CANCEL_STOPPED_BACKUP',
    });
    delete agent.options.holdBackup;
    const { notices } = await run({ ...BACKUP, wait: true });
    expect(notices.at(-1)).toMatch(/^job \d+ COMPLETED/);
    expect(
      (await view('cdb_ob_backup_set_details'))
        .map((row) => `${String(row['bs_key'])} ${String(row['status'])}`)
        .sort(),
    ).toEqual(['1 SUCCESS', '2 CANCELLED', '3 SUCCESS']);
  }, 30_000);

  test('nothing is written or looked up below an unmounted share', async () => {
    const [mounted, away] = [join(directory, 'dest'), join(directory, 'away')];
    await rename(mounted, away);
    await mkdir(mounted); // the mount point
    const refusal = {
      code: 'INVALID_BACKUP_DEST',
      hint: expect.stringContaining('Mount the share') as string,
    };
    await expect(run({ ...BACKUP, wait: true })).rejects.toMatchObject(refusal);
    await expect(run({ kind: 'showRestoreWindows' })).rejects.toMatchObject(refusal);
    expect(await readdir(mounted)).toEqual([]);
    await rm(mounted, { recursive: true });
    await rename(away, mounted);
  }, 30_000);

  test('R3: a hole ends the round as INTERRUPTED, with its reason at the destination and in the windows', async () => {
    await run({ kind: 'setParameter', name: 'archive_auto_new_round', value: 'off' });
    const task = agent.started.findLast((one) => one.kind.case === 'archive');
    await agent.fail(task?.taskId ?? 0n, new HoldfastError('LOG_GAP', 'the server has 0/3000200 no more'));
    expect(await roundIs('INTERRUPTED')).toMatchObject({ comment: expect.stringContaining('LOG_GAP') });
    await using medium = await openMedium(`file://${directory}/dest`);
    const key = tree.roundEnd(ROOT, { tenantId: TENANT, round: 1n });
    const end = await until('round_end', () => readInfo(medium, key, RoundEndSchema).catch(() => undefined));
    expect(end).toMatchObject({
      state: RoundState.INTERRUPTED,
      reason: expect.stringContaining('0/3000200'),
    });
    await expect(run(BACKUP)).rejects.toMatchObject({
      code: 'BACKUP_CAN_NOT_START',
      message: expect.stringContaining('INTERRUPTED'),
    });
    await run({ kind: 'noArchiveLog', tenants: 'all' });
    await roundIs('STOP');
  }, 30_000);

  test('R6: NOARCHIVELOG works with the destination gone; round_end is written when it is back', async () => {
    await run({ kind: 'archiveLog', tenants: 'all' });
    expect(await roundIs('DOING')).toMatchObject({ log_archive_round: 2 });
    await rename(join(directory, 'dest'), join(directory, 'gone'));
    await run({ kind: 'noArchiveLog', tenants: 'all' });
    expect(await roundIs('STOP')).toMatchObject({
      comment: expect.stringContaining('round_end is still to be written'),
    });
    await rename(join(directory, 'gone'), join(directory, 'dest'));
    await until('the debt to be paid', async () => {
      const [row] = await view('cdb_ob_backup_archivelog');
      return row?.['comment'] === 'stopped';
    });
    expect(
      (await stat(join(directory, 'dest', tree.roundEnd(ROOT, { tenantId: TENANT, round: 2n })))).isFile(),
    ).toBe(true);
  }, 30_000);

  test('a restore needs a pool, a free name and a restorable target', async () => {
    const restore = {
      kind: 'restore',
      newTenant: 'copy',
      sourceTenant: 'orders',
      options: { pool_list: 'p' },
      preview: false,
      wait: false,
    } as const;
    await expect(run({ ...restore, options: {} })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(run(restore)).rejects.toMatchObject({ code: 'ENTRY_NOT_EXIST' });
    await run({ kind: 'createResourceUnit', name: 'u', maxMemory: '256M' });
    await run({ kind: 'createResourcePool', name: 'p', unit: 'u', unitNum: 1, zones: ['zone1'] });
    await expect(run({ ...restore, newTenant: 'orders' })).rejects.toMatchObject({ code: 'TENANT_EXIST' });
    const at = (time: string) => ({ kind: 'time', time, consistent: false }) as const;
    await expect(run({ ...restore, until: at('2020-01-01') })).rejects.toMatchObject({
      code: 'TARGET_NOT_RESTORABLE',
    });
    await expect(run({ ...restore, until: at('2099-01-01') })).rejects.toMatchObject({
      code: 'TARGET_NOT_RESTORABLE',
    });
    await expect(run({ ...restore, until: at('soon') })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    for (const target of [
      { kind: 'xid', xid: 7n },
      { kind: 'name', name: 'in no index' },
    ] as const)
      expect((await run({ ...restore, until: target, inclusive: false, preview: true })).rows).toHaveLength(
        2,
      );
    expect((await run({ ...restore, preview: true })).rows).toHaveLength(2);
  });

  test('a restore is given to an agent of the pool, without secrets in its row; cancelled, its name is free again', async () => {
    const restore = {
      kind: 'restore',
      newTenant: 'copy',
      sourceTenant: 'orders',
      options: { pool_list: 'p' },
      preview: false,
      wait: false,
    } as const;
    const jobId = jobIn((await run(restore)).notices);
    const task = await until('the restore task', async () =>
      agent.started.find((one) => one.kind.case === 'restore'),
    );
    expect(task.kind).toMatchObject({
      value: {
        newTenant: 'copy',
        newTenantId: 1002n,
        backupSetId: 3n,
        source: { uri: `file://${directory}/dest` },
        unit: { maxMemoryBytes: 2n ** 28n },
      },
    });
    await expect(run(restore)).rejects.toMatchObject({ code: 'RESTORE_IN_PROGRESS' });
    const [row] = await listTasks(coordinator.context.catalog, jobId);
    expect(JSON.stringify(row?.spec)).not.toContain(`${directory}/dest`);
    await run({ kind: 'cancelRestore', tenant: 'copy' });
    expect(await ended(jobId)).toBe('CANCELLED');
    expect(
      (await view('dba_ob_tenants')).map((tenant) => [tenant['tenant_name'], tenant['status']]),
    ).toContainEqual(['copy', 'DROPPED']);
  });

  test('every change was recorded as an event, and watchers get those they missed', async () => {
    const names: string[] = [];
    const stop = new AbortController();
    const { catalog, bus, clock } = coordinator.context;
    for await (const event of watchEvents(catalog, bus, clock, 0n, stop.signal)) {
      names.push(event.event);
      if (event.event === 'restore_cancelled') break;
    }
    for (const name of [
      'tenant_created',
      'round_doing',
      'backup_completed',
      'backup_cancelled',
      'round_interrupted',
      'round_stopped',
    ])
      expect(names).toContain(name);
  });

  test('events are told only to those who log in', async () => {
    const client = makeClient(AdminService, `127.0.0.1:${coordinator.port}`);
    const firstEvent = async (password: string) => {
      const stop = new AbortController();
      const request = create(WatchEventsRequestSchema, { user: 'root', password });
      try {
        for await (const { event } of client.watchEvents(request, { signal: stop.signal })) return event;
        return undefined;
      } finally {
        stop.abort(new HoldfastError('CANCELLED', 'enough'));
      }
    };
    await expect(firstEvent('wrong')).rejects.toMatchObject({ code: 'AUTHENTICATION_FAILED' });
    expect(await firstEvent('secret')).toBe('tenant_created');
    client.close();
  });

  test('a second tenant with a known system identifier is shown as a clone, alarmed, and not archived until that is resolved', async () => {
    const address = `127.0.0.1:${coordinator.port}`;
    const { systemIdentifier } = agent;
    await using clone = new FakeAgent({ address, tenant: 'staging', token: 'shared', systemIdentifier });
    await until('the clone in the view', async () =>
      (await view('dba_ob_partition_groups')).some(
        (row) =>
          row['tenant_name'] === 'staging' &&
          row['membership'] === 'UNASSIGNED CLONE' &&
          row['clone_of'] === 'orders.p0' &&
          row['role'] === 'PRIMARY',
      ),
    );
    expect((await view('dba_ob_servers')).map((row) => row['unassigned_clones'])).toContain(
      'UNASSIGNED CLONE main of orders.p0',
    );
    const told = (await view('cdb_ob_event_history')).filter((row) => row['event'] === 'unassigned_clone');
    expect(told).toMatchObject([{ severity: 'ERROR', tenant_name: 'staging' }]);
    await expect(run({ kind: 'archiveLog', tenants: ['staging'] })).rejects.toMatchObject({
      code: 'SYSTEM_IDENTIFIER_MISMATCH',
      message: expect.stringContaining('UNASSIGNED CLONE of orders.p0'),
      hint: expect.stringContaining('DROP TENANT orders;'),
    });
    expect(clone.started).toEqual([]);
    // The first is no clone of the second.
    expect(
      (await view('dba_ob_partition_groups')).find((row) => row['tenant_name'] === 'orders'),
    ).toMatchObject({ membership: 'MEMBER', clone_of: null });
    await run({ kind: 'dropTenant', tenant: 'orders', force: true });
    await until('the resolved conflict', async () =>
      (await view('dba_ob_partition_groups')).some(
        (row) =>
          row['tenant_name'] === 'staging' && row['membership'] === 'MEMBER' && row['role'] === 'LEADER',
      ),
    );
    await run({ kind: 'archiveLog', tenants: ['staging'] });
    await until('the task', async () => clone.started.some(({ kind }) => kind.case === 'archive'));
  }, 120_000);

  test('another deployment may not take the destination over', async () => {
    await seedStateDirectory(join(directory, 'other'));
    await using other = await openCoordinator({
      ...ROOT,
      stateDirectory: join(directory, 'other'),
      catalogUrl: undefined,
      logger: silentLogger(),
    });
    const statement = {
      kind: 'setParameter',
      name: 'backup_dest',
      value: `file://${directory}/dest`,
    } as const;
    await expect(run(statement, other.context)).rejects.toMatchObject({
      code: 'INVALID_BACKUP_DEST',
      message: expect.stringContaining('another deployment'),
    });
  }, 120_000);
});
