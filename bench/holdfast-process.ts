/**
 * The child of `holdfast.ts`: runs the agent's backup, restore or validation in a process of its own, so that start-up,
 * memory and CPU time are measured as they are for the others. Argument: a `ChildOrder` as JSON. It says how long it took
 * until its work began (`began <seconds>`); a backup where its log begins as soon as it knows (`start <lsn>`), and in the
 * end what it was, a `ChildBackup` as JSON.
 */
import { create } from '@bufbuild/protobuf';
import { runRestore } from '../agent/restore/restore.ts';
import { runValidation } from '../agent/validate/validate.ts';
import { parseLsn } from '../foundation/lsn.ts';
import { DestinationSchema } from '../proto/gen/holdfast/v1/agent_pb.ts';
import { BackupInfoSchema, BackupType } from '../proto/gen/holdfast/v1/records_pb.ts';
import { openMedium } from '../storage-layout/media/open.ts';
import { writeOnce } from '../storage-layout/records/info-file.ts';
import { tree } from '../storage-layout/tree.ts';
import { ARCHIVE_GROUP, ARCHIVE_ROOT, ARCHIVE_ROUND } from '../test/support/archiver.ts';
import { backUp } from '../test/support/backup-task.ts';
import { binDirectory, freePort, serverUser } from '../test/support/postgres.ts';
import { FULL_SET } from './holdfast-set.ts';

export type ChildOrder = { readonly destination: string; readonly setId: number } & (
  | { readonly kind: 'backup'; readonly port: number; readonly compression: string }
  | { readonly kind: 'restore'; readonly target: string; readonly delta: boolean; readonly stop: string }
  | { readonly kind: 'validate' }
);

/** Bytes and LSNs as text. */
export type ChildBackup = {
  readonly start: string;
  readonly stop: string;
  readonly readBytes: number;
  readonly systemIdentifier: string;
  readonly startUs: string;
};

const WORKERS = 2;
const SIGNAL = new AbortController().signal;
const order = JSON.parse(process.argv[2] ?? 'null') as ChildOrder; // from holdfast.ts
const { tenantId, round } = ARCHIVE_ROUND;
const key = { tenantId, fullSetId: FULL_SET, setId: BigInt(order.setId) };
const uri = `file://${order.destination}`;

console.log(`began ${process.uptime()}`);
switch (order.kind) {
  case 'backup':
    console.log(JSON.stringify(await makeBackup(order)));
    break;
  case 'restore':
    await restore(order);
    break;
  case 'validate':
    await validate();
}

async function makeBackup({
  port,
  destination,
  compression,
}: ChildOrder & { kind: 'backup' }): Promise<ChildBackup> {
  const previousSetId = key.setId === FULL_SET ? 0n : key.setId - 1n;
  let told = false;
  const backup = await backUp({
    port,
    destination,
    setId: key.setId,
    task: {
      destination: create(DestinationSchema, { uri, ...ARCHIVE_ROOT }),
      tenantId,
      partitionGroup: ARCHIVE_GROUP,
      fullSetId: FULL_SET,
      previousSetId,
      round,
      compression,
      concurrency: WORKERS,
    },
    report: ({ start }) => {
      if (start !== undefined && !told) console.log(`start ${start.lsn}`);
      told ||= start !== undefined;
    },
  });
  await using medium = await openMedium(uri);
  const info = create(BackupInfoSchema, {
    tenantId,
    round,
    tenantName: 'bench',
    backupSetId: key.setId,
    fullSetId: FULL_SET,
    previousSetId,
    type: previousSetId === 0n ? BackupType.FULL : BackupType.INCREMENTAL,
    startUs: backup.startUs,
    endUs: backup.stopUs,
    partitionGroups: [backup],
    ...ARCHIVE_ROOT,
  });
  await writeOnce(medium, tree.backupInfo(ARCHIVE_ROOT, key), BackupInfoSchema, info);
  return {
    start: String(backup.start?.lsn ?? 0n),
    stop: String(backup.stop?.lsn ?? 0n),
    readBytes: Number(backup.readBytes),
    systemIdentifier: String(backup.systemIdentifier),
    startUs: String(backup.startUs),
  };
}

async function restore({ target, delta, stop }: ChildOrder & { kind: 'restore' }): Promise<void> {
  await runRestore(
    {
      uri,
      root: ARCHIVE_ROOT,
      set: key,
      round,
      partitionGroup: ARCHIVE_GROUP,
      target: { kind: 'lsn', lsn: parseLsn(stop), inclusive: true },
      timeline: undefined,
      delta,
      dataDirectory: target,
      tablespaceMap: new Map(),
      concurrency: WORKERS,
      user: serverUser(),
      unit: undefined,
      checkUser: 'postgres',
      start: false,
      binDirectory: () => binDirectory(15),
      port: freePort,
    },
    () => undefined,
    SIGNAL,
  );
}

/** What only a coordinator writes is not here, and is found to be missing; nothing else may be. */
async function validate(): Promise<void> {
  const { findings } = await runValidation(
    {
      uri,
      root: ARCHIVE_ROOT,
      tenantId,
      partitionGroup: ARCHIVE_GROUP,
      concurrency: WORKERS,
      subject: { kind: 'set', key },
    },
    () => undefined,
    SIGNAL,
  );
  const damaged = findings.filter(({ code }) => code !== 'BACKUP_FILE_NOT_EXIST');
  if (damaged.length > 0) throw new Error(damaged.map(({ message }) => message).join('\n'));
}
