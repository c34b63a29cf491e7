import { randomFillSync } from 'node:crypto';
import { closeSync, constants, openSync, writeSync } from 'node:fs';
import { mkdtemp, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { TargetFile } from '../../../../agent/restore/block-job.ts';
import { TargetFiles } from '../../../../agent/restore/target-files.ts';
import { WriteBuffers } from '../../../../agent/restore/write-buffers.ts';
import { MACROBLOCK_BYTES } from '../../../../storage-layout/macroblock/entry.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-target-files-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

const file = (name: string, sizeBytes: number, mode = 0o600): TargetFile => ({
  path: join(directory, name),
  sizeBytes,
  mode,
});

/** Writes the blocks of `content` that `isWritten` says, last one first, from a worker's buffers. */
async function lay(
  target: TargetFile,
  content: Buffer,
  isWritten: (blockNo: number) => boolean = () => true,
): Promise<void> {
  const targets = new TargetFiles(undefined);
  const buffers = new WriteBuffers();
  targets.create(target);
  for (let blockNo = Math.ceil(content.length / MACROBLOCK_BYTES) - 1; blockNo >= 0; blockNo--) {
    if (!isWritten(blockNo)) continue;
    const buffer = await buffers.take();
    const block = content.subarray(blockNo * MACROBLOCK_BYTES, (blockNo + 1) * MACROBLOCK_BYTES);
    const data = buffer.subarray(0, block.length);
    data.set(block);
    targets.write(target, blockNo * MACROBLOCK_BYTES, data, () => buffers.release(buffer.fill(0xee)));
  }
  await targets.finish();
}

test.each([
  ['of no bytes', 0],
  ['of a few bytes', 17],
  ['of one page', 8192],
  ['of one macroblock', MACROBLOCK_BYTES],
  ['of many macroblocks', 9 * MACROBLOCK_BYTES],
  ['whose last macroblock is short', 6 * MACROBLOCK_BYTES + 3 * 8192],
  ['whose end is on no border of a sector', 5 * MACROBLOCK_BYTES + 8192 + 1],
])('a file %s has its bytes, size and mode', async (_, sizeBytes) => {
  const content = randomFillSync(Buffer.alloc(sizeBytes));
  const target = file('data', sizeBytes, 0o640);
  await lay(target, content);
  expect((await readFile(target.path)).equals(content)).toBe(true);
  expect((await stat(target.path)).mode & 0o7777).toBe(0o640);
});

test('what no block fills is zeros, and a later job adds to what an earlier one wrote', async () => {
  const content = randomFillSync(Buffer.alloc(6 * MACROBLOCK_BYTES));
  const target = file('data', content.length + MACROBLOCK_BYTES);
  await lay(target, content, (blockNo) => blockNo % 2 === 0);
  const half = await readFile(target.path);
  expect(half.subarray(MACROBLOCK_BYTES, 2 * MACROBLOCK_BYTES).equals(Buffer.alloc(MACROBLOCK_BYTES))).toBe(
    true,
  );
  await lay(target, content, (blockNo) => blockNo % 2 === 1);
  const whole = Buffer.concat([content, Buffer.alloc(MACROBLOCK_BYTES)]);
  expect((await readFile(target.path)).equals(whole)).toBe(true);
});

test('what cannot be written past the page cache is written through it', async () => {
  const content = randomFillSync(Buffer.alloc(2 * MACROBLOCK_BYTES + 1));
  const target = file('data', 2 * MACROBLOCK_BYTES);
  const targets = new TargetFiles(undefined);
  // One byte off the beginning of a page: a disk's driver refuses it.
  targets.write(target, 0, content.subarray(1, MACROBLOCK_BYTES + 1), () => undefined);
  targets.write(target, MACROBLOCK_BYTES, content.subarray(MACROBLOCK_BYTES + 1), () => undefined);
  await targets.finish();
  expect((await readFile(target.path)).equals(content.subarray(1))).toBe(true);
});

test('a failed write is thrown at the end, and its buffer is free again', async () => {
  const targets = new TargetFiles(undefined);
  let freed = 0;
  const free = () => {
    freed += 1;
  };
  const target = file('data', 4 * MACROBLOCK_BYTES);
  const beyondAnyFile = 2 ** 53 - MACROBLOCK_BYTES;
  targets.write(target, beyondAnyFile, Buffer.alloc(8192), free);
  await expect(targets.finish()).rejects.toThrow(/EFBIG|EINVAL/);
  expect(freed).toBe(1);
});

test('a link in the place of a file is not followed', async () => {
  const elsewhere = join(directory, 'elsewhere');
  await writeFile(elsewhere, 'untouched');
  for (const sizeBytes of [8192, MACROBLOCK_BYTES]) {
    const target = file(`link-${sizeBytes}`, sizeBytes);
    await symlink(elsewhere, target.path);
    expect(() => new TargetFiles(undefined).create(target)).toThrow(/ELOOP/);
  }
  expect(await readFile(elsewhere, 'utf8')).toBe('untouched');
});

test('the buffers of a worker are taken past the page cache', async (context) => {
  let descriptor: number;
  try {
    descriptor = openSync(
      join(directory, 'direct'),
      constants.O_WRONLY | constants.O_CREAT | constants.O_DIRECT,
    );
  } catch {
    context.skip('this file system has no such writes');
    return;
  }
  try {
    const buffers = new WriteBuffers();
    for (const buffer of [await buffers.take(), await buffers.take()])
      expect(writeSync(descriptor, buffer, 0, buffer.length, 0)).toBe(MACROBLOCK_BYTES);
  } finally {
    closeSync(descriptor);
  }
});

test('whoever wants one buffer more than there are waits for one', async () => {
  const buffers = new WriteBuffers();
  const taken = await Promise.all(Array.from({ length: 4 }, () => buffers.take()));
  expect(new Set(taken).size).toBe(4);
  const waiting = buffers.take();
  const [first] = taken;
  if (first === undefined) throw new Error('no buffer');
  buffers.release(first);
  expect(await waiting).toBe(first);
});
