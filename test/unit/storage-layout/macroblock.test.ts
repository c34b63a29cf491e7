import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HoldfastError } from '../../../foundation/errors.ts';
import { toLsn } from '../../../foundation/lsn.ts';
import { crc32c } from '../../../storage-layout/crc32c.ts';
import {
  BlockCompressor,
  BlockDecompressor,
  parseCompression,
} from '../../../storage-layout/macroblock/compress.ts';
import {
  decodeMacroBlockEntries,
  ENTRY_BYTES,
  encodeMacroBlockEntry,
  MACROBLOCK_BYTES,
  type MacroBlockEntry,
} from '../../../storage-layout/macroblock/entry.ts';
import { nameMacroBlockFile } from '../../../storage-layout/macroblock/file-name.ts';
import { readMacroBlockIndex, writeMacroBlockIndex } from '../../../storage-layout/macroblock/index.ts';
import { addPages, emptyPageMap } from '../../../storage-layout/macroblock/page-map.ts';
import { decodeMacroBlock, planReads } from '../../../storage-layout/macroblock/reader.ts';
import { MacroBlockFileWriter } from '../../../storage-layout/macroblock/writer.ts';
import { collect, openTestMedium, overriding, sampleBytes } from './support.ts';

const ENTRY: MacroBlockEntry = {
  fileNumber: 1,
  blockNumber: 2,
  plainBytes: 0x10000,
  newestPageLsn: toLsn(0x0102030405060708n),
  pageCheckFailed: true,
  setId: 8n,
  subTaskId: 3,
  storedBytes: 0x2000,
  offset: 0x123456,
  crc32c: 0xdeadbeef,
  compression: 'zstd',
};
const FILE = nameMacroBlockFile(8n, 3, 'orders_0');
const NAME = { fileNumber: 1, blockNumber: 0 };

describe('an index entry', () => {
  it('has these bytes', () => {
    const bytes = Buffer.alloc(ENTRY_BYTES, 0xff);
    encodeMacroBlockEntry(bytes, 0, ENTRY);
    expect(bytes.toString('hex')).toBe(
      '0100000002000000000001000100000008070605040302010800000000000000' +
        `03000000002000005634120000000000efbeadde01000000${'00'.repeat(72)}`,
    );
  });

  it('round-trips with any numbers, with and without a delta', () => {
    const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
    const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
    const place = fc.record({
      setId: u64,
      subTaskId: u32,
      storedBytes: u32,
      offset: fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }),
      crc32c: u32,
      compression: fc.constantFrom('none' as const, 'zstd' as const),
    });
    const delta = fc
      .tuple(place, fc.uint8Array({ minLength: 32, maxLength: 32 }))
      .filter(([, pages]) => pages.some((byte) => byte !== 0))
      .map(([where, pages]) => ({ ...where, pages: Buffer.from(pages) }));
    fc.assert(
      fc.property(
        place,
        fc.option(delta),
        u32,
        u32,
        u64,
        fc.boolean(),
        fc.option(fc.integer({ min: 1, max: MACROBLOCK_BYTES - 1 })),
        (whole, change, file, block, lsn, failed, wholeBytes) => {
          const entry: MacroBlockEntry = {
            ...whole,
            fileNumber: file,
            blockNumber: block,
            plainBytes: MACROBLOCK_BYTES,
            newestPageLsn: toLsn(lsn),
            pageCheckFailed: failed,
            ...(wholeBytes === null ? {} : { wholeBytes }),
            ...(change === null ? {} : { delta: change }),
          };
          const bytes = Buffer.alloc(ENTRY_BYTES);
          encodeMacroBlockEntry(bytes, 0, entry);
          expect(decodeMacroBlockEntries(bytes, 0, { file: 'f' })).toEqual([entry]);
        },
      ),
    );
  });
});

describe('a delta in an index entry', () => {
  it.each([
    ['without pages', 8192, []],
    ['behind the end of its block', 3 * 8192, [3]],
    ['of a block that is no whole number of pages', 3 * 8192 + 1, [0]],
  ])('%s is DATA_CORRUPT', (_, plainBytes, pages) => {
    const map = emptyPageMap();
    for (const page of pages) addPages(map, page, page + 1);
    const bytes = Buffer.alloc(ENTRY_BYTES);
    encodeMacroBlockEntry(bytes, 0, { ...ENTRY, plainBytes, delta: { ...ENTRY, pages: map } });
    expect(codeOf(() => decodeMacroBlockEntries(bytes, 0, { file: 'f' }))).toBe('DATA_CORRUPT');
  });
});

describe('an index file', () => {
  it('of more entries than a chunk holds is read back in order, in chunks of at most 1 MiB', async () => {
    await using opened = await openTestMedium();
    const entries = Array.from({ length: 20_000 }, (_, n) => ({
      ...ENTRY,
      fileNumber: 1 + (n >> 4),
      blockNumber: n & 15,
      offset: n * 1000,
    }));
    const written = await writeMacroBlockIndex(opened.medium, 'i', entries);
    expect(written.entryCount).toBe(20_000);
    expect(written.sha256).toHaveLength(32);
    const chunks = await collect(readMacroBlockIndex(opened.medium, 'i'));
    expect(Math.max(...chunks.map((chunk) => chunk.length * ENTRY_BYTES))).toBeLessThanOrEqual(2 ** 20);
    expect(chunks.flat()).toEqual(entries);
    expect((await opened.medium.stat('i'))?.sizeBytes).toBe(Number(written.sizeBytes));
  });

  it('without entries is an index', async () => {
    await using opened = await openTestMedium();
    await writeMacroBlockIndex(opened.medium, 'i', []);
    expect(await collect(readMacroBlockIndex(opened.medium, 'i'))).toEqual([]);
  });

  it('is not written out of order', async () => {
    await using opened = await openTestMedium();
    await expect(writeMacroBlockIndex(opened.medium, 'i', [ENTRY, ENTRY])).rejects.toThrow(/ascend/);
  });

  it('cut at any offset is DATA_CORRUPT', async () => {
    await using opened = await openTestMedium();
    await writeMacroBlockIndex(opened.medium, 'i', [ENTRY]);
    const bytes = await opened.medium.read('i');
    for (let length = 0; length < bytes.length; length += 1) {
      await opened.medium.replace('i', bytes.subarray(0, length));
      await expect(collect(readMacroBlockIndex(opened.medium, 'i'))).rejects.toMatchObject({
        code: 'DATA_CORRUPT',
      });
    }
  });
});

describe('compression', () => {
  it('of blocks of all sizes in one context is undone', () => {
    for (const compression of ['none', 'zstd:1', 'zstd:3', 'zstd:19'] as const) {
      const compressor = new BlockCompressor(compression);
      const decompressor = new BlockDecompressor();
      for (const size of [1, 7, 100, 8192, 131_072, 1_000_000, MACROBLOCK_BYTES, 3]) {
        const plain = sampleBytes(size, size);
        const { data, codec } = compressor.compress(plain);
        const into = Buffer.alloc(size);
        if (codec === 'none') expect(data).toBe(plain);
        else expect(decompressor.decompress(data, into) && into.equals(plain)).toBe(true);
      }
    }
  });

  it('keeps its level from block to block', () => {
    const rows = Array.from({ length: 20_000 }, (_, n) => `${n}|${n % 97}|${(n * 7919) % 1009}|pending;`);
    const plain = Buffer.from(rows.join(''));
    const compressor = new BlockCompressor('zstd:19');
    const sizes = [1, 2, 3].map(() => compressor.compress(plain).data.length);
    expect(new Set(sizes).size).toBe(1);
    expect(sizes[0]).toBeLessThan(new BlockCompressor('zstd:1').compress(plain).data.length);
  });

  it('that does not pay is left out', () => {
    const noise = new Uint8Array(100_000);
    crypto.getRandomValues(noise.subarray(0, 65_536));
    crypto.getRandomValues(noise.subarray(65_536));
    expect(new BlockCompressor('zstd:1').compress(noise)).toEqual({ data: noise, codec: 'none' });
  });

  it('of a damaged or cut frame fails, and the next frame is read all the same', () => {
    const plain = sampleBytes(10_000);
    const frame = Buffer.from(new BlockCompressor('zstd:3').compress(plain).data);
    const decompressor = new BlockDecompressor();
    const into = Buffer.alloc(plain.length);
    for (let length = 0; length < frame.length; length += 97) {
      const cut = decompressor.decompress(frame.subarray(0, length), into);
      expect(cut && into.equals(plain)).toBe(false);
      expect(decompressor.decompress(frame, into) && into.equals(plain)).toBe(true);
    }
    expect(decompressor.decompress(frame, Buffer.alloc(plain.length + 1))).toBe(false);
    expect(decompressor.decompress(frame, Buffer.alloc(plain.length - 1))).toBe(false);
    expect(decompressor.decompress(Buffer.from('not a frame'), into)).toBe(false);
    expect(decompressor.decompress(frame, into)).toBe(true);
  });

  it('is named none, or zstd and a level', () => {
    expect(parseCompression('none')).toBe('none');
    expect(parseCompression('zstd:19')).toBe('zstd:19');
    for (const text of ['', 'zstd', 'zstd:0', 'zstd:20', 'zstd:01', 'lz4:1'])
      expect(() => parseCompression(text)).toThrow(/not a compression/);
  });
});

describe('a macroblock file', () => {
  const blocks = [MACROBLOCK_BYTES, 8192, 1, MACROBLOCK_BYTES, MACROBLOCK_BYTES, 100_000].map((size, n) =>
    sampleBytes(size, n + 1),
  );

  it.each(['none', 'zstd:1'] as const)('gives every block back by its own range, %s', async (compression) => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    const entries = [];
    {
      await using file = await MacroBlockFileWriter.create(medium, 'm', FILE, compression);
      const reused = Buffer.alloc(MACROBLOCK_BYTES);
      for (const block of blocks) {
        reused.set(block);
        entries.push(await file.append(reused.subarray(0, block.length), NAME));
        reused.fill(0xff);
      }
      const closed = await file.close();
      expect((await medium.stat('m'))?.sizeBytes).toBe(closed.sizeBytes);
      expect(closed.blockCount).toBe(blocks.length);
    }
    const into = Buffer.alloc(MACROBLOCK_BYTES);
    for (const [n, entry] of entries.entries()) {
      const stored = await medium.readRange('m', entry.offset, entry.offset + entry.storedBytes);
      expect(decodeMacroBlock(stored, entry, into, 'm').equals(blocks[n] ?? into)).toBe(true);
      expect(entry).toMatchObject({ setId: 8n, subTaskId: 3, crc32c: crc32c(blocks[n] ?? into) });
    }
  });

  it('takes 512 blocks and no more', async () => {
    await using opened = await openTestMedium();
    await using file = await MacroBlockFileWriter.create(opened.medium, 'm', FILE, 'zstd:1');
    for (let n = 0; n < 512; n += 1) await file.append(Buffer.from([n & 255]), NAME);
    expect(file.isFull).toBe(true);
    await expect(file.append(Buffer.from([1]), NAME)).rejects.toThrow(/at most 512/);
  });

  it('a block with any one bit changed, another length, or of another entry is DATA_CORRUPT', async () => {
    await using opened = await openTestMedium();
    await using file = await MacroBlockFileWriter.create(opened.medium, 'm', FILE, 'zstd:1');
    const entry = await file.append(Buffer.alloc(1000, 'page'), NAME);
    const other = await file.append(Buffer.alloc(1000, 'leaf'), NAME);
    await file.close();
    const stored = await opened.medium.readRange('m', entry.offset, entry.offset + entry.storedBytes);
    const into = Buffer.alloc(1000);
    for (let bit = 0; bit < stored.length * 8; bit += 1) {
      const damaged = Buffer.from(stored);
      damaged.writeUInt8(damaged.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
      expect(codeOf(() => decodeMacroBlock(damaged, entry, into, 'm'))).toBe('DATA_CORRUPT');
    }
    for (let length = 0; length < stored.length; length += 1)
      expect(codeOf(() => decodeMacroBlock(stored.subarray(0, length), entry, into, 'm'))).toBe(
        'DATA_CORRUPT',
      );
    expect(codeOf(() => decodeMacroBlock(stored, { ...other, storedBytes: stored.length }, into, 'm'))).toBe(
      'DATA_CORRUPT',
    );
  });

  it('reports a failed write at a later append or at the end', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    const failing = overriding(medium, {
      createFile: async (key) => {
        const file = await medium.createFile(key);
        return {
          write: async () => await Promise.reject(new HoldfastError('DESTINATION_FULL', 'full')),
          close: async () => await file.close(),
          [Symbol.asyncDispose]: async () => await file[Symbol.asyncDispose](),
        };
      },
    });
    await using file = await MacroBlockFileWriter.create(failing, 'm', FILE, 'none');
    const append = async () => {
      for (let n = 0; n < 10; n += 1) await file.append(Buffer.alloc(MACROBLOCK_BYTES), NAME);
    };
    await expect(append()).rejects.toMatchObject({ code: 'DESTINATION_FULL' });
  });
});

describe('planned reads', () => {
  it('join neighbours up to the gap and the length allowed', () => {
    const at = (offset: number, storedBytes: number) => ({ offset, storedBytes });
    const [a, b, c, d] = [at(0, 10), at(10, 10), at(25, 10), at(100, 500)];
    expect(planReads([a, b, c, d], 5, 100)).toEqual([
      { begin: 0, end: 35, entries: [a, b, c] },
      { begin: 100, end: 600, entries: [d] },
    ]);
    expect(planReads([a, b, c], 4, 100).map((read) => read.entries.length)).toEqual([2, 1]);
    expect(planReads([a, b, c], 5, 20).map((read) => read.entries.length)).toEqual([2, 1]);
    expect(planReads([], 0, 0)).toEqual([]);
  });
});

function codeOf(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    return error instanceof HoldfastError ? error.code : String(error);
  }
  return 'nothing was thrown';
}
