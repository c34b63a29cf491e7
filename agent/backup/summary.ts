/** What a backup says of itself: the meta file's first record for a restore, and the result for the coordinator. */
import { stat } from 'node:fs/promises';
import { create } from '@bufbuild/protobuf';
import type { BackupStop, BackupWindow, DatabaseFacts, InstanceIdentity } from '../../engine/engine.ts';
import { defined } from '../../foundation/assert.ts';
import type { BackupTask } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import {
  type BackupMeta,
  BackupMetaSchema,
  FileDigestSchema,
  type PartitionGroupBackup,
  PartitionGroupBackupSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { FileFacts } from '../../storage-layout/records/record-file.ts';
import { tree } from '../../storage-layout/tree.ts';
import type { BegunBackup, IndexedCopy } from './copy.ts';
import type { FailedPage } from './gather.ts';

/** A result travels in one message; the index marks every block, however many there are. */
const MAX_REPORTED_PAGES = 1000;

/** A copy that is done, and all that is known of it. */
export type Copied = {
  readonly begun: BegunBackup;
  readonly window: BackupWindow;
  readonly stopped: BackupStop;
  readonly facts: DatabaseFacts;
  readonly indexed: IndexedCopy;
};

/** What a restore must know before it lays a file down. */
export async function describeBackup(copied: Copied): Promise<BackupMeta> {
  const { facts, stopped, indexed } = copied;
  const { identity, listing, task } = copied.begun;
  const { mode } = await stat(identity.dataDirectory);
  return create(BackupMetaSchema, {
    partitionGroup: task.partitionGroup,
    backupLabel: stopped.label,
    tablespaceMap: stopped.tablespaceMap,
    tablespaces: listing.tablespaces.map((it) => ({ ...it })),
    settings: facts.settings.map((it) => ({ ...it })),
    dataDirectory: identity.dataDirectory,
    directoryMode: mode & 0o7777,
    serverVersion: identity.serverVersion,
    postgresMajor: identity.major,
    databases: facts.databases.map((it) => ({ ...it })),
    catalogVersion: facts.catalogVersion,
    nextFileNumber: indexed.nextFileNumber,
  });
}

/** The result: all of the partition group that goes into `backup_info`. `metaTaskId` names its meta files. */
export function summarizeBackup(
  copied: Copied,
  metaTaskId: number,
  described: readonly { readonly key: string; readonly facts: FileFacts }[],
): PartitionGroupBackup {
  const { window, stopped, indexed } = copied;
  const { identity, task, target, counters } = copied.begun;
  const { failures } = indexed;
  const { start } = window.started;
  const prefix = `${tree.backupSetDirectory(target.root, target.setKey.tenantId, target.setKey.fullSetId)}/`;
  const describedBytes = described.reduce((sum, { facts }) => sum + facts.sizeBytes, 0n);
  return create(PartitionGroupBackupSchema, {
    partitionGroup: task.partitionGroup,
    systemIdentifier: identity.systemIdentifier,
    serverVersion: identity.serverVersion,
    postgresMajor: identity.major,
    blockSizeBytes: identity.blockSizeBytes,
    segmentSizeBytes: identity.segmentSizeBytes,
    pageChecksumVersion: identity.pageChecksumVersion,
    start,
    stop: stopped.stop,
    checkpoint: stopped.checkpoint,
    startUs: window.started.startUs,
    stopUs: stopped.stopUs,
    newestPageLsn: indexed.newestPageLsn,
    fileCount: BigInt(indexed.files.length),
    macroblockCount: BigInt(indexed.macroblockCount),
    inputBytes: BigInt(indexed.plainBytes),
    outputBytes: BigInt(indexed.storedBytes) + describedBytes,
    readBytes: counters.read().readBytes,
    previousSetId: task.previousSetId,
    files: described.map(({ key, facts: { sizeBytes, sha256 } }) =>
      create(FileDigestSchema, {
        path: defined(key.split(prefix)[1], 'a key in its set'),
        sizeBytes,
        sha256,
      }),
    ),
    pageFailures: failures.slice(0, MAX_REPORTED_PAGES).map(({ failure }) => failure),
    fromStandby: window.started.fromStandby,
    taskId: metaTaskId,
    warnings: warningsOf(identity, task, failures),
  });
}

function warningsOf(identity: InstanceIdentity, task: BackupTask, failures: readonly FailedPage[]): string[] {
  const warnings: string[] = [];
  if (failures.length > 0) warnings.push(`${failures.length} pages failed their check: see page_failures`);
  if (failures.length > MAX_REPORTED_PAGES)
    warnings.push(`only the first ${MAX_REPORTED_PAGES} of them are listed`);
  if (task.pageCheck && identity.pageChecksumVersion === 0)
    warnings.push('pages were not checked: the server has no page checksums');
  return warnings;
}
