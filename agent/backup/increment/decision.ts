/**
 * Whether an increment may be made (correctness 7 to 9, reference 5.7): the change maps of the archive must tell, without a
 * hole and along the timelines' ancestry, all that was changed between the start of the backup before and this one's.
 * Anything that is missing or not understood makes it a full backup, with the reason. Pure.
 */
import type { InstanceIdentity, LogPoint } from '../../../engine/engine.ts';
import { formatLsn, type Lsn, type Timeline, toLsn, toTimeline } from '../../../foundation/lsn.ts';
import type { PartitionGroupBackup } from '../../../proto/gen/holdfast/v1/records_pb.ts';
import type { ChangeSummary } from '../../../storage-layout/clog/change-map.ts';
import type { LogRange } from '../../../storage-layout/clog/ranges.ts';

/** A log file whose change map is wanted. */
export type MappedLog = {
  readonly key: string;
  readonly timeline: Timeline;
  readonly begin: Lsn;
  readonly end: Lsn;
  readonly hasIndex: boolean;
  /** Undefined: no change map was made. */
  readonly changes?: ChangeSummary | undefined;
};

/** A timeline of the server's history, oldest first; `end`: where it was left. */
export type Ancestor = { readonly timeline: Timeline; readonly end: Lsn };

type Server = Pick<
  InstanceIdentity,
  'systemIdentifier' | 'major' | 'blockSizeBytes' | 'segmentSizeBytes' | 'pageChecksumVersion'
>;
type Before = Pick<
  PartitionGroupBackup,
  | 'systemIdentifier'
  | 'postgresMajor'
  | 'blockSizeBytes'
  | 'segmentSizeBytes'
  | 'pageChecksumVersion'
  | 'start'
  | 'stop'
>;

/** Why the server's files cannot be compared with those that were backed up before; undefined: they can. */
export function differenceOf(before: Before, server: Server): string | undefined {
  if (before.systemIdentifier !== server.systemIdentifier)
    return `the server is another system, ${server.systemIdentifier}: the backup before is of ${before.systemIdentifier}`;
  if (before.postgresMajor !== server.major)
    return `the server is of version ${server.major}, the backup before of ${before.postgresMajor}`;
  if (before.blockSizeBytes !== server.blockSizeBytes)
    return `the server's pages have ${server.blockSizeBytes} bytes, those of the backup before ${before.blockSizeBytes}`;
  if (before.segmentSizeBytes !== server.segmentSizeBytes)
    return `the server's log segments have ${server.segmentSizeBytes} bytes, they had ${before.segmentSizeBytes} at the backup before`;
  if (before.pageChecksumVersion !== server.pageChecksumVersion)
    return `page checksums were turned ${server.pageChecksumVersion === 0 ? 'off' : 'on'} since the backup before`;
  return undefined;
}

export type RangeDecision =
  | { readonly kind: 'ranges'; readonly ranges: readonly LogRange[] }
  | { readonly kind: 'full'; readonly reason: string };

/** The log between the two starts, one range per timeline. `ancestors`: of the timeline of `start`. */
export function rangesBetween(
  before: Before,
  start: LogPoint,
  ancestors: readonly Ancestor[],
): RangeDecision {
  const from = before.start;
  const stop = before.stop;
  if (from === undefined || stop === undefined || from.timeline === 0)
    return full('the backup before has no positions');
  const lineage = [...ancestors, { timeline: start.timeline, end: start.lsn }];
  const first = lineage.findIndex(({ timeline }) => timeline === from.timeline);
  if (first < 0)
    return full(
      `timeline ${start.timeline} does not descend from timeline ${from.timeline} of the backup before`,
    );
  const ranges: LogRange[] = [];
  let begin: bigint = from.lsn;
  for (const { timeline, end } of lineage.slice(first)) {
    if (end < stop.lsn && timeline !== start.timeline)
      return full(
        `timeline ${timeline} was left at ${formatLsn(end)}, before the end of the backup before at ${formatLsn(stop.lsn)}`,
      );
    if (end < begin)
      return full(`timeline ${timeline} ends at ${formatLsn(end)}, before ${formatLsn(begin)}`);
    if (end > begin) ranges.push({ timeline: toTimeline(timeline), begin: toLsn(begin), end });
    begin = end;
  }
  if (stop.lsn > start.lsn)
    return full(
      `the backup before ended at ${formatLsn(stop.lsn)}, behind the start of this one at ${formatLsn(start.lsn)}`,
    );
  return { kind: 'ranges', ranges };
}

/** Why the change maps of `files` do not tell all of `ranges`; undefined: they do. `files` in the order of the log. */
export function flawOf(ranges: readonly LogRange[], files: readonly MappedLog[]): string | undefined {
  for (const file of files) {
    const flaw = flawOfFile(file);
    if (flaw !== undefined) return `${flaw} (${file.key})`;
  }
  for (const { timeline, begin, end } of ranges) {
    let covered: bigint = begin;
    for (const file of files)
      if (file.timeline === timeline && file.begin <= covered && file.end > covered) covered = file.end;
    if (covered < end)
      return `the archive lacks log of timeline ${timeline} between ${formatLsn(covered)} and ${formatLsn(end)}`;
  }
  return undefined;
}

function flawOfFile({ hasIndex, changes }: MappedLog): string | undefined {
  if (!hasIndex) return 'a log file is not sealed';
  if (changes === undefined) return 'a log file has no change map';
  if (changes.walLevelMinimal) return 'wal_level was minimal since the backup before';
  if (changes.unknownSpecial === undefined) return undefined;
  const { first, rmgr, info } = changes.unknownSpecial;
  return `the log has a special record of an unknown kind at ${formatLsn(first)}: resource manager ${rmgr}, info ${info}`;
}

function full(reason: string): RangeDecision {
  return { kind: 'full', reason };
}
