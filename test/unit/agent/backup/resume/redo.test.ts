import { expect, test } from 'vitest';
import { decideRedo, mayBeRedone, Redo } from '../../../../../agent/backup/resume/redo.ts';
import { type Clock, systemClock } from '../../../../../foundation/clock.ts';
import { HoldfastError } from '../../../../../foundation/errors.ts';
import { silentLogger } from '../../../../../foundation/log.ts';

const IO = new HoldfastError('DESTINATION_IO', 'gone');
const { signal } = new AbortController();

function redo(limitMs: number) {
  let nowMs = 0;
  const waits: number[] = [];
  const said: (string | undefined)[] = [];
  const clock: Clock = {
    ...systemClock,
    monotonicMs: () => nowMs,
    sleep: async (ms) => {
      nowMs += ms;
      waits.push(ms);
    },
  };
  const options = { clock, logger: silentLogger(), firstSubTaskId: 1001, subTaskIdCount: 1000, limitMs };
  return { waits, said, redo: new Redo({ ...options, onWaiting: (error) => said.push(error?.code) }) };
}

test('only what passes is waited out', () => {
  expect(mayBeRedone(IO)).toBe(true);
  for (const code of ['DESTINATION_FULL', 'FILE_NOT_FOUND'] as const)
    expect([code, mayBeRedone(new HoldfastError(code, 'full, or unmounted'))]).toEqual([code, true]);
  for (const code of ['FILE_EXISTS', 'BACKUP_FAILED', 'SERVER_UNREACHABLE', 'INTERNAL'] as const)
    expect([code, mayBeRedone(new HoldfastError(code, 'x'))]).toEqual([code, false]);
});

test('delays double up to ten seconds, until the limit', () => {
  const delays = [1, 2, 3, 6, 7, 50].map((failures) => decideRedo(failures, 0, 600_000));
  expect(delays.map((it) => (it.kind === 'again' ? it.delayMs : 0))).toEqual([
    250, 500, 1000, 8000, 10_000, 10_000,
  ]);
  expect(decideRedo(3, 600_000, 600_000)).toEqual({ kind: 'giveUp' });
});

test('ids are taken from the end of the attempt, below that of the blocks taken over', async () => {
  const { redo: it, waits, said } = redo(0);
  expect(it.takenOverId).toBe(2000);
  expect(await it.failed(IO, signal)).toBe(1999);
  expect(await it.failed(IO, signal)).toBe(1998);
  it.succeeded();
  expect(await it.failed(IO, signal)).toBe(1997);
  expect(waits).toEqual([250, 500, 250]);
  expect(said).toEqual(['DESTINATION_IO', 'DESTINATION_IO', undefined, 'DESTINATION_IO']);
});

test('the error is thrown when the destination has failed for as long as the limit', async () => {
  const { redo: it, waits } = redo(1000);
  const ids: number[] = [];
  const act = async (id: number) => {
    ids.push(id);
    throw IO;
  };
  await expect(it.untilDone(7, act, signal)).rejects.toBe(IO);
  expect(ids).toEqual([7, 1999, 1998, 1997]);
  expect(waits.reduce((sum, ms) => sum + ms, 0)).toBeGreaterThanOrEqual(1000);
});

test('any other error is thrown at once', async () => {
  const { redo: it } = redo(1000);
  const error = new HoldfastError('FILE_EXISTS', 'taken');
  await expect(it.failed(error, signal)).rejects.toBe(error);
});
