/** Taking over from an archiver that is dead, or is thought to be. */
import { rm } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { LogPlace } from '../../../../agent/archive/place.ts';
import { takeOver } from '../../../../agent/archive/takeover.ts';
import type { LogInspector } from '../../../../engine/engine.ts';
import { type Lsn, toLsn, toTimeline } from '../../../../foundation/lsn.ts';
import { LogArchive } from '../../../../storage-layout/clog/archive.ts';
import { writeLogIndex } from '../../../../storage-layout/clog/index.ts';
import { LogFileWriter } from '../../../../storage-layout/clog/writer.ts';
import type { Medium } from '../../../../storage-layout/media/medium.ts';
import { openMedium } from '../../../../storage-layout/media/open.ts';
import { tree } from '../../../../storage-layout/tree.ts';
import { FaultyMedium } from '../../../support/faulty-medium.ts';
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
});
