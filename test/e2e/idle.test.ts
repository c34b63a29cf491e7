/** The soak of `npm run test:soak`, for 40 s. Its bound of 5 s is for a machine that does nothing else. */
import { expect, test } from 'vitest';
import { watchIdleDatabase } from '../support/idle.ts';

const BUSY_MACHINE_MS = 10_000;

test('an idle database: its windows keep up with now, its log grows as without Holdfast', async () => {
  const report = await watchIdleDatabase(40);
  expect(report.looks).toBeGreaterThan(5);
  expect(report.viewLagMs).toBeLessThan(BUSY_MACHINE_MS);
  expect(report.destinationLagMs).toBeLessThan(BUSY_MACHINE_MS);
  expect(report.logBytes).toBeLessThanOrEqual(report.logBytesWithout);
}, 900_000);
