/** Page checks against golden pages, and against a slow transcription of the server's own algorithm. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { checkExtent, PAGE_BYTES, pageChecksum } from '../../../engine/postgres/pages.ts';
import { GOLDEN_PAGES } from './golden-pages.ts';

describe('the page checksum', () => {
  test.each(GOLDEN_PAGES)('equals what PostgreSQL wrote into $name', ({ page, block }) => {
    const bytes = page();
    expect(pageChecksum(bytes, block)).toBe(bytes.readUInt16LE(8));
    expect(checkExtent(bytes, block, true).suspects).toEqual([]);
  });

  test('equals the plain transcription of checksum_impl.h for any page and block', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: PAGE_BYTES, maxLength: PAGE_BYTES }),
        fc.integer({ min: 0, max: 0xffff_ffff }),
        (page, block) => {
          expect(pageChecksum(page, block)).toBe(slowChecksum(page, block));
        },
      ),
      { numRuns: 30 },
    );
  });

  test('does not depend on the checksum that the page holds, nor on where in memory the page lies', () => {
    const page = makePage(1, 0x1000n);
    const wanted = pageChecksum(page, 1);
    page.writeUInt16LE(0x1234, 8);
    expect(pageChecksum(page, 1)).toBe(wanted);
    const shifted = Buffer.alloc(PAGE_BYTES + 1);
    shifted.set(page, 1);
    expect(pageChecksum(shifted.subarray(1), 1)).toBe(wanted);
  });
});

describe('checkExtent', () => {
  test('gives the newest position of the good pages, over both halves', () => {
    const extent = Buffer.concat([
      makePage(10, 0x1_0000_0001n),
      makePage(11, 0x0_ffff_ffffn),
      makePage(12, 0x1_0000_0000n),
    ]);
    expect(checkExtent(extent, 10, true)).toEqual({ newestPageLsn: 0x1_0000_0001n, suspects: [] });
  });

  test('takes all-zero pages as good and without a position', () => {
    const zeros = Buffer.alloc(2 * PAGE_BYTES);
    expect(checkExtent(zeros, 0, true)).toEqual({ newestPageLsn: 0n, suspects: [] });
  });

  test('suspects a page that looks uninitialised but holds something', () => {
    const page = Buffer.alloc(PAGE_BYTES);
    page.writeUInt8(1, 8000);
    expect(checkExtent(page, 0, true).suspects).toEqual([{ pageNo: 0, pageLsn: 0n }]);
  });

  test('suspects a page with any byte turned, names it, and leaves its position out', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: PAGE_BYTES - 1 }), (at) => {
        const extent = Buffer.concat([makePage(0, 5n), makePage(1, 9n)]);
        extent.writeUInt8(extent.readUInt8(PAGE_BYTES + at) ^ 0x40, PAGE_BYTES + at);
        const { newestPageLsn, suspects } = checkExtent(extent, 0, true);
        expect(suspects.map((it) => it.pageNo)).toEqual([1]);
        expect(newestPageLsn).toBe(5n);
      }),
    );
  });

  test('suspects a good page that stands at another block', () => {
    expect(checkExtent(makePage(7, 5n), 8, true).suspects).toHaveLength(1);
  });

  test('suspects nothing without checksums, and still gives the newest position', () => {
    const page = makePage(0, 77n);
    page.writeUInt8(page.readUInt8(6000) ^ 1, 6000);
    expect(checkExtent(page, 0, false)).toEqual({ newestPageLsn: 77n, suspects: [] });
  });

  test('ignores an incomplete page at the end', () => {
    const extent = Buffer.concat([makePage(0, 3n), makePage(1, 4n).subarray(0, 100)]);
    expect(checkExtent(extent, 0, true)).toEqual({ newestPageLsn: 3n, suspects: [] });
  });
});

function makePage(block: number, lsn: bigint): Buffer {
  const page = Buffer.alloc(PAGE_BYTES, block + 1);
  page.writeUInt32LE(Number(lsn >> 32n), 0);
  page.writeUInt32LE(Number(lsn & 0xffff_ffffn), 4);
  page.writeUInt16LE(4000, 14);
  page.writeUInt16LE(pageChecksum(page, block), 8);
  return page;
}

const BASES = (
  '5b1f36e9 b8525960 02ab50aa 1de66d2a 79ff467a 9bb9f8a3 217e7cd2 83e13d2c ' +
  'f8d4474f e39eb970 42c6ae16 993216fa 7b093b5d 98daff3c f718902a 0b1c9cdb ' +
  'e58f764b 187636bc 5d7b3bb1 e73de7de 92bec979 cca6c0b2 304a0979 85aa43d4 ' +
  '783125bb 6ca8eaa2 e407eac6 4b5cfc3e 9fbf8c76 15ca20be f2ca9fd3 959bd756'
)
  .split(' ')
  .map((text) => BigInt(`0x${text}`));

/** checksum_impl.h line by line, in exact arithmetic. */
function slowChecksum(page: Uint8Array, block: number): number {
  const copy = Buffer.from(page);
  copy.writeUInt16LE(0, 8);
  const sums = [...BASES];
  const round = (lane: number, value: bigint) => {
    const mixed = (sums[lane] ?? 0n) ^ value;
    sums[lane] = ((mixed * 16_777_619n) & 0xffff_ffffn) ^ (mixed >> 17n);
  };
  for (let at = 0; at < PAGE_BYTES; at += 4) round((at / 4) % 32, BigInt(copy.readUInt32LE(at)));
  for (let zero = 0; zero < 2; zero += 1) for (let lane = 0; lane < 32; lane += 1) round(lane, 0n);
  const folded = sums.reduce((sum, lane) => sum ^ lane, 0n) ^ BigInt(block);
  return Number(folded % 65_535n) + 1;
}
