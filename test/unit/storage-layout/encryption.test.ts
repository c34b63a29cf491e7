import { randomBytes } from 'node:crypto';
import { describe, expect, it, test } from 'vitest';
import { isError } from '../../../foundation/errors.ts';
import { parseKeyFile } from '../../../foundation/key-file.ts';
import { toLsn, toTimeline } from '../../../foundation/lsn.ts';
import { EncryptionMode } from '../../../proto/gen/holdfast/v1/records_pb.ts';
import { readChangePayloads, readLogIndex, writeLogIndex } from '../../../storage-layout/clog/index.ts';
import { LogLookup } from '../../../storage-layout/clog/lookup.ts';
import { scanLogFile } from '../../../storage-layout/clog/scan.ts';
import { LogFileWriter } from '../../../storage-layout/clog/writer.ts';
import { crc32c } from '../../../storage-layout/crc32c.ts';
import {
  keepCarriedKeys,
  modeOf,
  newDataKey,
  readKeyRecord,
  setKeyPlace,
  writeFirstRecord,
} from '../../../storage-layout/encryption/key-records.ts';
import { type DataKey, readFileCipher, ringOf } from '../../../storage-layout/encryption/key-ring.ts';
import { unlockSet } from '../../../storage-layout/encryption/unlock.ts';
import type { MacroBlockEntry } from '../../../storage-layout/macroblock/entry.ts';
import { nameMacroBlockFile } from '../../../storage-layout/macroblock/file-name.ts';
import { readMacroBlockIndex, writeMacroBlockIndex } from '../../../storage-layout/macroblock/index.ts';
import { decodeMacroBlock } from '../../../storage-layout/macroblock/reader.ts';
import { MacroBlockFileWriter } from '../../../storage-layout/macroblock/writer.ts';
import type { Medium } from '../../../storage-layout/media/medium.ts';
import { withKeys } from '../../../storage-layout/media/with-keys.ts';
import { RECORD } from '../../../storage-layout/records/framing.ts';
import {
  RecordFileWriter,
  readRecordFile,
  readRecords,
} from '../../../storage-layout/records/record-file.ts';
import { tree } from '../../../storage-layout/tree.ts';
import { collect, GROUP, openTestMedium, overriding, ROOT, ROUND, sampleBytes } from './support.ts';

const MARKER = 'a marker that nobody may find';
const NO_SECRETS = { passwords: [], fileKeys: [] };
const TIMELINE = toTimeline(1);

function dataKey(directory: string, writes = true): DataKey {
  return { directory, id: randomBytes(16).toString('hex'), key: Uint8Array.from(randomBytes(32)), writes };
}

/** The medium as one sees it who has the keys. */
function keyed(medium: Medium, ...keys: readonly DataKey[]): Medium {
  return withKeys(medium, ringOf(keys));
}

/** The file `key` with other bytes than it has. */
function replacing(medium: Medium, key: string, bytes: Buffer): Medium {
  const readRange = async (file: string, begin: number, end: number, into?: Buffer): Promise<Buffer> =>
    file === key ? Buffer.from(bytes.subarray(begin, end)) : await medium.readRange(file, begin, end, into);
  return overriding(medium, { readRange });
}

/** Makes a changed header and its data believable for whoever has no key. */
function resealed(record: Buffer): Buffer {
  const headerBytes = record.readUInt16LE(10);
  record.writeUInt32LE(crc32c(record.subarray(headerBytes)), 24);
  record.writeUInt32LE(0, 12);
  record.writeUInt32LE(crc32c(record.subarray(0, headerBytes)), 12);
  return record;
}

async function codeOf(run: () => unknown): Promise<string> {
  try {
    await run();
  } catch (error) {
    if (isError(error, 'DATA_CORRUPT', 'FORMAT_UNKNOWN', 'BACKUP_INVALID_PASSWORD', 'LOG_GAP'))
      return error.code;
    throw error;
  }
  return 'nothing was thrown';
}

async function writeBlocks(
  medium: Medium,
  key: string,
  blocks: readonly Buffer[],
  compression: 'none' | 'zstd:1' = 'zstd:1',
): Promise<readonly MacroBlockEntry[]> {
  const name = nameMacroBlockFile(8n, 1, GROUP);
  await using writer = await MacroBlockFileWriter.create(medium, key, name, compression);
  const entries: MacroBlockEntry[] = [];
  for (const [blockNumber, block] of blocks.entries()) {
    const appended = await writer.append(block, { fileNumber: 7, blockNumber });
    entries.push({ ...appended, newestPageLsn: toLsn(0n), pageCheckFailed: false });
  }
  await writer.close();
  return entries;
}

async function readBlock(medium: Medium, key: string, entry: MacroBlockEntry): Promise<Buffer> {
  const stored = await medium.readRange(key, entry.offset, entry.offset + entry.storedBytes);
  const cipher = await readFileCipher(medium, key);
  return decodeMacroBlock(stored, entry, Buffer.alloc(entry.plainBytes), key, cipher);
}

describe('an encrypted macroblock file', () => {
  it.each(['none', 'zstd:1'] as const)(
    'gives its blocks back, %s, and shows nothing of them',
    async (compression) => {
      await using opened = await openTestMedium();
      const medium = keyed(opened.medium, dataKey('d'));
      const blocks = [Buffer.from(MARKER), sampleBytes(2 * 2 ** 20, 3), sampleBytes(700_000, 4)];
      const entries = await writeBlocks(medium, 'd/m', blocks, compression);
      for (const [n, entry] of entries.entries()) {
        expect((await readBlock(medium, 'd/m', entry)).equals(blocks[n] ?? Buffer.alloc(0))).toBe(true);
        expect(entry.crc32c).toBe(crc32c(blocks[n] ?? Buffer.alloc(0)));
      }
      const stored = await opened.medium.read('d/m');
      expect(stored.includes(MARKER)).toBe(false);
      expect(stored.includes(GROUP)).toBe(false);
      const records = await collect(readRecordFile(medium, 'd/m', RECORD.macroBlock));
      expect(records.map((record) => record.type)).toEqual([
        RECORD.macroBlockFile,
        ...blocks.map(() => RECORD.macroBlock),
      ]);
    },
  );

  it('has every flipped byte detected, also by whoever can compute checksums', async () => {
    await using opened = await openTestMedium();
    const medium = keyed(opened.medium, dataKey('d'));
    const [entry] = await writeBlocks(medium, 'd/m', [Buffer.from(MARKER)]);
    if (entry === undefined) throw new Error('no block');
    const whole = await opened.medium.read('d/m');
    for (let at = 0; at < whole.length; at += 1) {
      const damaged = Buffer.from(whole);
      damaged.writeUInt8(damaged.readUInt8(at) ^ 0x20, at);
      const code = await codeOf(() =>
        collect(readRecordFile(replacing(medium, 'd/m', damaged), 'd/m', RECORD.macroBlock)),
      );
      expect([at, ['DATA_CORRUPT', 'FORMAT_UNKNOWN'].includes(code)]).toEqual([at, true]);
    }
    const cipher = await readFileCipher(medium, 'd/m');
    const stored = whole.subarray(entry.offset, entry.offset + entry.storedBytes);
    const into = Buffer.alloc(entry.plainBytes);
    const checksums = new Set([12, 13, 14, 15, 24, 25, 26, 27]);
    for (let at = 0; at < stored.length; at += 1) {
      if (checksums.has(at) || (at >= 10 && at < 12)) continue; // they are computed anew; the length would move the rest
      const forged = Buffer.from(stored);
      forged.writeUInt8(forged.readUInt8(at) ^ 1, at);
      const code = await codeOf(() => decodeMacroBlock(resealed(forged), entry, into, 'd/m', cipher));
      expect([at, ['DATA_CORRUPT', 'FORMAT_UNKNOWN'].includes(code)]).toEqual([at, true]);
    }
    expect(decodeMacroBlock(stored, entry, into, 'd/m', cipher).toString()).toBe(MARKER);
  });

  it('has a block detected that was put in the place of another one, of this file or another set', async () => {
    await using opened = await openTestMedium();
    const eight = dataKey('8');
    const medium = keyed(opened.medium, eight, dataKey('9'));
    const blocks = [Buffer.alloc(5000, 'a'), Buffer.alloc(5000, 'b')];
    const entries = await writeBlocks(medium, '8/m', blocks, 'none');
    await writeBlocks(medium, '8/n', blocks, 'none');
    await writeBlocks(medium, '9/m', blocks, 'none');
    const [first, second] = entries;
    if (first === undefined || second === undefined) throw new Error('no blocks');
    const recordOf = async (key: string, { offset, storedBytes }: MacroBlockEntry) =>
      await medium.readRange(key, offset, offset + storedBytes);
    const read = async (record: Buffer, entry: MacroBlockEntry) => {
      // As if the index had been made to agree.
      const agreeing = { ...entry, crc32c: crc32c(blocks[0] ?? record) };
      return decodeMacroBlock(
        record,
        agreeing,
        Buffer.alloc(5000),
        '8/m',
        await readFileCipher(medium, '8/m'),
      );
    };
    expect(await codeOf(async () => await read(await recordOf('8/m', first), first))).toBe(
      'nothing was thrown',
    );
    for (const [key, entry] of [
      ['8/m', second],
      ['8/n', first],
      ['9/m', first],
    ] as const)
      expect(await codeOf(async () => await read(await recordOf(key, entry), first))).toBe('DATA_CORRUPT');
    // With the number of the wanted block written over its own:
    const renamed = Buffer.from(await recordOf('8/m', second));
    (await recordOf('8/m', first)).copy(renamed, 28, 28, 40);
    expect(await codeOf(async () => await read(resealed(renamed), first))).toBe('DATA_CORRUPT');
    // A whole file of the other set, under this set's key alone:
    const swapped = replacing(medium, '8/m', await opened.medium.read('9/m'));
    expect(await codeOf(async () => await readFileCipher(swapped, '8/m'))).toBe('DATA_CORRUPT');
    expect(
      await codeOf(async () => await readFileCipher(keyed(opened.medium, { ...eight, id: 'ff' }), '8/m')),
    ).toBe('DATA_CORRUPT');
  });

  it('is not replaced by a plain one, and its records not by plain records', async () => {
    await using opened = await openTestMedium();
    const medium = keyed(opened.medium, dataKey('d'));
    const blocks = [Buffer.from(MARKER)];
    const [entry] = await writeBlocks(medium, 'd/m', blocks);
    const [plain] = await writeBlocks(opened.medium, 'plain', blocks);
    if (entry === undefined || plain === undefined) throw new Error('no block');
    const swapped = replacing(medium, 'd/m', await opened.medium.read('plain'));
    expect(await codeOf(async () => await readFileCipher(swapped, 'd/m'))).toBe('DATA_CORRUPT');
    expect(await codeOf(async () => await collect(readRecords(swapped, 'd/m')))).toBe('DATA_CORRUPT');
    const record = await opened.medium.readRange('plain', plain.offset, plain.offset + plain.storedBytes);
    const cipher = await readFileCipher(medium, 'd/m');
    expect(await codeOf(() => decodeMacroBlock(record, plain, Buffer.alloc(100), 'd/m', cipher))).toBe(
      'DATA_CORRUPT',
    );
  });

  it('tells without its key that it is encrypted', async () => {
    await using opened = await openTestMedium();
    const key = dataKey('d');
    const [entry] = await writeBlocks(keyed(opened.medium, key), 'd/m', [Buffer.from(MARKER)]);
    if (entry === undefined) throw new Error('no block');
    expect(await codeOf(async () => await collect(readRecords(opened.medium, 'd/m')))).toBe(
      'BACKUP_INVALID_PASSWORD',
    );
    expect(await codeOf(async () => await readBlock(opened.medium, 'd/m', entry))).toBe(
      'BACKUP_INVALID_PASSWORD',
    );
    const wrong = keyed(opened.medium, { ...key, key: Uint8Array.from(randomBytes(32)) });
    expect(await codeOf(async () => await readBlock(wrong, 'd/m', entry))).toBe('DATA_CORRUPT');
  });
});

test('an encrypted index and meta file are read as they were written, and no record may be missing', async () => {
  await using opened = await openTestMedium();
  const medium = keyed(opened.medium, dataKey('d'));
  const blocks = Array.from({ length: 20 }, (_, n) => sampleBytes(10_000, n + 1));
  const entries = await writeBlocks(medium, 'd/m', blocks);
  await writeMacroBlockIndex(medium, 'd/i', entries);
  expect((await collect(readMacroBlockIndex(medium, 'd/i'))).flat()).toEqual(entries);
  {
    await using file = await RecordFileWriter.create(medium, 'd/f', RECORD.backupMeta);
    for (const text of [MARKER, 'second', 'third']) await file.append(RECORD.backupMeta, Buffer.from(text));
    await file.close();
  }
  const records = await collect(readRecordFile(medium, 'd/f', RECORD.backupMeta));
  expect(records.map(({ payload }) => payload.toString())).toEqual([MARKER, 'second', 'third']);
  const whole = await opened.medium.read('d/f');
  expect(whole.includes(MARKER)).toBe(false);
  const second = records[1];
  const third = records[2];
  if (second === undefined || third === undefined) throw new Error('no records');
  const without = Buffer.concat([whole.subarray(0, second.offset), whole.subarray(third.offset)]);
  const read = async (bytes: Buffer) =>
    await collect(readRecordFile(replacing(medium, 'd/f', bytes), 'd/f', RECORD.backupMeta));
  expect(await codeOf(async () => await read(without))).toBe('DATA_CORRUPT');
});

describe('an encrypted log', () => {
  const begin = toLsn(0x3000000n);
  const options = {
    fileId: 1n,
    epoch: 1n,
    timeline: TIMELINE,
    begin,
    segmentSizeBytes: 16 * 2 ** 20,
    systemIdentifier: 7n,
    compression: 'zstd:1' as const,
  };
  const directory = tree.roundDirectory(ROOT, ROUND);
  const dataKeyOf = () => dataKey(directory);
  const log = Buffer.concat([Buffer.from(MARKER), sampleBytes(50_000)]);

  async function archive(medium: Medium) {
    await using writer = await LogFileWriter.create(medium, ROOT, ROUND, GROUP, options);
    await writer.appendBlock({ begin, data: [log.subarray(0, 20_000)], lastCommitUs: 5n });
    await writer.appendCheckpoint({ lsn: toLsn(begin + 20_000n), timeUs: 6n });
    await writer.appendBlock({
      begin: toLsn(begin + 20_000n),
      data: [log.subarray(20_000, 30_000), log.subarray(30_000)],
    });
    return writer.facts();
  }

  it('is read by its records and through its index, and shows nothing of itself', async () => {
    await using opened = await openTestMedium();
    const medium = keyed(opened.medium, dataKeyOf());
    const facts = await archive(medium);
    const key = tree.logData(ROOT, ROUND, GROUP, 1n, 1n);
    const scanned = await scanLogFile(medium, key);
    expect(scanned.ignored).toBeUndefined();
    expect(scanned.facts).toEqual(facts);
    const index = {
      ...facts,
      checkpoints: [],
      restorePoints: [{ lsn: begin, name: MARKER, timeUs: 1n }],
      changeMap: {
        forks: [],
        droppedRelations: [],
        createdDatabases: [{ kind: 'createdDatabase' as const, tablespace: 1663, database: 5 }],
        droppedDatabases: [],
        unknownSpecial: undefined,
        walLevelMinimal: false,
      },
    };
    await writeLogIndex(medium, ROOT, ROUND, GROUP, index);
    const indexKey = tree.logIndex(ROOT, ROUND, GROUP, 1n, 1n);
    expect(await readLogIndex(medium, ROOT, ROUND, GROUP, facts)).toMatchObject({
      ...facts,
      restorePoints: index.restorePoints,
    });
    expect(await readChangePayloads(medium, indexKey)).toHaveLength(1);
    const lookup = await LogLookup.open(medium, ROOT, ROUND, GROUP);
    const read: Buffer[] = [];
    for await (const { data } of lookup.read(TIMELINE, begin, facts.end)) read.push(Buffer.from(data));
    expect(Buffer.concat(read).equals(log)).toBe(true);
    for (const file of [key, indexKey]) expect((await opened.medium.read(file)).includes(MARKER)).toBe(false);
  });

  it('has every flipped byte detected, and ends before it', async () => {
    await using opened = await openTestMedium();
    const medium = keyed(opened.medium, dataKeyOf());
    const facts = await archive(medium);
    const key = tree.logData(ROOT, ROUND, GROUP, 1n, 1n);
    const whole = await opened.medium.read(key);
    for (let at = 0; at < whole.length; at += at < 600 ? 1 : 97) {
      const damaged = Buffer.from(whole);
      damaged.writeUInt8(damaged.readUInt8(at) ^ 4, at);
      const seen = replacing(medium, key, damaged);
      let end: bigint | undefined;
      const code = await codeOf(async () => {
        const scanned = await scanLogFile(seen, key);
        end = scanned.facts?.end;
        expect([at, scanned.ignored]).not.toEqual([at, undefined]);
      });
      if (code === 'nothing was thrown') expect(end === undefined || end < facts.end).toBe(true);
    }
  });

  it('of another round under the same name is detected', async () => {
    await using opened = await openTestMedium();
    const other = { ...ROUND, round: 2n };
    const medium = keyed(opened.medium, dataKeyOf(), dataKey(tree.roundDirectory(ROOT, other)));
    await archive(medium);
    {
      await using writer = await LogFileWriter.create(medium, ROOT, other, GROUP, options);
      await writer.appendBlock({ begin, data: [log] });
    }
    const key = tree.logData(ROOT, ROUND, GROUP, 1n, 1n);
    const swapped = replacing(
      medium,
      key,
      await opened.medium.read(tree.logData(ROOT, other, GROUP, 1n, 1n)),
    );
    const scanned = await scanLogFile(swapped, key);
    expect(scanned.facts).toBeUndefined();
    expect(scanned.ignored?.reason).toMatch(/encrypted under a key that nothing else here is/);
  });
});

describe('data keys', () => {
  const SET = { tenantId: 1001n, fullSetId: 8n, setId: 8n };
  const fileKey = () => Uint8Array.from(randomBytes(32));

  it('open with the password or the key they were wrapped with, and nothing else', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    const [one, other] = [fileKey(), fileKey()];
    const place = setKeyPlace(medium, ROOT, SET);
    const made = await newDataKey({ password: 'secret', fileKey: one }, 1n);
    await writeFirstRecord(place, made.record);
    expect(modeOf((await readKeyRecord(place))?.record)).toBe(EncryptionMode.DUAL);
    for (const secrets of [
      { passwords: ['wrong', 'secret'], fileKeys: [] },
      { passwords: [], fileKeys: [other, one] },
    ])
      expect(await unlockSet(medium, ROOT, SET, secrets)).toEqual([
        { directory: tree.backupSetDirectory(ROOT, 1001n, 8n), id: made.id, key: made.key, writes: true },
      ]);
    for (const secrets of [NO_SECRETS, { passwords: ['Secret', ''], fileKeys: [other] }])
      await expect(unlockSet(medium, ROOT, SET, secrets)).rejects.toMatchObject({
        code: 'BACKUP_INVALID_PASSWORD',
      });
    const stored = await medium.read(tree.keyRecord(ROOT, SET, 1));
    expect(stored.includes(Buffer.from(made.key))).toBe(false);
    expect(stored.includes('secret')).toBe(false);
  });

  it('that are carried along open as the own one does, and go when no file is under them', async () => {
    await using opened = await openTestMedium();
    const place = setKeyPlace(opened.medium, ROOT, SET);
    const [used, unused] = [dataKey('elsewhere'), dataKey('elsewhere')];
    const made = await newDataKey({ password: 'secret', fileKey: undefined }, 1n, [unused, used]);
    await writeFirstRecord(place, made.record);
    const unlock = async () =>
      await unlockSet(opened.medium, ROOT, SET, { passwords: ['secret'], fileKeys: [] });
    expect((await unlock()).map(({ id, writes }) => [id, writes])).toEqual([
      [made.id, true],
      [unused.id, false],
      [used.id, false],
    ]);
    await keepCarriedKeys(place, new Set([used.id]), 2n);
    await keepCarriedKeys(place, new Set([used.id]), 3n);
    expect(await opened.medium.listNames(place.directory)).toEqual(['key_2']);
    expect((await unlock()).map(({ id, key }) => [id, key])).toEqual([
      [made.id, made.key],
      [used.id, used.key],
    ]);
    await expect(keepCarriedKeys(place, new Set([unused.id]), 4n)).rejects.toMatchObject({
      code: 'BACKUP_FAILED',
    });
  });

  it('with a flipped byte in their record do not open', async () => {
    await using opened = await openTestMedium();
    const key = fileKey();
    await writeFirstRecord(
      setKeyPlace(opened.medium, ROOT, SET),
      (await newDataKey({ password: undefined, fileKey: key }, 1n)).record,
    );
    const file = tree.keyRecord(ROOT, SET, 1);
    const whole = await opened.medium.read(file);
    for (let at = 0; at < whole.length; at += 1) {
      const damaged = Buffer.from(whole);
      damaged.writeUInt8(damaged.readUInt8(at) ^ 1, at);
      const medium = overriding(opened.medium, { read: async () => await Promise.resolve(damaged) });
      const code = await codeOf(
        async () => await unlockSet(medium, ROOT, SET, { passwords: [], fileKeys: [key] }),
      );
      expect([at, code]).not.toEqual([at, 'nothing was thrown']);
    }
  });
});

test('a key file has keys of 64 hexadecimal digits, the first of which wraps', () => {
  const [one, two] = ['ab'.repeat(32), '01'.repeat(32)];
  expect(parseKeyFile(`# new\n${one}\n\n  ${two}\n`)).toEqual(
    [one, two].map((hex) => Uint8Array.from(Buffer.from(hex, 'hex'))),
  );
  for (const text of ['', '# none\n', 'ab', `${one}0`, `${one}\nnot a key`, 'g'.repeat(64)])
    expect(parseKeyFile(text)).toBeUndefined();
});
