/** The keys that a task comes with. They are in memory alone: never logged, never written. */
import type { Destination } from '../proto/gen/holdfast/v1/agent_pb.ts';
import type { DataKey } from '../storage-layout/encryption/key-ring.ts';

export function dataKeysOf({ keys }: Pick<Destination, 'keys'>): readonly DataKey[] {
  return keys.map(({ directory, keyId, key, writes }) => ({
    directory,
    id: Buffer.from(keyId).toString('hex'),
    key: Uint8Array.from(key),
    writes,
  }));
}
