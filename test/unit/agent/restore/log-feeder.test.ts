/** The feeder and its shell command, without a server: the test asks as a server would. */
import { spawn } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type FeederOptions, LogFeeder } from '../../../../agent/restore/log-feeder.ts';
import { createSpool, type Spool } from '../../../../agent/restore/spool.ts';
import { formatRestoreCommand } from '../../../../engine/postgres/restore/settings.ts';
import { HoldfastError } from '../../../../foundation/errors.ts';
import { type Lsn, segmentName, toLsn, toTimeline } from '../../../../foundation/lsn.ts';

const SIZE = 1024 * 1024;
const FIRST = toTimeline(1);
const begin = toLsn(3n * BigInt(SIZE));
/** Ends inside the last segment. */
const end = toLsn(begin + BigInt(20 * SIZE + 1000));

let directory: string;
let spool: Spool;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "holdfast-it's-"));
  spool = await createSpool(join(directory, 'spool'), undefined);
});
afterEach(async () => await rm(directory, { recursive: true }));

/** Byte i of the log is a function of its position; chunks have odd lengths. */
function byteAt(position: bigint): number {
  return Number((position * 7n + position / 251n) % 256n);
}
async function* readLog(from: Lsn, until: Lsn) {
  for (let at: bigint = from; at < until; ) {
    const length = Number(until - at < 700_001n ? until - at : 700_001n);
    const data = Buffer.alloc(length);
    for (let i = 0; i < length; i += 4096) data[i] = byteAt(at + BigInt(i));
    yield { begin: toLsn(at), data };
    at += BigInt(length);
  }
}
function options(change: Partial<FeederOptions> = {}): FeederOptions {
  return {
    reader: { read: (_timeline, from, until) => readLog(from, until) },
    path: [{ timeline: FIRST, begin, end }],
    segmentSizeBytes: SIZE,
    histories: new Map([[toTimeline(2), Buffer.from('1\t0/1\tno reason\n')]]),
    ...change,
  };
}

async function ask(name: string): Promise<number | null> {
  // PostgreSQL puts its values in place of %f and %p and gives the command to a shell.
  const values: Readonly<Record<string, string>> = { '%f': name, '%p': join(directory, 'got'), '%%': '%' };
  const command = formatRestoreCommand(spool.script, spool.readyDirectory).replaceAll(
    /%[fp%]/g,
    (mark) => values[mark] ?? mark,
  );
  const child = spawn('/bin/sh', ['-c', command], { stdio: 'ignore' });
  const { promise, resolve } = Promise.withResolvers<number | null>();
  child.once('exit', resolve);
  return await promise;
}
const name = (index: number) => segmentName(FIRST, begin + BigInt(index * SIZE), SIZE);
const got = () => readFile(join(directory, 'got'));

describe('a log feeder', () => {
  test('gives every segment whole and in order, the last one padded with zeros', async () => {
    await using _feeder = new LogFeeder(spool, options());
    for (let index = 0; index <= 20; index++) {
      expect(await ask(name(index)), `segment ${index}`).toBe(0);
      const data = await got();
      expect(data.length).toBe(SIZE);
      if (index === 20) expect(data.subarray(1000).every((byte) => byte === 0)).toBe(true);
    }
    expect(await ask(name(21))).toBe(1);
    expect(await ask('00000002.history')).toBe(0);
    expect((await got()).toString()).toContain('no reason');
    expect(await ask('00000003.history')).toBe(1);
    expect(await ask('garbage')).toBe(1);
  });

  test('gives a segment again, and one far ahead, when asked', async () => {
    await using _feeder = new LogFeeder(spool, options());
    expect(await ask(name(19))).toBe(0);
    expect(await ask(name(0))).toBe(0);
    const first = await got();
    expect(await ask(name(1))).toBe(0);
    expect(await ask(name(0))).toBe(0);
    expect((await got()).equals(first)).toBe(true);
  });

  test('keeps a bounded number of segments ready', async () => {
    await using _feeder = new LogFeeder(spool, options());
    expect(await ask(name(0))).toBe(0);
    await expect.poll(() => readdir(spool.readyDirectory).then((names) => names.length)).toBe(16);
  });

  test('that fails says why, and the command ends so that the server stops', async () => {
    const inspect = () => {
      throw new HoldfastError('WAL_UNREADABLE', 'a bad record');
    };
    await using feeder = new LogFeeder(spool, options({ inspect }));
    expect(await ask(name(0))).toBe(200);
    expect(feeder.failure).toMatchObject({ code: 'WAL_UNREADABLE' });
  });

  test('that is gone stops the server instead of ending its recovery', async () => {
    const feeder = new LogFeeder(spool, options());
    const waiting = ask(name(5));
    await feeder[Symbol.asyncDispose]();
    expect([0, 200]).toContain(await waiting);
    expect(await ask('000000010000000000000099')).toBe(200);
    await rm(spool.directory, { recursive: true });
    expect(await ask(name(0))).toBe(200);
  });
});
