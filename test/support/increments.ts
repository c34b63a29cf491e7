/** Backups and increments of a test server by the agent's own tasks, with an archiver beside them. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { CONTROL_FILE_PATH } from '../../engine/postgres/control-file.ts';
import { toLsn } from '../../foundation/lsn.ts';
import { DestinationSchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import {
  BackupInfoSchema,
  BackupType,
  type PartitionGroupBackup,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { crc32c } from '../../storage-layout/crc32c.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { writeOnce } from '../../storage-layout/records/info-file.ts';
import { tree } from '../../storage-layout/tree.ts';
import { ARCHIVE_GROUP, ARCHIVE_ROOT, ARCHIVE_ROUND, type RunningArchiver } from './archiver.ts';
import { backUp } from './backup-task.ts';
import type { TestServer } from './postgres.ts';

const FULL_SET = 1n;

/** Backs the server up as set `setId`, 1 being the full one, and publishes it; the archiver seals when it is asked to. */
export async function backUpArchived(
  server: Pick<TestServer, 'port'>,
  destination: string,
  archiver: Pick<RunningArchiver, 'flush'>,
  setId: bigint,
): Promise<PartitionGroupBackup> {
  const previousSetId = setId === FULL_SET ? 0n : setId - 1n;
  const backup = await backUp({
    port: server.port,
    destination,
    setId,
    task: {
      destination: create(DestinationSchema, { uri: `file://${destination}`, ...ARCHIVE_ROOT }),
      tenantId: ARCHIVE_ROUND.tenantId,
      partitionGroup: ARCHIVE_GROUP,
      fullSetId: FULL_SET,
      previousSetId,
      round: ARCHIVE_ROUND.round,
    },
    report: ({ start }) => {
      if (start !== undefined) archiver.flush(toLsn(start.lsn), true);
    },
  });
  await using medium = await openMedium(`file://${destination}`);
  const { tenantId, round } = ARCHIVE_ROUND;
  const info = create(BackupInfoSchema, {
    tenantId,
    round,
    tenantName: 'orders',
    backupSetId: setId,
    fullSetId: FULL_SET,
    previousSetId,
    type: previousSetId === 0n ? BackupType.FULL : BackupType.INCREMENTAL,
    startUs: backup.startUs,
    endUs: backup.stopUs,
    partitionGroups: [backup],
    ...ARCHIVE_ROOT,
  });
  const key = tree.backupInfo(ARCHIVE_ROOT, { tenantId, fullSetId: FULL_SET, setId });
  await writeOnce(medium, key, BackupInfoSchema, info);
  return backup;
}

/** What `pg_checksums --disable` does to a server that is stopped: pages keep their checksums, nobody looks at them. */
export async function disableChecksums(dataDirectory: string): Promise<void> {
  const path = join(dataDirectory, CONTROL_FILE_PATH);
  const bytes = await readFile(path);
  bytes.writeUInt32LE(0, 252); // data_checksum_version
  const crcAt = bytes.readUInt32LE(8) >= 1800 ? 292 : 288; // pg_control_version
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, crcAt)), crcAt);
  await writeFile(path, bytes);
}
