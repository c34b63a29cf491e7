/** Which data keys a task is given: those of the files that it reads or writes, and no others. */
import { isError } from '../../foundation/errors.ts';
import { BackupInfoSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { DataKey } from '../../storage-layout/encryption/key-ring.ts';
import {
  unlockRoundToValidate,
  unlockSet,
  unlockToValidate,
  unlockWithLog,
} from '../../storage-layout/encryption/unlock.ts';
import type { KeySecrets } from '../../storage-layout/encryption/wrapping.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { readInfoIfThere } from '../../storage-layout/records/info-file.ts';
import { type SetKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';
import type { BackupSet } from '../catalog/sets.ts';
import type { CoordinatorContext } from '../context.ts';
import type { ValidateTaskSpec } from '../jobs/specs.ts';
import { keySecrets } from './keys.ts';

export async function keysOfBackup(
  context: CoordinatorContext,
  set: BackupSet,
  signal: AbortSignal,
): Promise<readonly DataKey[]> {
  const medium = await context.destinations.open(context.secrets.decrypt(set.destination), signal);
  const key = { tenantId: set.tenant_id, fullSetId: set.full_set_id, setId: set.backup_set_id };
  const secrets = await keySecrets(context);
  const keys = await unlockWithLog(medium, context.root, key, set.round, secrets, signal);
  if (set.source_set_id === 0n) return keys;
  const source = { tenantId: set.tenant_id, fullSetId: set.source_full_set_id, setId: set.source_set_id };
  return [...keys, ...(await keysOfSource(medium, context.root, source, secrets, signal))];
}

/** What the set that a synthetic full is made of is read with; nothing is written there. Each key once. */
export async function keysOfSource(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  secrets: KeySecrets,
  signal: AbortSignal,
): Promise<readonly DataKey[]> {
  const keys = await unlockSet(medium, root, key, secrets, signal);
  return [...new Map(keys.map((each) => [each.id, { ...each, writes: false }])).values()];
}

export async function keysOfValidation(
  context: CoordinatorContext,
  tenantId: bigint,
  { destination, subject }: Pick<ValidateTaskSpec, 'destination' | 'subject'>,
  signal: AbortSignal,
): Promise<readonly DataKey[]> {
  const { root } = context;
  const medium = await context.destinations.open(context.secrets.decrypt(destination), signal);
  const secrets = await keySecrets(context);
  if (subject.setId === undefined || subject.fullSetId === undefined)
    return await unlockRoundToValidate(
      medium,
      root,
      { tenantId, round: BigInt(subject.round ?? 0) },
      secrets,
      signal,
    );
  const key = { tenantId, fullSetId: BigInt(subject.fullSetId), setId: BigInt(subject.setId) };
  // A damaged commit point is the agent's to name.
  const round = await roundOfSet(medium, root, key, signal).catch((error: unknown) => {
    if (isError(error, 'DATA_CORRUPT', 'FORMAT_UNKNOWN')) return 0n;
    throw error;
  });
  return await unlockToValidate(medium, root, key, round, secrets, signal);
}

async function roundOfSet(medium: Medium, root: TreeRoot, key: SetKey, signal: AbortSignal): Promise<bigint> {
  const info = await readInfoIfThere(medium, tree.backupInfo(root, key), BackupInfoSchema, signal);
  return info?.round ?? 0n;
}
