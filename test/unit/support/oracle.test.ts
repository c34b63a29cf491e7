import { expect, test } from 'vitest';
import type { TransactionRecord } from '../../../cli/demo/workload.ts';
import { judgeTransactions } from '../../support/workload.ts';

function committed(id: number, sentUs: bigint, acknowledgedUs: bigint): TransactionRecord {
  return { id, client: 0, sentUs, acknowledgedUs, outcome: 'committed' };
}

const log: readonly TransactionRecord[] = [
  committed(1, 100n, 110n),
  committed(2, 195n, 205n),
  committed(3, 300n, 310n),
  { id: 4, client: 0, sentUs: undefined, acknowledgedUs: undefined, outcome: 'rolledBack' },
  { id: 5, client: 0, sentUs: 190n, acknowledgedUs: undefined, outcome: 'running' },
];

test('what was acknowledged before the target must be there, and what was on its way may be either', () => {
  expect(judgeTransactions(log, new Set([1]), 200n)).toEqual([]);
  expect(judgeTransactions(log, new Set([1, 2, 5]), 200n)).toEqual([]);
  expect(judgeTransactions(log, new Set([2]), 200n)).toHaveLength(1);
});

test('what was sent after the target, rolled back or never made must not be there', () => {
  expect(judgeTransactions(log, new Set([1, 3]), 200n)).toHaveLength(1);
  expect(judgeTransactions(log, new Set([1, 4]), 200n)).toHaveLength(1);
  expect(judgeTransactions(log, new Set([1, 9]), 200n)).toHaveLength(1);
});
