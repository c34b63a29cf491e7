import { describe, expect, test } from 'vitest';
import { isSynchronous } from '../../../engine/postgres/slots.ts';

describe('whether commits wait for our stream', () => {
  test("is the server's word, when it says it", () => {
    for (const state of ['sync', 'quorum']) expect(isSynchronous(state, '')).toBe(true);
    for (const state of ['async', 'potential']) expect(isSynchronous(state, 'holdfast')).toBe(false);
  });
  test.each([
    ['holdfast', true],
    ['FIRST 2 (holdfast, standby1)', true],
    ['ANY 1 (standby1, "Holdfast")', true],
    ['*', true],
    ['', false],
    ['standby1, holdfast_2', false],
    ['ANY 1 (standby1)', false],
  ])('is read from synchronous_standby_names where it does not: %s', (names, expected) => {
    expect(isSynchronous(null, names)).toBe(expected);
  });
});
