/** What a delta restore keeps: a block of the same length, bytes and newest page LSN, and nothing else. */
import { mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { StoredBlock } from '../../../../agent/restore/block-job.ts';
import { compareBlocks } from '../../../../agent/restore/compare-blocks.ts';
import { type Lsn, toLsn } from '../../../../foundation/lsn.ts';
import { crc32c } from '../../../../storage-layout/crc32c.ts';
import { MACROBLOCK_BYTES } from '../../../../storage-layout/macroblock/entry.ts';

const buffer = Buffer.alloc(MACROBLOCK_BYTES);
let directory: string;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-compare-'));
});
afterAll(async () => await rm(directory, { recursive: true, force: true }));

function block(plain: Buffer, position = 0, newestPageLsn?: Lsn): StoredBlock {
  return {
    file: 0,
    fileNumber: 1,
    blockNumber: 0,
    position,
    setId: 1n,
    subTaskId: 1,
    offset: 0,
    storedBytes: 1,
    plainBytes: plain.length,
    crc32c: crc32c(plain),
    compression: 'none',
    newestPageLsn,
  };
}

async function kept(onDisk: Buffer | undefined, blocks: readonly StoredBlock[]): Promise<number[]> {
  const path = join(directory, 'file');
  await rm(path, { force: true });
  if (onDisk !== undefined) await writeFile(path, onDisk);
  const files = [{ path, sizeBytes: 1, mode: 0o600 }];
  const { job, keptBlocks, keptBytes } = compareBlocks({ files, blocks }, buffer);
  const left = new Set(job.blocks);
  const stay = blocks.filter((one) => !left.has(one));
  expect(keptBlocks).toBe(stay.length);
  expect(keptBytes).toBe(stay.reduce((sum, one) => sum + one.plainBytes, 0));
  expect(job.files).toEqual(files);
  return stay.map((one) => one.position);
}

test('equal blocks stay, changed, cut-off and absent ones do not', async () => {
  const bytes = Buffer.from('one block, another block');
  const [first, second] = [block(bytes.subarray(0, 10)), block(bytes.subarray(10), 10)];
  expect(await kept(bytes, [first, second])).toEqual([0, 10]);
  expect(await kept(Buffer.concat([bytes, Buffer.alloc(5)]), [first, second])).toEqual([0, 10]); // cut to its size later
  expect(await kept(bytes.subarray(0, 23), [first, second])).toEqual([0]);
  expect(await kept(undefined, [first, second])).toEqual([]);
});

test('a page LSN that is another than the index says gives the block away', async () => {
  const page = Buffer.alloc(8192);
  page.writeUInt32LE(500, 4);
  expect(await kept(page, [block(page, 0, toLsn(500n))])).toEqual([0]);
  expect(await kept(page, [block(page, 0, toLsn(501n))])).toEqual([]);
  expect(await kept(page, [block(page, 0)])).toEqual([0]);
});

test('a block that is its base with a delta, or a base of another length, is always written', async () => {
  const base = Buffer.alloc(2 * 8192);
  base.writeUInt32LE(500, 4);
  const whole = block(base, 0, toLsn(500n));
  expect(await kept(base, [whole])).toEqual([0]);
  // The file holds exactly the base: its checksum and newest page LSN say nothing of what belongs there.
  const pages = Buffer.alloc(32);
  pages[0] = 2;
  const delta = {
    setId: 2n,
    subTaskId: 1,
    offset: 0,
    storedBytes: 1,
    crc32c: 7,
    compression: 'none',
    pages,
  } as const;
  expect(await kept(base, [{ ...whole, delta }])).toEqual([]);
  expect(await kept(base, [{ ...whole, wholeBytes: 3 * 8192 }])).toEqual([]);
  expect(await kept(base, [{ ...whole, wholeBytes: 8192 }])).toEqual([]);
  expect(await kept(base, [{ ...whole, wholeBytes: base.length }])).toEqual([0]);
});

test('nothing is read through a link', async () => {
  const bytes = Buffer.from('behind a link');
  await writeFile(join(directory, 'real'), bytes);
  await symlink(join(directory, 'real'), join(directory, 'linked'));
  const files = [{ path: join(directory, 'linked'), sizeBytes: bytes.length, mode: 0o600 }];
  expect(compareBlocks({ files, blocks: [block(bytes)] }, buffer).keptBlocks).toBe(0);
});

test('whatever one byte is changed, exactly its block is written again', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 30, maxLength: 60 }), fc.nat(), async (content, at) => {
      const wanted = Buffer.from(content);
      const blocks = [0, 10, 20].map((begin) =>
        block(wanted.subarray(begin, begin === 20 ? undefined : begin + 10), begin),
      );
      const found = Buffer.from(content);
      const place = at % found.length;
      found[place] = (found[place] ?? 0) ^ 1;
      const hit = Math.min(Math.floor(place / 10), 2) * 10;
      expect(await kept(found, blocks)).toEqual([0, 10, 20].filter((begin) => begin !== hit));
    }),
    { numRuns: 50 },
  );
});
