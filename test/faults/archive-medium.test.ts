/**
 * The real archiver of a real server over a medium that fails: seeds choose which calls fail and how, when archivers end,
 * when the next one begins (often beside the one before), and when the server cuts their connections. Whatever happens:
 *
 *  1. what the server was told is flushed can be read from the archive, at every moment;
 *  2. what was ever reported as durable can be read once a healthy archiver has gone on;
 *  3. the log is one unbroken range, equal to the server's own segments byte for byte;
 *  4. a file that is written once never changes; a log file only grows, and what its index accepts never changes;
 *  5. no file has blocks of another epoch than its name says (LogArchive refuses them).
 */
import { createHash } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { defined } from '../../foundation/assert.ts';
import { type Clock, systemClock } from '../../foundation/clock.ts';
import { type Lsn, parseLsn } from '../../foundation/lsn.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { parseTreePath } from '../../storage-layout/tree.ts';
import {
  ARCHIVE_SLOT,
  openArchive,
  type RunningArchiver,
  readServerLog,
  startArchiver,
  writeMountFile,
} from '../support/archiver.ts';
import { FAULTS, type Fault, FaultyMedium, type SeededPlan, seededPlan } from '../support/faulty-medium.ts';
import { createServer, makeTestDirectory, type TestServer } from '../support/postgres.ts';
import { createRandom, type Random } from '../support/random.ts';

const SEGMENT_BYTES = 1024 * 1024;
const SECONDS = Number(process.env['HOLDFAST_FAULT_SECONDS'] ?? 55);
const EPOCHS_PER_LIFE = 5;
const SETTLE_MS = 30_000;
/** Back-off is not what is tested: it would leave little time for anything to fail in. */
const IMPATIENT_CLOCK: Clock = {
  ...systemClock,
  sleep: (durationMs, signal) => systemClock.sleep(Math.min(durationMs, 30), signal),
};

let server: TestServer;
let base: string;
let workload: Workload;

beforeAll(async () => {
  server = await createServer({
    walSegmentSizeMegabytes: 1,
    settings: { wal_keep_size: "'4GB'", checkpoint_timeout: '30s', fsync: 'off' },
  });
  await server.query('CREATE TABLE accounts (id int PRIMARY KEY, balance bigint, filler text)');
  await server.query("INSERT INTO accounts SELECT i, 0, repeat('x', 80) FROM generate_series(1, 5000) i");
  await server.query('CREATE TABLE history (id bigserial, account int, filler text)');
  base = await makeTestDirectory('faults');
  workload = startWorkload();
});
afterAll(async () => {
  await workload.stop();
  await server[Symbol.asyncDispose]();
  await rm(base, { recursive: true, force: true });
});

describe('an archiver over a medium that fails', () => {
  test('loses nothing that it promised, whatever fails and whoever takes over', async () => {
    const random = createRandom('archive over a failing medium');
    const counts = new Map<Fault, number>();
    const deadline = performance.now() + SECONDS * 1000;
    let lives = 0;
    do {
      lives += 1;
      const life = await Life.begin(`life${lives}`, random);
      for (let epoch = 1; epoch <= EPOCHS_PER_LIFE; epoch += 1) await life.liveThrough(epoch);
      await life.settle(EPOCHS_PER_LIFE + 1);
      for (const [fault, count] of life.plan.counts) counts.set(fault, (counts.get(fault) ?? 0) + count);
    } while (performance.now() < deadline);
    const told = FAULTS.map((fault) => `${fault} ${counts.get(fault) ?? 0}`).join(', ');
    process.stderr.write(`archive over a failing medium: ${lives} destinations; ${told}\n`);
  });
});

/** One destination, from its first archiver to the healthy last one. */
class Life {
  readonly plan: SeededPlan;
  readonly #destination: string;
  readonly #random: Random;
  readonly #fingerprints = new Map<string, Fingerprint>();
  readonly #running: RunningArchiver[] = [];
  /** The highest position that any archiver reported as durable. */
  #reported = 0n;

  private constructor(destination: string, random: Random) {
    this.#destination = destination;
    this.#random = random;
    this.plan = seededPlan(random, 0.01 + 0.25 * random.next() ** 2);
  }

  static async begin(name: string, random: Random): Promise<Life> {
    const destination = join(base, name);
    await mkdir(destination);
    await writeMountFile(destination);
    return new Life(destination, random);
  }

  /** Another archiver for a while; the one before often still lives. */
  async liveThrough(epoch: number): Promise<void> {
    const archiver = this.#start(epoch);
    const end = performance.now() + this.#random.between(150, 900);
    while (performance.now() < end) {
      await wait(this.#random.between(5, 40));
      if (this.#random.next() < 0.8) archiver.flush(await flushedLsn());
      if (this.#random.next() < 0.08) await cutConnections();
      await this.#expectToldIsThere();
    }
    await this.#expectNothingChanged();
    if (this.#random.next() < 0.6) await this.#endAll();
  }

  /** Nothing fails any more: all that was ever promised must be there, and the whole equal to the server's log. */
  async settle(epoch: number): Promise<void> {
    await this.#endAll();
    this.plan.rate = 0;
    const archiver = this.#start(epoch);
    const lsn = await flushedLsn();
    archiver.flush(lsn);
    const deadline = performance.now() + SETTLE_MS;
    while ((archiver.progress()?.durable?.lsn ?? 0n) < lsn) {
      await this.#failIfInterrupted(archiver);
      expect(performance.now(), archiver.progress()?.lastError).toBeLessThan(deadline);
      await wait(20);
    }
    archiver.drain();
    const result = await archiver.result;
    expect(result.interruptedReason).toBe('');
    const archive = await openArchive(this.#destination);
    const coverage = archive.coverage();
    expect(coverage).toHaveLength(1);
    const range = defined(coverage[0], 'the range');
    expect(range.begin % BigInt(SEGMENT_BYTES)).toBe(0n);
    expect(range.end).toBeGreaterThanOrEqual(this.#reported);
    const parts: Buffer[] = [];
    for await (const { data } of archive.read(range.timeline, range.begin, range.end)) parts.push(data);
    const original = await readServerLog(server, range.timeline, range.begin, range.end, SEGMENT_BYTES);
    expect(Buffer.concat(parts).equals(original)).toBe(true);
    expect(archive.unsealed).toEqual([]);
    await this.#expectNothingChanged();
    await rm(this.#destination, { recursive: true });
  }

  #start(epoch: number): RunningArchiver {
    const archiver = startArchiver(
      { port: server.port, destination: this.#destination, epoch, fresh: this.#reported === 0n },
      {
        openMedium: async (uri, signal): Promise<Medium> =>
          new FaultyMedium(await openMedium(uri, signal), this.plan),
        clock: IMPATIENT_CLOCK,
        onProgress: ({ durable }) => {
          if (durable !== undefined && durable.lsn > this.#reported) this.#reported = durable.lsn;
        },
      },
    );
    this.#running.push(archiver);
    return archiver;
  }

  /** Ends every archiver, half of them in the middle of what they do. An archiver may have given way to a later one. */
  async #endAll(): Promise<void> {
    for (const archiver of this.#running.splice(0)) {
      if (this.#random.next() < 0.5) archiver.drain('SHUTTING_DOWN');
      else archiver.abort();
      const outcome = await archiver.result.catch((error: unknown) => error);
      const ended = ['CANCELLED', 'SHUTTING_DOWN', 'LOG_ARCHIVE_LEADER_CHANGED'];
      expect(ended, String(outcome)).toContain((outcome as { code?: string }).code);
    }
  }

  async #failIfInterrupted(archiver: RunningArchiver): Promise<void> {
    const still = Symbol('still running');
    const outcome = await Promise.race([archiver.result, Promise.resolve(still)]);
    if (typeof outcome !== 'symbol') throw new Error(`the archiver ended: ${outcome.interruptedReason}`);
  }

  /** The slot first, the archive second: what was told before must be there after. */
  async #expectToldIsThere(): Promise<void> {
    const told = await toldLsn();
    if (told === undefined || this.#reported === 0n) return;
    const archive = await openArchive(this.#destination);
    const end = archive.coverage()[0]?.end ?? 0n;
    // A slot that nobody has told anything yet stands where it was made, which may be behind the first byte's flush.
    if (told > this.#reported) return;
    expect(end, 'end of the archive, and what the server was told').toBeGreaterThanOrEqual(told);
  }

  async #expectNothingChanged(): Promise<void> {
    await using medium = await openMedium(`file://${this.#destination}`);
    for await (const page of medium.list('')) {
      for (const { key, sizeBytes } of page) {
        const kind = parseTreePath(key)?.kind;
        if (kind === 'clogInfo') continue; // a summary
        const known = this.#fingerprints.get(key);
        if (known !== undefined) {
          if (kind !== 'logData') expect(sizeBytes, key).toBe(known.sizeBytes);
          expect(await fingerprint(medium, key, known.sizeBytes), key).toEqual(known);
        }
        if (known?.sizeBytes !== sizeBytes)
          this.#fingerprints.set(key, await fingerprint(medium, key, sizeBytes));
      }
    }
  }
}

type Fingerprint = { readonly sizeBytes: number; readonly sha256: string };

async function fingerprint(medium: Medium, key: string, sizeBytes: number): Promise<Fingerprint> {
  const bytes = await medium.readRange(key, 0, sizeBytes);
  return { sizeBytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') };
}

async function flushedLsn(): Promise<Lsn> {
  const [row] = await workload.query<{ lsn: string }>('SELECT pg_current_wal_flush_lsn()::text AS lsn');
  return parseLsn(defined(row, 'row').lsn);
}

async function toldLsn(): Promise<Lsn | undefined> {
  const [row] = await workload.query<{ lsn: string | null }>(
    'SELECT restart_lsn::text AS lsn FROM pg_replication_slots WHERE slot_name = $1',
    [ARCHIVE_SLOT],
  );
  return row === undefined || row.lsn === null ? undefined : parseLsn(row.lsn);
}

/** The server gives the stream's session up: whoever comes first gets the slot. */
async function cutConnections(): Promise<void> {
  await workload.query(
    'SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL',
  );
}

type Workload = {
  query<Row>(sql: string, values?: readonly unknown[]): Promise<Row[]>;
  stop(): Promise<void>;
};

/** pgbench in small: an update and an insert per transaction, now and then a bulk insert; until stopped. */
function startWorkload(): Workload {
  const state = { stopped: false };
  const control = server.connect();
  const run = async () => {
    const client = await server.connect();
    try {
      for (let turn = 1; !state.stopped; turn += 1) {
        const account = (turn * 7919) % 5000;
        await client.query(
          `WITH changed AS (UPDATE accounts SET balance = balance + 1 WHERE id = $1 RETURNING id)
           INSERT INTO history (account, filler) SELECT $1, repeat(md5($1::text), 3) FROM generate_series(1, $2)`,
          [account, turn % 60 === 0 ? 2000 : 1],
        );
        await wait(5);
      }
    } finally {
      await client.end();
    }
  };
  const runs = [run(), run()];
  return {
    async query<Row>(sql: string, values: readonly unknown[] = []) {
      const { rows } = await (await control).query(sql, [...values]);
      return rows as Row[]; // the caller names the columns it asks for
    },
    async stop() {
      state.stopped = true;
      await Promise.all(runs);
      await (await control).end();
    },
  };
}
