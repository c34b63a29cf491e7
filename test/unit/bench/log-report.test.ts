import { expect, test } from 'vitest';
import { formatLogReport } from '../../../bench/log-report.ts';

const archived = { bytes: 2e9, seconds: 10, cpuSeconds: 12.5, peakRssBytes: 150e6, storedBytes: 500e6 };

test('every figure of Holdfast stands beside its goal, sizes and times as a share of the peer', () => {
  const text = formatLogReport({
    machine: 'a machine',
    throughput: new Map([
      ['pgBackRest', archived],
      ['Holdfast zstd:1', { ...archived, storedBytes: 480e6 }],
      ['Holdfast zstd:3', { ...archived, storedBytes: 510e6 }],
    ]),
    lags: [
      {
        interval: '100ms',
        transactionsPerSecond: 1000,
        logBytesPerSecond: 2 ** 20,
        samples: 1000,
        p50Seconds: 0.06,
        p99Seconds: 0.14,
        maxSeconds: 0.2,
      },
    ],
    recoveries: [
      { log: 'mixed', logBytes: 4e9, cpSeconds: [20, 22, 21], holdfastSeconds: [19, 20, 18] },
      { log: 'fewPages', logBytes: 4e9, cpSeconds: [5, 4, 6], holdfastSeconds: [6, 7, 5] },
    ],
  });
  expect(text).toContain('| pgBackRest | 200 MB | 160 MB | 150 MB | 500 MB |');
  expect(text).toContain(
    '| Holdfast zstd:1 | 200 MB | 160 MB (goal ≥ 150 MB) | 150 MB (goal ≤ 200 MB) | 480 MB, 0.960 × (goal ≤ 1.10 ×) |',
  );
  expect(text).toContain('510 MB, 1.020 × (goal ≤ 1.02 ×)');
  expect(text).toContain(
    '| 100ms | 1000 transactions/s, 1.00MB/s | 0.06 s | 0.14 s | 0.20 s | p99 ≤ 0.4 s |',
  );
  expect(text).toContain('| restore_command = cp | 21.00 s | 190 MB/s |  |');
  expect(text).toContain('| Holdfast | 19.00 s | 211 MB/s | 0.90 × (goal ≤ 1.00 ×) |');
  expect(text).toContain('| Holdfast | 6.00 s | 667 MB/s | 1.20 × (goal ≤ 1.00 ×) |');
});
