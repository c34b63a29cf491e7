import { expect, test } from 'vitest';
import { isProlonged, prolongedDeadlineUs } from '../../../coordinator/jobs/task-progress.ts';

const DAY_US = 86_400_000_000n;
const task = { kind: 'BACKUP', deadline_us: DAY_US } as const;

test('a deadline moves with what is new, and for nothing else', () => {
  const nowUs = DAY_US / 2n;
  const before = { phase: 'COPY', bytesDone: '1' };
  expect(prolongedDeadlineUs(task, before, { phase: 'COPY', bytesDone: '2' }, nowUs)).toBe(nowUs + DAY_US);
  expect(prolongedDeadlineUs(task, null, before, nowUs)).toBe(nowUs + DAY_US);
  // A catalog gives the fields back in an order of its own.
  expect(prolongedDeadlineUs(task, before, { bytesDone: '1', phase: 'COPY' }, nowUs)).toBeUndefined();
  expect(prolongedDeadlineUs(task, before, { phase: 'STOP', bytesDone: '1' }, 1n)).toBeUndefined(); // by too little
});

test('only what copies or reads a whole database may take as long as it gets on', () => {
  expect((['BACKUP', 'VALIDATE', 'RESTORE', 'ARCHIVE', 'CHECK'] as const).filter(isProlonged)).toEqual([
    'BACKUP',
    'VALIDATE',
  ]);
  const restore = { kind: 'RESTORE', deadline_us: DAY_US } as const;
  expect(prolongedDeadlineUs(restore, null, { phase: 'LOG' }, DAY_US)).toBeUndefined();
  expect(prolongedDeadlineUs({ ...task, deadline_us: 0n }, null, { phase: 'COPY' }, DAY_US)).toBeUndefined();
});
