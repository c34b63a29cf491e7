import { describe, expect, test } from 'vitest';
import { FORK } from '../../../../engine/postgres/wal/blocks.ts';
import type { WalVersion } from '../../../../engine/postgres/wal/page.ts';
import { readRecords, type WalRecord } from '../../../../engine/postgres/wal/records.ts';
import { BEGIN, optionsFrom, piecesOf, type RecordSpec, VERSIONS, WalBuilder } from './build-wal.ts';

const RELATION = [1663, 5, 16_384] as const;

async function decode(version: WalVersion, spec: RecordSpec): Promise<WalRecord> {
  const log = new WalBuilder(version);
  log.add(spec);
  const [record] = await Array.fromAsync(readRecords(piecesOf(BEGIN, log.bytes()), optionsFrom()));
  if (record === undefined) throw new Error('no record');
  return record;
}

function image(info: number, bytes: number, holeOffset: number, holeBytes?: number): RecordSpec {
  const stored = { bytes: Buffer.alloc(bytes, 1), holeOffset, info };
  return {
    rmgr: 0,
    info: 0xb0,
    blocks: [
      {
        id: 0,
        relation: RELATION,
        block: 3,
        image: holeBytes === undefined ? stored : { ...stored, holeBytes },
      },
    ],
  };
}

describe('the record decoder', () => {
  test.each(VERSIONS)('reads every part of a record of version %i', async (version) => {
    const record = await decode(version, {
      rmgr: 10,
      info: 0x20,
      xid: 77,
      origin: 5,
      topLevelXid: 70,
      blocks: [
        { id: 0, relation: RELATION, block: 0xffff_fff0, data: Buffer.from('zero') },
        { id: 1, fork: FORK.vm, block: 2 },
        { id: 32, relation: [1664, 0, 1262], block: 1, data: Buffer.from('thirty-two') },
      ],
      main: Buffer.alloc(300, 9),
    });
    expect(record).toMatchObject({ xid: 77, origin: 5, topLevelXid: 70, info: 0x20 });
    expect(record.blocks).toMatchObject([
      { id: 0, tablespace: 1663, database: 5, relation: 16_384, fork: 0, block: 0xffff_fff0, dataBytes: 4 },
      { id: 1, tablespace: 1663, database: 5, relation: 16_384, fork: FORK.vm, block: 2, dataBytes: 0 },
      { id: 32, tablespace: 1664, database: 0, relation: 1262, fork: 0, block: 1, dataBytes: 10 },
    ]);
    expect(record.mainData).toEqual(new Uint8Array(300).fill(9));
  });

  test('reads images by the bits of version 14: 0x02 is compressed, 0x04 apply', async () => {
    expect((await decode(14, image(0x05, 6000, 100))).blocks[0]?.image).toMatchObject({ holeBytes: 2192 });
    expect((await decode(14, image(0x07, 900, 100, 2000))).blocks[0]?.image).toMatchObject({
      holeBytes: 2000,
    });
    expect((await decode(14, image(0x06, 900, 0))).blocks[0]?.image).toMatchObject({ holeBytes: 0 });
    expect((await decode(14, image(0x04, 8192, 0))).blocks[0]?.image).toMatchObject({ holeBytes: 0 });
  });

  test.each([15, 16, 17, 18] as const)(
    'reads images by the bits of version %i: 0x02 is apply, 0x04, 0x08, 0x10 compressed',
    async (version) => {
      expect((await decode(version, image(0x03, 6000, 100))).blocks[0]?.image).toMatchObject({
        holeBytes: 2192,
      });
      for (const method of [0x04, 0x08, 0x10]) {
        const stored = await decode(version, image(0x03 | method, 900, 100, 2000));
        expect(stored.blocks[0]?.image).toMatchObject({ holeBytes: 2000, storedBytes: 900 });
      }
      expect((await decode(version, image(0x02, 8192, 0))).blocks[0]?.image).toMatchObject({ holeBytes: 0 });
    },
  );

  test('refuses an image that is read by the bits of another version', async () => {
    await expect(decode(14, image(0x03, 6000, 100))).rejects.toThrow(/cannot be decoded/);
    await expect(decode(15, image(0x07, 6000, 100))).rejects.toThrow(/cannot be decoded/);
  });

  test('refuses an image when the log was entered before any page header', async () => {
    const log = new WalBuilder();
    const { end } = log.add({ rmgr: 10, main: Buffer.alloc(8) });
    log.add(image(0x03, 600, 100));
    const read = (options: ReturnType<typeof optionsFrom>) =>
      Array.fromAsync(readRecords(piecesOf(end, log.bytes().subarray(Number(end - BEGIN))), options));
    await expect(read(optionsFrom(end))).rejects.toThrow(/before the first page header/);
    expect(await read({ ...optionsFrom(end), version: 17 })).toHaveLength(1);
  });

  test('refuses what does not fit together, whatever the checksum says', async () => {
    const bad = (blocks: RecordSpec['blocks']) => decode(17, { rmgr: 10, blocks: blocks ?? [] });
    await expect(bad([{ id: 40, relation: RELATION, block: 1 }])).rejects.toThrow(/block id 40 is not known/);
    await expect(bad([{ id: 0, block: 1 }])).rejects.toThrow(/relation of none before it/);
    await expect(
      bad([
        { id: 1, relation: RELATION, block: 1 },
        { id: 1, block: 2 },
      ]),
    ).rejects.toThrow(/block id 1 follows 1/);
    await expect(bad([{ id: 0, relation: RELATION, block: 1, data: Buffer.alloc(0) }])).rejects.toThrow(
      /0 bytes of data against its flag/,
    );
  });
});
