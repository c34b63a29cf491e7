/**
 * How much log an archiver gets through: some gigabytes that a real server wrote (small transactions with page images and
 * without, bulk loads, index builds) are replayed from its segments into the archiver's own loops, parser, change map,
 * compression and fsync included, in a process of its own.
 */
import { join } from 'node:path';
import { type Lsn, parseLsn, segmentStart } from '../foundation/lsn.ts';
import { createServer, type TestServer } from '../test/support/postgres.ts';
import type { ReplayOrder } from './archive-replay.ts';
import { runMeasured } from './measured-command.ts';

const SEGMENT_BYTES = 16 * 2 ** 20;

/** As an agent runs (cli/agent-image.ts). */
const AGENT_OPTIONS = ['--disable-warning=ExperimentalWarning', '--max-semi-space-size=2'];
const AGENT_ENVIRONMENT = { MALLOC_ARENA_MAX: '2', MALLOC_MMAP_THRESHOLD_: '262144' };

export type ArchiveThroughput = {
  readonly bytes: number;
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly peakRssBytes: number;
  readonly storedBytes: number;
};

/** Makes `sizeBytes` of log on a server of its own and replays it with each compression. `directory` is for the archives. */
export async function measureArchiveThroughput(
  directory: string,
  sizeBytes: number,
  compressions: readonly string[],
): Promise<ReadonlyMap<string, ArchiveThroughput>> {
  await using server = await createServer({
    major: 17,
    settings: {
      wal_keep_size: `${Math.ceil(sizeBytes / 2 ** 20) * 2 + 512}`,
      max_wal_size: "'1GB'",
      fsync: 'off',
      synchronous_commit: 'off',
    },
  });
  const begin = segmentStart(await currentLsn(server), SEGMENT_BYTES) + BigInt(SEGMENT_BYTES);
  await server.query('SELECT pg_switch_wal()');
  await makeLog(server, begin, sizeBytes);
  const end = segmentStart(await currentLsn(server), SEGMENT_BYTES);
  const results = new Map<string, ArchiveThroughput>();
  for (const compression of compressions) {
    const order: ReplayOrder = {
      walDirectory: join(server.dataDirectory, 'pg_wal'),
      destination: join(directory, `replay-${compression.replaceAll(/\W/g, '')}`),
      begin: String(begin),
      end: String(end),
      compression,
    };
    const script = join(import.meta.dirname, 'archive-replay.ts');
    const measured = await runMeasured(
      [process.execPath, ...AGENT_OPTIONS, script, JSON.stringify(order)],
      AGENT_ENVIRONMENT,
    );
    const told = JSON.parse(measured.stdout) as { seconds: number; storedBytes: number }; // from archive-replay.ts
    results.set(compression, {
      bytes: Number(end - begin),
      seconds: told.seconds,
      cpuSeconds: measured.cpuSeconds,
      peakRssBytes: measured.peakRssBytes,
      storedBytes: told.storedBytes,
    });
  }
  return results;
}

async function currentLsn(server: TestServer): Promise<Lsn> {
  const [row] = await server.query<{ lsn: string }>('SELECT pg_current_wal_flush_lsn()::text AS lsn');
  return parseLsn(row?.lsn ?? '');
}

async function makeLog(server: TestServer, begin: bigint, sizeBytes: number): Promise<void> {
  const client = await server.connect();
  try {
    await client.query('CREATE TABLE account (id int PRIMARY KEY, balance int, filler text)');
    await client.query(
      `INSERT INTO account SELECT i, 0, repeat(md5(i::text), 2) FROM generate_series(1, 400000) i`,
    );
    await client.query(
      'CREATE TABLE history (id bigserial PRIMARY KEY, account int, at timestamptz, filler text)',
    );
    for (
      let round = 0;
      (await currentLsn(server)) < begin + BigInt(sizeBytes) + BigInt(SEGMENT_BYTES);
      round += 1
    ) {
      await client.query(
        `DO $$ DECLARE chosen int; BEGIN FOR i IN 1 .. 20000 LOOP
           chosen := 1 + floor(random() * 400000);
           UPDATE account SET balance = balance + 1 WHERE id = chosen;
           INSERT INTO history (account, at, filler) VALUES (i, now(), md5(random()::text));
           IF i % 5 = 0 THEN COMMIT; END IF;
         END LOOP; END $$`,
      );
      await client.query(
        `INSERT INTO history (account, at, filler) SELECT i, now(), md5(random()::text) FROM generate_series(1, 100000) i`,
      );
      if (round % 10 === 9) await client.query('CREATE INDEX ON history (account)');
    }
    await client.query('SELECT pg_switch_wal()');
  } finally {
    await client.end();
  }
}
