/** A destination whose disk is full, from the server to the views: what the round says is what is there. */
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { waitFor } from '../../cli/demo/wait.ts';
import { parseLsn, segmentName, segmentStart, toTimeline } from '../../foundation/lsn.ts';
import { startDeployment } from '../support/holdfast-processes.ts';
import { createServer } from '../support/postgres.ts';
import { beginArchiving, clockUs, TENANT } from '../support/scenario.ts';

const SEGMENT_BYTES = 1024 * 1024;
const run = promisify(execFile);

type Progress = {
  readonly status: string;
  readonly start_lsn: string;
  readonly checkpoint_lsn: string;
  readonly last_error: string;
  readonly waiting_for: string;
  readonly us: string;
};
const PROGRESS =
  'SELECT *, extract(epoch FROM checkpoint_time) * 1000000 AS us FROM CDB_OB_BACKUP_ARCHIVELOG_PROGRESS';

test('a full disk: the round says so and goes no further than what is there; with room it goes on without a hole', async ({
  skip,
}) => {
  await using server = await createServer({
    walSegmentSizeMegabytes: 1,
    settings: { max_slot_wal_keep_size: "'4GB'", wal_keep_size: "'2GB'" },
  });
  await using deployment = await startDeployment({
    servers: [{ name: 'orders-primary', tenant: TENANT, port: server.port }],
  });
  const directory = deployment.destinationDirectory;
  const mounted = await run('mount', ['-t', 'tmpfs', '-o', 'size=3m', 'tmpfs', directory]).then(
    () => true,
    () => false,
  );
  if (!mounted) skip('no right to mount');
  try {
    await beginArchiving(deployment);
    await server.query(
      'CREATE TABLE filler AS SELECT i, md5(i::text) || md5((i + 1)::text) AS body FROM generate_series(1, 240000) i',
    );
    const fullUs = await clockUs(server);
    const full = await deployment.waitForRow<Progress>(PROGRESS, (row) =>
      row.last_error.includes('DESTINATION_FULL'),
    );
    expect(full).toMatchObject({ status: 'DOING', waiting_for: 'the destination' });
    expect(Number(full.us)).toBeLessThan(Number(fullUs));
    // What it says is archived is there, whatever the failed writes left.
    const shown = await deployment.holdfast(
      'log',
      'show',
      '--from',
      deployment.destination,
      '--tenant',
      '1001',
      '--json',
    );
    const range = JSON.parse(shown.stdout.split('\n')[0] ?? '') as { begin: string; end: string }; // its own output
    expect(parseLsn(range.end)).toBeGreaterThanOrEqual(parseLsn(full.checkpoint_lsn));
    await run('mount', ['-o', 'remount,size=400m', directory]);
    const [row] = await server.query<{ lsn: string }>('SELECT pg_current_wal_flush_lsn()::text AS lsn');
    const end = parseLsn(row?.lsn ?? '');
    const free = await deployment.waitForRow<Progress>(
      PROGRESS,
      (each) => parseLsn(each.checkpoint_lsn) >= end && Number(each.us) > Number(fullUs),
      90_000,
    );
    expect(free).toMatchObject({ status: 'DOING', last_error: '' });
    const rounds = await deployment.sql('SELECT log_archive_round, status FROM CDB_OB_BACKUP_ARCHIVELOG');
    expect(rounds).toEqual([{ log_archive_round: '1', status: 'DOING' }]);
    await expectSegments(parseLsn(free.start_lsn), parseLsn(free.checkpoint_lsn));
    // An idle round goes on.
    const later = await clockUs(server);
    await waitFor(
      async () => {
        const [now] = await deployment.sql<Progress>(PROGRESS);
        return Number(now?.us) > Number(later) ? true : undefined;
      },
      { what: 'the idle round to advance', timeoutMs: 30_000 },
    );
  } finally {
    await deployment.agent.stop();
    await run('umount', ['-l', directory]);
  }

  /** `holdfast log fetch` of some completed segments, the first and the last among them. */
  async function expectSegments(begin: bigint, end: bigint): Promise<void> {
    const first = segmentStart(begin, SEGMENT_BYTES);
    const count = Number((segmentStart(end, SEGMENT_BYTES) - first) / BigInt(SEGMENT_BYTES));
    expect(count).toBeGreaterThan(5);
    const target = join(deployment.directory, 'fetched');
    for (const number of new Set([0, 1, count >> 1, count - 2, count - 1])) {
      const at = first + BigInt(number * SEGMENT_BYTES);
      const name = segmentName(toTimeline(1), at, SEGMENT_BYTES);
      const fetched = await deployment.holdfast(
        'log',
        'fetch',
        '--from',
        deployment.destination,
        '--tenant',
        '1001',
        name,
        target,
      );
      expect([name, fetched.code, fetched.stderr]).toEqual([name, 0, '']);
      const own = await readFile(join(server.dataDirectory, 'pg_wal', name));
      expect((await readFile(target)).equals(own), name).toBe(true);
    }
  }
}, 240_000);
