import { describe, expect, test } from 'vitest';
import {
  gatherEntries,
  gatherFiles,
  gatherSuspects,
  judgeSuspects,
  keptPaths,
} from '../../../../agent/backup/gather.ts';
import type { NumberedFile } from '../../../../agent/backup/plan.ts';
import type { SubTaskCopy, SuspectFound } from '../../../../agent/backup/worker-protocol.ts';
import { toLsn } from '../../../../foundation/lsn.ts';
import { crc32c } from '../../../../storage-layout/crc32c.ts';
import {
  ENTRY_BYTES,
  encodeMacroBlockEntry,
  MACROBLOCK_BYTES,
} from '../../../../storage-layout/macroblock/index.ts';

describe('gatherFiles', () => {
  test('joins the pieces of a file that two sub tasks copied', () => {
    const whole = Buffer.alloc(2 * MACROBLOCK_BYTES + 1000, 'abc');
    const copies = [
      copy(1, [block(1, 0, part(whole, 0)), block(1, 1, part(whole, 1))]),
      copy(2, [block(1, 2, part(whole, 2))]),
    ];
    const gathered = gatherFiles([file(1)], copies);
    expect(gathered).toMatchObject({ macroblockCount: 3, plainBytes: whole.length });
    expect(gathered.files).toMatchObject([
      { storedBytes: whole.length, blockCount: 3, crc32c: crc32c(whole) },
    ]);
  });

  test('cuts a file at the first block that is short, whatever was read behind it', () => {
    const short = Buffer.alloc(8192, 1);
    const copies = [copy(1, [block(1, 0, short)]), copy(2, [block(1, 1, Buffer.alloc(8192, 2))])];
    const gathered = gatherFiles([file(1)], copies);
    expect(gathered.files).toMatchObject([{ storedBytes: 8192, blockCount: 1, crc32c: crc32c(short) }]);
    expect([...gatherEntries(gathered, copies, [])].map((entry) => entry.blockNumber)).toEqual([0]);
  });

  test('leaves out a file that was gone, and keeps one that was emptied', () => {
    const copies = [copy(1, [block(3, 0, Buffer.from('x'))], [{ fileNumber: 1, beginBlock: 0 }])];
    const gathered = gatherFiles([file(1), file(2), file(3)], copies);
    expect(gathered.files).toMatchObject([
      { fileNumber: 2, storedBytes: 0, blockCount: 0, crc32c: 0 },
      { fileNumber: 3, storedBytes: 1 },
    ]);
  });

  test('cuts a file whose later piece was gone', () => {
    const full = Buffer.alloc(MACROBLOCK_BYTES, 7);
    const copies = [copy(1, [block(1, 0, full)]), copy(2, [], [{ fileNumber: 1, beginBlock: 1 }])];
    expect(gatherFiles([file(1)], copies).files).toMatchObject([{ storedBytes: MACROBLOCK_BYTES }]);
  });
});

test('a tablespace that was made after the start is left out; one in place, and those of the start, stay', () => {
  const made = (oid: number, inPlace = false) => ({ oid, name: '', location: `/t/${oid}`, inPlace });
  const listing = { tablespaces: [made(1), made(2), made(3, true)] };
  const isKept = keptPaths(listing, [{ oid: 1 }]);
  const paths = [
    'pg_tblspc',
    'pg_tblspc/1/PG_17_1/5/1',
    'pg_tblspc/2',
    'pg_tblspc/2/PG_17_1/5/1',
    'pg_tblspc/3/x',
  ];
  expect(paths.filter((path) => isKept({ path }))).toEqual([
    'pg_tblspc',
    'pg_tblspc/1/PG_17_1/5/1',
    'pg_tblspc/3/x',
  ]);
});

describe('suspect pages', () => {
  test.each([
    [99n, true],
    [100n, false],
    [150n, false],
    [200n, false],
    [201n, true],
    [0n, true],
  ])('with position %s, in a backup from 100 to 200, is damaged: %s', (pageLsn, damaged) => {
    expect(judgeSuspects([suspect(0, pageLsn)], toLsn(100n), toLsn(200n))).toHaveLength(damaged ? 1 : 0);
  });

  test('mark the entry of their block', () => {
    const full = Buffer.alloc(MACROBLOCK_BYTES, 7);
    const copies = [
      { ...copy(1, [block(1, 0, full), block(1, 1, full)]), suspects: [suspect(1, 5n), suspect(2, 5n)] },
    ];
    const gathered = gatherFiles([file(1)], copies);
    const suspects = gatherSuspects(gathered, copies);
    expect(suspects.map((it) => it.macroblock)).toEqual([1]); // block 2 is not part of the backup
    const failures = judgeSuspects(suspects, toLsn(100n), toLsn(200n));
    expect(failures.map((it) => it.failure)).toEqual([
      { path: 'base/5/1', block: 256, reason: 'wrong checksum, last changed before the backup' },
    ]);
    const marks = [...gatherEntries(gathered, copies, failures)].map((entry) => entry.pageCheckFailed);
    expect(marks).toEqual([false, true]);
  });
});

type Block = { readonly fileNumber: number; readonly blockNumber: number; readonly bytes: Buffer };

function block(fileNumber: number, blockNumber: number, bytes: Buffer): Block {
  return { fileNumber, blockNumber, bytes };
}

function part(bytes: Buffer, blockNumber: number): Buffer {
  return bytes.subarray(blockNumber * MACROBLOCK_BYTES, (blockNumber + 1) * MACROBLOCK_BYTES);
}

function copy(
  subTaskId: number,
  blocks: readonly Block[],
  vanished: SubTaskCopy['vanished'] = [],
): SubTaskCopy {
  const entries = Buffer.alloc(blocks.length * ENTRY_BYTES);
  for (const [index, { fileNumber, blockNumber, bytes }] of blocks.entries()) {
    encodeMacroBlockEntry(entries, index * ENTRY_BYTES, {
      fileNumber,
      blockNumber,
      plainBytes: bytes.length,
      crc32c: crc32c(bytes),
      newestPageLsn: toLsn(0n),
      pageCheckFailed: false,
      setId: 1n,
      subTaskId,
      offset: 0,
      storedBytes: 100,
      compression: 'zstd',
    });
  }
  return { subTaskId, entries, suspects: [], vanished, ended: [], storedBytes: 0 };
}

function suspect(macroblock: number, pageLsn: bigint): SuspectFound {
  return { fileNumber: 1, path: 'base/5/1', macroblock, pageInFile: macroblock * 256, pageLsn };
}

function file(fileNumber: number): NumberedFile {
  const path = `base/5/${fileNumber}`;
  return { fileNumber, path, absolutePath: path, kind: 'main', sizeBytes: 0, mode: 0o600, modifiedMs: 0 };
}
