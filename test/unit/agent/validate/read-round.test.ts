/** Where a partition group's log begins in a round: in round_begin, or under members/ when it joined later. */
import { mkdir, rm, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Findings } from '../../../../agent/validate/findings.ts';
import { readRoundStart } from '../../../../agent/validate/read-round.ts';
import {
  RoundBeginSchema,
  RoundMemberBeginSchema,
  RoundMemberJoinedSchema,
  RoundMemberLeftSchema,
} from '../../../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../../../../storage-layout/media/medium.ts';
import { openMedium } from '../../../../storage-layout/media/open.ts';
import { writeOnce } from '../../../../storage-layout/records/info-file.ts';
import { tree } from '../../../../storage-layout/tree.ts';
import { makeTestDirectory } from '../../../support/postgres.ts';

const ROOT = { clusterName: 'c', clusterId: 1n };
const ROUND = { tenantId: 1001n, round: 3n };
const { signal } = new AbortController();

let directory: string;
let medium: Medium;
let findings: Findings;

beforeEach(async () => {
  directory = await makeTestDirectory('read-round');
  await mkdir(join(directory, 'destination'));
  medium = await openMedium(`file://${join(directory, 'destination')}`);
  findings = new Findings();
  const begin = create(RoundBeginSchema, { ...ROUND, groups: [start('p0', 100n)] });
  await writeOnce(medium, tree.roundBegin(ROOT, ROUND), RoundBeginSchema, begin);
});
afterEach(async () => await rm(directory, { recursive: true, force: true }));

function start(partitionGroup: string, lsn: bigint, timeline = 1) {
  return { partitionGroup, start: { timeline, lsn }, segmentSizeBytes: 2 ** 24, postgresMajor: 17 };
}

async function joinRound(group: string, membership: number): Promise<void> {
  const message = create(RoundMemberJoinedSchema, {
    ...ROUND,
    partitionGroup: group,
    membership,
    joinedUs: 5n,
  });
  await writeOnce(
    medium,
    tree.memberJoined(ROOT, ROUND, group, membership),
    RoundMemberJoinedSchema,
    message,
  );
}

async function beginLog(group: string, membership: number, lsn: bigint, timeline = 1): Promise<void> {
  const message = create(RoundMemberBeginSchema, {
    ...ROUND,
    membership,
    start: start(group, lsn, timeline),
  });
  await writeOnce(medium, tree.memberBegin(ROOT, ROUND, group, membership), RoundMemberBeginSchema, message);
}

async function leave(group: string, membership: number): Promise<void> {
  const message = create(RoundMemberLeftSchema, { ...ROUND, partitionGroup: group, membership, leftUs: 9n });
  await writeOnce(medium, tree.memberLeft(ROOT, ROUND, group, membership), RoundMemberLeftSchema, message);
}

async function read(group: string) {
  return await readRoundStart(medium, ROOT, ROUND, group, findings, signal);
}

test('a group of round_begin has its start there', async () => {
  expect(await read('p0')).toMatchObject({
    start: { start: { lsn: 100n } },
    laterStarts: [],
    hasLeft: false,
  });
  expect(findings.count).toBe(0);
});

test('a group that joined later has its own start, and one that came back has several', async () => {
  await joinRound('p1', 1);
  await beginLog('p1', 1, 500n);
  expect(await read('p1')).toMatchObject({
    start: { start: { lsn: 500n } },
    laterStarts: [],
    hasLeft: false,
  });
  await leave('p1', 1);
  expect(await read('p1')).toMatchObject({ start: { start: { lsn: 500n } }, laterStarts: [], hasLeft: true });
  await joinRound('p1', 2);
  await beginLog('p1', 2, 800n, 2);
  expect(await read('p1')).toMatchObject({
    start: { start: { lsn: 500n } },
    laterStarts: [{ timeline: 2, lsn: 800n }],
    hasLeft: false,
  });
  await leave('p0', 1);
  await joinRound('p0', 2);
  await beginLog('p0', 2, 300n);
  expect(await read('p0')).toMatchObject({ start: { start: { lsn: 100n } }, laterStarts: [{ lsn: 300n }] });
  expect(findings.count).toBe(0);
});

test('a group that nothing names is a finding', async () => {
  expect(await read('p2')).toBeUndefined();
  expect(list()).toMatchObject([{ code: 'DATA_CORRUPT', key: tree.roundBegin(ROOT, ROUND) }]);
});

test('a damaged file under members/ is named, once', async () => {
  await joinRound('p1', 1);
  await beginLog('p1', 1, 500n);
  const path = tree.memberBegin(ROOT, ROUND, 'p1', 1);
  await truncate(join(directory, 'destination', path), 20);
  expect(await read('p1')).toBeUndefined();
  expect(list()).toMatchObject([{ code: 'DATA_CORRUPT', key: path }]);
});

function list() {
  return findings.list(new Map(), () => ({ setIds: [], shortenedSetIds: [] }));
}
