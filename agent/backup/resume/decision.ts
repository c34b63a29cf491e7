/**
 * Whether an attempt may take over what an earlier one of the same backup set made durable, and which blocks. The earlier
 * one's session at the server is gone, and with it the window that its blocks belonged to. What holds for a new window is
 * what the log between the two starts did not change (correctness 9, last sentence). Pure.
 */
import type { InstanceIdentity, LogPoint } from '../../../engine/engine.ts';
import { formatLsn, type Lsn, toLsn, toTimeline } from '../../../foundation/lsn.ts';
import type { SubTaskIndexInfo } from '../../../proto/gen/holdfast/v1/records_pb.ts';
import type { LogRange } from '../../../storage-layout/clog/ranges.ts';
import type { MacroBlockEntry } from '../../../storage-layout/macroblock/entry.ts';
import { endOfPages, PAGE_MAP_BYTES } from '../../../storage-layout/macroblock/page-map.ts';
import type { BlockId, SubTaskIndexHead } from '../../../storage-layout/macroblock/sub-task-index.ts';
import { isBasedOnBefore } from '../copy-delta.ts';
import { differenceOf } from '../increment/decision.ts';

export type ReuseDecision =
  | { readonly kind: 'range'; readonly range: LogRange }
  | { readonly kind: 'nothing'; readonly reason: string };

/** `round`: whose log tells what was changed, 0 for none; `start`: of the new attempt. */
export function decideReuse(
  earlier: SubTaskIndexInfo,
  now: {
    readonly identity: InstanceIdentity;
    readonly start: LogPoint;
    readonly previousSetId: bigint;
    readonly round: bigint;
    readonly pageCheck: boolean;
  },
): ReuseDecision {
  const { identity, start, previousSetId, round, pageCheck } = now;
  if (round === 0n) return nothing('no log is archived that tells what was changed since');
  const from = earlier.start;
  if (from === undefined || from.timeline === 0) return nothing('the attempt before has no position');
  const difference = differenceOf({ ...earlier, start: from, stop: from }, identity);
  if (difference !== undefined) return nothing(difference);
  if (pageCheck && !earlier.pageCheck) return nothing('the attempt before did not check pages');
  if (earlier.previousSetId !== previousSetId)
    return nothing(
      `the attempt before went on from backup set ${earlier.previousSetId}, this one from ${previousSetId}`,
    );
  // A session that died has no stop: nobody knows how far behind a fork its blocks were read. A page may show the hints of
  // transactions that the new timeline does not have, and its position does not tell.
  if (from.timeline !== start.timeline)
    return nothing(`the server went on to timeline ${start.timeline} from timeline ${from.timeline}`);
  if (from.lsn > start.lsn)
    return nothing(
      `the server was set back: the attempt before began at ${formatLsn(toLsn(from.lsn))}, this one at ${formatLsn(start.lsn)}`,
    );
  return {
    kind: 'range',
    range: { timeline: toTimeline(from.timeline), begin: toLsn(from.lsn), end: start.lsn },
  };
}

/** What is wanted of one macroblock of a main fork that is the same creation as the earlier attempt read. */
export type WantedBlock = {
  /** Its length now. */
  readonly plainBytes: number;
  /** The pages that are wanted as a delta; undefined: the whole block. */
  readonly pages?: Uint8Array | undefined;
  /** What the log changed between the two starts. */
  readonly changed: Uint8Array;
};

/**
 * True when the earlier attempt's block is what this one would copy. A page newer than this attempt's start would be
 * copied again though the log did not name it: it is of a server that has lost log (the set's stop is never before the
 * start).
 */
export function isReusable(entry: MacroBlockEntry, wanted: WantedBlock, start: Lsn): boolean {
  if (entry.pageCheckFailed || entry.plainBytes !== wanted.plainBytes) return false;
  if (wanted.changed.length !== PAGE_MAP_BYTES) return false; // nobody looked at what was changed
  if (endOfPages(wanted.changed) > 0 || entry.newestPageLsn > start) return false;
  if (!isBasedOnBefore(entry)) return true;
  return wanted.pages !== undefined && covers(entry.delta?.pages, wanted.pages);
}

/** Whether every wanted page is among `pages`. */
function covers(pages: Uint8Array | undefined, wanted: Uint8Array): boolean {
  for (let n = 0; n < PAGE_MAP_BYTES; n += 1) if ((wanted[n] ?? 0) & ~(pages?.[n] ?? 0)) return false;
  return true;
}

/**
 * What holds for all blocks of one attempt. A catalog that lost its last minutes can have given one attempt twice: what the
 * log changed is asked for since the first of the starts. Undefined without any, and when they lie on several timelines.
 */
export function earliestOf(infos: readonly SubTaskIndexInfo[]): SubTaskIndexInfo | undefined {
  const [first] = infos;
  if (infos.some((info) => info.start?.timeline !== first?.start?.timeline)) return undefined;
  return infos.reduce<SubTaskIndexInfo | undefined>(
    (least, info) => (least === undefined || startOf(info) < startOf(least) ? info : least),
    undefined,
  );
}

function startOf(info: SubTaskIndexInfo): bigint {
  return info.start?.lsn ?? 0n;
}

/** Which indexes of one attempt are read, one behind the other: a sub task that was done again stands in two of them. */
export function chainOf(heads: readonly SubTaskIndexHead[]): readonly SubTaskIndexHead[] {
  const chain: SubTaskIndexHead[] = [];
  let last: BlockId | undefined;
  const inOrder = heads
    .filter(({ first }) => first !== undefined)
    .toSorted((a, b) => compareBlocks(a.first, b.first) || a.info.subTaskId - b.info.subTaskId);
  for (const head of inOrder) {
    if (last !== undefined && compareBlocks(head.first, last) <= 0) continue;
    chain.push(head);
    last = head.last;
  }
  return chain;
}

function compareBlocks(a: BlockId | undefined, b: BlockId | undefined): number {
  if (a === undefined || b === undefined) return 0;
  return a.fileNumber - b.fileNumber || a.blockNumber - b.blockNumber;
}

function nothing(reason: string): ReuseDecision {
  return { kind: 'nothing', reason };
}
