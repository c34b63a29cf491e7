/**
 * Archives a test server's log by hand: what lies in its pg_wal is cut into log files as an archiver would write them.
 * For tests of what reads an archive, without an archiver.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { commitTimes, FindingsCollector } from '../../agent/archive/findings.ts';
import { createLogInspector } from '../../engine/postgres/wal/inspector.ts';
import { type Lsn, parseLsn, segmentName, segmentStart, type Timeline, toLsn } from '../../foundation/lsn.ts';
import {
  BackupInfoSchema,
  BackupType,
  type PartitionGroupBackup,
  RoundBeginSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { writeLogIndex } from '../../storage-layout/clog/index.ts';
import { LogFileWriter } from '../../storage-layout/clog/writer.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { writeOnce } from '../../storage-layout/records/info-file.ts';
import { tree } from '../../storage-layout/tree.ts';
import { GROUP, ROOT } from './backup-task.ts';
import type { TestServer } from './postgres.ts';

const SEGMENT_BYTES = 16 * 1024 * 1024;
const BLOCK_BYTES = 700_001; // no border of a page or segment
const FILE_BYTES = 5 * 1024 * 1024;
const TENANT = 1n;

/** Publishes the set as backup_info does. */
export async function publishSet(
  destination: string,
  backup: PartitionGroupBackup,
  options: { readonly setId?: bigint; readonly round?: bigint; readonly tenantName?: string } = {},
): Promise<void> {
  await using medium = await openMedium(`file://${destination}`);
  const setId = options.setId ?? 1n;
  const info = create(BackupInfoSchema, {
    tenantId: TENANT,
    tenantName: options.tenantName ?? 'orders',
    backupSetId: setId,
    fullSetId: setId,
    type: BackupType.FULL,
    round: options.round ?? 1n,
    startUs: backup.startUs,
    endUs: backup.stopUs,
    partitionGroups: [backup],
    ...ROOT,
  });
  const key = tree.backupInfo(ROOT, { tenantId: TENANT, fullSetId: setId, setId });
  await writeOnce(medium, key, BackupInfoSchema, info);
}

/** Archives [start of `from`'s segment, now) of the server's first timeline as a round. Returns its end and clock. */
export async function archiveLog(
  server: TestServer,
  destination: string,
  from: Lsn,
  round = 1n,
): Promise<{ readonly end: Lsn; readonly clockUs: bigint }> {
  const [now] = await server.query<{ lsn: string; us: string; id: string }>(
    `SELECT pg_current_wal_flush_lsn()::text AS lsn, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint::text AS us,
            (SELECT system_identifier::text FROM pg_control_system()) AS id`,
  );
  if (now === undefined) throw new Error('no position');
  const end = parseLsn(now.lsn);
  const clockUs = BigInt(now.us);
  const timeline = 1 as Timeline;
  const begin = segmentStart(from, SEGMENT_BYTES);
  const systemIdentifier = BigInt(now.id);
  await using medium = await openMedium(`file://${destination}`);
  const key = { tenantId: TENANT, round };
  const roundBegin = create(RoundBeginSchema, {
    tenantId: TENANT,
    tenantName: 'orders',
    round,
    beginUs: clockUs,
    groups: [
      {
        partitionGroup: GROUP,
        systemIdentifier,
        start: { timeline, lsn: begin },
        segmentSizeBytes: SEGMENT_BYTES,
        postgresMajor: server.major,
        startUs: clockUs,
      },
    ],
  });
  await writeOnce(medium, tree.roundBegin(ROOT, key), RoundBeginSchema, roundBegin);
  const inspector = createLogInspector({
    segmentSizeBytes: SEGMENT_BYTES,
    timeline,
    systemIdentifier,
    begin,
    collectTouches: true,
  });
  let fileId = 1n;
  let collector = new FindingsCollector(undefined);
  const createFile = (at: Lsn) =>
    LogFileWriter.create(medium, ROOT, key, GROUP, {
      fileId,
      epoch: 1n,
      timeline,
      begin: at,
      segmentSizeBytes: SEGMENT_BYTES,
      systemIdentifier,
      compression: 'zstd:1',
    });
  let file = await createFile(begin);
  for (let at = begin; at < end; ) {
    const until = at + BigInt(BLOCK_BYTES) < end ? toLsn(at + BigInt(BLOCK_BYTES)) : end;
    const data = await readWal(server, timeline, at, until);
    inspector.push(at, data);
    const events = inspector.takeEvents();
    collector.add(events);
    collector.addTouches(inspector.takeTouches());
    await file.appendBlock({ begin: at, data: [data], ...commitTimes(events) });
    at = until;
    if (at === end) await file.appendCheckpoint({ lsn: end, timeUs: clockUs });
    else if (file.end - begin > FILE_BYTES * Number(fileId)) {
      const facts = file.facts();
      await file.close();
      await writeLogIndex(medium, ROOT, key, GROUP, {
        ...facts,
        ...collector.findings(inspector.unfinishedRecordBegin),
      });
      collector = new FindingsCollector(collector.maxCommitUs);
      fileId += 1n;
      file = await createFile(at);
    }
  }
  await file.close(); // without an index: as an archiver that still runs leaves it
  return { end, clockUs };
}

async function readWal(server: TestServer, timeline: Timeline, begin: Lsn, end: Lsn): Promise<Buffer> {
  const parts: Buffer[] = [];
  for (let at: bigint = begin; at < end; ) {
    const start = segmentStart(at, SEGMENT_BYTES);
    const name = segmentName(timeline, toLsn(at), SEGMENT_BYTES);
    const segment = await readFile(join(server.dataDirectory, 'pg_wal', name));
    const until = start + BigInt(SEGMENT_BYTES) < end ? start + BigInt(SEGMENT_BYTES) : end;
    parts.push(segment.subarray(Number(at - start), Number(until - start)));
    at = until;
  }
  return Buffer.concat(parts);
}
