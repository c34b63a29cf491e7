/**
 * What forks left behind: archived log of a timeline behind the point where the surviving lineage left it. It is restored
 * only by naming its timeline.
 */
import { type Lsn, type Timeline, toLsn } from '../../foundation/lsn.ts';
import { LogLookup } from '../clog/lookup.ts';
import { scanLogFile } from '../clog/scan.ts';
import type { Medium } from '../media/medium.ts';
import type { RoundKey, TreeRoot } from '../tree.ts';
import { type GroupLog, parseHistory } from './lineage.ts';

/** [begin, end) of `timeline`, in no ancestor of `survivor`. */
export type AbandonedStretch = {
  readonly partitionGroup: string;
  readonly timeline: Timeline;
  readonly begin: Lsn;
  readonly end: Lsn;
  /** The newest archived timeline, whose lineage has not this log. */
  readonly survivor: Timeline;
  /** What was acknowledged before this time is not in the stretch; undefined: no such time is known. */
  readonly fromUs: bigint | undefined;
  /** What was acknowledged before this time, and is in no earlier log, is in the stretch. */
  readonly untilUs: bigint | undefined;
};

/** In the order of timelines and positions; `fromUs` is not known yet. Pure. */
export function findAbandoned(log: GroupLog): readonly AbandonedStretch[] {
  const archived = [...new Set(log.coverage.map(({ timeline }) => timeline))].sort((a, b) => b - a);
  const survivor = archived.find((timeline) => log.histories.has(timeline)) ?? archived[0];
  if (survivor === undefined) return [];
  const ancestors = parseHistory(log.histories.get(survivor) ?? new Uint8Array(0));
  return log.coverage
    .filter(({ timeline }) => timeline !== survivor)
    .flatMap(({ timeline, begin, end, checkpointUs }) => {
      const left = ancestors.find((ancestor) => ancestor.timeline === timeline)?.end;
      const from = left !== undefined && left > begin ? left : begin;
      if (from >= end) return [];
      const { partitionGroup } = log;
      return [
        { partitionGroup, timeline, begin: from, end, survivor, fromUs: undefined, untilUs: checkpointUs },
      ];
    });
}

/** The same with the times where they begin, as the log files say them. Throws what reading them throws. */
export async function readAbandoned(
  medium: Medium,
  root: TreeRoot,
  round: RoundKey,
  log: GroupLog,
  signal?: AbortSignal,
): Promise<readonly AbandonedStretch[]> {
  const found = findAbandoned(log);
  if (found.length === 0) return found;
  const lookup = await LogLookup.open(medium, root, round, log.partitionGroup, signal);
  const timed: AbandonedStretch[] = [];
  for (const stretch of found)
    timed.push({ ...stretch, fromUs: await timeBefore(medium, lookup, stretch, signal) });
  return timed;
}

/** The newest checkpoint at or before the stretch: in the file that it begins in, else in the one before. */
async function timeBefore(
  medium: Medium,
  lookup: LogLookup,
  { timeline, begin }: AbandonedStretch,
  signal: AbortSignal | undefined,
): Promise<bigint | undefined> {
  if (begin === 0n) return undefined;
  const before = toLsn(begin - 1n);
  const file = await lookup.fileAt(timeline, before, signal);
  if (file === undefined) return undefined;
  if (file.checkpoint !== undefined && file.checkpoint.lsn <= begin) return file.checkpoint.timeUs;
  // Its own checkpoint lies behind: an earlier one may stand between its blocks.
  const behind = file.blocks.find((block) => block.begin + BigInt(block.plainBytes) > begin);
  const { facts } = await scanLogFile(medium, file.key, signal, behind?.offset);
  if (facts?.checkpoint !== undefined) return facts.checkpoint.timeUs;
  if (file.begin === 0n) return undefined;
  const previous = await lookup.fileAt(timeline, toLsn(file.begin - 1n), signal);
  return previous?.checkpoint?.timeUs;
}
