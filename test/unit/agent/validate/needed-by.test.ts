/** The sets of one full backup share macroblock files: who is hit by damage to one is told by their indexes. */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { cutOff, Findings, missing, type NewFinding } from '../../../../agent/validate/findings.ts';
import { findSetsSharing, readWindows } from '../../../../agent/validate/needed-by.ts';
import { toLsn } from '../../../../foundation/lsn.ts';
import { BackupInfoSchema } from '../../../../proto/gen/holdfast/v1/records_pb.ts';
import type { MacroBlockEntry } from '../../../../storage-layout/macroblock/entry.ts';
import { writeMacroBlockIndex } from '../../../../storage-layout/macroblock/index.ts';
import type { Medium } from '../../../../storage-layout/media/medium.ts';
import { openMedium } from '../../../../storage-layout/media/open.ts';
import { writeOnce } from '../../../../storage-layout/records/info-file.ts';
import { tree } from '../../../../storage-layout/tree.ts';
import { makeTestDirectory } from '../../../support/postgres.ts';

const ROOT = { clusterName: 'c', clusterId: 1n };
const { signal } = new AbortController();
const key = (setId: bigint) => ({ tenantId: 1001n, fullSetId: 1n, setId });

let directory: string;
let medium: Medium;

beforeAll(async () => {
  directory = await makeTestDirectory('needed');
  await mkdir(join(directory, 'destination'));
  medium = await openMedium(`file://${join(directory, 'destination')}`);
  // Set 2 goes on from set 1: block 0 is set 1's still, block 1 its own, block 2 a delta on set 1's.
  await publish(1n, [block(0, 1n, 1, 100), block(1, 1n, 1, 200), block(2, 1n, 2, 100)]);
  const delta = { ...place(2n, 1, 100), pages: new Uint8Array(32).fill(1, 0, 1) };
  await publish(2n, [block(0, 1n, 1, 100), block(1, 2n, 1, 400), { ...block(2, 1n, 2, 100), delta }]);
});
afterAll(async () => await rm(directory, { recursive: true, force: true }));

function place(setId: bigint, subTaskId: number, offset: number) {
  return { setId, subTaskId, offset, storedBytes: 100, crc32c: 1, compression: 'none' as const };
}

function block(blockNumber: number, setId: bigint, subTaskId: number, offset: number): MacroBlockEntry {
  const facts = { fileNumber: 1, newestPageLsn: toLsn(0n), pageCheckFailed: false, plainBytes: 2 ** 21 };
  return { ...place(setId, subTaskId, offset), ...facts, blockNumber };
}

async function publish(setId: bigint, entries: readonly MacroBlockEntry[]): Promise<void> {
  const index = tree.macroBlockIndex(ROOT, key(setId), 'p0', 0);
  await writeMacroBlockIndex(medium, index, entries);
  const above = `${tree.backupSetDirectory(ROOT, 1001n, 1n)}/`;
  const group = {
    partitionGroup: 'p0',
    files: [{ path: index.slice(above.length) }],
    segmentSizeBytes: 2 ** 24,
    start: { timeline: 1, lsn: setId * 0x5000000n },
    stop: { timeline: 1, lsn: setId * 0x5000000n + 100n },
  };
  const info = create(BackupInfoSchema, { round: 3n, backupSetId: setId, partitionGroups: [group] });
  await writeOnce(medium, tree.backupInfo(ROOT, key(setId)), BackupInfoSchema, info);
}

/** As a validation asks: of findings as they are listed. */
async function setsOf(finding: NewFinding, own = 1n): Promise<readonly bigint[]> {
  const findings = new Findings();
  findings.add(finding);
  const listed = findings.list(new Map(), () => ({ setIds: [], shortenedSetIds: [] }));
  const sharing = await findSetsSharing(medium, ROOT, key(own), 'p0', listed, signal);
  return listed.flatMap((one) => sharing(one));
}

const file = (subTaskId: number, setId = 1n) => tree.macroBlock(ROOT, key(setId), 'p0', subTaskId);
const at = (subTaskId: number, offset: number, setId = 1n): NewFinding => ({
  code: 'DATA_CORRUPT',
  key: file(subTaskId, setId),
  offset,
  message: '',
});

test('a damaged block is needed by every set whose index names it, the base of a delta too', async () => {
  expect(await setsOf(at(1, 100))).toEqual([1n, 2n]);
  expect(await setsOf(at(1, 200))).toEqual([1n]);
  expect(await setsOf(at(2, 100))).toEqual([1n, 2n]);
});

test("an increment's validation names the sets before it that share a block, and no other", async () => {
  expect(await setsOf(at(1, 100), 2n)).toEqual([1n, 2n]);
  expect(await setsOf(at(2, 100), 2n)).toEqual([1n, 2n]);
  expect(await setsOf(at(1, 400, 2n), 2n)).toEqual([2n]); // its own block
  expect(await setsOf(at(1, 100, 2n), 2n)).toEqual([2n]); // its delta
  // Set 3 goes on from set 2: it keeps the delta, and has written the first block anew.
  const delta = { ...place(2n, 1, 100), pages: new Uint8Array(32).fill(1, 0, 1) };
  await publish(3n, [block(0, 3n, 1, 100), block(1, 2n, 1, 400), { ...block(2, 1n, 2, 100), delta }]);
  expect(await setsOf(at(1, 100, 2n), 3n)).toEqual([2n, 3n]);
  expect(await setsOf(at(2, 100), 3n)).toEqual([1n, 2n, 3n]);
  expect(await setsOf(at(1, 100), 2n)).toEqual([1n, 2n]);
  await rm(join(directory, 'destination', tree.backupInfo(ROOT, key(3n))));
});

test('a lost file is needed by all that name any of it; a cut one by those that name what is behind', async () => {
  expect(await setsOf(missing(file(1)))).toEqual([1n, 2n]);
  expect(await setsOf(cutOff(file(1), 150))).toEqual([1n, 2n]);
  expect(await setsOf(cutOff(file(1), 50))).toEqual([1n, 2n]); // nothing that set 2 names is at the cut itself
  expect(await setsOf(cutOff(file(1), 250))).toEqual([1n]);
});

test('what is in no macroblock file is the own set’s', async () => {
  expect(await setsOf(missing(tree.backupInfo(ROOT, key(1n))))).toEqual([1n]);
});

test('the log that sets need begins at a segment', async () => {
  expect(await readWindows(medium, ROOT, { tenantId: 1001n, round: 3n }, 'p0', signal)).toEqual([
    { setId: 1n, timeline: 1, begin: 0x5000000n, end: 0x5000064n },
    { setId: 2n, timeline: 1, begin: 0xa000000n, end: 0xa000064n },
  ]);
  expect(await readWindows(medium, ROOT, { tenantId: 1001n, round: 4n }, 'p0', signal)).toEqual([]);
});
