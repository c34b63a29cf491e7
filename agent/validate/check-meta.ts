/**
 * The files of a set that describe it: those that its commit point holds the SHA-256 of, and those that stand beside it
 * for people. What the meta index says of the meta file, and what the file list leads to.
 */
import { isDeepStrictEqual } from 'node:util';
import {
  BackupInfoSchema,
  type EncryptionMode,
  type MetaIndexEntry,
  MetaIndexSchema,
  type PartitionGroupBackup,
  PartitionGroupListSchema,
  TenantDiagnoseInfoSchema,
  TenantLocalityInfoSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { RECORD } from '../../storage-layout/records/framing.ts';
import { readInfo } from '../../storage-layout/records/info-file.ts';
import { decodeMessage } from '../../storage-layout/records/messages.ts';
import { readRecordFile } from '../../storage-layout/records/record-file.ts';
import { parseTreePath, type SetKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';
import { checkDigest } from '../restore/backup-set.ts';
import { checkRelativePath } from '../restore/safe-path.ts';
import { type Findings, tolerate } from './findings.ts';

/** The group's part of the commit point, and how many groups are before it. Undefined: the commit point says nothing. */
export type Published = {
  readonly backup: PartitionGroupBackup;
  readonly round: bigint;
  readonly encryptionMode: EncryptionMode;
  readonly isFirst: boolean;
};

/** Reads the commit point, and for the first group what stands beside it. */
export async function checkCommitPoint(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  partitionGroup: string,
  findings: Findings,
  signal: AbortSignal,
): Promise<Published | undefined> {
  const infoKey = tree.backupInfo(root, key);
  const info = await tolerate(findings, infoKey, () => readInfo(medium, infoKey, BackupInfoSchema, signal));
  if (info === undefined) return undefined;
  const place = info.partitionGroups.findIndex((group) => group.partitionGroup === partitionGroup);
  const backup = info.partitionGroups[place];
  if (backup === undefined || info.backupSetId !== key.setId) {
    const message = `${infoKey} is not of backup set ${key.setId} and partition group ${partitionGroup}`;
    findings.add({ code: 'DATA_CORRUPT', key: infoKey, offset: 0, message });
    return undefined;
  }
  return { backup, round: info.round, isFirst: place === 0, encryptionMode: info.encryptionMode };
}

/** The write-once files beside the commit point. */
export async function checkSideFiles(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  findings: Findings,
  signal: AbortSignal,
): Promise<void> {
  for (const [file, schema] of [
    [tree.pgList(root, key), PartitionGroupListSchema],
    [tree.localityInfo(root, key), TenantLocalityInfoSchema],
    [tree.diagnoseInfo(root, key), TenantDiagnoseInfoSchema],
  ] as const)
    await tolerate(findings, file, () => readInfo(medium, file, schema, signal));
}

/** Which of the described files are whole, by the kind of their place in the tree. */
export type WholeFiles = ReadonlyMap<'metaFile' | 'metaIndexFile' | 'macroBlockIndex', string>;

/** Compares the files that the commit point describes with it. */
export async function checkDescribedFiles(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  backup: PartitionGroupBackup,
  findings: Findings,
  signal: AbortSignal,
): Promise<WholeFiles> {
  const directory = tree.backupSetDirectory(root, key.tenantId, key.fullSetId);
  const whole = new Map<'metaFile' | 'metaIndexFile' | 'macroBlockIndex', string>();
  for (const digest of backup.files) {
    const file = `${directory}/${digest.path}`;
    await tolerate(findings, file, async () => {
      checkRelativePath(digest.path);
      await checkDigest(medium, { ...digest, key: file }, signal);
      const kind = parseTreePath(file)?.kind;
      if (kind === 'metaFile' || kind === 'metaIndexFile' || kind === 'macroBlockIndex')
        whole.set(kind, file);
    });
  }
  return whole;
}

/** The meta index must place every record of the meta file. */
export async function checkMetaIndex(
  medium: Medium,
  metaKey: string,
  indexKey: string,
  findings: Findings,
  signal: AbortSignal,
): Promise<void> {
  await tolerate(findings, indexKey, async () => {
    const told: Pick<MetaIndexEntry, 'recordType' | 'offset' | 'length'>[] = [];
    for await (const record of readRecordFile(medium, indexKey, RECORD.metaIndex, signal)) {
      const list = decodeMessage(MetaIndexSchema, record.payload, record.offset, { file: indexKey });
      told.push(...list.entries.map(({ recordType, offset, length }) => ({ recordType, offset, length })));
    }
    const found: typeof told = [];
    for await (const record of readRecordFile(medium, metaKey, RECORD.backupMeta, signal)) {
      const { headerBytes, codedBytes } = record.header;
      found.push({
        recordType: record.type,
        offset: BigInt(record.offset),
        length: headerBytes + codedBytes,
      });
    }
    if (isDeepStrictEqual(told, found)) return;
    const message = `${indexKey} does not place the records of ${metaKey} where they are`;
    findings.add({ code: 'DATA_CORRUPT', key: indexKey, offset: 0, message });
  });
}
