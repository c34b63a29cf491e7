import { defineConfig } from 'vitest/config';

/** Four projects: `unit` (parallel, no servers), `e2e` (real PostgreSQL, one file at a time), `faults` (processes that die) and `soak` (a quarter of an hour; `npm run test:soak`). */
export default defineConfig({
  test: {
    projects: [
      { test: { name: 'unit', include: ['test/unit/**/*.test.ts'], testTimeout: 60_000 } },
      {
        test: {
          name: 'e2e',
          include: ['test/e2e/**/*.test.ts'],
          testTimeout: 600_000,
          hookTimeout: 300_000,
          fileParallelism: false,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: 'faults',
          include: ['test/faults/**/*.test.ts'],
          testTimeout: 1_800_000,
          hookTimeout: 300_000,
          // They mostly wait: for a process to come back, for a backup to settle.
          maxWorkers: 3,
          sequence: { groupOrder: 2 },
        },
      },
      { test: { name: 'soak', include: ['test/soak/**/*.test.ts'], sequence: { groupOrder: 3 } } },
    ],
  },
});
