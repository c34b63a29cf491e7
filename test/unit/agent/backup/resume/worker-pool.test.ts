/** Worker threads whose destination goes away for a while. */
import { renameSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Counters } from '../../../../../agent/backup/counters.ts';
import { makeCount } from '../../../../../agent/backup/durable-sub-task.ts';
import { pieceOf, type SubTask } from '../../../../../agent/backup/plan.ts';
import type { Attempt } from '../../../../../agent/backup/resume/attempt.ts';
import { Redo } from '../../../../../agent/backup/resume/redo.ts';
import { SharedLimits } from '../../../../../agent/backup/throttle.ts';
import { copyThreads, runSubTasks, type SubTaskCare } from '../../../../../agent/backup/worker-pool.ts';
import type { SubTaskCopy, WorkerSettings } from '../../../../../agent/backup/worker-protocol.ts';
import type { DataFile } from '../../../../../engine/engine.ts';
import { systemClock } from '../../../../../foundation/clock.ts';
import { silentLogger } from '../../../../../foundation/log.ts';
import { toLsn, toTimeline } from '../../../../../foundation/lsn.ts';
import { decodeMacroBlockEntries } from '../../../../../storage-layout/macroblock/entry.ts';
import { readSubTaskIndexHead } from '../../../../../storage-layout/macroblock/sub-task-index.ts';
import { openMedium } from '../../../../../storage-layout/media/open.ts';
import { type RoundKey, tree } from '../../../../../storage-layout/tree.ts';
import { ARCHIVE_ROOT, ARCHIVE_ROUND, writeMountFile } from '../../../../support/archiver.ts';
import { makeTestDirectory } from '../../../../support/postgres.ts';

const FILES = 8;
const FILE_BYTES = 40 * 8192;
const ROOT = { clusterName: 'test', clusterId: 1n };
const SET = { tenantId: 1n, fullSetId: 1n, setId: 1n };
const { signal } = new AbortController();

let directory: string;
beforeEach(async () => {
  directory = await makeTestDirectory('pool');
  await mkdir(join(directory, 'destination'));
});
afterEach(async () => await rm(directory, { recursive: true, force: true }));

async function subTasks(): Promise<SubTask[]> {
  return await Promise.all(
    Array.from({ length: FILES }, async (_, n) => {
      const absolutePath = join(directory, String(n));
      await writeFile(absolutePath, Buffer.alloc(FILE_BYTES, n + 1));
      const file = { path: `base/5/${n}`, absolutePath, kind: 'main', sizeBytes: FILE_BYTES } as DataFile; // what is read of it
      return { subTaskId: n + 1, pieces: [pieceOf({ ...file, fileNumber: n + 1 }, 0, 1)] };
    }),
  );
}

function settings(counters: Counters): WorkerSettings {
  return {
    destinationUri: `file://${directory}/destination`,
    root: ROOT,
    setKey: SET,
    group: 'g',
    compression: 'zstd:1',
    pageChecksums: false,
    keys: [],
    limits: new SharedLimits().shared,
    workerCount: 2,
    counters: counters.shared,
  };
}

const ATTEMPT: Attempt = {
  backupSetId: 1n,
  partitionGroup: 'g',
  retry: 0,
  previousSetId: 0n,
  pageCheck: true,
  start: { timeline: toTimeline(1), lsn: toLsn(1n) },
  systemIdentifier: 1n,
  postgresMajor: 17,
  blockSizeBytes: 8192,
  segmentSizeBytes: 16_777_216,
  pageChecksumVersion: 0,
};

function redo(limitMs: number, onWaiting: () => void): Redo {
  const parts = { clock: systemClock, logger: silentLogger(), firstSubTaskId: 1, subTaskIdCount: 1000 };
  return new Redo({ ...parts, limitMs, onWaiting });
}

/** The copies in the order of their sub tasks. */
async function copySubTasks(
  tasks: readonly SubTask[],
  to: WorkerSettings,
  again: Redo,
  round?: RoundKey,
): Promise<readonly SubTaskCopy[]> {
  await using threads = copyThreads(1);
  await using medium = await openMedium(to.destinationUri);
  const place = { medium, root: to.root, setKey: to.setKey, group: to.group, round };
  const copies: SubTaskCopy[] = [];
  const source = (async function* () {
    yield* tasks;
  })();
  const care: SubTaskCare = {
    makeCount: async (...what) => await makeCount(place, ATTEMPT, ...what),
    onCopied: (copy) => copies.push(copy),
    redo: again,
  };
  await runSubTasks(threads, source, to, care, signal);
  return copies.toSorted((a, b) => a.subTaskId - b.subTaskId);
}

test('do again what could not be written, in its place, and count it once', async () => {
  const tasks = await subTasks();
  const counters = new Counters();
  // What is given back first brings the destination back.
  let back: Promise<void> | undefined;
  const comeBack = () => {
    back ??= rename(join(directory, 'away'), join(directory, 'destination'));
  };
  const copying = copySubTasks(tasks, settings(counters), redo(30_000, comeBack));
  // Workers open the destination before they copy, and find its directory gone when they create a file.
  copying.catch(() => undefined); // awaited below
  while (counters.read().macroblocks === 0n) await systemClock.sleep(1, signal);
  await rename(join(directory, 'destination'), join(directory, 'away'));
  const copies = await copying;
  comeBack();
  await back;

  expect(copies.map(({ subTaskId }) => subTaskId)).toEqual(tasks.map(({ subTaskId }) => subTaskId));
  await using medium = await openMedium(`file://${directory}/destination`);
  for (const [n, { entries }] of copies.entries()) {
    const [entry] = decodeMacroBlockEntries(Buffer.from(entries), 0, { file: 'copy' });
    expect([n, entry?.fileNumber, entry?.plainBytes]).toEqual([n, n + 1, FILE_BYTES]);
    const id = entry?.subTaskId ?? 0;
    expect((await medium.stat(tree.macroBlock(ROOT, SET, 'g', id)))?.sizeBytes).toBeGreaterThan(0);
    const head = await readSubTaskIndexHead(medium, tree.subTaskIndex(ROOT, SET, 'g', id));
    expect(head).toMatchObject({ info: { subTaskId: id }, files: [{ path: `base/5/${n}` }] });
  }
  const { plainBytes, macroblocks, files } = counters.read();
  expect({ plainBytes, macroblocks, files }).toEqual({
    plainBytes: BigInt(FILES * FILE_BYTES),
    macroblocks: BigInt(FILES),
    files: BigInt(FILES),
  });
});

test('nothing counts that was written below a share that was not mounted', async () => {
  const tasks = await subTasks();
  const destination = join(directory, 'destination');
  await writeMountFile(destination);
  const counters = new Counters();
  let isBack = false;
  const mountAgain = () => {
    if (isBack) return;
    isBack = true;
    renameSync(destination, join(directory, 'below')); // a worker may be writing there
    renameSync(join(directory, 'share'), destination);
  };
  const toRound = { ...settings(counters), root: ARCHIVE_ROOT, workerCount: 1 };
  const copying = copySubTasks(tasks, toRound, redo(30_000, mountAgain), ARCHIVE_ROUND);
  copying.catch(() => undefined); // awaited below
  while (counters.read().macroblocks === 0n) await systemClock.sleep(1, signal);
  await rename(destination, join(directory, 'share'));
  await mkdir(destination); // what is below it
  const copies = await copying;
  expect(isBack).toBe(true);
  await using medium = await openMedium(`file://${destination}`);
  for (const { entries } of copies) {
    const [entry] = decodeMacroBlockEntries(Buffer.from(entries), 0, { file: 'copy' });
    const key = tree.macroBlock(ARCHIVE_ROOT, SET, 'g', entry?.subTaskId ?? 0);
    expect((await medium.stat(key))?.sizeBytes, key).toBeGreaterThan(0);
  }
});

test('give up when the destination stays away, with its error', async () => {
  const tasks = await subTasks();
  const copying = copySubTasks(
    tasks,
    settings(new Counters()),
    redo(600, () => undefined),
  );
  copying.catch(() => undefined); // awaited below
  await rm(join(directory, 'destination'), { recursive: true });
  await expect(copying).rejects.toMatchObject({
    code: expect.stringMatching(/DESTINATION_IO|FILE_NOT_FOUND/),
  });
});
