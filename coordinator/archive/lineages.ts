/**
 * Which timelines the log of a running round has come along, learnt from the history files at the destination when a
 * newer timeline is archived. Backup sets that end on what the lineage left are told from the others by it.
 */

import { parseHistory } from '../../storage-layout/plan/lineage.ts';
import { readBytes } from '../../storage-layout/records/info-file.ts';
import { RECORD } from '../../storage-layout/records/types.ts';
import { tree } from '../../storage-layout/tree.ts';
import { listSetsLeftBehind, replaceLineage } from '../catalog/members.ts';
import { listRoundGroups, type Round } from '../catalog/rounds.ts';
import { type CoordinatorContext, write } from '../context.ts';

/** Throws what reading a history throws: the step is tried again. */
export async function followLineages(
  context: CoordinatorContext,
  round: Round,
  signal: AbortSignal,
): Promise<void> {
  for (const group of await listRoundGroups(context.catalog, round.tenant_id, round.round)) {
    const timeline = group.checkpoint_timeline;
    // Timeline 1 has no history, and no other was there before it.
    if (timeline <= 1n || timeline === group.lineage_timeline) continue;
    const medium = await context.destinations.open(context.secrets.decrypt(round.destination), signal);
    const key = { tenantId: round.tenant_id, round: round.round };
    const path = tree.history(context.root, key, group.partition_group, Number(timeline));
    const ancestors = parseHistory(await readBytes(medium, path, RECORD.timelineHistory, signal));
    await write(context, async (tx) => {
      const before = new Set((await listSetsLeftBehind(tx, group)).map((set) => set.backup_set_id));
      await replaceLineage(tx, group, timeline, ancestors);
      const left = await listSetsLeftBehind(tx, group);
      for (const set of left.filter(({ backup_set_id: id }) => !before.has(id)))
        await tx.event({
          module: 'backup',
          event: 'backup_set_left_behind',
          severity: 'ERROR',
          tenantId: round.tenant_id,
          tenantName: round.tenant_name,
          message: `backup set ${set.backup_set_id} of tenant "${round.tenant_name}" ends behind the point where partition group ${group.partition_group} left timeline ${set.timeline} for ${timeline}: it restores only with TIMELINE ${set.timeline}. Take a full backup.`,
          facts: {
            backup_set_id: set.backup_set_id,
            partition_group: group.partition_group,
            timeline: set.timeline,
          },
        });
    });
  }
}
