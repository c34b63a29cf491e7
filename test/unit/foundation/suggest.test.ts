import { expect, test } from 'vitest';
import { suggest } from '../../../foundation/suggest.ts';

test('the nearest word is found through one typing error', () => {
  expect(suggest('prot', ['host', 'port', 'user'])).toBe('port');
  expect(suggest('--untill', ['--until', '--to'])).toBe('--until');
  expect(suggest('Coordinater', ['agent', 'coordinator'])).toBe('coordinator');
});

test('a word that is like none gets no suggestion', () => {
  expect(suggest('zebra', ['host', 'port'])).toBeUndefined();
});
