/** What the job of a synthetic full does otherwise than other backup jobs (docs/states.md). */
import { PartitionGroupListSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { readInfo } from '../../storage-layout/records/info-file.ts';
import { type SetKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';
import type { Job } from '../catalog/jobs.ts';
import type { CoordinatorContext } from '../context.ts';
import type { SetReplica } from '../destination/publish.ts';
import { findSource } from '../destination/synthetic-source.ts';
import type { Base } from './begin-backup.ts';

/** A full set, made of the newest one that there is. Throws SYNTHETIC_BACKUP_REFUSED. */
export async function syntheticBase(
  context: CoordinatorContext,
  job: Job,
  medium: Medium,
  signal: AbortSignal,
): Promise<Base> {
  const { set, pagesReadUs } = await findSource(medium, context.root, job, signal);
  const { tenantId, fullSetId, backupSetId: setId } = set;
  return {
    fullSetId: undefined,
    previousSetId: 0n,
    fullReason: '',
    source: { setId, fullSetId, pagesReadUs },
    round: set.round,
    groups: set.partitionGroups.map((group) => group.partitionGroup),
    replicas: await replicasOfSet(medium, context.root, { tenantId, fullSetId, setId }, signal),
  };
}

/** The replicas that the set's blocks were read from. */
export async function replicasOfSet(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  signal: AbortSignal,
): Promise<readonly SetReplica[]> {
  return (await readInfo(medium, tree.pgList(root, key), PartitionGroupListSchema, signal)).replicas;
}
