import { inspect } from 'node:util';
import { expect, test } from 'vitest';
import { watchIdleDatabase } from '../support/idle.ts';

const SECONDS = Number(process.env['HOLDFAST_SOAK_SECONDS'] ?? 900);

test(
  `a database that is idle for ${SECONDS} s: its windows end within 5 s of now all the time, its log grows as without Holdfast`,
  async () => {
    const report = await watchIdleDatabase(SECONDS);
    process.stdout.write(`${inspect(report)}\n`);
    expect(report.looks).toBeGreaterThan(SECONDS / 4);
    expect(report.viewLagMs).toBeLessThanOrEqual(5000);
    expect(report.destinationLagMs).toBeLessThanOrEqual(5000);
    expect(report.logBytes).toBeLessThanOrEqual(report.logBytesWithout);
  },
  SECONDS * 1000 + 900_000,
);
