/**
 * Increments without a deployment: a server, an archiver beside it, and the agent's own tasks for backups and restores.
 * Sets are numbered from 1, the full one, and each increment goes on from the set before it.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { vi } from 'vitest';
import type { RestoreRequest } from '../../agent/restore/prepare.ts';
import { type RestoreOutcome, runRestore } from '../../agent/restore/restore.ts';
import { type Lsn, parseLsn, toLsn } from '../../foundation/lsn.ts';
import { DestinationSchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import {
  BackupInfoSchema,
  BackupType,
  type PartitionGroupBackup,
  RoundBeginSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { writeOnce } from '../../storage-layout/records/info-file.ts';
import { tree } from '../../storage-layout/tree.ts';
import {
  ARCHIVE_GROUP,
  ARCHIVE_ROOT,
  ARCHIVE_ROUND,
  ARCHIVE_SLOT,
  openArchive,
  type RunningArchiver,
  startArchiver,
  writeMountFile,
} from './archiver.ts';
import { type BackupInput, backUp } from './backup-task.ts';
import {
  binDirectory,
  createServer,
  freePort,
  type Major,
  makeTestDirectory,
  serverUser,
  type TestServer,
  type TestServerOptions,
} from './postgres.ts';

const FULL_SET = 1n;
const { signal } = new AbortController();

export class ArchivedServer implements AsyncDisposable {
  readonly server: TestServer;
  readonly destination: string;
  #archiver: RunningArchiver;
  #epoch = 1;
  #lastSet = 0n;

  static async start(options: TestServerOptions = {}): Promise<ArchivedServer> {
    const destination = await makeTestDirectory('increments');
    const server = await createServer(options);
    await writeMountFile(destination);
    return new ArchivedServer(server, destination);
  }

  private constructor(server: TestServer, destination: string) {
    this.server = server;
    this.destination = destination;
    this.#archiver = startArchiver({ port: server.port, destination, epoch: this.#epoch, fresh: true });
  }

  /** The next set; of another server, where one is named. */
  async backUp(from: Pick<TestServer, 'port'> = this.server): Promise<PartitionGroupBackup> {
    const backup = await backUpArchived(from, this.destination, this.#archiver, this.#lastSet + 1n);
    this.#lastSet += 1n;
    if (this.#lastSet === FULL_SET) await writeRoundBegin(this.destination, backup);
    return backup;
  }

  /** Ends the archiver, and drops its slot. */
  async stopArchiver(): Promise<void> {
    this.#archiver.abort();
    await this.#archiver.result.catch(() => undefined);
    await vi.waitUntil(
      async () => (await this.server.query('SELECT 1 FROM pg_replication_slots WHERE active')).length === 0,
      { timeout: 60_000, interval: 50 },
    );
    await this.server.query(`SELECT pg_drop_replication_slot('${ARCHIVE_SLOT}')`);
  }

  /** Another archiver, which goes on where the one before has ended. */
  startArchiver(): void {
    this.#epoch += 1;
    const { destination } = this;
    const { port } = this.server;
    this.#archiver = startArchiver({ port, destination, epoch: this.#epoch, fresh: false });
  }

  /** Waits until all that the server has written is in sealed files, and says how far that is: what follows is in others. */
  async seal(): Promise<Lsn> {
    const [row] = await this.server.query<{ lsn: string }>('SELECT pg_current_wal_flush_lsn()::text AS lsn');
    const lsn = parseLsn(row?.lsn ?? '');
    await sealUpTo(this.destination, this.#archiver, lsn);
    return lsn;
  }

  /** Into the directory `to` of the server's, to the end of the set. All up to there must be sealed. */
  async restore(setId: bigint, to: string): Promise<RestoreOutcome> {
    const { server, destination } = this;
    const dataDirectory = join(server.directory, to);
    return await restoreArchived({ destination, major: server.major, setId, dataDirectory });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#archiver.abort();
    await this.#archiver.result.catch(() => undefined);
    await this.server[Symbol.asyncDispose]();
    await rm(this.destination, { recursive: true, force: true });
  }
}

/** Asks the archiver to seal the log up to `lsn`, and waits for it. */
export async function sealUpTo(
  destination: string,
  archiver: Pick<RunningArchiver, 'flush'>,
  lsn: Lsn,
): Promise<void> {
  archiver.flush(lsn, true);
  const isSealed = async () =>
    (await openArchive(destination)).files.some((file) => file.hasIndex && file.end >= lsn);
  await vi.waitUntil(isSealed, { timeout: 60_000, interval: 100 });
}

/** Backs the server up as set `setId`, 1 being the full one, and publishes it; the archiver seals when it is asked to. */
export async function backUpArchived(
  server: Pick<TestServer, 'port'>,
  destination: string,
  archiver: Pick<RunningArchiver, 'flush'>,
  setId: bigint,
): Promise<PartitionGroupBackup> {
  const input = archivedInput(server, destination, archiver, setId);
  const backup = await backUp(input);
  await using medium = await openMedium(`file://${destination}`);
  const { tenantId, round } = ARCHIVE_ROUND;
  const info = create(BackupInfoSchema, {
    tenantId,
    round,
    tenantName: 'orders',
    backupSetId: setId,
    fullSetId: FULL_SET,
    previousSetId: previousOf(setId),
    type: setId === FULL_SET ? BackupType.FULL : BackupType.INCREMENTAL,
    startUs: backup.startUs,
    endUs: backup.stopUs,
    partitionGroups: [backup],
    ...ARCHIVE_ROOT,
  });
  const key = tree.backupInfo(ARCHIVE_ROOT, { tenantId, fullSetId: FULL_SET, setId });
  await writeOnce(medium, key, BackupInfoSchema, info);
  return backup;
}

/** A backup task for set `setId` of the archive's round. */
export function archivedInput(
  server: Pick<TestServer, 'port'>,
  destination: string,
  archiver: Pick<RunningArchiver, 'flush'>,
  setId: bigint,
): BackupInput {
  return {
    port: server.port,
    destination,
    setId,
    task: {
      destination: create(DestinationSchema, { uri: `file://${destination}`, ...ARCHIVE_ROOT }),
      tenantId: ARCHIVE_ROUND.tenantId,
      partitionGroup: ARCHIVE_GROUP,
      fullSetId: FULL_SET,
      previousSetId: previousOf(setId),
      round: ARCHIVE_ROUND.round,
    },
    report: ({ start }) => {
      if (start !== undefined) archiver.flush(toLsn(start.lsn), true);
    },
  };
}

function previousOf(setId: bigint): bigint {
  return setId === FULL_SET ? 0n : setId - 1n;
}

/** What the coordinator writes when a round begins: a restore asks for it. */
export async function writeRoundBegin(destination: string, full: PartitionGroupBackup): Promise<void> {
  await using medium = await openMedium(`file://${destination}`);
  const first = (await openArchive(destination)).files[0];
  const group = {
    partitionGroup: ARCHIVE_GROUP,
    systemIdentifier: full.systemIdentifier,
    start: { timeline: 1, lsn: first?.begin ?? 0n },
    segmentSizeBytes: full.segmentSizeBytes,
    postgresMajor: full.postgresMajor,
    startUs: full.startUs,
  };
  const begin = create(RoundBeginSchema, {
    ...ARCHIVE_ROUND,
    tenantName: 'orders',
    beginUs: full.startUs,
    groups: [group],
  });
  await writeOnce(medium, tree.roundBegin(ARCHIVE_ROOT, ARCHIVE_ROUND), RoundBeginSchema, begin);
}

export type ArchivedSet = {
  readonly destination: string;
  readonly major: Major;
  readonly setId: bigint;
  /** Where it is restored to. */
  readonly dataDirectory: string;
};

/** Restores the set to its own end, and starts the server. */
export async function restoreArchived(
  { destination, major, setId, dataDirectory }: ArchivedSet,
  change: Partial<RestoreRequest> = {},
): Promise<RestoreOutcome> {
  const request = {
    uri: `file://${destination}`,
    root: ARCHIVE_ROOT,
    set: { tenantId: ARCHIVE_ROUND.tenantId, fullSetId: FULL_SET, setId },
    round: ARCHIVE_ROUND.round,
    partitionGroup: ARCHIVE_GROUP,
    target: { kind: 'immediate' },
    timeline: undefined,
    dataDirectory,
    tablespaceMap: new Map(),
    concurrency: 2,
    user: serverUser(),
    unit: undefined,
    checkUser: 'postgres',
    delta: false,
    start: true,
    binDirectory: () => binDirectory(major),
    port: freePort,
    ...change,
  } as const;
  return await runRestore(request, () => undefined, signal);
}
