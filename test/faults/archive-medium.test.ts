/**
 * The real archiver of a real server over a medium that fails. First at single calls of a short life, by their numbers;
 * then seeds choose which calls fail and how, when archivers end, when the next one begins (often beside the one before),
 * and when the server cuts their connections; last on a file system that is really full. Whatever happens:
 *
 *  1. what the server was told is flushed can be read from the archive, at every moment;
 *  2. what was ever reported as durable can be read once a healthy archiver has gone on;
 *  3. the log is one unbroken range, equal to the server's own segments byte for byte;
 *  4. a file that is written once never changes; a log file only grows, and what its index accepts never changes;
 *  5. every completed segment is fetched as the server has it;
 *  6. no file has blocks of another epoch than its name says (LogArchive refuses them).
 */

import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readArchivedSegment } from '../../agent/restore/archived-file.ts';
import { waitFor } from '../../cli/demo/wait.ts';
import { defined } from '../../foundation/assert.ts';
import { type Clock, systemClock } from '../../foundation/clock.ts';
import type { HoldfastError } from '../../foundation/errors.ts';
import { type Lsn, parseLsn, segmentName, toLsn } from '../../foundation/lsn.ts';
import { LogLookup } from '../../storage-layout/clog/lookup.ts';
import type { LogRange } from '../../storage-layout/clog/ranges.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { parseTreePath } from '../../storage-layout/tree.ts';
import {
  ARCHIVE_GROUP,
  ARCHIVE_ROOT,
  ARCHIVE_ROUND,
  ARCHIVE_SLOT,
  openArchive,
  type RunningArchiver,
  readServerLog,
  startArchiver,
  writeMountFile,
} from '../support/archiver.ts';
import {
  FAULTS,
  type Fault,
  type FaultPlan,
  FaultyMedium,
  planForCall,
  seededPlan,
} from '../support/faulty-medium.ts';
import { majors } from '../support/majors.ts';
import { createServer, makeTestDirectory, type TestServer } from '../support/postgres.ts';
import { createRandom, type Random } from '../support/random.ts';

const SEGMENT_BYTES = 1024 * 1024;
const SECONDS = Number(process.env['HOLDFAST_FAULT_SECONDS'] ?? 30);
/** Which faults each call of a short life has in turn: every one in the matrix, else a death, and one of the others. */
const WALKS: readonly (readonly Fault[])[] =
  majors().length > 1
    ? FAULTS.map((fault) => [fault])
    : [['kill'], FAULTS.filter((fault) => fault !== 'kill')];
/** Of a walk's calls, every so many'th is disturbed: each in the matrix. Which ones, the seed says. */
const STRIDE = majors().length > 1 ? 1 : 3;
/** A short life has fewer calls. */
const MOST_CALLS = 300;
const EPOCHS_PER_LIFE = 5;
const SETTLE_MS = 30_000;
/** A stretch of a short life that the fault does not hinder is durable long before. */
const SHORT_MS = 3000;
/** Enough for a walk over more than twenty calls, those of its beginning and its end among them. */
const STRETCHES = 8;
const NO_FAULTS: FaultPlan = { next: () => undefined };
const runCommand = promisify(execFile);
const { signal } = new AbortController();
/** Back-off is not what is tested: it would leave little time for anything to fail in. */
const IMPATIENT_CLOCK: Clock = {
  ...systemClock,
  sleep: (durationMs, abort) => systemClock.sleep(Math.min(durationMs, 30), abort),
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
  test.each(WALKS)('loses nothing, whichever call fails: %s …', async (...faults) => {
    const random = createRandom(`archive, one call fails: ${faults.join()}`);
    let walked = 0;
    let number = 1 + random.between(0, STRIDE);
    for (let hasFired = true; hasFired; number += STRIDE) {
      expect(number).toBeLessThan(MOST_CALLS);
      const plan = planForCall(number, defined(faults[walked % faults.length], 'a fault'));
      walked += 1;
      const life = await Life.begin(`call${faults.length}-${number}`, random, plan);
      await life.liveShortly(1, () => plan.hasFired() && faults.includes('kill'));
      hasFired = plan.hasFired();
      plan.disarm();
      await life.settle(2);
    }
    process.stderr.write(
      `archive over a failing medium: ${faults.join(', ')} at ${walked - 1} of ${number} calls\n`,
    );
    expect(number).toBeGreaterThan(20);
  });

  test('loses nothing that it promised, whatever fails and whoever takes over', async () => {
    const random = createRandom('archive over a failing medium');
    const counts = new Map<Fault, number>();
    const deadline = performance.now() + SECONDS * 1000;
    let lives = 0;
    do {
      lives += 1;
      const plan = seededPlan(random, 0.01 + 0.25 * random.next() ** 2);
      const life = await Life.begin(`life${lives}`, random, plan);
      for (let epoch = 1; epoch <= EPOCHS_PER_LIFE; epoch += 1) await life.liveThrough(epoch);
      plan.rate = 0;
      await life.settle(EPOCHS_PER_LIFE + 1);
      for (const [fault, count] of plan.counts) counts.set(fault, (counts.get(fault) ?? 0) + count);
    } while (performance.now() < deadline);
    const told = FAULTS.map((fault) => `${fault} ${counts.get(fault) ?? 0}`).join(', ');
    process.stderr.write(`archive over a failing medium: ${lives} destinations; ${told}\n`);
  });

  test('on a file system that is full: waits, says so, and goes on when there is room', async ({ skip }) => {
    const destination = join(base, 'full');
    await mkdir(destination);
    const mounted = await runCommand('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', destination]).then(
      () => true,
      () => false,
    );
    if (!mounted) skip('no right to mount');
    try {
      const life = await Life.begin('full', createRandom('a full file system'), NO_FAULTS);
      await life.fillUp(1, async () => {
        await runCommand('mount', ['-o', 'remount,size=400m', destination]);
      });
      await life.settle(2);
    } finally {
      await runCommand('umount', ['-l', destination]);
    }
  });
});

/** One destination, from its first archiver to the healthy last one. */
class Life {
  readonly #plan: FaultPlan;
  readonly #destination: string;
  readonly #random: Random;
  readonly #fingerprints = new Map<string, Fingerprint>();
  readonly #running: RunningArchiver[] = [];
  /** The highest position that any archiver reported as durable. */
  #reported = 0n;
  /** Where the slot stood when it was made: nobody was told anything then. */
  readonly #untold: Lsn;

  private constructor(destination: string, random: Random, plan: FaultPlan, untold: Lsn) {
    this.#destination = destination;
    this.#random = random;
    this.#plan = plan;
    this.#untold = untold;
  }

  static async begin(name: string, random: Random, plan: FaultPlan): Promise<Life> {
    const destination = join(base, name);
    await mkdir(destination, { recursive: true });
    await writeMountFile(destination);
    return new Life(destination, random, plan, await makeSlot());
  }

  /** One archiver, for some stretches of log or until it dies; then it ends. */
  async liveShortly(epoch: number, hasDied: () => boolean): Promise<void> {
    const archiver = this.#start(epoch);
    for (let stretch = 1; stretch <= STRETCHES && !hasDied(); stretch += 1) {
      await this.#awaitDurable(archiver, await flushedLsn(), SHORT_MS, hasDied);
      await this.#expectToldIsThere();
    }
    if (hasDied()) archiver.abort();
    await this.#expectNothingChanged();
    await this.#endAll();
    await this.#expectToldIsThere();
  }

  /** One archiver until the destination takes nothing more, then with room. */
  async fillUp(epoch: number, makeRoom: () => Promise<void>): Promise<void> {
    const archiver = this.#start(epoch);
    await workload.query(
      'INSERT INTO history (account, filler) SELECT i, md5(i::text) || md5((i + 1)::text) FROM generate_series(1, 50000) i',
    );
    const wanted = await flushedLsn();
    archiver.flush(wanted);
    const deadline = performance.now() + SETTLE_MS;
    while (!(archiver.progress()?.lastError ?? '').includes('DESTINATION_FULL')) {
      expect(performance.now(), archiver.progress()?.lastError).toBeLessThan(deadline);
      await this.#expectToldIsThere();
      await wait(20);
    }
    const durable = archiver.progress()?.durable?.lsn ?? 0n;
    expect(durable).toBeLessThan(wanted);
    await this.#expectNothingChanged();
    await makeRoom();
    await this.#awaitDurable(archiver, wanted, SETTLE_MS);
    expect(archiver.progress()?.durable?.lsn).toBeGreaterThanOrEqual(wanted);
    await this.#expectToldIsThere();
    await this.#endAll();
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
    const archiver = this.#start(epoch);
    const lsn = await flushedLsn();
    await this.#awaitDurable(archiver, lsn, SETTLE_MS);
    expect(archiver.progress()?.durable?.lsn ?? 0n, archiver.progress()?.lastError).toBeGreaterThanOrEqual(
      lsn,
    );
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
    for await (const { data } of archive.read(range.timeline, range.begin, range.end))
      parts.push(Buffer.from(data));
    const original = await readServerLog(server, range.timeline, range.begin, range.end, SEGMENT_BYTES);
    expect(Buffer.concat(parts).equals(original)).toBe(true);
    expect(archive.unsealed).toEqual([]);
    await this.#expectNothingChanged();
    await this.#expectSegments(range);
    // A mount point stays.
    for (const name of await readdir(this.#destination))
      await rm(join(this.#destination, name), { recursive: true });
  }

  /** As a standby's restore_command would get them. */
  async #expectSegments(range: LogRange): Promise<void> {
    await using medium = await openMedium(`file://${this.#destination}`);
    const place = { medium, root: ARCHIVE_ROOT, round: ARCHIVE_ROUND, group: ARCHIVE_GROUP };
    const lookup = await LogLookup.open(medium, ARCHIVE_ROOT, ARCHIVE_ROUND, ARCHIVE_GROUP);
    const fetch = (begin: Lsn) =>
      readArchivedSegment(
        place,
        lookup,
        segmentName(range.timeline, begin, SEGMENT_BYTES),
        SEGMENT_BYTES,
        signal,
      );
    let begin = range.begin;
    for (; begin + BigInt(SEGMENT_BYTES) <= range.end; begin = toLsn(begin + BigInt(SEGMENT_BYTES))) {
      const end = toLsn(begin + BigInt(SEGMENT_BYTES));
      const original = await readServerLog(server, range.timeline, begin, end, SEGMENT_BYTES);
      expect((await fetch(begin))?.equals(original), `segment at ${begin}`).toBe(true);
    }
    if (begin < range.end) expect(await fetch(begin), 'a segment that is not whole').toBeUndefined();
  }

  /** Returns when it is durable, when the time is over, or when `isOver` says so. */
  async #awaitDurable(
    archiver: RunningArchiver,
    lsn: Lsn,
    limitMs: number,
    isOver: () => boolean = () => false,
  ): Promise<void> {
    archiver.flush(lsn);
    const deadline = performance.now() + limitMs;
    while ((archiver.progress()?.durable?.lsn ?? 0n) < lsn && performance.now() < deadline && !isOver()) {
      await this.#failIfInterrupted(archiver);
      await wait(10);
    }
  }

  #start(epoch: number): RunningArchiver {
    const archiver = startArchiver(
      { port: server.port, destination: this.#destination, epoch, fresh: this.#reported === 0n },
      {
        openMedium: async (uri, abort): Promise<Medium> =>
          new FaultyMedium(await openMedium(uri, abort), this.#plan),
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
      const outcome = await archiver.result.catch((error: unknown) => error as HoldfastError); // as runArchiveTask throws
      const ended = ['CANCELLED', 'SHUTTING_DOWN', 'LOG_ARCHIVE_LEADER_CHANGED'];
      const told = 'code' in outcome ? outcome : `it ended by itself: ${outcome.interruptedReason}`;
      expect(ended, String(told)).toContain('code' in outcome ? outcome.code : '');
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
    if (told === undefined || told <= this.#untold) return;
    const archive = await openArchive(this.#destination);
    const end = archive.coverage()[0]?.end ?? 0n;
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

/** Made anew. Returns where it begins. */
async function makeSlot(): Promise<Lsn> {
  await waitFor(
    async () => {
      await cutConnections(); // the walsender of an archiver that has ended may still hold it
      await workload.query(
        'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND NOT active',
        [ARCHIVE_SLOT],
      );
      return (await toldLsn()) === undefined ? true : undefined;
    },
    { what: 'the slot to be free', timeoutMs: SETTLE_MS },
  );
  await workload.query('SELECT pg_create_physical_replication_slot($1, true)', [ARCHIVE_SLOT]);
  return defined(await toldLsn(), 'the position of a new slot');
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
