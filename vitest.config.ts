import { defineConfig } from 'vitest/config';
import { LongestFirst } from './test/support/longest-first.ts';

const globalSetup = './test/support/global-setup.ts';
/** Embedded catalogs in the tests' own processes live for seconds: optimizing them would cost more than it brings. */
const execArgv = ['--liftoff-only'];

/** Four projects: `unit` (parallel, no servers), `e2e` (real PostgreSQL, three files at a time: a fourth makes it no faster), `faults` (processes that die) and `soak` (a quarter of an hour; `npm run test:soak`). */
export default defineConfig({
  test: {
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        test: {
          name: 'unit',
          globalSetup,
          execArgv,
          include: ['test/unit/**/*.test.ts'],
          testTimeout: 60_000,
          maxWorkers: 2,
        },
      },
      {
        test: {
          name: 'e2e',
          globalSetup,
          execArgv,
          include: ['test/e2e/**/*.test.ts'],
          testTimeout: 600_000,
          hookTimeout: 300_000,
          maxWorkers: 3,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: 'faults',
          globalSetup,
          execArgv,
          include: ['test/faults/**/*.test.ts'],
          testTimeout: 1_800_000,
          hookTimeout: 300_000,
          // They mostly wait: for a process to come back, for a backup to settle.
          maxWorkers: 4,
          sequence: { groupOrder: 2 },
        },
      },
      {
        test: {
          name: 'soak',
          globalSetup,
          execArgv,
          include: ['test/soak/**/*.test.ts'],
          sequence: { groupOrder: 3 },
        },
      },
    ],
  },
});
