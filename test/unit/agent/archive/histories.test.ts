/**
 * Archivers come and go at random: they take over from dead and from living ones, follow promotions, and lose files. What
 * the few files that a lookup opens tell must be what all of them hold.
 */
import { create } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { LogFileSequence } from '../../../../agent/archive/file-sequence.ts';
import type { LogBlock } from '../../../../agent/archive/log-buffer.ts';
import { takeOver } from '../../../../agent/archive/takeover.ts';
import type { LogInspector } from '../../../../engine/engine.ts';
import { defined } from '../../../../foundation/assert.ts';
import { systemClock } from '../../../../foundation/clock.ts';
import { HoldfastError } from '../../../../foundation/errors.ts';
import { type Lsn, type Timeline, toLsn, toTimeline } from '../../../../foundation/lsn.ts';
import { MountFileSchema } from '../../../../proto/gen/holdfast/v1/records_pb.ts';
import { LogLookup } from '../../../../storage-layout/clog/lookup.ts';
import { joinPieces, type LogRange, planPieces } from '../../../../storage-layout/clog/ranges.ts';
import type { Medium } from '../../../../storage-layout/media/medium.ts';
import { writeOnce } from '../../../../storage-layout/records/info-file.ts';
import { tree } from '../../../../storage-layout/tree.ts';
import { LogArchive } from '../../../support/log-archive.ts';
import { createRandom, type Random } from '../../../support/random.ts';
import { GROUP, openTestMedium, overriding, ROOT, ROUND, sampleBytes } from '../../storage-layout/support.ts';

const BEGIN = 0x3000000n;
const SYSTEM = 7n;
const HISTORIES = 150;
const signal = new AbortController().signal;

test('what a lookup says of an archive is what its files hold, however it came about and whatever is lost of it', async () => {
  await using store = await openTestMedium();
  const random = createRandom('histories of archivers');
  let overtaken = 0;
  let forks = 0;
  for (let n = 0; n < HISTORIES; n += 1) {
    const history = new History(store.medium, random);
    await history.begin();
    for (let step = random.between(5, 60); step > 0; step -= 1) await history.step();
    forks += history.timeline - 1;
    const whole = await LogArchive.open(history.medium, ROOT, ROUND, GROUP);
    const held = heldBy(whole);
    expect(rangesOf(await lookUp(history.medium))).toEqual(held);
    overtaken += new Set(whole.files.map(({ fileId }) => fileId)).size < whole.files.length ? 1 : 0;
    await history.expectReadable(held, whole);
    // What is lost must be missed: by name, or because its bytes are in no other file.
    history.lose();
    const left = await LogArchive.open(history.medium, ROOT, ROUND, GROUP);
    const said = rangesOf(await lookUp(history.medium));
    for (const range of said) expect(holds(heldBy(left), range), describe(range)).toBe(true);
    await history.expectReadable(said, left);
  }
  expect(overtaken).toBeGreaterThan(10);
  expect(forks).toBeGreaterThan(10);
});

async function lookUp(medium: Medium): Promise<LogLookup> {
  const lookup = await LogLookup.open(medium, ROOT, ROUND, GROUP);
  await lookup.coverage();
  said.set(
    lookup,
    (await lookup.coverage()).map(({ timeline, begin, end }) => ({ timeline, begin, end })),
  );
  return lookup;
}
const said = new WeakMap<LogLookup, readonly LogRange[]>();

function rangesOf(lookup: LogLookup): readonly LogRange[] {
  return said.get(lookup) ?? [];
}

/** By opening every file. */
function heldBy(archive: LogArchive): readonly LogRange[] {
  return joinPieces(planPieces(archive.files.filter((file) => file.end > file.begin)).pieces);
}

function holds(ranges: readonly LogRange[], { timeline, begin, end }: LogRange): boolean {
  return ranges.some((range) => range.timeline === timeline && range.begin <= begin && end <= range.end);
}

function describe({ timeline, begin, end }: LogRange): string {
  return `${timeline}: ${begin} to ${end}`;
}

/** The byte of the timeline's log at a position. */
const LOGS = Array.from({ length: 40 }, (_, n) => sampleBytes(20_000, n + 1));

/** Where each timeline began: before it has its parent's bytes. */
type Forks = readonly { readonly timeline: Timeline; readonly end: Lsn }[];

type Living = {
  readonly files: LogFileSequence;
  readonly timeline: Timeline;
  /** What it has received: a predecessor that lives on goes no further. */
  received: bigint;
};

class History {
  timeline = 1;
  readonly medium: Medium;
  readonly #stored = new Map<string, Buffer>();
  readonly #random: Random;
  #ancestors: Forks = [];
  #serverEnd: bigint = BEGIN + 1000n;
  #epoch = 0n;
  readonly #living: Living[] = [];

  constructor(store: Medium, random: Random) {
    this.#random = random;
    this.medium = inMemory(store, this.#stored);
  }

  async begin(): Promise<void> {
    const mount = create(MountFileSchema, { ...ROUND, deploymentUuid: 'test' });
    await writeOnce(this.medium, tree.mountFile(ROOT, ROUND), MountFileSchema, mount);
    await this.#takeOver();
  }

  async step(): Promise<void> {
    const choice = this.#random.next();
    this.#serverEnd += BigInt(this.#random.between(0, 40));
    if (choice < 0.18) await this.#takeOver();
    else if (choice < 0.23) await this.#promote();
    else if (choice < 0.45) await this.#current.files.seal(signal);
    else if (choice < 0.52)
      await this.#current.files.appendCheckpoint({ lsn: this.#current.files.durable, timeUs: 5n }, signal);
    else await this.#append();
  }

  /** Up to three files, data, index or both. */
  lose(): void {
    const names = [...this.#stored.keys()].filter((key) => key.includes('/data/'));
    for (let count = this.#random.between(1, 4); count > 0 && names.length > 0; count -= 1) {
      const key = defined(names[this.#random.between(0, names.length)], 'a name');
      const what = this.#random.next();
      if (what < 0.7) this.#stored.delete(key);
      if (what > 0.4) this.#stored.delete(key.replace('/data/', '/index/'));
    }
  }

  /** Each range, by reading, and every position by search. */
  async expectReadable(ranges: readonly LogRange[], archive: LogArchive): Promise<void> {
    for (const { timeline, begin, end } of ranges) {
      const parts: Buffer[] = [];
      for await (const { data } of archive.lookup.read(timeline, begin, end)) parts.push(Buffer.from(data));
      const expected = this.#bytes(timeline, begin, end);
      expect(Buffer.concat(parts).equals(expected), describe({ timeline, begin, end })).toBe(true);
    }
    for (let at = BEGIN - 10n; at < this.#serverEnd + 20n; at += BigInt(this.#random.between(1, 90)))
      for (let timeline = 1; timeline <= this.timeline; timeline += 1) {
        const found = await archive.lookup.fileAt(toTimeline(timeline), toLsn(at));
        const isHeld = holds(ranges, {
          timeline: toTimeline(timeline),
          begin: toLsn(at),
          end: toLsn(at + 1n),
        });
        if (isHeld) expect(found).toBeDefined();
        if (found !== undefined) expect(found.begin <= at && at < found.end).toBe(true);
      }
  }

  get #current(): Living {
    return defined(this.#living.at(-1), 'an archiver');
  }

  async #append(): Promise<void> {
    const old = this.#random.next() < 0.3;
    const archiver = old ? this.#living[this.#random.between(0, this.#living.length)] : this.#current;
    if (archiver === undefined) return;
    if (archiver === this.#current) archiver.received = this.#serverEnd;
    const begin = archiver.files.durable;
    const length = Math.min(this.#random.between(1, 60), Number(archiver.received - begin));
    if (length <= 0) return;
    const end = toLsn(begin + BigInt(length));
    await archiver.files.append(blockOf(begin, this.#bytes(archiver.timeline, begin, end)), signal);
    if (archiver !== this.#current && this.#random.next() < 0.3) await this.#sealIfFree(archiver);
  }

  /** Whoever took over has sealed what it found: then the one that was slow has lost. */
  async #sealIfFree(archiver: Living): Promise<void> {
    try {
      await archiver.files.seal(signal);
    } catch (error) {
      if (!(error instanceof HoldfastError) || error.code !== 'FILE_EXISTS') throw error;
      this.#living.splice(this.#living.indexOf(archiver), 1);
    }
  }

  async #takeOver(): Promise<void> {
    const before = this.#living.at(-1);
    if (before !== undefined) before.received = this.#serverEnd + BigInt(this.#random.between(0, 100));
    if (this.#random.next() < 0.6) this.#living.length = 0;
    this.#epoch += 1n;
    const lineage = { timeline: toTimeline(this.timeline), ancestors: this.#ancestors };
    const place = { medium: this.medium, root: ROOT, round: ROUND, group: GROUP };
    const server = { lineage, major: 17, systemIdentifier: SYSTEM };
    const { log, lastFileId, seal, promise } = await takeOver(place, blindInspector, signal, [], server);
    await seal(signal);
    const from = log?.end ?? toLsn(BEGIN);
    const timeline = log?.timeline ?? toTimeline(this.timeline);
    const files = new LogFileSequence({
      place,
      epoch: this.#epoch,
      timeline,
      systemIdentifier: SYSTEM,
      segmentSizeBytes: 16 * 2 ** 20,
      compression: 'none',
      clock: systemClock,
      lastFileId,
      end: from,
      unbroken: await promise({ timeline, lsn: from }, this.#epoch, signal),
      maxCommitUs: undefined,
    });
    if (this.#serverEnd < from) this.#serverEnd = from;
    this.#living.push({ files, timeline, received: log?.until ?? this.#serverEnd });
    if (log?.until === undefined) return;
    // What the old leader had not shipped, then the new timeline.
    const missing = this.#bytes(timeline, from, log.until);
    if (missing.length > 0) await files.append(blockOf(from, missing), signal);
    await files.seal(signal);
    await this.#takeOver();
  }

  /** Near the end of what is archived, before or behind it. */
  async #promote(): Promise<void> {
    const end = this.#current.files.durable + BigInt(this.#random.between(-30, 30));
    const began = this.#ancestors.at(-1)?.end ?? toLsn(BEGIN);
    const isBegun = this.#current.files.durable > BEGIN; // before that a round begins anew
    if (this.timeline >= LOGS.length || end <= began || !isBegun) return;
    this.#ancestors = [...this.#ancestors, { timeline: toTimeline(this.timeline), end: toLsn(end) }];
    this.timeline += 1;
    this.#serverEnd = end;
    await this.#takeOver();
  }

  #bytes(timeline: Timeline, begin: Lsn, end: Lsn): Buffer {
    return (LOGS[timeline - 1] ?? Buffer.alloc(0)).subarray(Number(begin - BEGIN), Number(end - BEGIN));
  }
}

function blockOf(begin: Lsn, data: Buffer): LogBlock {
  const touches = { pages: new Uint32Array(0), changes: [] };
  const piece = {
    begin,
    sizeBytes: data.length,
    events: [],
    touches,
    unfinishedRecordBegin: undefined,
    receivedMs: 0,
  };
  return { begin, end: toLsn(begin + BigInt(data.length)), data, pieces: [piece] };
}

/** Knows positions, and finds nothing. */
function blindInspector({ begin: from }: { readonly begin: Lsn }): LogInspector {
  let position = from;
  return {
    push(_begin, data) {
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
    takeEvents: () => [],
  };
}

/** What archivers and lookups ask of a medium, in memory. */
function inMemory(store: Medium, stored: Map<string, Buffer>): Medium {
  const get = (key: string) => {
    const bytes = stored.get(key);
    if (bytes === undefined) throw new HoldfastError('FILE_NOT_FOUND', key);
    return bytes;
  };
  const put = (key: string, bytes: Uint8Array) => {
    if (stored.has(key)) throw new HoldfastError('FILE_EXISTS', key);
    stored.set(key, Buffer.from(bytes));
  };
  return overriding(store, {
    listNames: async (prefix) =>
      await Promise.resolve(
        [...stored.keys()]
          .filter((key) => key.startsWith(`${prefix}/`))
          .map((key) => key.slice(prefix.length + 1)),
      ),
    stat: async (key) => {
      const bytes = stored.get(key);
      return await Promise.resolve(bytes && { key, sizeBytes: bytes.length, modifiedMs: 0 });
    },
    read: async (key) => await Promise.resolve().then(() => get(key)),
    readRange: async (key, begin, end) => await Promise.resolve().then(() => get(key).subarray(begin, end)),
    createExclusive: async (key, data) => await Promise.resolve().then(() => put(key, data)),
    makeDurable: async (key) => await Promise.resolve().then(() => void get(key)),
    createAppendable: async (key) => {
      await Promise.resolve().then(() => put(key, Buffer.alloc(0)));
      return {
        get sizeBytes() {
          return get(key).length;
        },
        append: async (chunks) => {
          await Promise.resolve().then(() => stored.set(key, Buffer.concat([get(key), ...chunks])));
        },
        async [Symbol.asyncDispose]() {
          await Promise.resolve();
        },
      };
    },
  });
}
