/** Every way in which a stored block can be wrong. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { checkBlock } from '../../../../agent/validate/check-block.ts';
import type { CheckedBlock } from '../../../../agent/validate/check-job.ts';
import { PAGE_BYTES, pageChecksum } from '../../../../engine/postgres/pages.ts';
import { toLsn } from '../../../../foundation/lsn.ts';
import { crc32c } from '../../../../storage-layout/crc32c.ts';
import { MACROBLOCK_BYTES } from '../../../../storage-layout/macroblock/index.ts';
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

function check(plain: Buffer, change: (record: Buffer) => void = () => undefined) {
  const { record, block } = stored(plain);
  change(record);
  return checkBlock('m.1', record, FILE, block, LIMITS, into);
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
    const found = checkBlock('m.1', record, FILE, { ...block, storedBytes: record.length }, LIMITS, into);
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
