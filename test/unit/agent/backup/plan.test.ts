import fc from 'fast-check';
import { expect, test } from 'vitest';
import { blockCount, planBackup } from '../../../../agent/backup/plan.ts';
import type { DataFile, FileKind } from '../../../../engine/engine.ts';

const MIB = 2 ** 20;

const sizes = fc.array(
  fc.oneof(fc.integer({ min: 0, max: 20_000 }), fc.integer({ min: 0, max: 1024 * MIB })),
  { maxLength: 60 },
);

test('every macroblock of every file is planned once, in order, and no sub task is too large', () => {
  fc.assert(
    fc.property(sizes, fc.integer({ min: 1, max: 8 }), (fileSizes, workerCount) => {
      const files = fileSizes.map((size, index) => dataFile(`base/5/${index + 1}`, size));
      const plan = planBackup(files, { workerCount, firstSubTaskId: 7 });
      const blocks = plan.subTasks.flatMap(({ pieces }) =>
        pieces.flatMap((piece) =>
          Array.from({ length: piece.endBlock - piece.beginBlock }, (_, n) => [
            piece.fileNumber,
            piece.beginBlock + n,
          ]),
        ),
      );
      const wanted = plan.files.flatMap((file) =>
        Array.from({ length: blockCount(file.sizeBytes) }, (_, n) => [file.fileNumber, n]),
      );
      expect(blocks).toEqual(wanted);
      expect(plan.totalBlocks).toBe(wanted.length);
      for (const { pieces } of plan.subTasks) {
        const count = pieces.reduce((sum, piece) => sum + piece.endBlock - piece.beginBlock, 0);
        expect(count).toBeGreaterThan(0);
        expect(count).toBeLessThanOrEqual(512);
      }
      expect(plan.subTasks.map((it) => it.subTaskId)).toEqual(plan.subTasks.map((_, index) => 7 + index));
      expect(plan.controlSubTaskId).toBe(7 + plan.subTasks.length);
    }),
    { numRuns: 50 },
  );
});

test('the control file is numbered last and is no worker’s', () => {
  const plan = planBackup(
    [
      dataFile('global/1262', 8192),
      dataFile('global/pg_control', 8192, 'control'),
      dataFile('pg_xact/0000', 8192),
    ],
    { workerCount: 2, firstSubTaskId: 1 },
  );
  expect(plan.files.map((file) => file.path)).toEqual(['global/1262', 'pg_xact/0000', 'global/pg_control']);
  expect(plan.subTasks.flatMap((it) => it.pieces.map((piece) => piece.path))).toEqual([
    'global/1262',
    'pg_xact/0000',
  ]);
});

test('sub tasks shrink towards the end, so that workers end together', () => {
  const files = Array.from({ length: 4 }, (_, index) => dataFile(`base/5/${index + 1}`, 1024 * MIB));
  const { subTasks } = planBackup(files, { workerCount: 2, firstSubTaskId: 1 });
  const counts = subTasks.map(({ pieces }) =>
    pieces.reduce((sum, piece) => sum + piece.endBlock - piece.beginBlock, 0),
  );
  expect(counts[0]).toBe(512);
  expect(counts).toEqual(counts.toSorted((a, b) => b - a));
  expect(counts.at(-1)).toBeLessThanOrEqual(8);
});

test('a plan of nothing but empty files has no sub tasks', () => {
  const plan = planBackup([dataFile('base/5/1', 0)], { workerCount: 2, firstSubTaskId: 1 });
  expect(plan).toMatchObject({ subTasks: [], totalBytes: 0, totalBlocks: 0, controlSubTaskId: 1 });
});

function dataFile(path: string, sizeBytes: number, kind: FileKind = 'main'): DataFile {
  return { path, absolutePath: `/data/${path}`, kind, sizeBytes, mode: 0o600, modifiedMs: 0 };
}
