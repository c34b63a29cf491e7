import { expect, test } from 'vitest';
import { followDelayUs, type RoundFate } from '../../../coordinator/archive/next-round.ts';

const begun = (state: RoundFate['state']): RoundFate => ({ state, start_us: 1n });
const never = (state: RoundFate['state']): RoundFate => ({ state, start_us: 0n });

test('a round that had begun and was interrupted is followed after five seconds', () => {
  expect(followDelayUs([begun('INTERRUPTED')])).toBe(5_000_000n);
  expect(followDelayUs([begun('DOING')])).toBeUndefined();
  expect(followDelayUs([begun('STOP')])).toBeUndefined();
});

test('those that cannot begin after it are followed too, later each time, a quarter of an hour at most', () => {
  const delays = Array.from({ length: 12 }, (_, count) =>
    followDelayUs([...Array.from({ length: count }, () => never('INTERRUPTED')), begun('INTERRUPTED')]),
  );
  expect(delays.slice(0, 4)).toEqual([5_000_000n, 10_000_000n, 20_000_000n, 40_000_000n]);
  expect(delays.slice(-3)).toEqual([900_000_000n, 900_000_000n, 900_000_000n]);
});

test('a round that a user began and that never worked is not followed', () => {
  expect(followDelayUs([])).toBeUndefined();
  expect(followDelayUs([never('INTERRUPTED')])).toBeUndefined();
  expect(followDelayUs([never('INTERRUPTED'), never('INTERRUPTED')])).toBeUndefined();
  expect(followDelayUs([never('INTERRUPTED'), begun('STOP')])).toBeUndefined();
  expect(followDelayUs([never('INTERRUPTED'), never('STOP'), begun('INTERRUPTED')])).toBeUndefined();
});
