import { expect, test } from 'vitest';
import { choosePages } from '../../../bench/changes.ts';
import { createRandom } from '../../support/random.ts';

test('scattered pages are different ones from all over the table, clustered ones are neighbours', () => {
  const random = createRandom('choose pages');
  const scattered = choosePages(random, 10_000, { share: 0.1, spread: 'scattered' });
  expect(new Set(scattered).size).toBe(1000);
  expect(scattered).toEqual(scattered.toSorted((a, b) => a - b));
  expect(scattered.every((page) => page >= 0 && page < 10_000)).toBe(true);
  const tenths = new Set(scattered.map((page) => Math.floor(page / 1000)));
  expect(tenths.size).toBe(10);
  const clustered = choosePages(random, 10_000, { share: 0.1, spread: 'clustered' });
  expect(clustered).toHaveLength(1000);
  expect(clustered.every((page, index) => page === (clustered[0] ?? 0) + index)).toBe(true);
  expect(clustered.at(-1)).toBeLessThan(10_000);
});

test('a share of a small table is one page, and never more than all', () => {
  const random = createRandom('choose pages of a small table');
  expect(choosePages(random, 3, { share: 0.001, spread: 'scattered' })).toHaveLength(1);
  expect(choosePages(random, 3, { share: 1, spread: 'clustered' })).toEqual([0, 1, 2]);
  expect(choosePages(random, 3, { share: 1, spread: 'scattered' })).toEqual([0, 1, 2]);
});
