/**
 * Increments from end to end: a random history with a full backup and several increments, each restored from the
 * destination alone and compared with what the server held then.
 */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readServerState, type ServerState } from '../../cli/demo/database-state.ts';
import { startWorkload } from '../../cli/demo/workload.ts';
import { stopServer } from '../../engine/postgres/server-process.ts';
import { findDifferences } from '../support/compare.ts';
import { holdfast } from '../support/holdfast-processes.ts';
import { IncrementHistory } from '../support/increment-history.ts';
import { majors } from '../support/majors.ts';
import { binDirectory, type Major, serverUser } from '../support/postgres.ts';
import { createRandom, type Random } from '../support/random.ts';
import {
  clockUs,
  connectorTo,
  DATABASE,
  formatInstant,
  type Scenario,
  startArchivedShop,
  TENANT,
} from '../support/scenario.ts';

const INCREMENTS = Number(process.env['HOLDFAST_TEST_INCREMENTS'] ?? 5);

/** A set, and what the server held at its end or, when it was written to meanwhile, a little later. */
type Recorded = {
  readonly setId: bigint;
  readonly state: ServerState;
  /** Undefined: the set's own end. */
  readonly instant: string | undefined;
};

type SetRow = {
  readonly backup_set_id: string;
  readonly full_set_id: string;
  readonly prev_backup_set_id: string | null;
  readonly backup_type: string;
  readonly file_status: string;
  readonly full_reason: string | null;
  readonly input_bytes: string;
  readonly output_bytes: string;
  readonly total_bytes: string;
};

describe.each(majors(17))('a random history of PostgreSQL %i', (major) => {
  let scenario: Scenario;
  let history: IncrementHistory;
  let random: Random;
  const recorded: Recorded[] = [];

  beforeAll(async () => {
    random = createRandom(`increments of ${major}`);
    scenario = await startArchivedShop({ major });
    history = await IncrementHistory.begin(scenario.server, random, DATABASE);
    await history.run(5);
    recorded.push(await backUp(scenario, 'DATABASE', 'quiet'));
    await history.runEach();
    recorded.push(await backUp(scenario, 'INCREMENTAL DATABASE', 'quiet'));
    for (let n = 1; n < INCREMENTS; n += 1) {
      await history.run(random.between(5, 25));
      const kind = random.next() < 0.5 ? 'quiet' : 'busy';
      recorded.push(await backUp(scenario, 'INCREMENTAL DATABASE', kind));
    }
  }, 900_000);

  afterAll(async () => {
    await history?.end();
    await scenario?.[Symbol.asyncDispose]();
  });

  test('is one full set and its increments, each of the one before', async () => {
    const rows = await sets(scenario);
    expect(rows.map((row) => row.backup_type)).toEqual(['D', ...Array(INCREMENTS).fill('I')]);
    expect(new Set(rows.map((row) => row.full_set_id)).size).toBe(1);
    expect(rows.slice(1).map((row) => row.prev_backup_set_id)).toEqual(
      rows.slice(0, -1).map((row) => row.backup_set_id),
    );
    expect(rows.every((row) => row.full_reason === null && row.file_status === 'AVAILABLE')).toBe(true);
    for (const row of rows.slice(1)) expect(Number(row.input_bytes)).toBeLessThan(Number(row.total_bytes));
  });

  test('each set restores what the server held', async () => {
    expect(recorded).toHaveLength(INCREMENTS + 1);
    for (const { setId, state, instant } of recorded) {
      await using copy = await restore(scenario, major, setId, instant);
      expect(await findDifferences(connectorTo(copy.port), state), `set ${setId}`).toEqual([]);
    }
  });

  test('inspect names the sets that increments go on from', async () => {
    const { stdout } = await holdfast('inspect', scenario.deployment.destination);
    const { setId } = recorded.at(-1) ?? { setId: 0n };
    expect(stdout).toMatch(
      new RegExp(`Backup set ${setId}, incremental of full set \\d+, after set ${setId - 1n}`),
    );
  });
});

async function backUp(scenario: Scenario, what: string, kind: 'quiet' | 'busy'): Promise<Recorded> {
  const { server, deployment } = scenario;
  if (kind === 'busy') {
    // Above the transactions of the busy backups before.
    const client = await server.connect(DATABASE);
    const { rows } = await client.query<{ id: number }>(
      'SELECT coalesce(max(id), 0)::int + 1 AS id FROM transactions',
    );
    await client.end();
    await using workload = await startWorkload({
      connect: () => server.connect(DATABASE),
      clients: 3,
      firstId: rows[0]?.id ?? 1,
    });
    await deployment.sql(`ALTER SYSTEM BACKUP ${what} WAIT`);
    await workload.stop();
  } else await deployment.sql(`ALTER SYSTEM BACKUP ${what} WAIT`);
  const state = await readServerState((database) => server.connect(database));
  const setId = BigInt((await sets(scenario)).at(-1)?.backup_set_id ?? 0);
  return { setId, state, instant: kind === 'busy' ? formatInstant(await clockUs(server)) : undefined };
}

async function sets({ deployment }: Scenario): Promise<readonly SetRow[]> {
  return await deployment.sql<SetRow>('SELECT * FROM CDB_OB_BACKUP_SET_FILES ORDER BY backup_set_id');
}

async function restore(
  scenario: Scenario,
  major: Major,
  setId: bigint,
  instant: string | undefined,
): Promise<AsyncDisposable & { readonly port: number }> {
  const { deployment, server } = scenario;
  const to = join(server.directory, `copy-of-${setId}`);
  if (instant !== undefined) await server.query('SELECT pg_switch_wal()'); // so that there is log behind the instant
  const runAs = serverUser() === undefined ? [] : ['--run-as', 'nobody'];
  const until = instant === undefined ? ['--immediate'] : ['--until', instant];
  const place = ['--from', deployment.destination, '--tenant', TENANT, '--to', to, '--set', String(setId)];
  const bin = ['--bin-directory', binDirectory(major)];
  const { code, stdout, stderr } = await holdfast('restore', ...place, ...until, ...runAs, ...bin);
  expect([code, stderr]).toEqual([0, expect.anything()]);
  const paths = { binDirectory: binDirectory(major), dataDirectory: to, user: serverUser() };
  return {
    port: Number(/listens on 127\.0\.0\.1, port (\d+)/.exec(stdout)?.[1]),
    async [Symbol.asyncDispose]() {
      await stopServer(paths, 'immediate', new AbortController().signal);
    },
  };
}
