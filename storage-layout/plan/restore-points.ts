/** Where the indexes of a tenant's log files have a restore point. Reads every index: a name tells no position. */

import { LogLookup } from '../clog/lookup.ts';
import type { Medium } from '../media/medium.ts';
import type { TreeRoot } from '../tree.ts';
import type { RestorePointPlace, TenantHistory } from './windows.ts';

/** Every place, oldest round first; none when the point is not in a sealed file. Throws what reading indexes throws. */
export async function findRestorePoints(
  medium: Medium,
  root: TreeRoot,
  history: TenantHistory,
  name: string,
  signal?: AbortSignal,
): Promise<readonly RestorePointPlace[]> {
  const places: RestorePointPlace[] = [];
  for (const { begin, groups } of history.rounds) {
    for (const { partitionGroup, coverage } of groups) {
      const key = { tenantId: history.tenantId, round: begin.round };
      const lookup = await LogLookup.open(medium, root, key, partitionGroup, signal);
      for (const { timeline, begin: from, end } of coverage) {
        for await (const file of lookup.filesBetween(timeline, from, end, undefined, signal)) {
          for (const point of file.restorePoints)
            if (point.name === name)
              places.push({
                round: begin.round,
                partitionGroup,
                timeline,
                lsn: point.lsn,
                timeUs: point.timeUs,
              });
        }
      }
    }
  }
  return places;
}
