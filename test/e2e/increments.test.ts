/**
 * Increments from end to end: a random history with a full backup and several increments, through crashes, promotions and
 * toggled page checksums, each restored from the destination alone and compared with what the server held then.
 */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readServerState, type ServerState } from '../../cli/demo/database-state.ts';
import { startWorkload } from '../../cli/demo/workload.ts';
import { stopServer } from '../../engine/postgres/server-process.ts';
import { findDifferences } from '../support/compare.ts';
import { HistoryStage } from '../support/history-stage.ts';
import { holdfast } from '../support/holdfast-processes.ts';
import { majors } from '../support/majors.ts';
import { binDirectory, type Major, serverUser } from '../support/postgres.ts';
import { createRandom, type Random } from '../support/random.ts';
import { clockUs, connectorTo, DATABASE, formatInstant, TENANT } from '../support/scenario.ts';

const IS_MATRIX = majors().length > 1;
/** Of the first full set. */
const INCREMENTS = Number(process.env['HOLDFAST_TEST_INCREMENTS'] ?? (IS_MATRIX ? 10 : 5));
const LIMIT_OF_ALL_MS = 120_000 * (INCREMENTS + 7);
/** What page checksums are turned to afterwards; each time there is another full set, and an increment of it. */
const TOGGLES = IS_MATRIX ? (['off', 'on'] as const) : (['off'] as const);

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

/** What happens to the server before each increment, in turn. */
const EVENTS: readonly ((stage: HistoryStage, random: Random) => Promise<void>)[] = [
  async ({ history }) => await history.runEach(),
  async (stage, random) => {
    await stage.history.run(random.between(5, 15));
    await stage.crash();
    await stage.history.run(random.between(3, 8));
  },
  async (stage, random) => {
    await stage.history.run(random.between(5, 15));
    await stage.promote();
    await stage.history.run(random.between(3, 8));
  },
  async ({ history }, random) => await history.run(random.between(5, 25)),
];

describe.each(majors(17))('a random history of PostgreSQL %i', (major) => {
  let stage: HistoryStage;
  let random: Random;
  const recorded: Recorded[] = [];

  /** The next set; some are written to meanwhile. */
  async function backUpNext(): Promise<void> {
    const kind = random.next() < 0.5 ? 'quiet' : 'busy';
    recorded.push(await backUp(stage, 'INCREMENTAL DATABASE', kind));
  }

  beforeAll(async () => {
    random = createRandom(`increments of ${major}`);
    stage = await HistoryStage.start(major, random);
    await stage.history.run(5);
    recorded.push(await backUp(stage, 'DATABASE', 'quiet'));
    for (let n = 0; n < INCREMENTS; n += 1) {
      await EVENTS[n % EVENTS.length]?.(stage, random);
      await backUpNext();
    }
    for (const to of TOGGLES) {
      await stage.history.run(5);
      await stage.toggleChecksums(to);
      await backUpNext();
      await stage.history.run(5);
      await backUpNext();
    }
  }, 1_800_000);

  afterAll(async () => {
    await stage?.[Symbol.asyncDispose]();
  });

  test('is one full set and its increments, each of the one before, until page checksums are toggled', async () => {
    const rows = await sets(stage);
    const types = rows.map((row) => row.backup_type);
    const after = TOGGLES.flatMap(() => ['D', 'I']);
    expect(types).toEqual(['D', ...Array<string>(INCREMENTS).fill('I'), ...after]);
    for (const [index, row] of rows.entries()) {
      const before = rows[index - 1];
      const isFull = row.backup_type === 'D';
      expect(row).toMatchObject({
        file_status: 'AVAILABLE',
        full_set_id: isFull ? row.backup_set_id : before?.full_set_id,
        prev_backup_set_id: isFull ? null : before?.backup_set_id,
      });
      if (!isFull) expect(Number(row.input_bytes)).toBeLessThan(Number(row.total_bytes));
    }
    expect(rows.flatMap(({ full_reason }) => full_reason ?? [])).toEqual(
      TOGGLES.map((to) => `page checksums were turned ${to} since the backup before`),
    );
  });

  test(
    'each set restores what the server held',
    async () => {
      expect(recorded).toHaveLength(1 + INCREMENTS + 2 * TOGGLES.length);
      for (const { setId, state, instant } of recorded) {
        await using copy = await restore(stage, major, setId, instant);
        expect(await findDifferences(connectorTo(copy.port), state), `set ${setId}`).toEqual([]);
      }
    },
    LIMIT_OF_ALL_MS,
  );

  test('inspect names the sets that increments go on from', async () => {
    const { stdout } = await holdfast('inspect', stage.deployment.destination);
    const { setId } = recorded.at(-1) ?? { setId: 0n };
    expect(stdout).toMatch(
      new RegExp(`Backup set ${setId}, incremental of full set \\d+, after set ${setId - 1n}`),
    );
  });
});

async function backUp(stage: HistoryStage, what: string, kind: 'quiet' | 'busy'): Promise<Recorded> {
  const { leader: server, deployment } = stage;
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
  const setId = BigInt((await sets(stage)).at(-1)?.backup_set_id ?? 0);
  if (kind === 'quiet') return { setId, state, instant: undefined };
  const instant = formatInstant(await clockUs(server));
  // Replay goes on to the next commit: a DROP DATABASE that is next would have marked its database already.
  await server.query('SELECT pg_current_xact_id()');
  return { setId, state, instant };
}

async function sets({ deployment }: HistoryStage): Promise<readonly SetRow[]> {
  return await deployment.sql<SetRow>('SELECT * FROM CDB_OB_BACKUP_SET_FILES ORDER BY backup_set_id');
}

async function restore(
  { deployment, leader: server }: HistoryStage,
  major: Major,
  setId: bigint,
  instant: string | undefined,
): Promise<AsyncDisposable & { readonly port: number }> {
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
