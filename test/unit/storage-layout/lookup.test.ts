import { createHash } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { describe, expect, it } from 'vitest';
import { takeOver } from '../../../agent/archive/takeover.ts';
import { checkLogIsThere } from '../../../coordinator/destination/publish.ts';
import type { LogInspector, LogInspectorOptions } from '../../../engine/engine.ts';
import { formatLsn, type Lsn, toLsn, toTimeline } from '../../../foundation/lsn.ts';
import {
  BackupInfoSchema,
  PartitionGroupBackupSchema,
  RoundBeginSchema,
} from '../../../proto/gen/holdfast/v1/records_pb.ts';
import { encodeLogIndex } from '../../../storage-layout/clog/index.ts';
import { LogLookup } from '../../../storage-layout/clog/lookup.ts';
import { verifyLog } from '../../../storage-layout/clog/verify.ts';
import { LogFileWriter } from '../../../storage-layout/clog/writer.ts';
import type { Medium } from '../../../storage-layout/media/medium.ts';
import { readTenantHistory } from '../../../storage-layout/plan/tenant-history.ts';
import { mergeWindows, restorableWindows } from '../../../storage-layout/plan/windows.ts';
import { RECORD } from '../../../storage-layout/records/framing.ts';
import { writeBytesOnce, writeOnce } from '../../../storage-layout/records/info-file.ts';
import { parseTreePath, tree } from '../../../storage-layout/tree.ts';
import { GROUP, openTestMedium, overriding, ROOT, ROUND } from './support.ts';

const FILES = 100_000;
const FILE_BYTES = 2n ** 20n;
const BEGIN = 0x3000000n;
/** Every so many files another archiver took over: on average every day, when each file lasts an hour. */
const FILES_PER_EPOCH = 24;
/** From this file on, the second timeline, which begins a little before the first one's end. */
const SECOND_TIMELINE = 60_000;
const LEFT_BEHIND = FILE_BYTES;

type Synthetic = { readonly medium: Medium; readonly reads: () => number };

/**
 * Files that exist only as far as they are asked for, and how often they were; what else is asked for is `store`'s.
 * `missing`: their ids are in no name. `promises`: whether the files say since when the log before them is unbroken.
 */
function synthetic(store: Medium, missing: readonly number[] = [], promises = true): Synthetic {
  let reads = 0;
  const names = Array.from({ length: FILES }, (_, n) => n)
    .filter((n) => !missing.includes(n))
    .map(nameOf);
  const isSynthetic = (key: string) => {
    const path = parseTreePath(key);
    return (path?.kind === 'logData' || path?.kind === 'logIndex') && path.fileId <= FILES;
  };
  const medium = overriding(store, {
    listNames: async (prefix) => [
      ...(/\/(data|index)\/orders_0$/.test(prefix) ? names : []),
      ...(await store.listNames(prefix)),
    ],
    stat: async (key, signal) => {
      reads += 1;
      if (!isSynthetic(key)) return await store.stat(key, signal);
      return { key, sizeBytes: 2 ** 21, modifiedMs: 0 };
    },
    readRange: async (key, begin, end, into, signal) => {
      reads += 1;
      const path = parseTreePath(key);
      if (!isSynthetic(key)) return await store.readRange(key, begin, end, into, signal);
      if (path?.kind !== 'logIndex') throw new Error(`read of ${key}`);
      return indexOf(Number(path.fileId) - 1, promises).subarray(begin, end);
    },
  });
  return { medium, reads: () => reads };
}

function epochOf(n: number): bigint {
  return BigInt(Math.floor(n / FILES_PER_EPOCH) + 1);
}

function nameOf(n: number): string {
  return `${n + 1}.${epochOf(n)}`;
}

/** As an archiver computes it (docs/format.md): since each timeline's begin. */
function archiversOf(n: number): bigint {
  const first = n >= SECOND_TIMELINE ? SECOND_TIMELINE : 0;
  let digest = 0n;
  for (let at = first; at <= n; at += FILES_PER_EPOCH) {
    const known = DIGESTS.get(at);
    digest = known ?? step(digest, epochOf(at), BigInt(at + 1));
    DIGESTS.set(at, digest);
  }
  return digest;
}
const DIGESTS = new Map<number, bigint>();

function step(before: bigint, epoch: bigint, fileId: bigint): bigint {
  const bytes = Buffer.alloc(24);
  for (const [n, value] of [before, epoch, fileId].entries()) bytes.writeBigUInt64LE(value, n * 8);
  return createHash('sha256').update(bytes).digest().readBigUInt64LE(0);
}

function beginOf(n: number): Lsn {
  return toLsn(BEGIN + BigInt(n) * FILE_BYTES - (n >= SECOND_TIMELINE ? LEFT_BEHIND : 0n));
}

function indexOf(n: number, promises: boolean): Buffer {
  const begin = beginOf(n);
  return encodeLogIndex(ROUND, GROUP, {
    fileId: BigInt(n + 1),
    epoch: epochOf(n),
    timeline: toTimeline(n >= SECOND_TIMELINE ? 2 : 1),
    begin,
    end: toLsn(begin + FILE_BYTES),
    unbroken: promises
      ? { since: beginOf(n >= SECOND_TIMELINE ? SECOND_TIMELINE : 0), archivers: archiversOf(n) }
      : undefined,
    systemIdentifier: 1n,
    segmentSizeBytes: 2 ** 20,
    acceptedBytes: 2 ** 21,
    blocks: [{ begin, offset: 100, storedBytes: 1000, plainBytes: Number(FILE_BYTES) }],
    maxCommitUs: BigInt(n) * 10n,
    lastCommitUs: BigInt(n) * 10n,
    checkpoint: { lsn: toLsn(begin + FILE_BYTES), timeUs: BigInt(n) * 10n + 5n },
    checkpoints: [],
    restorePoints: [],
  });
}

async function open(medium: Medium): Promise<LogLookup> {
  return await LogLookup.open(medium, ROOT, ROUND, GROUP);
}

/** The reads of `act`. */
async function count<T>({ reads }: Synthetic, act: () => Promise<T>): Promise<readonly [T, number]> {
  const before = reads();
  const result = await act();
  return [result, reads() - before];
}

/** Of one look into 100,000 files: 17 halvings of a few lists, an index and a length each. */
const FEW = 120;

describe('looking for log among 100,000 files of 4,167 archivers', () => {
  it('finds the file of a position, or that there is none, in a few reads', async () => {
    await using store = await openTestMedium();
    const destination = synthetic(store.medium);
    for (const n of [0, 59_999, 60_000, 99_999, 31_415]) {
      const timeline = toTimeline(n >= SECOND_TIMELINE ? 2 : 1);
      const [file, reads] = await count(destination, async () =>
        (await open(destination.medium)).fileAt(timeline, toLsn(beginOf(n) + 1n)),
      );
      expect(file?.fileId).toBe(BigInt(n + 1));
      expect(reads).toBeLessThanOrEqual(FEW);
    }
    const lookup = await open(destination.medium);
    const [, reads] = await count(destination, async () => {
      for (const [timeline, lsn] of [
        [1, BEGIN - 1n],
        [1, BEGIN + 60_000n * FILE_BYTES],
        [2, BEGIN],
        [2, BEGIN + 100_000n * FILE_BYTES],
        [3, BEGIN],
      ] as const)
        expect(await lookup.fileAt(toTimeline(timeline), toLsn(lsn))).toBeUndefined();
    });
    expect(reads).toBeLessThanOrEqual(FEW);
  });

  it('finds the first file with a commit after an instant in a few reads', async () => {
    await using store = await openTestMedium();
    const destination = synthetic(store.medium);
    const lookup = await open(destination.medium);
    const [found, reads] = await count(destination, async () => {
      const files = lookup.filesBetween(toTimeline(2), toLsn(0n), toLsn(2n ** 63n), 812_345n);
      return (await files.next()).value;
    });
    expect(found).toMatchObject({ fileId: 81_236n });
    expect(reads).toBeLessThanOrEqual(FEW);
  });

  it('knows what is covered from the last file of each timeline', async () => {
    await using store = await openTestMedium();
    const destination = synthetic(store.medium);
    const lookup = await open(destination.medium);
    const [coverage, reads] = await count(destination, () => lookup.coverage());
    expect(coverage).toEqual(COVERED);
    expect(reads).toBeLessThanOrEqual(FEW);
  });

  it('knows it also of files without promises, from two of each archiver', async () => {
    await using store = await openTestMedium();
    const destination = synthetic(store.medium, [], false);
    const lookup = await open(destination.medium);
    const [coverage, reads] = await count(destination, () => lookup.coverage());
    expect(coverage).toEqual(COVERED);
    expect(reads).toBeLessThanOrEqual((FILES / FILES_PER_EPOCH) * 6);
  });

  it('sees files that are missing as holes, and reads no more for it', async () => {
    await using store = await openTestMedium();
    const destination = synthetic(store.medium, [777, 80_000]);
    const lookup = await open(destination.medium);
    const [coverage, reads] = await count(destination, () => lookup.coverage());
    expect(coverage.map((range) => [range.begin, range.end])).toEqual([
      [BEGIN, beginOf(777)],
      [beginOf(778), BEGIN + 60_000n * FILE_BYTES],
      [beginOf(60_000), beginOf(80_000)],
      [beginOf(80_001), beginOf(99_999) + FILE_BYTES],
    ]);
    expect(reads).toBeLessThanOrEqual(2 * FEW);
    expect(await lookup.fileAt(toTimeline(1), beginOf(777))).toBeUndefined();
    await expect(verifyLog(lookup, toTimeline(1), beginOf(770), beginOf(790))).rejects.toMatchObject({
      code: 'LOG_GAP',
    });
  });

  it('is taken over by who reads its end, and who says of its new files what was said', async () => {
    await using store = await openTestMedium();
    const destination = synthetic(store.medium);
    const key = { medium: destination.medium, root: ROOT, round: ROUND, group: GROUP };
    const begin = toLsn(beginOf(99_999) + FILE_BYTES);
    // The last archiver died: its file has no index.
    const writer = await LogFileWriter.create(store.medium, ROOT, ROUND, GROUP, {
      fileId: BigInt(FILES + 1),
      epoch: epochOf(FILES - 1),
      timeline: toTimeline(2),
      begin,
      segmentSizeBytes: 2 ** 20,
      systemIdentifier: 1n,
      compression: 'none',
    });
    await writer.appendBlock({ begin, data: [Buffer.alloc(5000, 1)] });
    await writer.close();
    const lineage = {
      timeline: toTimeline(2),
      ancestors: [{ timeline: toTimeline(1), end: beginOf(60_000) }],
    };
    const signal = new AbortController().signal;
    const inspected: bigint[] = [];
    const [taken, reads] = await count(destination, async () => {
      const server = { lineage, major: 17, systemIdentifier: 1n };
      const made = await takeOver(key, (options) => noting(options, inspected), signal, [], server);
      await made.seal(signal);
      return made;
    });
    expect(taken).toMatchObject({ lastFileId: BigInt(FILES + 1), log: { timeline: 2, end: begin + 5000n } });
    expect(taken.log).toMatchObject({ maxCommitUs: 999_990n, start: { timeline: 1, lsn: BEGIN } });
    expect(reads).toBeLessThanOrEqual(2 * FEW);
    const promise = await taken.promise(
      { timeline: toTimeline(2), lsn: toLsn(begin + 5000n) },
      9999n,
      signal,
    );
    expect(promise).toEqual({
      since: beginOf(SECOND_TIMELINE),
      archivers: step(archiversOf(FILES - 1), 9999n, BigInt(FILES + 2)),
    });
  });

  it('has its windows shown, and its backups published, in a few reads', async () => {
    await using store = await openTestMedium();
    const destination = synthetic(store.medium);
    const backup = create(PartitionGroupBackupSchema, {
      partitionGroup: GROUP,
      start: { timeline: 1, lsn: BEGIN + 50_000n * FILE_BYTES },
      stop: { timeline: 1, lsn: BEGIN + 50_020n * FILE_BYTES },
      startUs: 500_000n,
      stopUs: 500_200n,
      segmentSizeBytes: 2 ** 20,
    });
    const key = { tenantId: ROUND.tenantId, fullSetId: 1n, setId: 1n };
    await writeOnce(
      store.medium,
      tree.backupInfo(ROOT, key),
      BackupInfoSchema,
      create(BackupInfoSchema, {
        ...key,
        backupSetId: 1n,
        round: 1n,
        tenantName: 'orders',
        partitionGroups: [backup],
      }),
    );
    await writeOnce(
      store.medium,
      tree.roundBegin(ROOT, ROUND),
      RoundBeginSchema,
      create(RoundBeginSchema, {
        ...ROUND,
        groups: [{ partitionGroup: GROUP, segmentSizeBytes: 2 ** 20, start: { timeline: 1, lsn: BEGIN } }],
      }),
    );
    await writeBytesOnce(
      store.medium,
      tree.history(ROOT, ROUND, GROUP, toTimeline(2)),
      RECORD.timelineHistory,
      Buffer.from(`1\t${formatLsn(beginOf(SECOND_TIMELINE))}\tno recovery target specified\n`),
    );
    const [windows, reads] = await count(destination, async () =>
      mergeWindows(restorableWindows(await readTenantHistory(destination.medium, ROOT, ROUND.tenantId))),
    );
    expect(windows).toMatchObject([{ fromUs: 500_200n, untilUs: 999_995n }]);
    expect(reads).toBeLessThanOrEqual(FEW);
    const signal = new AbortController().signal;
    const [, published] = await count(destination, () =>
      checkLogIsThere(destination.medium, ROOT, ROUND, backup, signal),
    );
    expect(published).toBeLessThanOrEqual(FEW);
  });
});

const COVERED = [
  { timeline: 1, begin: BEGIN, end: BEGIN + 60_000n * FILE_BYTES, checkpointUs: 599_995n },
  { timeline: 2, begin: beginOf(60_000), end: beginOf(99_999) + FILE_BYTES, checkpointUs: 999_995n },
];

/** Knows positions, finds nothing, and notes where it begins. */
function noting({ begin }: LogInspectorOptions, begins: bigint[]): LogInspector {
  let position = begin;
  begins.push(begin);
  return {
    push(_begin, data) {
      position = toLsn(position + BigInt(data.length));
    },
    get position() {
      return position;
    },
    get endOfRecords() {
      return position;
    },
    unfinishedRecordBegin: undefined,
    takeTouches: () => ({ pages: new Uint32Array(0), changes: [] }),
    takeEvents: () => [],
  };
}
