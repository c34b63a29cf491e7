/** The log that a partition group of a backup set cannot be restored without. Pure. */
import { segmentStart, toLsn, toTimeline } from '../../foundation/lsn.ts';
import type { PartitionGroupBackup } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { LogRange } from './ranges.ts';

/** From the segment of its start to its stop, on the start's timeline. Undefined: the backup does not say where they are. */
export function windowOf({
  start,
  stop,
  segmentSizeBytes,
}: Pick<PartitionGroupBackup, 'start' | 'stop' | 'segmentSizeBytes'>): LogRange | undefined {
  if (start === undefined || stop === undefined || segmentSizeBytes === 0) return undefined;
  return {
    timeline: toTimeline(start.timeline),
    begin: segmentStart(toLsn(start.lsn), segmentSizeBytes),
    end: toLsn(stop.lsn),
  };
}

/** Half-open; nothing for a range that ends before it begins. */
export function rangeBytes(range: LogRange | undefined): bigint {
  return range === undefined || range.end < range.begin ? 0n : range.end - range.begin;
}
