/** The index of a full backup: nothing but what was copied. */
import { expect, test } from 'vitest';
import type { IncrementFile } from '../../../../agent/backup/increment/file-numbers.ts';
import { IndexMerge, type MergeInput } from '../../../../agent/backup/increment/merge.ts';
import { toLsn } from '../../../../foundation/lsn.ts';
import { crc32c } from '../../../../storage-layout/crc32c.ts';
import {
  ENTRY_BYTES,
  encodeMacroBlockEntry,
  MACROBLOCK_BYTES,
  type MacroBlockEntry,
} from '../../../../storage-layout/macroblock/entry.ts';
import { EntryStream } from '../../../../storage-layout/macroblock/entry-stream.ts';

type Block = { readonly fileNumber: number; readonly blockNumber: number; readonly bytes: Buffer };
const FULL = Buffer.alloc(MACROBLOCK_BYTES, 7);

test('joins the blocks of a file that several sub tasks copied', async () => {
  const whole = Buffer.alloc(2 * MACROBLOCK_BYTES + 1000, 'abc');
  const blocks = [0, 1, 2].map((n) => block(1, n, part(whole, n)));
  const { merge } = await indexOf([file(1, 3)], [blocks.slice(0, 2), blocks.slice(2)]);
  expect(merge).toMatchObject({ macroblockCount: 3, plainBytes: whole.length });
  expect(merge.files).toMatchObject([{ storedBytes: whole.length, blockCount: 3, crc32c: crc32c(whole) }]);
});

test('cuts a file at the first block that is short, whatever was read behind it', async () => {
  const short = Buffer.alloc(8192, 1);
  const { merge, entries } = await indexOf(
    [file(1, 2)],
    [[block(1, 0, short)], [block(1, 1, Buffer.alloc(8192, 2))]],
  );
  expect(merge.files).toMatchObject([{ storedBytes: 8192, blockCount: 1, crc32c: crc32c(short) }]);
  expect(entries.map(({ blockNumber }) => blockNumber)).toEqual([0]);
});

test('leaves out a file that was gone, and keeps one that was emptied', async () => {
  const { merge } = await indexOf([file(1, 1), file(2, 1), file(3, 1)], [[block(3, 0, Buffer.from('x'))]], {
    gone: new Set([1]),
    ends: new Map([[2, 0]]),
  });
  expect(merge.files).toMatchObject([
    { fileNumber: 2, storedBytes: 0, blockCount: 0, crc32c: 0 },
    { fileNumber: 3, storedBytes: 1 },
  ]);
});

test('marks the blocks with pages that failed their check', async () => {
  const { entries } = await indexOf([file(1, 2)], [[block(1, 0, FULL), block(1, 1, FULL)]], {
    hasFailed: (_, blockNumber) => blockNumber === 1,
  });
  expect(entries.map(({ pageCheckFailed }) => pageCheckFailed)).toEqual([false, true]);
});

async function indexOf(
  files: readonly IncrementFile[],
  subTasks: readonly (readonly Block[])[],
  change: Partial<MergeInput> = {},
): Promise<{ readonly merge: IndexMerge; readonly entries: readonly MacroBlockEntry[] }> {
  const merge = new IndexMerge({
    files,
    before: new EntryStream(chunks([])),
    copied: new EntryStream(chunks(subTasks)),
    control: [],
    gone: new Set(),
    ends: new Map(),
    pagesAreChecked: true,
    hasFailed: () => false,
    ...change,
  });
  const entries: MacroBlockEntry[] = [];
  for await (const entry of merge.entries()) entries.push(entry);
  return { merge, entries };
}

async function* chunks(subTasks: readonly (readonly Block[])[]) {
  for (const [index, blocks] of subTasks.entries()) {
    const payload = Buffer.alloc(blocks.length * ENTRY_BYTES);
    for (const [n, { fileNumber, blockNumber, bytes }] of blocks.entries())
      encodeMacroBlockEntry(payload, n * ENTRY_BYTES, {
        fileNumber,
        blockNumber,
        plainBytes: bytes.length,
        crc32c: crc32c(bytes),
        newestPageLsn: toLsn(0n),
        pageCheckFailed: false,
        setId: 1n,
        subTaskId: index + 1,
        offset: 0,
        storedBytes: 100,
        compression: 'zstd',
      });
    yield { payload, recordOffset: 0, source: { file: `sub task ${index + 1}` } };
  }
}

function block(fileNumber: number, blockNumber: number, bytes: Buffer): Block {
  return { fileNumber, blockNumber, bytes };
}

function part(bytes: Buffer, blockNumber: number): Buffer {
  return bytes.subarray(blockNumber * MACROBLOCK_BYTES, (blockNumber + 1) * MACROBLOCK_BYTES);
}

function file(fileNumber: number, blocks: number): IncrementFile {
  const path = `base/5/${fileNumber}`;
  const sizeBytes = blocks * MACROBLOCK_BYTES;
  return {
    fileNumber,
    path,
    absolutePath: path,
    kind: 'main',
    sizeBytes,
    mode: 0o600,
    modifiedMs: 0,
    isKept: false,
  };
}
