/** What every catalog must do: run on PGlite (unit) and on a PostgreSQL server (e2e) with the same SQL. */
import { create } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { findForksToRead, replaceAbandoned } from '../../coordinator/catalog/abandoned.ts';
import type { Catalog } from '../../coordinator/catalog/catalog.ts';
import { openDeployment } from '../../coordinator/catalog/deployment.ts';
import { listEvents, recordEvent } from '../../coordinator/catalog/events.ts';
import { insertJob, insertTask } from '../../coordinator/catalog/jobs.ts';
import { claimLeadership } from '../../coordinator/catalog/leadership.ts';
import {
  listSetsLeftBehind,
  replaceLineage,
  replaceRoundMembers,
} from '../../coordinator/catalog/members.ts';
import { parseInstant } from '../../coordinator/catalog/progress.ts';
import {
  findLastRound,
  insertRound,
  insertRoundGroup,
  listRoundGroups,
  recordGroupProgress,
} from '../../coordinator/catalog/rounds.ts';
import {
  attachServer,
  declareInstance,
  keepInstances,
  listInstances,
} from '../../coordinator/catalog/servers.ts';
import { completeSet, insertSet, insertSetGroup } from '../../coordinator/catalog/sets.ts';
import {
  findPool,
  getTenant,
  insertPool,
  insertTenant,
  insertUnit,
  joinGroup,
  listAllGroups,
  listEarlierMemberships,
  listGroups,
  listReturningGroups,
  nextTenantId,
  noteUndeclared,
  rejoinGroup,
  setTenantStatus,
  settleGroup,
} from '../../coordinator/catalog/tenants.ts';
import { toLsn, toTimeline } from '../../foundation/lsn.ts';
import { BackupInfoSchema, RoundGroupStartSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { testValidationProgress } from './validation-progress.ts';

const VIEWS = [
  'cdb_ob_abandoned_log',
  'cdb_ob_backup_archivelog',
  'cdb_ob_backup_archivelog_progress',
  'cdb_ob_backup_archivelog_summary',
  'cdb_ob_backup_job_details',
  'cdb_ob_backup_jobs',
  'cdb_ob_backup_progress',
  'cdb_ob_backup_set_details',
  'cdb_ob_backup_set_files',
  'cdb_ob_backup_tasks',
  'cdb_ob_backup_validation_finding',
  'cdb_ob_backup_validation_job',
  'cdb_ob_backup_validation_task',
  'cdb_ob_event_history',
  'cdb_ob_restore_history',
  'cdb_ob_restore_progress',
  'cdb_ob_restore_windows',
  'dba_ob_partition_groups',
  'dba_ob_resource_pools',
  'dba_ob_servers',
  'dba_ob_tenants',
];

/** Registers the tests; they share one catalog and run in order. */
export function describeCatalog(open: () => Promise<Catalog>): void {
  const { signal } = new AbortController();

  test('every view of this version is there, and can be read', async () => {
    const catalog = await open();
    expect(catalog.views.map(({ name }) => name)).toEqual(VIEWS);
    for (const name of VIEWS) expect(JSON.parse(await catalog.readView(name, signal))).toEqual([]);
    await expect(catalog.readView('pg_authid', signal)).rejects.toMatchObject({ code: 'ENTRY_NOT_EXIST' });
  });

  test('64-bit numbers are exact, and what a transaction threw is rolled back', async () => {
    const catalog = await open();
    const before = catalog.changeCounter();
    const boom = catalog.transaction(async (tx) => {
      await recordEvent(tx, { module: 'test', event: 'lost', message: '' }, 1n);
      throw new Error('boom');
    });
    await expect(boom).rejects.toThrow('boom');
    await catalog.transaction((tx) =>
      recordEvent(tx, { module: 'test', event: 'kept', tenantId: 9_007_199_254_740_993n, message: 'ü' }, 2n),
    );
    expect(await listEvents(catalog, 0n, 10)).toMatchObject([
      { event: 'kept', tenant_id: 9_007_199_254_740_993n, message: 'ü', facts: {} },
    ]);
    expect(catalog.changeCounter()).toBeGreaterThan(before);
  });

  test('the deployment is made once, and another cluster is refused', async () => {
    const catalog = await open();
    const made = await catalog.transaction((tx) => openDeployment(tx, 'c', 1n));
    expect(await catalog.transaction((tx) => openDeployment(tx, 'c', 1n))).toEqual(made);
    const other = catalog.transaction((tx) => openDeployment(tx, 'd', 1n));
    await expect(other).rejects.toMatchObject({ code: 'INVALID_CONFIG' });
  });

  test('a dropped tenant frees its name, never its id', async () => {
    const catalog = await open();
    await catalog.transaction(async (tx) => {
      expect(await nextTenantId(tx, 0n)).toBe(1001n);
      await insertTenant(tx, { tenantId: 1001n, name: 'orders', status: 'NORMAL', nowUs: 5n });
      await joinGroup(tx, 1001n, 'p0', 5n);
      await setTenantStatus(tx, 1001n, 'DROPPED', 6n);
      expect(await nextTenantId(tx, 0n)).toBe(1002n);
      await insertTenant(tx, { tenantId: 1002n, name: 'orders', status: 'NORMAL', nowUs: 7n });
      await joinGroup(tx, 1002n, 'p0', 7n);
    });
    expect((await getTenant(catalog, 'orders')).tenant_id).toBe(1002n);
    await expect(getTenant(catalog, 'x')).rejects.toMatchObject({ code: 'TENANT_NOT_EXIST' });
  });

  test('an agent keeps its server id, and instances are those that it declares now', async () => {
    const catalog = await open();
    const agent = { uuid: 'a', ip: '10.0.0.1', port: 1, zone: 'z1', version: '1' };
    await catalog.transaction(async (tx) => {
      const serverId = await attachServer(tx, agent, 1n);
      expect(await attachServer(tx, { ...agent, ip: '10.0.0.2' }, 2n)).toBe(serverId);
      expect(await attachServer(tx, { ...agent, uuid: 'b' }, 2n)).toBe(serverId + 1n);
      for (const instance of ['one', 'two'])
        await declareInstance(tx, {
          serverId,
          instance,
          tenantId: 1002n,
          partitionGroup: 'p0',
          restored: false,
        });
      await keepInstances(tx, serverId, ['two']);
    });
    expect((await listInstances(catalog)).map(({ instance }) => instance)).toEqual(['two']);
  });

  test('R4: a tenant has one running archive job; R5: a start is kept and a checkpoint never goes back', async () => {
    const catalog = await open();
    const job = {
      kind: 'ARCHIVE',
      tenantId: 1002n,
      tenantName: 'orders',
      state: 'RUNNING',
      spec: {},
      nowUs: 10n,
    } as const;
    await catalog.transaction(async (tx) => {
      const jobId = await insertJob(tx, job);
      const taskId = await insertTask(tx, {
        jobId,
        kind: 'ARCHIVE',
        tenantId: 1002n,
        partitionGroup: 'p0',
        spec: {},
        nowUs: 10n,
      });
      await insertRound(tx, {
        tenantId: 1002n,
        round: 1n,
        tenantName: 'orders',
        jobId,
        destination: 'v1:secret',
        displayDestination: 'file:///d',
        nowUs: 10n,
      });
      await insertRoundGroup(tx, { tenantId: 1002n, round: 1n, partitionGroup: 'p0', taskId });
      const key = { tenant_id: 1002n, round: 1n, partition_group: 'p0' };
      await recordGroupProgress(tx, key, progress(0x3000000n, 0x3000100n, 100n), 11n);
      await recordGroupProgress(tx, key, progress(0x4000000n, 0x3000050n, 90n), 12n);
    });
    await expect(catalog.transaction((tx) => insertJob(tx, job))).rejects.toThrow(/unique|duplicate/i);
    const [group] = await listRoundGroups(catalog, 1002n, 1n);
    expect(group).toMatchObject({
      start_lsn: '0/3000000',
      checkpoint_lsn: '0/3000100',
      checkpoint_us: 100n,
      system_identifier: '18446744073709551615',
    });
    expect(await findLastRound(catalog, 1002n)).toMatchObject({ state: 'BEGINNING', checkpoint_us: 100n });
    expect(await lineageUs(catalog)).toBe(100n);
    const rows = JSON.parse(await catalog.readView('cdb_ob_backup_archivelog', signal)) as object[];
    expect(rows).toMatchObject([
      {
        tenant_name: 'orders',
        status: 'BEGINNING',
        checkpoint_lsn: '0/3000100',
        checkpoint_lsn_number: 0x3000100,
        lag_bytes: 0xff00,
        path: 'file:///d',
      },
    ]);
    expect(JSON.stringify(rows)).not.toContain('secret');
  });

  test('R5: after a failover the checkpoint stays, and what is restorable ends where the new timeline does', async () => {
    const catalog = await open();
    const key = { tenant_id: 1002n, round: 1n, partition_group: 'p0' };
    const onNew = (timeUs: bigint) => ({
      ...progress(0x3000000n, 0x3000080n, timeUs),
      checkpoint: { timeline: 2, lsn: 0x3000080n },
    });
    await catalog.transaction((tx) => recordGroupProgress(tx, key, onNew(80n), 13n));
    expect(await findLastRound(catalog, 1002n)).toMatchObject({ checkpoint_us: 100n });
    expect(await lineageUs(catalog)).toBe(80n);
    // What the old leader's archiver still says is of what was left behind.
    await catalog.transaction(async (tx) => {
      await recordGroupProgress(tx, key, progress(0x3000000n, 0x3000100n, 95n), 14n);
      await recordGroupProgress(tx, key, onNew(70n), 15n);
    });
    expect(await lineageUs(catalog)).toBe(80n);
    await catalog.transaction((tx) => recordGroupProgress(tx, key, onNew(120n), 16n));
    expect(await lineageUs(catalog)).toBe(120n);
  });

  test('what a failover left behind is to be read when the timeline changed, and once more later', async () => {
    const catalog = await open();
    const found = await findForksToRead(catalog, 20n);
    expect(found).toEqual([{ tenant_id: 1002n, round: 1n, partition_group: 'p0' }]);
    const [fork] = found;
    if (fork === undefined) throw new Error('it was there');
    const stretch = {
      partitionGroup: 'p0',
      timeline: toTimeline(1),
      begin: toLsn(0x3000080n),
      end: toLsn(0x3000100n),
      survivor: toTimeline(2),
      fromUs: undefined,
      untilUs: 100n,
    };
    await catalog.transaction((tx) => replaceAbandoned(tx, fork, [stretch], 20n));
    expect(await findForksToRead(catalog, 21n)).toEqual([]);
    expect(await findForksToRead(catalog, 30_000_013n)).toEqual(found);
    await catalog.transaction((tx) => replaceAbandoned(tx, fork, [stretch], 30_000_013n));
    expect(await findForksToRead(catalog, 90_000_000n)).toEqual([]);
    expect(JSON.parse(await catalog.readView('cdb_ob_abandoned_log', signal))).toMatchObject([
      {
        tenant_name: 'orders',
        timeline: 1,
        begin_lsn: '0/3000080',
        end_lsn: '0/3000100',
        bytes: 128,
        from_time: null,
        surviving_timeline: 2,
      },
    ]);
    // Nothing could be read: what was known stays.
    await catalog.transaction((tx) => replaceAbandoned(tx, fork, undefined, 90_000_000n));
    expect(JSON.parse(await catalog.readView('cdb_ob_abandoned_log', signal))).toHaveLength(1);
  });

  test('R9: windows are of the groups that were members, in the view too; a set that was left behind has none', async () => {
    const catalog = await open();
    const key = { tenant_id: 1003n, round: 1n };
    const stops = (...us: readonly (readonly [string, bigint])[]) =>
      us.map(([partitionGroup, stopUs]) => ({
        partitionGroup,
        start: { timeline: 1, lsn: 0x10n },
        stop: { timeline: 1, lsn: stopUs },
        stopUs,
      }));
    await catalog.transaction(async (tx) => {
      await insertTenant(tx, { tenantId: 1003n, name: 'shards', status: 'NORMAL', nowUs: 1n });
      const of = { tenantId: 1003n, tenantName: 'shards', spec: {}, nowUs: 1n } as const;
      const jobId = await insertJob(tx, { ...of, kind: 'ARCHIVE', state: 'RUNNING' });
      const display = { destination: 'v1:secret', displayDestination: 'file:///d' };
      await insertRound(tx, { ...of, round: 1n, jobId, ...display });
      const checkpoints = [
        ['a', 900n],
        ['b', 500n],
        ['c', 800n],
      ] as const;
      for (const [partitionGroup] of checkpoints) {
        const task = {
          jobId,
          kind: 'ARCHIVE',
          tenantId: 1003n,
          partitionGroup,
          spec: {},
          nowUs: 1n,
        } as const;
        const group = { tenantId: 1003n, round: 1n, partitionGroup, late: partitionGroup === 'c' };
        await insertRoundGroup(tx, { ...group, taskId: await insertTask(tx, task) });
      }
      for (const [partition_group, checkpointUs] of checkpoints)
        await recordGroupProgress(tx, { ...key, partition_group }, progress(0x1n, 0x1000n, checkpointUs), 2n);
      expect((await findLastRound(tx, 1003n))?.checkpoint_us).toBe(500n); // c has not begun
      const since = { membership: 1, start: create(RoundGroupStartSchema) };
      await replaceRoundMembers(tx, key, [
        { ...since, partitionGroup: 'a', joinedUs: 0n, leftUs: 0n },
        { ...since, partitionGroup: 'b', joinedUs: 0n, leftUs: 600n },
        { ...since, partitionGroup: 'c', joinedUs: 400n, leftUs: 0n },
      ]);
      for (const [setId, partitionGroups] of [
        [1n, stops(['a', 100n], ['b', 200n])],
        [2n, stops(['a', 450n], ['b', 460n], ['c', 470n])],
        [3n, stops(['a', 700n], ['c', 710n])],
      ] as const) {
        const setJob = await insertJob(tx, { ...of, kind: 'CHECK', state: 'RUNNING' });
        const more = { epoch: 1n, description: '', plusArchivelog: false };
        await insertSet(tx, {
          ...of,
          setId,
          fullSetId: setId,
          previousSetId: 0n,
          fullReason: '',
          round: 1n,
          jobId: setJob,
          ...display,
          ...more,
        });
        for (const { partitionGroup } of partitionGroups)
          await insertSetGroup(tx, { tenantId: 1003n, setId, partitionGroup, taskId: 1n });
        const info = { tenantId: 1003n, backupSetId: setId, partitionGroups };
        await completeSet(tx, create(BackupInfoSchema, info), '');
      }
    });
    const windows = async () =>
      (
        await catalog.query<{ row: string }>(
          `SELECT concat_ws(' ', status, (extract(epoch FROM from_time) * 1000000)::bigint,
             (extract(epoch FROM until_time) * 1000000)::bigint, first_backup_set_id, comment) AS row
           FROM oceanbase.cdb_ob_restore_windows WHERE tenant_name = 'shards' ORDER BY from_time, until_time`,
        )
      ).map(({ row }) => row);
    expect(await windows()).toEqual([
      expect.stringMatching(/^RESTORABLE 200 399 1 partition group c joined/),
      expect.stringMatching(/^HOLE 399 470 1 partition group c joined .*; restorable again after it$/),
      expect.stringMatching(/^RESTORABLE 470 500 2 partition group b left/),
      expect.stringMatching(/^HOLE 500 600 2 partition group b left/),
      'RESTORABLE 600 800 2',
    ]);
    // Timeline 2 left the first at 0/1C5, 453: behind what set 1 and before what sets 2 and 3 hold of group a.
    await catalog.transaction(async (tx) => {
      const group = { ...key, partition_group: 'a' };
      await replaceLineage(tx, group, 2n, [{ timeline: 1, end: toLsn(453n) }]);
      expect(await listSetsLeftBehind(tx, group)).toEqual([{ backup_set_id: 3n, timeline: 1n }]);
    });
    expect((await windows()).at(-1)).toBe('RESTORABLE 600 800 2');
    await catalog.transaction(async (tx) => {
      const group = { ...key, partition_group: 'a' };
      await replaceLineage(tx, group, 2n, [{ timeline: 1, end: toLsn(0x20n) }]);
    });
    expect(await windows()).toEqual([]);
  });

  test('a group that joins again keeps its earlier membership', async () => {
    const catalog = await open();
    const first = await catalog.transaction(async (tx) => {
      await joinGroup(tx, 1003n, 'a', 10n);
      await noteUndeclared(tx, 1003n, 'a', 20n);
      expect(await listGroups(tx, 1003n)).toEqual([]);
      const [group] = (await listAllGroups(tx)).filter((each) => each.tenant_id === 1003n);
      return group;
    });
    expect(first).toMatchObject({ joined_us: 10n, left_us: 0n, undeclared_us: 20n, recorded: false });
    await catalog.transaction(async (tx) => {
      if (first === undefined) throw new Error('no group');
      expect(await settleGroup(tx, first)).toBe(true);
      // What has changed since it was read is not settled.
      expect(await settleGroup(tx, first)).toBe(false);
      expect(await listReturningGroups(tx)).toEqual([]);
      const agent = { uuid: 'shards', ip: '10.0.0.9', port: 1, zone: 'z1', version: '1' };
      const serverId = await attachServer(tx, agent, 1n);
      await declareInstance(tx, {
        serverId,
        instance: 'a',
        tenantId: 1003n,
        partitionGroup: 'a',
        restored: false,
      });
      const [back] = await listReturningGroups(tx);
      expect(back).toMatchObject({ partition_group: 'a', left_us: 20n });
      if (back !== undefined) await rejoinGroup(tx, back, 30n);
    });
    expect(await listGroups(catalog, 1003n)).toMatchObject([
      { joined_us: 30n, left_us: 0n, recorded: false },
    ]);
    expect(await listEarlierMemberships(catalog)).toMatchObject([
      { partition_group: 'a', joined_us: 10n, left_us: 20n },
    ]);
  });

  testValidationProgress(open);

  test('pools name their zones', async () => {
    const catalog = await open();
    await catalog.transaction(async (tx) => {
      await insertUnit(
        tx,
        {
          name: 'u',
          maxMemoryBytes: 2n ** 30n,
          minMemoryBytes: 0n,
          maxSessionNum: 0,
          maxCpu: 1.5,
          minCpu: 0,
          maxIops: 0,
          minIops: 0,
          maxDiskBytes: 0n,
        },
        1n,
      );
      await insertPool(tx, { name: 'p', unit: 'u', unitNum: 1, zones: ['z1', 'z2'] }, 1n);
    });
    expect(await findPool(catalog, 'p')).toMatchObject({ zone_list: ['z1', 'z2'] });
    expect(JSON.parse(await catalog.readView('dba_ob_resource_pools', signal))).toMatchObject([
      { name: 'p', zone_list: 'z1;z2', memory_size_display: '1.00GB', max_cpu: 1.5 },
    ]);
  });

  test('an instant is exact to the microsecond, and UTC when it names no zone', async () => {
    const catalog = await open();
    expect(await parseInstant(catalog, '2026-01-02 03:04:05.678901+01')).toBe(1_767_319_445_678_901n);
    expect(await parseInstant(catalog, '2026-01-02 02:04:05.678901')).toBe(1_767_319_445_678_901n);
    await expect(parseInstant(catalog, 'yesterday noonish')).rejects.toThrow();
  });

  test("a stale leader's writes are refused with OB-9063", async () => {
    const catalog = await open();
    await catalog.transaction((tx) => claimLeadership(tx, 'another', 1n));
    const late = catalog.transaction((tx) =>
      recordEvent(tx, { module: 'test', event: 'late', message: '' }, 1n),
    );
    await expect(late).rejects.toMatchObject({ code: 'BACKUP_IO_PROHIBITED' });
    // Leads again, for tests after this one.
    await catalog.query('UPDATE holdfast.leadership SET epoch = epoch - 1');
  });
}

/** Up to when the present lineage is archived: the end of CDB_OB_RESTORE_WINDOWS. */
async function lineageUs(catalog: Catalog): Promise<bigint | undefined> {
  const rows = await catalog.query<{ lineage_us: bigint }>(
    'SELECT lineage_us FROM holdfast.round_groups WHERE tenant_id = 1002 AND round = 1',
  );
  return rows[0]?.lineage_us;
}

function progress(startLsn: bigint, checkpointLsn: bigint, checkpointUs: bigint) {
  return {
    state: 'DOING',
    systemIdentifier: 18_446_744_073_709_551_615n,
    segmentSizeBytes: 2 ** 24,
    postgresMajor: 17,
    start: { timeline: 1, lsn: startLsn },
    startUs: 50n,
    checkpoint: { timeline: 1, lsn: checkpointLsn },
    checkpointUs,
    serverLsn: 0x3010000n,
    serverUs: checkpointUs,
    inputBytes: 256n,
    outputBytes: 64n,
    backlogBytes: 0n,
    slotState: 'reserved',
    slotRetainedBytes: 0n,
    walFreeBytes: 0n,
    waitingFor: '',
    lastError: '',
    destinationAwayUs: undefined,
  };
}
