/** Every way in which a stored block can be wrong. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { checkBlock, checkDelta } from '../../../../agent/validate/check-block.ts';
import type { CheckedBlock } from '../../../../agent/validate/check-job.ts';
import { PAGE_BYTES, pageChecksum } from '../../../../engine/postgres/pages.ts';
import { toLsn } from '../../../../foundation/lsn.ts';
import { crc32c } from '../../../../storage-layout/crc32c.ts';
import { MACROBLOCK_BYTES } from '../../../../storage-layout/macroblock/entry.ts';
import { addPages, emptyPageMap } from '../../../../storage-layout/macroblock/page-map.ts';
import { encodeRecord, RECORD } from '../../../../storage-layout/records/framing.ts';

const FILE = { path: 'base/5/16384.1', hasPages: true };
const LIMITS = { pageChecksums: true, start: toLsn(100n), stop: toLsn(200n) };
const FIRST_PAGE = 131_072 + 256; // segment 1, macroblock 1
const into = Buffer.alloc(MACROBLOCK_BYTES);

/** A page of relation block `blockNo` with a right checksum. */
function page(blockNo: number, lsn: bigint): Buffer {
  const bytes = Buffer.alloc(PAGE_BYTES, 3);
  bytes.writeUInt32LE(Number(lsn >> 32n), 0);
  bytes.writeUInt32LE(Number(lsn & 0xffff_ffffn), 4);
  bytes.writeUInt16LE(pageChecksum(bytes, blockNo), 8);
  return bytes;
}

function stored(plain: Buffer): { readonly record: Buffer; readonly block: CheckedBlock } {
  const record = encodeRecord({ type: RECORD.macroBlock, payload: plain, compression: 'zstd:1' });
  const block: CheckedBlock = {
    file: 0,
    fileNumber: 1,
    blockNumber: 1,
    plainBytes: plain.length,
    newestPageLsn: toLsn(150n),
    pageCheckFailed: false,
    setId: 1n,
    subTaskId: 1,
    offset: 1000,
    storedBytes: record.length,
    crc32c: crc32c(plain),
    compression: 'zstd',
  };
  return { record, block };
}

/** The delta of a block: its pages, as a record of another file. */
function storedDelta(pages: ReadonlyMap<number, Buffer>, change: (record: Buffer) => void = () => undefined) {
  const map = emptyPageMap();
  for (const pageNo of pages.keys()) addPages(map, pageNo, pageNo + 1);
  const plain = Buffer.concat([...pages].sort(([a], [b]) => a - b).map(([, bytes]) => bytes));
  const record = encodeRecord({ type: RECORD.macroBlock, payload: plain, compression: 'zstd:1' });
  const place = {
    setId: 2n,
    subTaskId: 5,
    offset: 7000,
    storedBytes: record.length,
    crc32c: crc32c(plain),
    compression: 'zstd' as const,
    pages: map,
  };
  change(record);
  return { place, checked: checkDelta('m.5', record, FILE, { ...place, fileNumber: 1, blockNumber: 0 }) };
}

/** Checks a block whose base is `plain`, and that is `plainBytes` long now, with its delta. */
function checkMerged(plain: Buffer, plainBytes: number, pages: ReadonlyMap<number, Buffer> = new Map()) {
  const { record, block } = stored(plain);
  const { place, checked } = storedDelta(pages);
  if (pages.size > 0 && !('bytes' in checked)) throw new Error('the delta is damaged');
  const isCut = plainBytes !== plain.length;
  const merged = {
    ...block,
    plainBytes,
    ...(isCut ? { wholeBytes: plain.length } : {}),
    ...(pages.size === 0 ? {} : { delta: place }),
  };
  const delta = pages.size > 0 && 'bytes' in checked ? checked : undefined;
  into.fill(0xee); // what the block before left
  return checkBlock('m.1', record, FILE, merged, delta, LIMITS, into);
}

function check(plain: Buffer, change: (record: Buffer) => void = () => undefined) {
  const { record, block } = stored(plain);
  change(record);
  return checkBlock('m.1', record, FILE, block, undefined, LIMITS, into);
}

describe('a stored block', () => {
  const good = Buffer.concat([page(FIRST_PAGE, 150n), page(FIRST_PAGE + 1, 90n), Buffer.alloc(PAGE_BYTES)]);

  test('that is right gives no finding', () => {
    expect(check(good)).toEqual([]);
  });

  test('with any bit changed gives one, at its offset, with its file', () => {
    const { record } = stored(good);
    fc.assert(
      fc.property(fc.nat({ max: record.length * 8 - 1 }), (bit) => {
        const found = check(good, (bytes) => {
          bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7));
        });
        expect(found).toHaveLength(1);
        expect(found[0]).toMatchObject({ key: 'm.1', offset: 1000, whole: false, path: FILE.path });
      }),
      { numRuns: 300 },
    );
  });

  test('that is another block gives one', () => {
    const { record } = stored(Buffer.concat([page(FIRST_PAGE, 151n), good.subarray(PAGE_BYTES)]));
    const { block } = stored(good);
    const found = checkBlock(
      'm.1',
      record,
      FILE,
      { ...block, storedBytes: record.length },
      undefined,
      LIMITS,
      into,
    );
    expect(found).toMatchObject([{ code: 'DATA_CORRUPT' }]);
  });

  test('with a bad page gives one if the log does not mend it', () => {
    const bad = (lsn: bigint) => {
      const bytes = page(FIRST_PAGE, lsn);
      bytes[4000] = 9;
      return check(Buffer.concat([bytes, page(FIRST_PAGE + 1, 90n)]));
    };
    expect(bad(150n)).toEqual([]); // torn while it was written, and logged whole since the start
    expect(bad(50n)).toMatchObject([{ message: expect.stringContaining('page 256 of base/5/16384.1') }]);
    expect(bad(250n)).toHaveLength(1);
  });

  test('with a page from behind the end of the backup gives one', () => {
    expect(check(page(FIRST_PAGE, 201n))).toMatchObject([{ message: expect.stringContaining('0/C9') }]);
    expect(check(page(FIRST_PAGE, 200n))).toEqual([]);
  });
});

describe("an increment's block", () => {
  const old = page(FIRST_PAGE + 1, 250n); // behind the end of the backup: it must be gone when the block is merged
  const base = Buffer.concat([page(FIRST_PAGE, 90n), old, page(FIRST_PAGE + 2, 80n)]);
  const own = new Map([[1, page(FIRST_PAGE + 1, 150n)]]);

  test('is right when its base with the pages of its delta is', () => {
    expect(checkMerged(base, base.length, own)).toEqual([]);
    expect(checkMerged(base, base.length)).toMatchObject([{ key: 'm.1', offset: 1000 }]);
  });

  test('is right when its base was cut, and when it has grown', () => {
    expect(checkMerged(Buffer.concat([page(FIRST_PAGE, 90n), old]), PAGE_BYTES)).toEqual([]);
    expect(checkMerged(page(FIRST_PAGE, 90n), 3 * PAGE_BYTES, own)).toEqual([]); // page 2 is zeros
  });

  test('has a bad page where the page is stored: in the delta or in the base', () => {
    const bad = (blockNo: number) => {
      const bytes = page(blockNo, 50n);
      bytes[4000] = 9;
      return bytes;
    };
    expect(checkMerged(base, base.length, new Map([[1, bad(FIRST_PAGE + 1)]]))).toMatchObject([
      { key: 'm.5', offset: 7000, message: expect.stringContaining('page 257 of') },
    ]);
    const badBase = Buffer.concat([bad(FIRST_PAGE), old, page(FIRST_PAGE + 2, 80n)]);
    expect(checkMerged(badBase, badBase.length, own)).toMatchObject([
      { key: 'm.1', offset: 1000, message: expect.stringContaining('page 256 of') },
    ]);
    expect(checkMerged(badBase, badBase.length, new Map([[1, bad(FIRST_PAGE + 1)]]))).toHaveLength(2);
  });

  test('has a page from behind the end of the backup where the page is stored', () => {
    expect(checkMerged(base, base.length, new Map([[1, page(FIRST_PAGE + 1, 201n)]]))).toMatchObject([
      { key: 'm.5', message: expect.stringContaining('0/C9') },
    ]);
    const late = Buffer.concat([page(FIRST_PAGE, 90n), old, page(FIRST_PAGE + 2, 202n)]);
    expect(checkMerged(late, late.length, own)).toMatchObject([
      { key: 'm.1', message: expect.stringContaining('0/CA') },
    ]);
  });

  test('whose delta has any bit changed gives a finding at the delta', () => {
    const length = storedDelta(own).place.storedBytes;
    fc.assert(
      fc.property(fc.nat({ max: length * 8 - 1 }), (bit) => {
        const { checked } = storedDelta(own, (bytes) => {
          bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7));
        });
        expect(checked).toMatchObject({ key: 'm.5', offset: 7000, whole: false, path: FILE.path });
        expect(checked).not.toHaveProperty('bytes');
      }),
      { numRuns: 300 },
    );
  });

  test('whose delta is lost still has its base checked, and no pages that the delta would replace', () => {
    const { record, block } = stored(base);
    expect(checkBlock('m.1', record, FILE, block, 'lost', LIMITS, into)).toEqual([]);
    record[record.length - 1] = (record.at(-1) ?? 0) ^ 1;
    expect(checkBlock('m.1', record, FILE, block, 'lost', LIMITS, into)).toHaveLength(1);
  });
});
