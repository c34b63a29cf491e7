/** Taking over from an archiver that is dead, or is thought to be. */
import { rm } from 'node:fs/promises';
import { create } from '@bufbuild/protobuf';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { LogFileSequence } from '../../../../agent/archive/file-sequence.ts';
import type { LogBlock } from '../../../../agent/archive/log-buffer.ts';
import type { LogPlace } from '../../../../agent/archive/place.ts';
import { takeOver } from '../../../../agent/archive/takeover.ts';
import type { LogInspector } from '../../../../engine/engine.ts';
import { systemClock } from '../../../../foundation/clock.ts';
import { type Lsn, toLsn, toTimeline } from '../../../../foundation/lsn.ts';
import { MountFileSchema } from '../../../../proto/gen/holdfast/v1/records_pb.ts';
import { writeLogIndex } from '../../../../storage-layout/clog/index.ts';
import { LogFileWriter } from '../../../../storage-layout/clog/writer.ts';
import type { Medium } from '../../../../storage-layout/media/medium.ts';
import { openMedium } from '../../../../storage-layout/media/open.ts';
import { writeOnce } from '../../../../storage-layout/records/info-file.ts';
import { tree } from '../../../../storage-layout/tree.ts';
import { FaultyMedium } from '../../../support/faulty-medium.ts';
import { LogArchive } from '../../../support/log-archive.ts';
import { makeTestDirectory } from '../../../support/postgres.ts';

const ROOT = { clusterName: 'hf', clusterId: 1n };
const ROUND = { tenantId: 1001n, round: 1n };
const BEGIN = toLsn(0x1000000n);
const signal = new AbortController().signal;

let directory: string;
let medium: Medium;
let place: LogPlace;

beforeEach(async () => {
  directory = await makeTestDirectory('takeover');
  medium = await openMedium(`file://${directory}`);
  place = { medium, root: ROOT, round: ROUND, group: 'p0' };
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

async function begin(fileId: bigint, epoch: bigint, from: Lsn): Promise<LogFileWriter> {
  return await LogFileWriter.create(medium, ROOT, ROUND, 'p0', {
    fileId,
    epoch,
    timeline: toTimeline(1),
    begin: from,
    segmentSizeBytes: 1 << 20,
    systemIdentifier: 7n,
    compression: 'none',
  });
}

async function append(writer: LogFileWriter, length = 100): Promise<void> {
  await writer.appendBlock({ begin: writer.end, data: [Buffer.alloc(length, 0x61)] });
}

function block(from: Lsn): LogBlock {
  const data = Buffer.alloc(100, 0x61);
  const piece = {
    begin: from,
    sizeBytes: data.length,
    events: [],
    touches: { pages: new Uint32Array(0), changes: [] },
    unfinishedRecordBegin: undefined,
    receivedMs: 0,
  };
  return { begin: from, end: toLsn(from + 100n), data, pieces: [piece] };
}

/** Knows positions, and finds nothing. */
function blindInspector({ begin: from }: { readonly begin: Lsn }): LogInspector {
  let position = from;
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

async function openedFiles(): Promise<readonly (readonly [bigint, bigint, boolean])[]> {
  const archive = await LogArchive.open(medium, ROOT, ROUND, 'p0');
  return archive.files.map((file) => [file.fileId, file.end, file.hasIndex] as const);
}

describe('taking over', () => {
  test('reading writes nothing; sealing writes the index of what was read', async () => {
    await using writer = await begin(1n, 1n, BEGIN);
    await append(writer);
    const taken = await takeOver(place, blindInspector, signal);
    expect(await openedFiles()).toEqual([[1n, writer.end, false]]);
    await taken.seal(signal);
    expect(await openedFiles()).toEqual([[1n, writer.end, true]]);
  });

  test('a predecessor that appended since it was read keeps its bytes: nothing is sealed', async () => {
    await using writer = await begin(1n, 1n, BEGIN);
    await append(writer);
    const taken = await takeOver(place, blindInspector, signal);
    await append(writer);
    await expect(taken.seal(signal)).rejects.toMatchObject({ code: 'FILE_EXISTS' });
    expect(await openedFiles()).toEqual([[1n, writer.end, false]]);
    const again = await takeOver(place, blindInspector, signal);
    expect(again.log?.end).toBe(writer.end);
    await again.seal(signal);
  });

  test('so does one that began another file, sealed its own, or began a file where none was', async () => {
    const none = await takeOver(place, blindInspector, signal);
    await using first = await begin(1n, 1n, BEGIN);
    await append(first);
    await expect(none.seal(signal)).rejects.toMatchObject({ code: 'FILE_EXISTS' });
    const taken = await takeOver(place, blindInspector, signal);
    await append(first);
    const findings = { checkpoints: [], restorePoints: [] };
    await writeLogIndex(medium, ROOT, ROUND, 'p0', { ...first.facts(), ...findings });
    await expect(taken.seal(signal)).rejects.toMatchObject({ code: 'FILE_EXISTS' });
    const sealed = await takeOver(place, blindInspector, signal);
    await using second = await begin(2n, 1n, first.end);
    await expect(sealed.seal(signal)).rejects.toMatchObject({ code: 'FILE_EXISTS' });
    expect(second.end).toBe(first.end);
  });

  test('a file that holds no log is sealed as empty, and one that is cut off in its header is left alone', async () => {
    await using empty = await begin(1n, 1n, BEGIN);
    await using torn = await medium.createAppendable(tree.logData(ROOT, ROUND, 'p0', 2n, 1n));
    await torn.append([Buffer.from('HLDF')]);
    const taken = await takeOver(place, blindInspector, signal);
    expect(taken).toMatchObject({ lastFileId: 2n, lastEpoch: 1n, log: undefined });
    await taken.seal(signal);
    expect(await openedFiles()).toEqual([[1n, empty.end, true]]);
  });

  test('an empty file behind the end of what counts does not look like a hole', async () => {
    await using writer = await begin(1n, 1n, BEGIN);
    await append(writer);
    const findings = { checkpoints: [], restorePoints: [] };
    await writeLogIndex(medium, ROOT, ROUND, 'p0', { ...writer.facts(), ...findings });
    await append(writer);
    await using _behind = await begin(2n, 1n, writer.end);
    const taken = await takeOver(place, blindInspector, signal);
    expect(taken.log?.end).toBe(BEGIN + 100n);
    await taken.seal(signal);
  });

  test('what the predecessor wrote is made durable before its index says that it counts', async () => {
    await using writer = await begin(1n, 1n, BEGIN);
    await append(writer);
    const calls: string[] = [];
    const watched = new FaultyMedium(medium, {
      next(call, key) {
        calls.push(`${call} ${key.split('/').slice(-3).join('/')}`);
        return undefined;
      },
    });
    const taken = await takeOver({ ...place, medium: watched }, blindInspector, signal);
    await taken.seal(signal);
    const synced = calls.indexOf('makeDurable data/p0/1.1');
    expect(synced).toBeGreaterThan(0);
    expect(calls.indexOf('createExclusive index/p0/1.1')).toBeGreaterThan(synced);
  });

  test('a file that failed to become durable is sealed where it last was, whatever can be read behind', async () => {
    const mount = create(MountFileSchema, { ...ROUND, deploymentUuid: 'test' });
    await writeOnce(medium, tree.mountFile(ROOT, ROUND), MountFileSchema, mount);
    let failing = false;
    const store = new FaultyMedium(medium, {
      next: (call) => (failing && call === 'append' ? { fault: 'failAfter', delayMs: 0 } : undefined),
    });
    await using files = new LogFileSequence({
      place: { ...place, medium: store },
      epoch: 1n,
      timeline: toTimeline(1),
      systemIdentifier: 7n,
      segmentSizeBytes: 1 << 20,
      compression: 'none',
      clock: systemClock,
      lastFileId: 0n,
      end: BEGIN,
      unbroken: { since: BEGIN, archivers: 0n },
      maxCommitUs: undefined,
    });
    await files.append(block(BEGIN), signal);
    const durable = files.durable;
    failing = true;
    await expect(files.append(block(durable), signal)).rejects.toMatchObject({ code: 'DESTINATION_IO' });
    const readable = await takeOver(place, blindInspector, signal);
    expect(readable.log?.end).toBe(durable + 100n);
    const abandoned = files.abandoned === undefined ? [] : [files.abandoned];
    const taken = await takeOver(place, blindInspector, signal, abandoned);
    expect(taken.log?.end).toBe(durable);
    await taken.seal(signal);
    expect(await openedFiles()).toEqual([[1n, durable, true]]);
  });
});
