import { describe, expect, test } from 'vitest';
import { parseInstantUs } from '../../../foundation/instant.ts';

describe('an instant', () => {
  const at = BigInt(Date.UTC(2026, 10, 21, 13, 5, 30)) * 1000n;
  test.each([
    ['2026-11-21 13:05:30Z', at],
    ['2026-11-21T14:05:30+01', at],
    ['2026-11-21 14:05:30.5 +01:00', at + 500_000n],
    ['2026-11-21 09:35:30.000007-0330', at + 7n],
    ['2026-11-21 13:05 UTC', at - 30_000_000n],
  ])('%s', (text, expected) => {
    expect(parseInstantUs(text)).toBe(expected);
  });

  test('without a zone is in that of the host', () => {
    expect(parseInstantUs('2026-11-21 13:05:30')).toBe(
      BigInt(new Date(2026, 10, 21, 13, 5, 30).getTime()) * 1000n,
    );
  });

  test.each(['', 'yesterday', '2026-02-30', '2026-11-21 25:00', '2026-11-21 13:05:30 CET', '13:05'])(
    '%j is none',
    (text) => {
      expect(() => parseInstantUs(text)).toThrow(/not a time/);
    },
  );
});
