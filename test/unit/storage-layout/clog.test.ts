import { describe, expect, it } from 'vitest';
import { HoldfastError } from '../../../foundation/errors.ts';
import { type Lsn, toLsn, toTimeline } from '../../../foundation/lsn.ts';
import {
  encodeLogIndex,
  type LogFileIndex,
  readLogIndex,
  writeLogIndex,
} from '../../../storage-layout/clog/index.ts';
import { LogLookup } from '../../../storage-layout/clog/lookup.ts';
import { sealPredecessor } from '../../../storage-layout/clog/seal.ts';
import { verifyLog } from '../../../storage-layout/clog/verify.ts';
import { LogFileWriter } from '../../../storage-layout/clog/writer.ts';
import type { Medium } from '../../../storage-layout/media/medium.ts';
import { tree } from '../../../storage-layout/tree.ts';
import { LogArchive } from '../../support/log-archive.ts';
import { GROUP, openTestMedium, overriding, ROOT, ROUND, sampleBytes } from './support.ts';

const BEGIN = 0x3000000;
/** The whole log of the tests, the same bytes at the same position for everyone. */
const LOG = sampleBytes(200_000, 7);

type FileSpec = {
  readonly fileId: bigint;
  readonly epoch: bigint;
  /** Positions relative to BEGIN: begin, then the end of each block. */
  readonly cuts: readonly number[];
  readonly timeline?: number;
  readonly log?: Buffer;
  readonly commits?: readonly bigint[];
  /** With those of the files before; default: of this one. */
  readonly maxCommitUs?: bigint;
};

describe('a log file', () => {
  it('is durable and readable block by block, while it grows', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    await using writer = await beginFile(medium, { fileId: 1n, epoch: 5n, cuts: [0] });
    expect((await openArchive(medium)).coverage()).toEqual([]);
    expect((await openArchive(medium)).end()).toMatchObject({ fileId: 1n, epoch: 5n, end: lsn(0) });
    await writer.appendBlock({ begin: lsn(0), data: [LOG.subarray(0, 100), LOG.subarray(100, 5000)] });
    await writer.appendCheckpoint({ lsn: lsn(5000), timeUs: 1_000n });
    await writer.appendBlock({ begin: lsn(5000), data: [LOG.subarray(5000, 9000)], lastCommitUs: 2_000n });
    const archive = await openArchive(medium);
    expect(archive.coverage()).toEqual([
      { timeline: 1, begin: lsn(0), end: lsn(9000), checkpointUs: 2_000n },
    ]);
    expect(await readLog(archive, 0, 9000)).toEqual(LOG.subarray(0, 9000));
    expect(await readLog(archive, 4990, 5010)).toEqual(LOG.subarray(4990, 5010));
    expect(await readLog(archive, 0, 0)).toEqual(Buffer.alloc(0));
    expect(writer).toMatchObject({ logBytes: 9000, flushes: 3, end: lsn(9000) });
  });

  it('refuses bytes that do not follow, and a name that is taken', async () => {
    await using opened = await openTestMedium();
    await using writer = await beginFile(opened.medium, { fileId: 1n, epoch: 1n, cuts: [0] });
    await expect(writer.appendBlock({ begin: lsn(1), data: [LOG.subarray(0, 10)] })).rejects.toThrow(
      /begins/,
    );
    await expect(beginFile(opened.medium, { fileId: 1n, epoch: 1n, cuts: [0] })).rejects.toMatchObject({
      code: 'FILE_EXISTS',
    });
  });

  it('is not written to again after an append failed', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    let isFull = false;
    const failing = overriding(medium, {
      createAppendable: async (key) => {
        const file = await medium.createAppendable(key);
        return {
          get sizeBytes() {
            return file.sizeBytes;
          },
          append: async (chunks) => {
            if (isFull) throw new HoldfastError('DESTINATION_FULL', 'full');
            await file.append(chunks);
          },
          [Symbol.asyncDispose]: async () => await file[Symbol.asyncDispose](),
        };
      },
    });
    await using writer = await beginFile(failing, { fileId: 1n, epoch: 1n, cuts: [0] });
    await writer.appendBlock({ begin: lsn(0), data: [LOG.subarray(0, 10)] });
    isFull = true;
    const next = { begin: lsn(10), data: [LOG.subarray(10, 20)] };
    await expect(writer.appendBlock(next)).rejects.toMatchObject({ code: 'DESTINATION_FULL' });
    isFull = false;
    await expect(writer.appendBlock(next)).rejects.toThrow(/after a failure/);
    expect(writer.end).toBe(lsn(10));
  });

  it('needs a medium that can append', async () => {
    await using opened = await openTestMedium();
    const medium = overriding(opened.medium, { capabilities: { exclusive: false, append: false } });
    await expect(beginFile(medium, { fileId: 1n, epoch: 1n, cuts: [0] })).rejects.toMatchObject({
      code: 'NOT_SUPPORTED',
    });
  });
});

describe('a log index', () => {
  const index: LogFileIndex = {
    fileId: 2n,
    epoch: 3n,
    timeline: toTimeline(1),
    begin: lsn(0),
    end: lsn(300),
    systemIdentifier: 7_000_000_000_000_000_001n,
    segmentSizeBytes: 16 * 2 ** 20,
    acceptedBytes: 1000,
    blocks: [
      { begin: lsn(0), offset: 100, storedBytes: 400, plainBytes: 100 },
      { begin: lsn(100), offset: 500, storedBytes: 500, plainBytes: 200 },
    ],
    firstCommitUs: 1n,
    lastCommitUs: 9n,
    maxCommitUs: 12n,
    checkpoint: { lsn: lsn(300), timeUs: 20n },
    checkpoints: [{ lsn: lsn(50), timeUs: 2n }],
    restorePoints: [{ lsn: lsn(70), name: 'before upgrade', timeUs: 3n }],
    unfinishedRecordBegin: lsn(290),
  };

  it('is read back as it was written, and is written once', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    await writeLogIndex(medium, ROOT, ROUND, GROUP, index);
    expect(await readLogIndex(medium, ROOT, ROUND, GROUP, index)).toEqual(index);
    await expect(writeLogIndex(medium, ROOT, ROUND, GROUP, index)).rejects.toMatchObject({
      code: 'FILE_EXISTS',
    });
  });

  it('tells nothing from zero', async () => {
    await using opened = await openTestMedium();
    const bare: LogFileIndex = {
      ...index,
      end: lsn(0),
      blocks: [],
      firstCommitUs: undefined,
      lastCommitUs: undefined,
      maxCommitUs: undefined,
      checkpoint: undefined,
      checkpoints: [],
      restorePoints: [],
      unfinishedRecordBegin: undefined,
    };
    await writeLogIndex(opened.medium, ROOT, ROUND, GROUP, bare);
    expect(await readLogIndex(opened.medium, ROOT, ROUND, GROUP, bare)).toEqual(bare);
  });

  it('cut at any offset, or with any byte changed, is DATA_CORRUPT', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    const key = tree.logIndex(ROOT, ROUND, GROUP, 2n, 3n);
    const bytes = encodeLogIndex(ROUND, GROUP, index);
    const refuses = async (damaged: Buffer) => {
      await medium.replace(key, damaged);
      await expect(readLogIndex(medium, ROOT, ROUND, GROUP, index)).rejects.toMatchObject({
        code: 'DATA_CORRUPT',
      });
    };
    for (let length = 0; length < bytes.length; length += 1) await refuses(bytes.subarray(0, length));
    for (let at = 0; at < bytes.length; at += 1) {
      const damaged = Buffer.from(bytes);
      damaged.writeUInt8(damaged.readUInt8(at) ^ (1 << (at % 8)), at);
      await refuses(damaged);
    }
  });

  it('whose blocks leave a hole is DATA_CORRUPT', async () => {
    await using opened = await openTestMedium();
    await writeLogIndex(opened.medium, ROOT, ROUND, GROUP, { ...index, end: lsn(301) });
    await expect(readLogIndex(opened.medium, ROOT, ROUND, GROUP, index)).rejects.toThrow(/fill its range/);
  });
});

describe('an archive', () => {
  it('without files is empty', async () => {
    await using opened = await openTestMedium();
    const archive = await openArchive(opened.medium);
    expect(archive.coverage()).toEqual([]);
    expect(archive.end()).toBeUndefined();
    expect(archive.lookup.lastFileId).toBe(0n);
  });

  it('joins sealed and growing files into one range, and keeps the running maximum of commit times', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    await write(medium, { fileId: 1n, epoch: 1n, cuts: [0, 1000, 3000], commits: [50n, 90n] }, true);
    await write(
      medium,
      { fileId: 2n, epoch: 1n, cuts: [3000, 4000], commits: [70n], maxCommitUs: 90n },
      true,
    );
    await write(medium, { fileId: 3n, epoch: 1n, cuts: [4000, 6000], commits: [80n] }, false);
    const archive = await openArchive(medium);
    // The last two files are asked.
    expect(archive.coverage()).toEqual([{ timeline: 1, begin: lsn(0), end: lsn(6000), checkpointUs: 80n }]);
    expect(await archive.lookup.maxCommitUs()).toBe(90n);
    expect(await archive.lookup.maxCommitUs(archive.files[0])).toBeUndefined();
    expect(archive.files.map((file) => file.hasIndex)).toEqual([true, true, false]);
    expect(await readLog(archive, 900, 5000)).toEqual(LOG.subarray(900, 5000));
    expect((await archive.lookup.fileAt(toTimeline(1), lsn(3000)))?.fileId).toBe(2n);
    expect(await archive.lookup.fileAt(toTimeline(1), lsn(6000))).toBeUndefined();
    expect(archive.end()).toMatchObject({ fileId: 3n, end: lsn(6000), hasIndex: false });
  });

  it('cuts a torn tail at the last whole block, wherever the file was cut', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    const { key, ends } = await write(medium, { fileId: 1n, epoch: 1n, cuts: [0, 60, 140, 200] }, false);
    const bytes = await medium.read(key);
    for (let length = 0; length <= bytes.length; length += 1) {
      await medium.replace(key, bytes.subarray(0, length));
      const archive = await openArchive(medium);
      const whole = ends.filter((end) => end.sizeBytes <= length).at(-1);
      const covered = archive.coverage().at(-1)?.end ?? lsn(0);
      expect(covered).toBe(lsn(whole?.cut ?? 0));
      expect(archive.lookup.lastFileId).toBe(1n);
      if (whole !== undefined)
        expect(await readLog(archive, 0, whole.cut)).toEqual(LOG.subarray(0, whole.cut));
    }
  });

  it('counts a file with any one byte changed at most up to the damage', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    const { key, ends } = await write(medium, { fileId: 1n, epoch: 1n, cuts: [0, 60, 140, 200] }, false);
    const bytes = await medium.read(key);
    for (let at = 0; at < bytes.length; at += 1) {
      const damaged = Buffer.from(bytes);
      damaged.writeUInt8(damaged.readUInt8(at) ^ (1 << (at % 8)), at);
      await medium.replace(key, damaged);
      const archive = await openArchive(medium);
      const whole = ends.filter((end) => end.sizeBytes <= at).at(-1);
      expect(archive.coverage().at(-1)?.end ?? lsn(0)).toBe(lsn(whole?.cut ?? 0));
      expect(archive.files.every((file) => file.ignored !== undefined)).toBe(true);
    }
  });

  it('of a sealed file ignores what lies behind the accepted length', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    const dead = await beginFile(medium, { fileId: 1n, epoch: 1n, cuts: [0] });
    await dead.appendBlock({ begin: lsn(0), data: [LOG.subarray(0, 1000)] });
    // A successor takes over from what it sees and begins its own file …
    const archive = await openArchive(medium);
    const [unsealed] = archive.unsealed;
    if (unsealed === undefined) throw new Error('nothing to seal');
    const sealed = await sealPredecessor(archive.lookup, unsealed, {
      checkpoints: [],
      restorePoints: [],
      unfinishedRecordBegin: lsn(950),
    });
    expect(sealed).toMatchObject({ end: lsn(1000), hasIndex: true });
    expect(await archive.lookup.unsealed()).toEqual([]);
    expect((await openArchive(medium)).end()).toMatchObject({
      unfinishedRecordBegin: lsn(950),
      hasIndex: true,
    });
    await write(medium, { fileId: 2n, epoch: 2n, cuts: [950, 3000] }, false);
    // … while the predecessor, which was only slow, writes on, and writes something else.
    await dead.appendBlock({ begin: lsn(1000), data: [Buffer.alloc(500, 0xee)] });
    await dead.close();
    const after = await openArchive(medium);
    expect(after.coverage()).toMatchObject([{ begin: lsn(0), end: lsn(3000) }]);
    expect(await readLog(after, 0, 3000)).toEqual(LOG.subarray(0, 3000));
  });

  it('takes the index of whoever sealed a file first', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    await write(medium, { fileId: 1n, epoch: 1n, cuts: [0, 500] }, false);
    const slow = await openArchive(medium);
    const [slowFile] = slow.unsealed;
    const fast = await openArchive(medium);
    const [fastFile] = fast.unsealed;
    if (slowFile === undefined || fastFile === undefined) throw new Error('nothing to seal');
    const none = { checkpoints: [], restorePoints: [] };
    await sealPredecessor(fast.lookup, fastFile, { ...none, unfinishedRecordBegin: lsn(480) });
    const theirs = { ...none, unfinishedRecordBegin: lsn(490) };
    const sealed = await sealPredecessor(slow.lookup, slowFile, theirs);
    expect(sealed.unfinishedRecordBegin).toBe(lsn(480));
    expect((await slow.lookup.fileAt(toTimeline(1), lsn(0)))?.unfinishedRecordBegin).toBe(lsn(480));
  });

  it('counts the same bytes twice once', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    await write(medium, { fileId: 1n, epoch: 1n, cuts: [0, 1000, 2000] }, true);
    await write(medium, { fileId: 2n, epoch: 1n, cuts: [2000, 5000] }, false); // a slow predecessor's
    await write(medium, { fileId: 2n, epoch: 2n, cuts: [1500, 2500, 6000] }, false);
    await write(medium, { fileId: 3n, epoch: 2n, cuts: [6000, 7000] }, false);
    const archive = await openArchive(medium);
    expect(archive.coverage()).toMatchObject([{ begin: lsn(0), end: lsn(7000) }]);
    expect(await readLog(archive, 0, 7000)).toEqual(LOG.subarray(0, 7000));
  });

  it('refuses different bytes at one position, naming it and both files', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    const other = Buffer.from(LOG);
    other.writeUInt8(other.readUInt8(1700) ^ 1, 1700);
    await write(medium, { fileId: 1n, epoch: 1n, cuts: [0, 1000, 2000] }, true);
    await write(medium, { fileId: 2n, epoch: 2n, cuts: [1500, 3000], log: other }, false);
    const archive = await openArchive(medium);
    const conflict = {
      code: 'LOG_CONFLICT',
      message: expect.stringMatching(/1\.1 .*2\.2 .*0\/30006A4/) as string,
    };
    expect(() => archive.coverage()).toThrow(expect.objectContaining(conflict));
    await expect(readLog(archive, 0, 10)).rejects.toMatchObject(conflict);
    expect(archive.end()).toMatchObject({ fileId: 2n, end: lsn(3000) });
  });

  it('keeps timelines apart: an old leader may go on writing its own', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    const other = sampleBytes(200_000, 8);
    await write(medium, { fileId: 1n, epoch: 1n, cuts: [0, 1000, 3000] }, true);
    await write(medium, { fileId: 2n, epoch: 2n, cuts: [2000, 2500], timeline: 2, log: other }, false);
    const archive = await openArchive(medium);
    expect(archive.coverage().map(({ timeline, begin, end }) => [timeline, begin, end])).toEqual([
      [1, lsn(0), lsn(3000)],
      [2, lsn(2000), lsn(2500)],
    ]);
    expect(await readLog(archive, 2000, 2500, 2)).toEqual(other.subarray(2000, 2500));
    expect(archive.end()).toMatchObject({ timeline: 2, end: lsn(2500) });
  });

  it('names what is missing, before anything is read', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    await write(medium, { fileId: 1n, epoch: 1n, cuts: [0, 1000] }, true);
    await write(medium, { fileId: 3n, epoch: 1n, cuts: [2000, 3000] }, true);
    const archive = await openArchive(medium);
    expect(archive.coverage()).toHaveLength(2);
    await expect(readLog(archive, 0, 5000)).rejects.toMatchObject({
      code: 'LOG_GAP',
      message: expect.stringMatching(/0\/30003E8 to 0\/30007D0, 0\/3000BB8 to 0\/3001388/) as string,
    });
    await expect(readLog(archive, 0, 100, 2)).rejects.toMatchObject({ code: 'LOG_GAP' });
  });

  it('counts a file that is shorter than its index says as far as it goes, and says so', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    const { key } = await write(medium, { fileId: 1n, epoch: 1n, cuts: [0, 1000, 2000] }, true);
    const bytes = await medium.read(key);
    await medium.replace(key, bytes.subarray(0, -1));
    const archive = await openArchive(medium);
    expect(archive.coverage()).toMatchObject([{ begin: lsn(0), end: lsn(1000) }]);
    await expect(readLog(archive, 0, 2000)).rejects.toMatchObject({
      code: 'LOG_GAP',
      detail: expect.stringContaining('where its index says') as string,
    });
  });

  it('notices a tail that a file in the middle has lost when it is opened, and whoever needs the log opens it', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    for (const n of [0, 1, 2, 3, 4])
      await write(
        medium,
        { fileId: BigInt(n + 1), epoch: 1n, cuts: [n * 1000, n * 1000 + 500, n * 1000 + 1000] },
        true,
      );
    const key = tree.logData(ROOT, ROUND, GROUP, 3n, 1n);
    await medium.replace(key, (await medium.read(key)).subarray(0, -1));
    const { lookup } = await openArchive(medium);
    await verifyLog(lookup, toTimeline(1), lsn(0), lsn(2500));
    for (const [from, until] of [
      [0, 5000],
      [2400, 2600],
      [2600, 2700],
    ] as const)
      await expect(verifyLog(lookup, toTimeline(1), lsn(from), lsn(until))).rejects.toMatchObject({
        code: 'LOG_GAP',
      });
    // Who has opened it once says so from then on.
    const again = await LogLookup.open(medium, ROOT, ROUND, GROUP);
    await expect(verifyLog(again, toTimeline(1), lsn(0), lsn(5000))).rejects.toMatchObject({
      code: 'LOG_GAP',
      message: expect.stringContaining('0/30009C4 to 0/3000BB8') as string,
    });
    const late = await LogLookup.open(medium, ROOT, ROUND, GROUP);
    expect((await late.fileAt(toTimeline(1), lsn(2100)))?.end).toBe(lsn(2500));
    expect((await late.coverage()).map(({ begin, end }) => [begin, end])).toEqual([
      [lsn(0), lsn(2500)],
      [lsn(3000), lsn(5000)],
    ]);
  });

  it('does not believe an index whose file is gone', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    const { key } = await write(medium, { fileId: 1n, epoch: 1n, cuts: [0, 1000] }, true);
    await medium.deleteMany([key]);
    const archive = await openArchive(medium);
    expect(archive.coverage()).toEqual([]);
    expect(archive.lookup.lost).toEqual([key]);
  });

  it('reports a damaged block of a sealed file by name and offset when it is read', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    const { key, ends } = await write(medium, { fileId: 1n, epoch: 1n, cuts: [0, 1000, 2000] }, true);
    const bytes = await medium.read(key);
    const at = (ends[0]?.sizeBytes ?? 0) + 300;
    bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
    await medium.replace(key, bytes);
    const archive = await openArchive(medium);
    expect(await readLog(archive, 0, 1000)).toEqual(LOG.subarray(0, 1000));
    await expect(readLog(archive, 0, 2000)).rejects.toMatchObject({
      code: 'DATA_CORRUPT',
      message: expect.stringContaining(`${key} at offset ${ends[0]?.sizeBytes}`) as string,
    });
  });

  it('finds files that the listing does not show yet', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    await write(medium, { fileId: 1n, epoch: 1n, cuts: [0, 1000] }, true);
    await write(medium, { fileId: 2n, epoch: 1n, cuts: [1000, 2000] }, false);
    const late = overriding(medium, {
      listNames: async (prefix) => (await medium.listNames(prefix)).filter((name) => name !== '2.1'),
    });
    expect((await openArchive(late)).end()).toMatchObject({ fileId: 2n, end: lsn(2000) });
  });

  it('refuses log files in parts, which it cannot read yet', async () => {
    await using opened = await openTestMedium();
    await opened.medium.replace(tree.logDataPart(ROOT, ROUND, GROUP, 1n, 1n, 1), Buffer.from('x'));
    await expect(openArchive(opened.medium)).rejects.toMatchObject({ code: 'FORMAT_UNKNOWN' });
  });
});

function lsn(offset: number): Lsn {
  return toLsn(BigInt(BEGIN + offset));
}

async function openArchive(medium: Medium): Promise<LogArchive> {
  return await LogArchive.open(medium, ROOT, ROUND, GROUP);
}

async function beginFile(medium: Medium, spec: FileSpec): Promise<LogFileWriter> {
  return await LogFileWriter.create(medium, ROOT, ROUND, GROUP, {
    fileId: spec.fileId,
    epoch: spec.epoch,
    timeline: toTimeline(spec.timeline ?? 1),
    begin: lsn(spec.cuts[0] ?? 0),
    segmentSizeBytes: 16 * 2 ** 20,
    systemIdentifier: 42n,
    compression: 'zstd:1',
  });
}

/** Writes a log file, and its index when it is sealed. `ends`: how long the file was after each block. */
async function write(
  medium: Medium,
  spec: FileSpec,
  isSealed: boolean,
): Promise<{
  readonly key: string;
  readonly ends: readonly { readonly cut: number; readonly sizeBytes: number }[];
}> {
  await using writer = await beginFile(medium, spec);
  const ends = [];
  for (const [n, cut] of spec.cuts.slice(1).entries()) {
    const from = spec.cuts[n] ?? 0;
    const lastCommitUs = spec.commits?.[n];
    const data = [(spec.log ?? LOG).subarray(from, cut)];
    await writer.appendBlock({ begin: lsn(from), data, firstCommitUs: lastCommitUs, lastCommitUs });
    ends.push({ cut, sizeBytes: writer.sizeBytes });
  }
  if (isSealed) {
    const facts = writer.facts();
    const maxCommitUs = spec.maxCommitUs ?? facts.lastCommitUs;
    const findings = { maxCommitUs, checkpoints: [], restorePoints: [] };
    await writeLogIndex(medium, ROOT, ROUND, GROUP, { ...facts, ...findings });
  }
  return { key: tree.logData(ROOT, ROUND, GROUP, spec.fileId, spec.epoch), ends };
}

/** A chunk is valid until the next one is asked for. */
async function readLog(archive: LogArchive, from: number, until: number, timeline = 1): Promise<Buffer> {
  const parts: Buffer[] = [];
  let at = lsn(from);
  for await (const chunk of archive.read(toTimeline(timeline), lsn(from), lsn(until))) {
    expect(chunk.begin).toBe(at);
    at = toLsn(at + BigInt(chunk.data.length));
    parts.push(Buffer.from(chunk.data));
  }
  return Buffer.concat(parts);
}
