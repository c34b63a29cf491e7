/**
 * One log file against its index: every record's framing and checksums, every block's place and length, and nothing that
 * the index does not say. Behind damage, the blocks that the index places are read one by one, so that all damage is found.
 */
import { isDeepStrictEqual } from 'node:util';
import { type Lsn, toLsn } from '../../foundation/lsn.ts';
import type { LogBlockPlace, LogFileFacts, LogFileIndex } from '../../storage-layout/clog/index.ts';
import { dataKey, type FileName, type LogFile } from '../../storage-layout/clog/log-file.ts';
import type { LogRange } from '../../storage-layout/clog/ranges.ts';
import { readLogFile } from '../../storage-layout/clog/read-log-file.ts';
import { type IgnoredTail, scanLogFile } from '../../storage-layout/clog/scan.ts';
import { tree } from '../../storage-layout/tree.ts';
import type { LogPlace } from '../archive/place.ts';
import { factsOf, readStored } from '../archive/stored-index.ts';
import { cutOff, type Findings, findingOf, missing } from './findings.ts';

/** A logCheckpoint record (docs/format.md). */
const CHECKPOINT_RECORD_BYTES = 64;

export type FileToCheck = FileName & {
  /** The newest may still be written: it has no index yet, and a torn tail is none of its log. */
  readonly isLast: boolean;
};

/** Hands out the log of every block that is right, in order. Returns the ranges that are right. */
export async function checkLogFile(
  place: LogPlace,
  file: FileToCheck,
  onBlock: (begin: Lsn, data: Buffer) => void,
  findings: Findings,
  signal: AbortSignal,
): Promise<readonly LogRange[]> {
  const key = dataKey(place, file);
  const index = await readIndex(place, file, findings, signal);
  const limitBytes = index?.acceptedBytes ?? Number.POSITIVE_INFINITY;
  let scanned: Awaited<ReturnType<typeof scanLogFile>>;
  try {
    scanned = await scanLogFile(place.medium, key, signal, limitBytes, onBlock);
  } catch (error) {
    const finding = findingOf(error, key);
    if (finding === undefined) throw error;
    findings.addWhole({ ...finding, range: index === undefined ? undefined : rangeOf(index) });
    return [];
  }
  const { facts, ignored } = scanned;
  if (index === undefined) {
    if (facts === undefined && !file.isLast) findings.add(unusable(key, ignored));
    return facts === undefined ? [] : [rangeOf(facts)];
  }
  const sizeBytes = (await place.medium.stat(key, signal))?.sizeBytes ?? 0;
  const damage = damageOf(index, ignored, sizeBytes);
  if (damage === undefined && sizeBytes >= index.acceptedBytes) {
    const differing = facts === undefined ? ['its description'] : differences(facts, index);
    if (differing.length > 0) findings.add(disagrees(place, file, differing, index));
    return [rangeOf(index)];
  }
  if (damage !== undefined) {
    const block = index.blocks.find(({ offset }) => offset === damage.offset);
    const range = block === undefined ? undefined : blockRange(index, block);
    findings.add({ code: 'DATA_CORRUPT', key, offset: damage.offset, message: damage.reason, range });
  }
  if (sizeBytes < index.acceptedBytes) {
    const first = index.blocks.find((block) => block.offset + block.storedBytes > sizeBytes);
    const range = first === undefined ? undefined : { ...rangeOf(index), begin: first.begin };
    findings.addWhole({ ...cutOff(key, sizeBytes), range });
  }
  const before = facts === undefined ? [] : [{ ...rangeOf(index), end: facts.end }];
  const from = damage?.offset ?? sizeBytes;
  const left = index.blocks.filter(
    (block) => block.offset > from && block.offset + block.storedBytes <= sizeBytes,
  );
  return [
    ...before,
    ...(await readBlocks(place, { ...index, key, hasIndex: true }, left, onBlock, findings, signal)),
  ];
}

/** A record that is not whole or right, other than the one that the end of a cut-off file goes through. Pure. */
function damageOf(
  index: LogFileIndex,
  ignored: IgnoredTail | undefined,
  sizeBytes: number,
): IgnoredTail | undefined {
  if (ignored === undefined || ignored.offset >= index.acceptedBytes) return undefined;
  const block = index.blocks.find(({ offset }) => offset === ignored.offset);
  const end = ignored.offset + (block?.storedBytes ?? CHECKPOINT_RECORD_BYTES);
  return end > sizeBytes ? undefined : ignored;
}

async function readIndex(
  place: LogPlace,
  file: FileToCheck,
  findings: Findings,
  signal: AbortSignal,
): Promise<LogFileIndex | undefined> {
  const stored = await readStored(place, file, signal);
  const key = tree.logIndex(place.root, place.round, place.group, file.fileId, file.epoch);
  if (stored.kind === 'read') return stored.index;
  if (stored.kind === 'damaged')
    findings.add({ code: 'DATA_CORRUPT', key, offset: undefined, message: stored.reason });
  else if (!file.isLast) findings.add(missing(key));
  return undefined;
}

/** Reads blocks by their places in the index. Returns the ranges of those that are right. */
async function readBlocks(
  place: LogPlace,
  file: LogFile,
  blocks: readonly LogBlockPlace[],
  onBlock: (begin: Lsn, data: Buffer) => void,
  findings: Findings,
  signal: AbortSignal,
): Promise<readonly LogRange[]> {
  const right: LogRange[] = [];
  for (const block of blocks) {
    if (findings.isFull) break;
    const range = blockRange(file, block);
    try {
      for await (const chunk of readLogFile(place.medium, file, range.begin, range.end, signal))
        onBlock(chunk.begin, chunk.data);
      right.push(range);
    } catch (error) {
      const finding = findingOf(error, file.key);
      if (finding === undefined) throw error;
      findings.add({ ...finding, offset: block.offset, range });
    }
  }
  return right;
}

function differences(facts: LogFileFacts, index: LogFileIndex): readonly string[] {
  const found = factsOf(facts);
  const told = factsOf(index);
  return Object.keys(told).filter(
    (name) => !isDeepStrictEqual(Reflect.get(found, name), Reflect.get(told, name)),
  );
}

function disagrees(place: LogPlace, file: FileName, differing: readonly string[], index: LogFileIndex) {
  const key = tree.logIndex(place.root, place.round, place.group, file.fileId, file.epoch);
  const message = `${key} differs from its log file in ${differing.join(', ')}`;
  return { code: 'LOG_INDEX_INVALID', key, offset: undefined, message, range: rangeOf(index) } as const;
}

function unusable(key: string, ignored: IgnoredTail | undefined) {
  const message = ignored?.reason ?? `${key} does not say what it holds`;
  return { code: 'DATA_CORRUPT', key, offset: 0, message } as const;
}

function rangeOf({ timeline, begin, end }: LogRange): LogRange {
  return { timeline, begin, end };
}

function blockRange(index: LogRange, block: LogBlockPlace): LogRange {
  const end = toLsn(block.begin + BigInt(block.plainBytes));
  return { timeline: index.timeline, begin: block.begin, end };
}
