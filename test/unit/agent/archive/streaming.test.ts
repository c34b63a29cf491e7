/** The archiver's loops over a real directory, with a server and a store that do as the test says. */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { LogFileSequence } from '../../../../agent/archive/file-sequence.ts';
import type { LogPlace } from '../../../../agent/archive/place.ts';
import { NO_CHECKPOINT } from '../../../../agent/archive/policy.ts';
import { Streaming } from '../../../../agent/archive/streaming.ts';
import { takeOver } from '../../../../agent/archive/takeover.ts';
import type { Instance, LogChunk, LogEvent, LogInspector, LogStream } from '../../../../engine/engine.ts';
import { type Clock, systemClock } from '../../../../foundation/clock.ts';
import { HoldfastError } from '../../../../foundation/errors.ts';
import { type Lsn, toLsn, toTimeline } from '../../../../foundation/lsn.ts';
import { MountFileSchema } from '../../../../proto/gen/holdfast/v1/records_pb.ts';
import type { AppendableFile, Medium } from '../../../../storage-layout/media/medium.ts';
import { openMedium } from '../../../../storage-layout/media/open.ts';
import { writeOnce } from '../../../../storage-layout/records/info-file.ts';
import { tree } from '../../../../storage-layout/tree.ts';
import { LogArchive } from '../../../support/log-archive.ts';
import { makeTestDirectory } from '../../../support/postgres.ts';

const ROOT = { clusterName: 'hf', clusterId: 1n };
const ROUND = { tenantId: 1001n, round: 1n };
const TIMELINE = toTimeline(1);
const BEGIN = toLsn(0x1000000n);

let directory: string;
let medium: Medium;
let place: LogPlace;
/** Appends that still succeed. */
let appendsLeft: number;

beforeEach(async () => {
  directory = await makeTestDirectory('streaming');
  await mkdir(join(directory, 'd'));
  const store = await openMedium(`file://${join(directory, 'd')}`);
  appendsLeft = Number.POSITIVE_INFINITY;
  medium = failing(store);
  place = { medium, root: ROOT, round: ROUND, group: 'p0' };
  await writeOnce(medium, tree.mountFile(ROOT, ROUND), MountFileSchema, create(MountFileSchema, ROUND));
});
afterEach(async () => {
  await medium[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

/** The store, whose appends fail by half once `appendsLeft` is used up: some bytes arrive, nobody knows how many. */
function failing(store: Medium): Medium {
  return new Proxy(store, {
    get(target, name) {
      if (name === 'createAppendable')
        return async (key: string) => failingFile(await target.createAppendable(key));
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? (value as () => unknown).bind(target) : value; // a method of the store
    },
  });
}

function failingFile(file: AppendableFile): AppendableFile {
  return {
    get sizeBytes() {
      return file.sizeBytes;
    },
    async append(chunks) {
      if (appendsLeft <= 0) {
        const torn = Buffer.concat(chunks);
        await file.append([torn.subarray(0, Math.floor(torn.length / 2))]);
        throw new HoldfastError('DESTINATION_IO', 'the store fails as the test wants');
      }
      appendsLeft -= 1;
      await file.append(chunks);
    },
    [Symbol.asyncDispose]: () => file[Symbol.asyncDispose](),
  };
}

/** Bytes that depend on their position alone, so that any re-reading must give the same. */
function bytesAt(begin: bigint, length: number): Buffer {
  const data = Buffer.alloc(length);
  for (let at = 0; at < length; at += 1) data[at] = Number(((begin + BigInt(at)) * 2654435761n) >> 7n) & 0xff;
  return data;
}

class FakeServer {
  readonly acknowledged: Lsn[] = [];
  end = BEGIN;
  delivered = BEGIN;
  readonly #waiters: (() => void)[] = [];

  produce(bytes: number): void {
    this.end = toLsn(this.end + BigInt(bytes));
    for (const wake of this.#waiters.splice(0)) wake();
  }

  stream(from: Lsn): LogStream {
    const state = { closed: false };
    this.delivered = from;
    return {
      timeline: TIMELINE,
      [Symbol.asyncIterator]: () => this.#chunks(state),
      acknowledge: (lsn) => {
        this.acknowledged.push(lsn);
      },
      [Symbol.asyncDispose]: async () => {
        state.closed = true;
        for (const wake of this.#waiters.splice(0)) wake();
        await Promise.resolve();
      },
    };
  }

  async *#chunks(state: { readonly closed: boolean }): AsyncGenerator<LogChunk> {
    while (!state.closed) {
      if (this.delivered >= this.end) {
        await new Promise<void>((resolve) => this.#waiters.push(resolve));
        continue;
      }
      const begin = this.delivered;
      const length = Math.min(100_000, Number(this.end - begin));
      this.delivered = toLsn(begin + BigInt(length));
      yield { begin, data: bytesAt(begin, length), serverEnd: this.end, serverClockUs: 1n };
    }
  }

  instance(): Instance {
    const partial: Partial<Instance> = {
      insertPosition: () =>
        Promise.resolve({ lsn: this.end, clockUs: BigInt(Date.now()) * 1000n, timeline: TIMELINE }),
      slotState: () =>
        Promise.resolve({
          exists: true,
          active: true,
          restartLsn: BEGIN,
          walStatus: 'reserved',
          invalidationReason: '',
          retainedBytes: 0n,
          synchronous: false,
        }),
    };
    return partial as Instance; // streaming uses nothing else of it
  }
}

/** No records, no events; commits where the test says. */
function fakeInspector(begin: Lsn, events: LogEvent[] = []): LogInspector {
  let position = begin;
  return {
    push(at, data) {
      expect(at).toBe(position);
      position = toLsn(position + BigInt(data.length));
    },
    get position() {
      return position;
    },
    get endOfRecords() {
      return position;
    },
    unfinishedRecordBegin: undefined,
    takeTouches: () => ({ pages: new Uint32Array(0), changes: [] }),
    takeEvents: () => events.splice(0, events.findLastIndex((event) => event.end <= position) + 1),
  };
}

function newSequence(end: Lsn, lastFileId = 0n, epoch = 1n): LogFileSequence {
  return new LogFileSequence({
    place,
    epoch,
    timeline: TIMELINE,
    systemIdentifier: 7n,
    segmentSizeBytes: 16 * 1024 * 1024,
    compression: 'zstd:1',
    clock: systemClock,
    lastFileId,
    end,
    unbroken: { since: end, archivers: 0n },
    maxCommitUs: undefined,
  });
}

function startStreaming(
  server: FakeServer,
  files: LogFileSequence,
  options: { readonly intervalMs?: number; readonly events?: LogEvent[]; readonly clock?: Clock } = {},
): { readonly streaming: Streaming; readonly drain: AbortController; readonly run: Promise<void> } {
  const drain = new AbortController();
  const streaming = new Streaming({
    instance: server.instance(),
    stream: server.stream(files.durable),
    inspector: fakeInspector(files.durable, options.events),
    files,
    checkpointIntervalMs: options.intervalMs ?? 50,
    clock: options.clock ?? systemClock,
    checkpoint: NO_CHECKPOINT,
    flushUpTo: toLsn(0n),
    sealUpTo: toLsn(0n),
    synchronous: false,
    drain: drain.signal,
    changed: () => undefined,
  });
  const run = streaming.run(new AbortController().signal);
  run.catch(() => undefined); // awaited by the test
  return { streaming, drain, run };
}

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 40_000;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error('timed out');
    await systemClock.sleep(5, new AbortController().signal);
  }
}

async function readAll(): Promise<Buffer> {
  const archive = await LogArchive.open(medium, ROOT, ROUND, 'p0');
  const [range] = archive.coverage();
  if (range === undefined) return Buffer.alloc(0);
  const parts: Buffer[] = [];
  for await (const chunk of archive.read(TIMELINE, range.begin, range.end))
    parts.push(Buffer.from(chunk.data));
  return Buffer.concat(parts);
}

describe('streaming', () => {
  test('acknowledges only what is durable, in order, and drains to a sealed file', async () => {
    const server = new FakeServer();
    await using files = newSequence(BEGIN);
    const { drain, run } = startStreaming(server, files);
    for (let round = 0; round < 5; round += 1) {
      server.produce(300_000);
      await until(() => server.acknowledged.at(-1) === server.end);
      expect(files.durable).toBe(server.end);
    }
    drain.abort();
    await run;
    expect(server.acknowledged).toEqual(server.acknowledged.toSorted((a, b) => Number(a - b)));
    expect(await readAll()).toEqual(bytesAt(BEGIN, 1_500_000));
    expect((await LogArchive.open(medium, ROOT, ROUND, 'p0')).unsealed).toEqual([]);
  });

  test('a wall clock that is set back delays no flush', async () => {
    const server = new FakeServer();
    await using files = newSequence(BEGIN);
    let offsetMs = 0;
    const clock: Clock = { ...systemClock, nowMs: () => Date.now() + offsetMs };
    const { drain, run } = startStreaming(server, files, { clock, intervalMs: 300 });
    server.produce(10);
    await until(() => server.delivered === server.end);
    offsetMs = -3_600_000;
    await until(() => server.acknowledged.at(-1) === server.end);
    drain.abort();
    await run;
  });

  test('a flush that is asked for does not wait for the interval', async () => {
    const server = new FakeServer();
    await using files = newSequence(BEGIN);
    const { streaming, drain, run } = startStreaming(server, files, { intervalMs: 3_600_000 });
    server.produce(1000);
    await until(() => server.delivered === server.end);
    await systemClock.sleep(50, new AbortController().signal);
    expect(files.durable).toBe(BEGIN);
    streaming.flush(server.end, false);
    await until(() => files.durable === server.end);
    server.produce(500);
    await systemClock.sleep(50, new AbortController().signal);
    expect(files.durable).toBe(server.delivered - 500n);
    drain.abort();
    await run;
  });

  test('a file is sealed up to the position that is asked for, as soon as it is durable, and once only', async () => {
    const server = new FakeServer();
    await using files = newSequence(BEGIN);
    const { streaming, drain, run } = startStreaming(server, files, { intervalMs: 3_600_000 });
    server.produce(1000);
    await until(() => server.delivered === server.end);
    const wanted = toLsn(server.end + 500n);
    streaming.flush(wanted, true);
    await until(() => files.durable === server.end);
    const sealed = async () => {
      const { files: found } = await LogArchive.open(medium, ROOT, ROUND, 'p0');
      return found.filter((file) => file.hasIndex).map((file) => file.end);
    };
    expect(await sealed()).toEqual([]);
    server.produce(700);
    await until(() => files.durable === server.end);
    const end = files.durable;
    await until(async () => (await sealed()).length > 0);
    streaming.flush(wanted, true);
    server.produce(10);
    streaming.flush(server.end, false);
    await until(() => files.durable === server.end);
    expect(await sealed()).toEqual([end]);
    drain.abort();
    await run;
  });

  test('commits that wait for it are flushed as they come, also those that came before it was known', async () => {
    const server = new FakeServer();
    await using files = newSequence(BEGIN);
    const { streaming, drain, run } = startStreaming(server, files, { intervalMs: 3_600_000 });
    server.produce(1000);
    await until(() => server.delivered === server.end);
    expect(server.acknowledged).toEqual([]);
    streaming.setSynchronous(true);
    await until(() => server.acknowledged.at(-1) === server.end);
    server.produce(500);
    await until(() => server.acknowledged.at(-1) === server.end);
    expect(files.durable).toBe(server.end);
    drain.abort();
    await run;
  });

  test('after a failed append nothing more is acknowledged, and a successor goes on in a new file from what is whole', async () => {
    const server = new FakeServer();
    appendsLeft = 4; // the file's header, three blocks
    {
      await using files = newSequence(BEGIN);
      const { run } = startStreaming(server, files);
      const feed = setInterval(() => server.produce(50_000), 20);
      await expect(run).rejects.toMatchObject({ code: 'DESTINATION_IO' });
      clearInterval(feed);
      expect(server.acknowledged.at(-1)).toBe(files.durable);
    }
    appendsLeft = Number.POSITIVE_INFINITY;
    const told = server.acknowledged.at(-1);
    const signal = new AbortController().signal;
    const taken = await takeOver(place, (options) => fakeInspector(options.begin), signal);
    expect(taken.lastFileId).toBe(1n);
    expect(taken.log?.end).toBe(told);
    expect(taken.log?.inspector.position).toBe(told);
    await taken.seal(signal);
    await using files = newSequence(taken.log?.end ?? BEGIN, taken.lastFileId, 2n);
    const { drain, run } = startStreaming(server, files);
    server.produce(10);
    await until(() => files.durable === server.end);
    drain.abort();
    await run;
    expect(await readAll()).toEqual(bytesAt(BEGIN, Number(server.end - BEGIN)));
    const archive = await LogArchive.open(medium, ROOT, ROUND, 'p0');
    expect(archive.files.map((file) => [file.fileId, file.epoch, file.hasIndex])).toEqual([
      [1n, 1n, true],
      [2n, 2n, true],
    ]);
  });

  test('a store that is slower than the server holds the server back: the buffer stays bounded', async () => {
    const server = new FakeServer();
    await using files = newSequence(BEGIN);
    const { drain, run } = startStreaming(server, files);
    server.produce(60 * 1024 * 1024);
    let most = 0n;
    await until(() => {
      const waiting = server.delivered - files.durable;
      if (waiting > most) most = waiting;
      return files.durable === server.end;
    });
    expect(most).toBeLessThan(20n * 1024n * 1024n);
    drain.abort();
    await run;
  });

  test('commit times go into the block and, as a running maximum, into the index', async () => {
    const server = new FakeServer();
    const commit = (end: bigint, timeUs: bigint): LogEvent => ({
      kind: 'commit',
      begin: toLsn(BEGIN + end - 8n),
      end: toLsn(BEGIN + end),
      xid: 1,
      timeUs,
    });
    await using files = newSequence(BEGIN);
    const events = [commit(100n, 500n), commit(200n, 900n), commit(150_000n, 700n)];
    const { drain, run } = startStreaming(server, files, { events });
    server.produce(200_000);
    await until(() => files.durable === server.end);
    drain.abort();
    await run;
    const [file] = (await LogArchive.open(medium, ROOT, ROUND, 'p0')).files;
    expect(file).toMatchObject({ firstCommitUs: 500n, lastCommitUs: 900n, maxCommitUs: 900n });
  });
});
