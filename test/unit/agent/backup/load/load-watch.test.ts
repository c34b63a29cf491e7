import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { LoadWatch } from '../../../../../agent/backup/load/load-watch.ts';
import { SharedLimits } from '../../../../../agent/backup/throttle.ts';
import { type Clock, systemClock } from '../../../../../foundation/clock.ts';
import { createLogger } from '../../../../../foundation/log.ts';

type Line = { readonly level: number; readonly msg: string; readonly err?: { readonly message: string } };

const WARN = 40;

let directory: string;
let lines: Line[];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-load-'));
  lines = [];
});
afterEach(async () => await rm(directory, { recursive: true, force: true }));

/** What a load watch needs: seconds that pass at once, and a server that nobody can log in to. */
function context() {
  let nowMs = 0;
  const clock: Clock = {
    ...systemClock,
    monotonicMs: () => nowMs,
    sleep: async (durationMs, signal) => {
      await turn();
      signal?.throwIfAborted();
      nowMs += durationMs;
    },
  };
  const stream = { write: (line: string) => void lines.push(JSON.parse(line) as Line) }; // what pino writes
  return {
    clock,
    logger: createLogger({ name: 'agent', format: 'json', stream }),
    instance: () => Promise.reject(new Error('no such role')),
  };
}

const warnings = () => lines.filter(({ level }) => level === WARN);

test.each([
  ['is absent', undefined, 'NOT_SUPPORTED'],
  ['is of another format', 'full avg10=0.00 total=1\n', 'FORMAT_UNKNOWN'],
])('an I/O wait that cannot be measured, because its file %s, is warned of once', async (_, text, code) => {
  const file = join(directory, 'io');
  if (text !== undefined) await writeFile(file, text);
  const limits = new SharedLimits();
  await using _watch = new LoadWatch(
    context(),
    'main',
    { commitLatencyMs: 0, ioWaitPercent: 40 },
    limits,
    file,
  );
  await expect.poll(() => warnings().length).toBeGreaterThan(0);
  for (let second = 0; second < 100; second += 1) await turn();
  expect(warnings()).toMatchObject([
    { msg: 'the I/O wait cannot be measured', err: { message: expect.stringContaining(code) } },
  ]);
});

test('so is a commit latency, besides', async () => {
  const file = join(directory, 'io');
  const limits = new SharedLimits();
  await using _watch = new LoadWatch(
    context(),
    'main',
    { commitLatencyMs: 20, ioWaitPercent: 40 },
    limits,
    file,
  );
  await expect.poll(() => warnings().length).toBeGreaterThan(1);
  for (let second = 0; second < 100; second += 1) await turn();
  const told = warnings().map(({ msg }) => msg);
  expect(told.toSorted()).toEqual([
    'the I/O wait cannot be measured',
    'the commit latency cannot be measured',
  ]);
});

test('a copy that is slowed goes on at full pace when its limit becomes one that cannot be measured', async () => {
  const file = join(directory, 'io');
  let waitedUs = 0;
  await writeFile(file, 'some total=0\n');
  const limits = new SharedLimits();
  const given = context();
  const clock: Clock = {
    ...given.clock,
    sleep: async (durationMs, signal) => {
      waitedUs += durationMs * 1000;
      await writeFile(file, `some total=${waitedUs}\n`); // waits all the time
      await given.clock.sleep(durationMs, signal);
    },
  };
  await using watch = new LoadWatch(
    { ...given, clock },
    'main',
    { commitLatencyMs: 0, ioWaitPercent: 10 },
    limits,
    file,
  );
  await expect.poll(() => limits.pace).toBe(0.02);
  watch.limit({ commitLatencyMs: 20, ioWaitPercent: 0 });
  await expect.poll(() => limits.pace).toBe(1);
});
