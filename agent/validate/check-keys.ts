/** The key record of an encrypted backup or round: without it nothing of what it is for can be read again. */
import { EncryptionMode } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { type KeyPlace, readKeyRecord } from '../../storage-layout/encryption/key-records.ts';
import { type Findings, missing, tolerate } from './findings.ts';

/** False when it is lost or damaged, which is a finding. `mode`: what the commit point says. */
export async function checkKeyRecord(
  place: KeyPlace,
  mode: EncryptionMode,
  findings: Findings,
  signal: AbortSignal,
): Promise<boolean> {
  if (mode === EncryptionMode.UNSPECIFIED) return true;
  const key = `${place.directory}/key_1`;
  const before = findings.count;
  const found = await tolerate(findings, key, () => readKeyRecord(place, signal));
  if (found !== undefined) return true;
  if (findings.count === before) findings.addWhole(missing(key));
  return false;
}
