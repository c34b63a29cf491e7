/** What earlier attempts of a backup set have left at the destination: the indexes of their sub tasks. */
import { HoldfastError, isError } from '../../../foundation/errors.ts';
import type { SubTaskIndexInfo } from '../../../proto/gen/holdfast/v1/records_pb.ts';
import type { MacroBlockEntry } from '../../../storage-layout/macroblock/entry.ts';
import { EntryStream } from '../../../storage-layout/macroblock/entry-stream.ts';
import type { IndexChunk } from '../../../storage-layout/macroblock/index.ts';
import {
  readSubTaskIndexChunks,
  readSubTaskIndexHead,
  type SubTaskIndexHead,
} from '../../../storage-layout/macroblock/sub-task-index.ts';
import type { Medium } from '../../../storage-layout/media/medium.ts';
import { parseTreePath, tree } from '../../../storage-layout/tree.ts';
import type { BackupTarget } from '../target.ts';
import { chainOf, earliestOf } from './decision.ts';

/** The entries of an attempt's blocks: asked for in the order of an index. */
export interface BlocksBefore {
  find(fileNumber: number, blockNumber: number): Promise<MacroBlockEntry | undefined>;
}

/** All that the newest attempt with something to take over made durable, what it had taken over itself included. */
export type EarlierAttempt = {
  readonly info: SubTaskIndexInfo;
  readonly numbers: { readonly byPath: ReadonlyMap<string, number>; readonly next: number };
  /** A new reading, from the beginning. */
  openBlocks(signal: AbortSignal): BlocksBefore;
};

/** Undefined when no attempt before `retry` has left anything. Files that were not written to their end do not count. */
export async function findEarlierAttempt(
  medium: Medium,
  target: BackupTarget,
  retry: number,
  signal: AbortSignal,
): Promise<EarlierAttempt | undefined> {
  let newest = -1;
  let heads: SubTaskIndexHead[] = [];
  for (const key of await subTaskIndexes(medium, target, signal)) {
    const head = await readIfWhole(medium, key, signal);
    if (head === undefined || head.info.retry >= retry || head.info.retry < newest) continue;
    if (head.info.retry > newest) heads = [];
    newest = head.info.retry;
    heads.push(head);
  }
  const info = earliestOf(heads.map((head) => head.info));
  if (info === undefined) return undefined;
  const takenOver = chainOf(heads.filter((head) => head.info.takenOver));
  const copied = chainOf(heads.filter((head) => !head.info.takenOver));
  return {
    info,
    numbers: numbersOf(heads),
    openBlocks: (readSignal) =>
      new BothBlocks(streamOf(medium, takenOver, readSignal), streamOf(medium, copied, readSignal)),
  };
}

async function subTaskIndexes(
  medium: Medium,
  { root, setKey, group }: BackupTarget,
  signal: AbortSignal,
): Promise<readonly string[]> {
  const directory = tree.macroDirectory(root, setKey.tenantId, setKey.fullSetId, group);
  return (await medium.listNames(directory, signal))
    .map((name) => `${directory}/${name}`)
    .filter((key) => {
      const path = parseTreePath(key);
      return path?.kind === 'subTaskIndex' && path.setId === setKey.setId;
    });
}

async function readIfWhole(
  medium: Medium,
  key: string,
  signal: AbortSignal,
): Promise<SubTaskIndexHead | undefined> {
  try {
    return await readSubTaskIndexHead(medium, key, signal);
  } catch (error) {
    if (!isError(error, 'DATA_CORRUPT', 'FORMAT_UNKNOWN', 'FILE_NOT_FOUND')) throw error;
    return undefined; // its attempt died over it
  }
}

function numbersOf(heads: readonly SubTaskIndexHead[]): EarlierAttempt['numbers'] {
  const byPath = new Map<string, number>();
  let last = 0;
  for (const { files, key } of heads) {
    for (const { path, fileNumber } of files) {
      if ((byPath.get(path) ?? fileNumber) !== fileNumber)
        throw new HoldfastError('DATA_CORRUPT', `${key} gives another number to ${path} than its neighbours`);
      byPath.set(path, fileNumber);
      if (fileNumber > last) last = fileNumber;
    }
  }
  return { byPath, next: last + 1 };
}

function streamOf(medium: Medium, heads: readonly SubTaskIndexHead[], signal: AbortSignal): EntryStream {
  return new EntryStream(chunksOf(medium, heads, signal));
}

async function* chunksOf(
  medium: Medium,
  heads: readonly SubTaskIndexHead[],
  signal: AbortSignal,
): AsyncGenerator<IndexChunk, void, undefined> {
  for (const { key } of heads) yield* readSubTaskIndexChunks(medium, key, signal);
}

/** Two indexes without a block in common. */
class BothBlocks implements BlocksBefore {
  readonly #a: BlocksBefore;
  readonly #b: BlocksBefore;

  constructor(a: BlocksBefore, b: BlocksBefore) {
    this.#a = a;
    this.#b = b;
  }

  async find(fileNumber: number, blockNumber: number): Promise<MacroBlockEntry | undefined> {
    return (await this.#a.find(fileNumber, blockNumber)) ?? (await this.#b.find(fileNumber, blockNumber));
  }
}
