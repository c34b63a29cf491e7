/** What happens when log is lost: the round ends by name, a new one begins, and the hole is shown and refused. */
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { startWorkload } from '../../cli/demo/workload.ts';
import { parseLsn } from '../../foundation/lsn.ts';
import { RoundEndSchema, RoundState } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { readInfo } from '../../storage-layout/records/info-file.ts';
import { tree } from '../../storage-layout/tree.ts';
import { createServer } from '../support/postgres.ts';
import {
  clockUs,
  connectorTo,
  createPool,
  DATABASE,
  formatInstant,
  type Scenario,
  startArchivedShop,
  TENANT,
} from '../support/scenario.ts';
import { judgeRestore } from '../support/workload.ts';

const MEBIBYTE = 2n ** 20n;
/** The destination itself learns every three seconds of time that passed without a commit; the views know it sooner. */
const IDLE_RECORD_MS = 5000;
const ROUND = `SELECT * FROM CDB_OB_BACKUP_ARCHIVELOG WHERE tenant_name = '${TENANT}'`;
type RoundRow = { readonly status: string; readonly log_archive_round: string; readonly comment: string };
type WindowRow = {
  readonly status: string;
  readonly from_time: Date;
  readonly until_time: Date | null;
  readonly lost_log: string | null;
  readonly comment: string | null;
};

async function windows({ deployment }: Scenario): Promise<WindowRow[]> {
  return await deployment.sql<WindowRow>(
    'SELECT status, from_time, until_time, lost_log, comment FROM CDB_OB_RESTORE_WINDOWS ORDER BY from_time, status DESC',
  );
}

async function archivedUpTo({ deployment }: Scenario, timeUs: bigint): Promise<void> {
  await deployment.waitForRow<{ us: string }>(
    `SELECT extract(epoch FROM checkpoint_time) * 1000000 AS us FROM CDB_OB_BACKUP_ARCHIVELOG WHERE tenant_name = '${TENANT}'`,
    (row) => BigInt(Math.trunc(Number(row.us))) > timeUs,
  );
}

async function restoreTo({ deployment }: Scenario, name: string, timeUs: bigint): Promise<void> {
  await deployment.sql(
    `ALTER SYSTEM RESTORE TENANT ${name} FROM ${TENANT} UNTIL TIME = '${formatInstant(timeUs)}' WITH 'pool_list=spare' WAIT`,
  );
}

/** What the server's log takes on its disk. */
async function logDiskBytes({ dataDirectory }: Scenario['server']): Promise<bigint> {
  const directory = join(dataDirectory, 'pg_wal');
  let bytes = 0n;
  for (const name of await readdir(directory))
    bytes += (await stat(join(directory, name), { bigint: true }).catch(() => undefined))?.size ?? 0n;
  return bytes;
}

/** Every file with what is in it. */
async function filesBelow(directory: string): Promise<ReadonlyMap<string, string>> {
  const found = new Map<string, string>();
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    found.set(path, entry.isFile() ? await readFile(path, 'utf8') : 'a directory');
  }
  return found;
}

/** The slot is dropped and the server gives up what it kept, while nobody archives. */
async function loseLog({ server, deployment }: Scenario): Promise<void> {
  await deployment.agent.stop();
  await server.query('SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots');
  for (let segment = 0; segment < 4; segment += 1) {
    await server.query("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000))");
    await server.query('SELECT pg_switch_wal()');
  }
  await server.query('CHECKPOINT');
  await server.query('CHECKPOINT');
}

describe('a hole in the log', () => {
  test('a dropped slot and recycled log: INTERRUPTED with the exact range, a new round, and restores on both sides', async () => {
    await using scenario = await startArchivedShop({
      settings: { min_wal_size: "'32MB'", wal_recycle: 'off' },
    });
    const { server, deployment } = scenario;
    await createPool(deployment);
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
    await using first = await startWorkload({ connect: () => server.connect(DATABASE), clients: 2 });
    await wait(1500);
    await first.stop();
    const beforeUs = await clockUs(server);
    await archivedUpTo(scenario, beforeUs);
    await loseLog(scenario);
    const insideUs = await clockUs(server);
    await deployment.agent.start();
    await deployment.waitForRow<RoundRow>(
      ROUND,
      (row) => row.log_archive_round === '2' && row.status === 'DOING',
    );
    // Until there is a set in the new round, the hole has no end.
    expect(await windows(scenario)).toMatchObject([
      { status: 'RESTORABLE' },
      { status: 'HOLE', until_time: null, comment: expect.stringMatching(/LOG_GAP.*full backup/) },
    ]);
    await using second = await startWorkload({
      connect: () => server.connect(DATABASE),
      clients: 2,
      firstId: 1_000_000,
    });
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
    await wait(500);
    await second.stop();
    const afterUs = await clockUs(server);
    await archivedUpTo(scenario, afterUs);

    const [window, hole, next] = await windows(scenario);
    expect([window?.status, hole?.status, next?.status]).toEqual(['RESTORABLE', 'HOLE', 'RESTORABLE']);
    expect(hole?.from_time).toEqual(window?.until_time);
    expect(hole?.until_time).toEqual(next?.from_time);
    await using medium = await openMedium(deployment.destination);
    const root = { clusterName: 'test', clusterId: 1n };
    const end = await readInfo(medium, tree.roundEnd(root, { tenantId: 1001n, round: 1n }), RoundEndSchema);
    expect(end).toMatchObject({ state: RoundState.INTERRUPTED, reason: expect.stringContaining('LOG_GAP') });
    const lost = end.groups[0]?.hole;
    const [progress] = await deployment.sql<{ start_lsn: string }>(
      'SELECT start_lsn FROM CDB_OB_BACKUP_ARCHIVELOG_PROGRESS',
    );
    // What is lost begins where the archive ends, and ends where the new round begins.
    expect(lost?.begin?.lsn).toBe(end.groups[0]?.end?.lsn);
    expect(lost?.end).toBe(parseLsn(progress?.start_lsn ?? '0/0'));
    expect(lost?.end).toBeGreaterThan(lost?.begin?.lsn ?? 0n);
    expect(lost?.endUs).toBeGreaterThan(lost?.beginUs ?? 0n);
    expect(hole?.lost_log).toMatch(/^p0: 0\/[0-9A-F]+ to 0\/[0-9A-F]+ of timeline 1$/);
    const shown = await deployment.sql<WindowRow>(`SHOW RESTORE WINDOWS TENANT = ${TENANT}`);
    expect(shown.map((row) => [row.status, row.lost_log])).toEqual([
      ['RESTORABLE', null],
      ['HOLE', hole?.lost_log],
      ['RESTORABLE', null],
    ]);

    await expect(restoreTo(scenario, 'nowhere', insideUs)).rejects.toMatchObject({
      message: expect.stringMatching(/hole between restorable windows/),
      detail: expect.stringMatching(/Restorable windows:\n.* to .*\n.* to /),
    });
    for (const [name, timeUs] of [
      ['before', beforeUs],
      ['after', afterUs],
    ] as const) {
      await restoreTo(scenario, name, timeUs);
      const copy = await connectorTo((await deployment.restored(name)).port)(DATABASE);
      expect(await judgeRestore(copy, [...first.log, ...second.log], timeUs)).toEqual([]);
      await copy.end();
    }
  }, 180_000);

  test('a slot that is dropped while the server still has the log ends nothing', async () => {
    await using scenario = await startArchivedShop();
    const { server, deployment } = scenario;
    await deployment.agent.stop();
    await server.query('SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots');
    await server.query("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000))");
    await deployment.agent.start();
    await archivedUpTo(scenario, await clockUs(server));
    expect(await deployment.sql(ROUND)).toMatchObject([{ status: 'DOING', log_archive_round: '1' }]);
  }, 180_000);

  test('an emptied destination: nothing is written there until it is named again; then a new round begins', async () => {
    await using scenario = await startArchivedShop();
    const { deployment } = scenario;
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
    const [first] = await deployment.sql<{ start_lsn: string }>(
      'SELECT start_lsn FROM CDB_OB_BACKUP_ARCHIVELOG_PROGRESS',
    );
    const directory = deployment.destinationDirectory;
    for (const name of await readdir(directory)) await rm(join(directory, name), { recursive: true });
    const row = await deployment.waitForRow<RoundRow>(
      ROUND,
      (each) => each.status === 'INTERRUPTED' && each.comment.includes('cluster_owner'),
      120_000,
    );
    expect(row.comment).toMatch(/BACKUP_MOUNT_FILE_NOT_VALID/);
    expect(await readdir(directory)).toEqual([]);
    await deployment.sql(`ALTER SYSTEM SET backup_dest = '${deployment.destination}'`);
    await deployment.waitForRow<RoundRow>(
      ROUND,
      (each) => each.log_archive_round === '2' && each.status === 'DOING',
    );
    expect(await deployment.sql('SELECT file_status FROM CDB_OB_BACKUP_SET_FILES')).toEqual([
      { file_status: 'BROKEN' },
    ]);
    expect(await windows(scenario)).toEqual([]);
    // With the medium all that the round had is lost: from its first byte to the first of the round that follows.
    const [next] = await deployment.sql<{ start_lsn: string }>(
      'SELECT start_lsn FROM CDB_OB_BACKUP_ARCHIVELOG_PROGRESS WHERE log_archive_round = 2',
    );
    const [interrupted] = await deployment.sql<{ facts: Record<string, string> }>(
      "SELECT facts FROM CDB_OB_EVENT_HISTORY WHERE event = 'round_interrupted'",
    );
    expect(interrupted?.facts).toMatchObject({
      partition_group: 'p0',
      hole_timeline: '1',
      hole_begin: first?.start_lsn,
      hole_end: next?.start_lsn,
    });
  }, 300_000);

  test('another medium at the destination is refused and left as it is; the round goes on in a new one when its own is back', async () => {
    await using scenario = await startArchivedShop();
    const { server, deployment } = scenario;
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
    const beforeUs = await clockUs(server);
    await archivedUpTo(scenario, beforeUs);
    await wait(IDLE_RECORD_MS);
    const directory = deployment.destinationDirectory;
    await rename(directory, `${directory}.own`);
    // Somebody's files, and a tree of another deployment under our cluster's very name.
    const foreign = join(directory, 'test', '1', 'incarnation_1', '1001', 'clog', '1');
    await mkdir(foreign, { recursive: true });
    await writeFile(join(foreign, 'of-another-deployment'), 'not ours');
    await writeFile(join(directory, 'holiday.jpg'), 'a picture');
    const before = await filesBelow(directory);
    const row = await deployment.waitForRow<RoundRow>(
      ROUND,
      (each) => each.status === 'INTERRUPTED' && each.comment.includes('cluster_owner'),
      120_000,
    );
    expect(row.comment).toMatch(/BACKUP_MOUNT_FILE_NOT_VALID: .*mount_file/);
    await expect(
      deployment.sql(`ALTER SYSTEM SET backup_dest = '${deployment.destination}'`),
    ).rejects.toMatchObject({ message: expect.stringMatching(/holiday\.jpg/) });
    await expect(deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT')).rejects.toThrow();
    expect(await filesBelow(directory)).toEqual(before);
    await rm(directory, { recursive: true });
    await rename(`${directory}.own`, directory);
    await deployment.waitForRow<RoundRow>(
      ROUND,
      (each) => each.log_archive_round === '2' && each.status === 'DOING',
    );
    expect(await windows(scenario)).toMatchObject([
      { status: 'RESTORABLE' },
      { status: 'HOLE', until_time: null, comment: expect.stringMatching(/BACKUP_MOUNT_FILE_NOT_VALID/) },
    ]);
    await createPool(deployment);
    await restoreTo(scenario, 'kept', beforeUs);
  }, 240_000);

  test('another database at the address ends the round; its log goes into a new one', async () => {
    await using scenario = await startArchivedShop();
    const { server, deployment } = scenario;
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
    await server.stop();
    await using _other = await createServer({
      settings: { port: String(server.port), max_slot_wal_keep_size: "'4GB'" },
    });
    await deployment.waitForRow<RoundRow>(
      ROUND,
      (each) => each.log_archive_round === '2' && each.status === 'DOING',
    );
    expect(await windows(scenario)).toMatchObject([
      { status: 'RESTORABLE' },
      { status: 'HOLE', comment: expect.stringMatching(/SYSTEM_IDENTIFIER_MISMATCH/) },
    ]);
  }, 120_000);

  test('OPTIONAL: while the destination is away the server gives log up at its limit, and stays up; the loss is named', async () => {
    await using scenario = await startArchivedShop({
      settings: {
        max_slot_wal_keep_size: "'32MB'",
        min_wal_size: "'32MB'",
        max_wal_size: "'32MB'",
        wal_recycle: 'off',
      },
    });
    const { server, deployment } = scenario;
    await deployment.waitForRow<{ slot_state: string; log_disk_free_bytes: string | null }>(
      'SELECT slot_state, log_disk_free_bytes FROM CDB_OB_BACKUP_ARCHIVELOG_PROGRESS',
      (row) => row.slot_state === 'reserved' && Number(row.log_disk_free_bytes) > 0,
    );
    const away = `${deployment.destinationDirectory}.away`;
    await rename(deployment.destinationDirectory, away);
    await server.query("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000))");
    const waiting = await deployment.waitForRow<{
      backlog_bytes: string;
      waiting_for: string;
      last_error: string;
    }>(
      'SELECT * FROM CDB_OB_BACKUP_ARCHIVELOG_PROGRESS',
      (row) => row.waiting_for === 'the destination' && Number(row.backlog_bytes) > 0,
    );
    expect(waiting.last_error).not.toBe('');
    for (let segment = 0; segment < 8; segment += 1) {
      await server.query("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000))");
      await server.query('SELECT pg_switch_wal()');
    }
    await server.query('CHECKPOINT');
    await server.query('CHECKPOINT');
    const row = await deployment.waitForRow<RoundRow>(ROUND, (each) => each.status === 'INTERRUPTED');
    expect(row.comment).toMatch(
      /LOG_GAP.*slot .* is (lost|wal_removed).*the log of timeline 1 from 0\/[0-9A-F]+ .* to 0\/[0-9A-F]+ .* is lost/,
    );
    expect(await server.query('SELECT 1 AS up')).toEqual([{ up: 1 }]);
    await rename(away, deployment.destinationDirectory);
    await deployment.waitForRow<RoundRow>(
      ROUND,
      (each) => each.log_archive_round === '2' && each.status === 'DOING',
    );
    await using medium = await openMedium(deployment.destination);
    const key = tree.roundEnd({ clusterName: 'test', clusterId: 1n }, { tenantId: 1001n, round: 1n });
    expect((await readInfo(medium, key, RoundEndSchema)).groups[0]?.hole?.end).toBeGreaterThan(0n);
  }, 300_000);

  test('OPTIONAL: the agent is dead for good; the server gives log up at its limit and stays up, a new agent names the hole', async () => {
    const limitBytes = 32n * MEBIBYTE;
    await using scenario = await startArchivedShop({
      settings: {
        max_slot_wal_keep_size: "'32MB'",
        min_wal_size: "'32MB'",
        max_wal_size: "'32MB'",
        wal_recycle: 'off',
      },
    });
    const { server, deployment } = scenario;
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
    await archivedUpTo(scenario, await clockUs(server));
    await deployment.agent.kill();
    await rm(join(deployment.directory, 'agent'), { recursive: true });
    let mostBytes = 0n;
    for (let segment = 0; segment < 16; segment += 1) {
      await server.query("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000))");
      await server.query('SELECT pg_switch_wal()');
      await server.query('CHECKPOINT');
      const bytes = await logDiskBytes(server);
      if (bytes > mostBytes) mostBytes = bytes;
    }
    const [slot] = await server.query<{ wal_status: string }>('SELECT wal_status FROM pg_replication_slots');
    expect(slot?.wal_status).toBe('lost');
    // 16 segments of 16 MiB were written: the slot's limit, as much for the checkpoints, and a few segments around them.
    expect(mostBytes).toBeLessThan(limitBytes * 2n + 5n * 16n * MEBIBYTE);
    const stale = await deployment.waitForRow<{ comment: string; stale: boolean }>(
      'SELECT * FROM CDB_OB_BACKUP_ARCHIVELOG_PROGRESS',
      (row) => row.stale,
    );
    expect(stale.comment).toMatch(/the agent of server 1 is lost: backlog, slot and free disk are as of /);

    await deployment.agent.start();
    const row = await deployment.waitForRow<RoundRow>(
      ROUND,
      (each) => each.log_archive_round === '2' && each.status === 'DOING',
      120_000,
    );
    expect(row.comment).not.toMatch(/LOG_GAP/);
    await using medium = await openMedium(deployment.destination);
    const key = tree.roundEnd({ clusterName: 'test', clusterId: 1n }, { tenantId: 1001n, round: 1n });
    const end = await readInfo(medium, key, RoundEndSchema);
    const lost = end.groups[0]?.hole;
    expect(end).toMatchObject({ state: RoundState.INTERRUPTED, reason: expect.stringContaining('LOG_GAP') });
    expect(lost?.begin?.lsn).toBe(end.groups[0]?.end?.lsn);
    expect((lost?.end ?? 0n) - (lost?.begin?.lsn ?? 0n)).toBeGreaterThan(limitBytes);
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
    expect(await windows(scenario)).toMatchObject([
      { status: 'RESTORABLE' },
      { status: 'HOLE', lost_log: expect.stringMatching(/^p0: 0\/[0-9A-F]+ to 0\/[0-9A-F]+ of timeline 1$/) },
      { status: 'RESTORABLE' },
    ]);
    const told = await deployment.sql<{ event: string }>('SELECT event FROM CDB_OB_EVENT_HISTORY');
    expect(told.map(({ event }) => event)).toEqual(
      expect.arrayContaining(['agent_lost', 'round_interrupted', 'full_backup_needed']),
    );
  }, 600_000);
});
