import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  blockCount,
  evenTasks,
  groupPieces,
  type NumberedFile,
  pieceOf,
  type SubTask,
  shrinkingTasks,
  type WantedBytes,
} from '../../../../agent/backup/plan.ts';

const MIB = 2 ** 20;

const sizes = fc.array(
  fc.oneof(fc.integer({ min: 0, max: 20_000 }), fc.integer({ min: 0, max: 1024 * MIB })),
  { maxLength: 60 },
);

test('every macroblock of every file is planned once, in order, and no sub task is too large', async () => {
  await fc.assert(
    fc.asyncProperty(
      sizes,
      fc.integer({ min: 1, max: 8 }),
      fc.boolean(),
      async (fileSizes, workerCount, even) => {
        const files = fileSizes.map((size, index) => dataFile(index + 1, size));
        const totalBytes = fileSizes.reduce((a, b) => a + b, 0);
        const subTasks = await group(
          files,
          even ? evenTasks(totalBytes) : shrinkingTasks(totalBytes, workerCount),
        );
        const blocks = subTasks.flatMap(({ pieces }) =>
          pieces.flatMap((piece) =>
            Array.from({ length: piece.endBlock - piece.beginBlock }, (_, n) => [
              piece.fileNumber,
              piece.beginBlock + n,
            ]),
          ),
        );
        const wanted = files.flatMap((file) =>
          Array.from({ length: blockCount(file.sizeBytes) }, (_, n) => [file.fileNumber, n]),
        );
        expect(blocks).toEqual(wanted);
        for (const count of subTasks.map(countBlocks)) {
          expect(count).toBeGreaterThan(0);
          expect(count).toBeLessThanOrEqual(512);
        }
        expect(subTasks.map((it) => it.subTaskId)).toEqual(subTasks.map((_, index) => 7 + index));
      },
    ),
    { numRuns: 50 },
  );
});

test('sub tasks of a full backup shrink towards the end, so that workers end together', async () => {
  const files = Array.from({ length: 4 }, (_, index) => dataFile(index + 1, 1024 * MIB));
  const counts = (await group(files, shrinkingTasks(4096 * MIB, 2))).map(countBlocks);
  expect(counts[0]).toBe(512);
  expect(counts).toEqual(counts.toSorted((a, b) => b - a));
  expect(counts.at(-1)).toBeLessThanOrEqual(8);
});

test('nothing but empty files makes no sub tasks', async () => {
  expect(await group([dataFile(1, 0)], shrinkingTasks(0, 2))).toEqual([]);
});

async function group(files: readonly NumberedFile[], wantedBytes: WantedBytes): Promise<SubTask[]> {
  const pieces = async function* () {
    for (const file of files) if (file.sizeBytes > 0) yield pieceOf(file, 0, blockCount(file.sizeBytes));
  };
  return await Array.fromAsync(groupPieces(pieces(), 7, wantedBytes));
}

function countBlocks({ pieces }: SubTask): number {
  return pieces.reduce((sum, piece) => sum + piece.endBlock - piece.beginBlock, 0);
}

function dataFile(fileNumber: number, sizeBytes: number): NumberedFile {
  const path = `base/5/${fileNumber}`;
  return {
    fileNumber,
    path,
    absolutePath: `/data/${path}`,
    kind: 'main',
    sizeBytes,
    mode: 0o600,
    modifiedMs: 0,
  };
}
