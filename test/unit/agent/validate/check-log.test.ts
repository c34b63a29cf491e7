/** How far the check of a log says it is: of a set's window what lies in it, of a round all that is read. */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { checkLog, type LogSubject } from '../../../../agent/validate/check-log.ts';
import { Findings } from '../../../../agent/validate/findings.ts';
import { ValidationReporter, type ValidationStep } from '../../../../agent/validate/progress.ts';
import { toLsn, toTimeline } from '../../../../foundation/lsn.ts';
import { RoundGroupStartSchema } from '../../../../proto/gen/holdfast/v1/records_pb.ts';
import { LogFileWriter } from '../../../../storage-layout/clog/writer.ts';
import type { Medium } from '../../../../storage-layout/media/medium.ts';
import { openMedium } from '../../../../storage-layout/media/open.ts';
import { makeTestDirectory } from '../../../support/postgres.ts';

const ROOT = { clusterName: 'c', clusterId: 1n };
const ROUND = { tenantId: 1001n, round: 3n };
const TIMELINE = toTimeline(1);
const FILE_BYTES = 1000;
const FILES = 4;
const { signal } = new AbortController();

let directory: string;
let medium: Medium;

beforeEach(async () => {
  directory = await makeTestDirectory('check-log');
  await mkdir(join(directory, 'destination'));
  medium = await openMedium(`file://${join(directory, 'destination')}`);
  for (let n = 0; n < FILES; n += 1) await writeLog(BigInt(n + 1), n * FILE_BYTES);
});
afterEach(async () => await rm(directory, { recursive: true, force: true }));

async function writeLog(fileId: bigint, begin: number): Promise<void> {
  await using writer = await LogFileWriter.create(medium, ROOT, ROUND, 'p0', {
    fileId,
    epoch: 1n,
    timeline: TIMELINE,
    begin: toLsn(BigInt(begin)),
    segmentSizeBytes: 2 ** 24,
    systemIdentifier: 7n,
    compression: 'none',
  });
  await writer.appendBlock({ begin: writer.end, data: [Buffer.alloc(FILE_BYTES, 7)] });
}

/** Every step, the data of a set being read already: `[done, total]` of the log. */
async function stepsOf(subject: Partial<LogSubject>, logBytesTotal: bigint): Promise<[bigint, bigint][]> {
  const steps: ValidationStep[] = [];
  const reporter = new ValidationReporter((step) => steps.push(step));
  reporter.set({ phase: 'DATA', bytesDone: 5000n, bytesTotal: 5000n, logBytesTotal });
  const start = create(RoundGroupStartSchema, { partitionGroup: 'p0', segmentSizeBytes: 2 ** 24 });
  const place = { medium, root: ROOT, round: ROUND, group: 'p0' };
  const whole = {
    place,
    start,
    laterStarts: [],
    range: undefined,
    checked: [],
    until: undefined,
    isEnded: false,
  };
  await checkLog({ ...whole, ...subject }, new Findings(), reporter, signal);
  return steps.map((step) => [step.logBytesDone, step.logBytesTotal]);
}

const range = (begin: bigint, end: bigint) => ({ timeline: TIMELINE, begin: toLsn(begin), end: toLsn(end) });

test('of a window, only what of each file lies in it counts, and the total stays what it was said to be', async () => {
  expect(await stepsOf({ range: range(500n, 2100n) }, 1600n)).toEqual([
    [0n, 1600n],
    [0n, 1600n],
    [500n, 1600n],
    [1500n, 1600n],
    [1600n, 1600n],
  ]);
});

test('what two files of a window hold takes it no further than its end', async () => {
  await writeLog(9n, 500);
  const steps = await stepsOf({ range: range(0n, 2000n) }, 2000n);
  expect(steps.at(-1)).toEqual([2000n, 2000n]);
  for (const [done, total] of steps) expect([done <= total, total]).toEqual([true, 2000n]);
});

test('of a round, what is read counts, and nothing that was checked', async () => {
  expect((await stepsOf({}, 0n)).slice(2)).toEqual([
    [0n, 4000n],
    [1000n, 4000n],
    [2000n, 4000n],
    [3000n, 4000n],
    [4000n, 4000n],
  ]);
  expect((await stepsOf({ checked: [range(0n, 3500n)] }, 0n)).at(-1)).toEqual([1000n, 1000n]);
});
