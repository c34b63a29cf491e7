/**
 * Holdfast's side of the comparison: the agent's backup, restore and validation functions, each in a process of its own, and
 * an archiver in another beside them. What the archiver takes while a backup waits for its change maps is the backup's.
 */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { formatLsn, type Lsn, segmentStart, toLsn } from '../foundation/lsn.ts';
import { RoundBeginSchema } from '../proto/gen/holdfast/v1/records_pb.ts';
import { openMedium } from '../storage-layout/media/open.ts';
import { writeOnce } from '../storage-layout/records/info-file.ts';
import { tree } from '../storage-layout/tree.ts';
import {
  ARCHIVE_GROUP,
  ARCHIVE_ROOT,
  ARCHIVE_ROUND,
  openArchive,
  writeMountFile,
} from '../test/support/archiver.ts';
import type { TestServer } from '../test/support/postgres.ts';
import { type ArchiverChild, forkArchiver } from './archiver-child.ts';
import type { ChildBackup, ChildOrder } from './holdfast-process.ts';
import { FULL_SET } from './holdfast-set.ts';
import { type Measured, runMeasured } from './measured-command.ts';
import type { BackupTool, Cost, RestoreOrder } from './tool.ts';
import { treeBytes } from './tree-bytes.ts';

const SEGMENT_BYTES = 16 * 2 ** 20;

export class Holdfast implements BackupTool {
  readonly name: string;
  readonly description: string;
  readonly destination: string;
  readonly restoresDelta = true;
  /** Where the log of each set of the chapter begins, by set from FULL_SET on. */
  readonly starts: Lsn[] = [];
  readonly #server: TestServer;
  readonly #compression: string;
  readonly #cacheDirectory: string;
  readonly #stops: Lsn[] = [];
  #archiver: ArchiverChild | undefined;

  constructor(directory: string, server: TestServer, compression: string) {
    this.name = `Holdfast ${compression}`;
    this.description = `Holdfast: backup_compression ${compression}, 2 workers`;
    this.destination = join(directory, `holdfast-${compression.replace(':', '-')}`);
    this.#server = server;
    this.#compression = compression;
    this.#cacheDirectory = join(directory, 'compile-cache');
  }

  async prepare(): Promise<void> {
    await this.close();
    await rm(this.destination, { recursive: true, force: true });
    await mkdir(this.destination, { recursive: true });
    await writeMountFile(this.destination);
    this.#archiver = await forkArchiver(this.#server, {
      destination: this.destination,
      compression: this.#compression,
    });
  }

  /** Ends the archiver: the server has one slot for all. What is at the destination stays. */
  async close(): Promise<void> {
    await this.#archiver?.[Symbol.asyncDispose]();
    this.#archiver = undefined;
    this.starts.length = 0;
    this.#stops.length = 0;
  }

  async full(): Promise<Cost> {
    return await this.#backUp();
  }

  async increment(): Promise<Cost> {
    return await this.#backUp();
  }

  /** With its log as far as the set needs it; no server is started. */
  async restore({ target, of, delta }: RestoreOrder): Promise<Cost> {
    const index = of === 'full' ? 0 : this.#stops.length - 1;
    return await this.#run({
      kind: 'restore',
      destination: this.destination,
      setId: Number(FULL_SET) + index,
      target,
      delta,
      stop: formatLsn(this.#stops[index] ?? 0n),
    });
  }

  /** Of the last set. */
  async validate(): Promise<Cost> {
    const setId = Number(FULL_SET) + this.#stops.length - 1;
    return await this.#run({ kind: 'validate', destination: this.destination, setId });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
    await rm(this.destination, { recursive: true, force: true });
  }

  async #backUp(): Promise<Cost> {
    const archiver = this.#archiver;
    if (archiver === undefined) throw new Error('there is no archiver');
    const { tenantId } = ARCHIVE_ROUND;
    const sets = join(this.destination, tree.backupSetDirectory(ARCHIVE_ROOT, tenantId, FULL_SET));
    const storedBefore = await treeBytes(sets);
    const cpuBefore = archiver.cpuSeconds();
    const measured = await this.#run(
      {
        kind: 'backup',
        destination: this.destination,
        setId: Number(FULL_SET) + this.starts.length,
        port: this.#server.port,
        compression: this.#compression,
      },
      (line) => {
        const [, lsn] = /^start (\d+)$/.exec(line) ?? [];
        if (lsn !== undefined) archiver.flush(toLsn(BigInt(lsn)));
      },
    );
    const cpuSeconds = measured.cpuSeconds + archiver.cpuSeconds() - cpuBefore;
    const backup = JSON.parse(measured.stdout.trim().split('\n').at(-1) ?? '') as ChildBackup; // holdfast-process.ts
    const storedBytes = (await treeBytes(sets)) - storedBefore;
    await this.#secureLog(backup, archiver);
    return { ...measured, cpuSeconds, readBytes: backup.readBytes, storedBytes };
  }

  /** A restore wants the log of the backup, sealed; that is not part of what is measured. */
  async #secureLog(backup: ChildBackup, archiver: ArchiverChild): Promise<void> {
    if (this.starts.length === 0) await this.#writeRoundBegin(backup);
    const stop = toLsn(BigInt(backup.stop));
    this.starts.push(toLsn(BigInt(backup.start)));
    this.#stops.push(stop);
    archiver.flush(stop);
    await archiver.sealed(stop);
  }

  /** What the coordinator writes when a round begins. */
  async #writeRoundBegin(full: ChildBackup): Promise<void> {
    const [first] = (await openArchive(this.destination)).files;
    const startUs = BigInt(full.startUs);
    const begin = create(RoundBeginSchema, {
      ...ARCHIVE_ROUND,
      tenantName: 'bench',
      beginUs: startUs,
      groups: [
        {
          partitionGroup: ARCHIVE_GROUP,
          systemIdentifier: BigInt(full.systemIdentifier),
          start: { timeline: 1, lsn: first?.begin ?? segmentStart(toLsn(BigInt(full.start)), SEGMENT_BYTES) },
          segmentSizeBytes: SEGMENT_BYTES,
          postgresMajor: this.#server.major,
          startUs,
        },
      ],
    });
    await using medium = await openMedium(`file://${this.destination}`);
    await writeOnce(medium, tree.roundBegin(ARCHIVE_ROOT, ARCHIVE_ROUND), RoundBeginSchema, begin);
  }

  async #run(
    order: ChildOrder,
    onLine: (line: string) => void = () => undefined,
  ): Promise<Measured & { readonly startSeconds: number }> {
    const program = join(import.meta.dirname, 'holdfast-process.ts');
    const environment = { NODE_NO_WARNINGS: '1', NODE_COMPILE_CACHE: this.#cacheDirectory }; // as an agent has it
    const measured = await runMeasured(
      [process.execPath, program, JSON.stringify(order)],
      environment,
      onLine,
    );
    return { ...measured, startSeconds: Number(/^began ([\d.]+)$/m.exec(measured.stdout)?.[1]) };
  }
}
