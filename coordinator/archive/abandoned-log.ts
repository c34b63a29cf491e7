/**
 * What failovers left behind at the destination, kept in the catalog for CDB_OB_ABANDONED_LOG: read when a partition
 * group's archived timeline has changed, and once more when the old leader's archiver has surely ended.
 */
import { defined } from '../../foundation/assert.ts';
import { type ErrorCode, isError } from '../../foundation/errors.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { type AbandonedStretch, readAbandoned } from '../../storage-layout/plan/abandoned.ts';
import { readGroupLog } from '../../storage-layout/plan/tenant-history.ts';
import { type ForkedGroup, replaceAbandoned } from '../catalog/abandoned.ts';
import { findRound, listRoundGroups } from '../catalog/rounds.ts';
import { type CoordinatorContext, write } from '../context.ts';
import { hasRound } from '../destination/claims.ts';

/** Reading again would not mend it: the stretch stays unknown. */
const DAMAGE: readonly ErrorCode[] = [
  'DATA_CORRUPT',
  'FORMAT_UNKNOWN',
  'FILE_NOT_FOUND',
  'LOG_CONFLICT',
  'LOG_GAP',
];

export async function noteAbandonedLog(
  context: CoordinatorContext,
  forked: ForkedGroup,
  signal: AbortSignal,
): Promise<void> {
  const readUs = context.clock.nowUs();
  const round = defined(
    await findRound(context.catalog, forked.tenant_id, forked.round),
    'the round of a partition group',
  );
  const medium = await context.destinations.open(context.secrets.decrypt(round.destination), signal);
  const key = { tenantId: round.tenant_id, round: round.round };
  // Another medium says nothing of this round.
  const isThere = await hasRound(medium, context.deployment, key, signal);
  const stretches = isThere ? await readWhole(context, medium, forked, signal) : undefined;
  await write(context, (tx) => replaceAbandoned(tx, forked, stretches, readUs));
}

/** Undefined when it is damaged. */
async function readWhole(
  context: CoordinatorContext,
  medium: Medium,
  forked: ForkedGroup,
  signal: AbortSignal,
): Promise<readonly AbandonedStretch[] | undefined> {
  try {
    return await readStretches(context, medium, forked, signal);
  } catch (error) {
    if (!isError(error, ...DAMAGE)) throw error;
    const { tenant_id: tenantId, round } = forked;
    const facts = { err: error, tenantId: String(tenantId), round: String(round) };
    context.logger.warn(facts, 'what a failover left behind could not be read');
    return undefined;
  }
}

async function readStretches(
  context: CoordinatorContext,
  medium: Medium,
  forked: ForkedGroup,
  signal: AbortSignal,
): Promise<readonly AbandonedStretch[]> {
  const key = { tenantId: forked.tenant_id, round: forked.round };
  const groups = await listRoundGroups(context.catalog, forked.tenant_id, forked.round);
  const group = defined(
    groups.find((row) => row.partition_group === forked.partition_group),
    'a partition group of the round',
  );
  const place = {
    partitionGroup: group.partition_group,
    segmentSizeBytes: Number(group.segment_size_bytes),
  };
  const log = await readGroupLog(medium, context.root, key, place, signal);
  return await readAbandoned(medium, context.root, key, log, signal);
}
