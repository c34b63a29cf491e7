/** What must be true of every backup set that is published, read at the destination itself. */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { expect } from 'vitest';
import { openSourceSet, readBackupMeta, readFileBlocks } from '../../agent/restore/backup-set.ts';
import { checkFilesAreThere } from '../../coordinator/destination/described-files.ts';
import { checkLogIsThere } from '../../coordinator/destination/publish.ts';
import { parseControlFile } from '../../engine/postgres/control-file.ts';
import { checkExtent, PAGE_BYTES } from '../../engine/postgres/pages.ts';
import { firstBlockOf } from '../../engine/postgres/relation-files.ts';
import {
  type BackupInfo,
  BackupInfoSchema,
  type PartitionGroupBackup,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { crc32c } from '../../storage-layout/crc32c.ts';
import { applyDelta, baseBytes, deltaBytes } from '../../storage-layout/macroblock/delta.ts';
import {
  MACROBLOCK_BYTES,
  type MacroBlockEntry,
  type MacroBlockPlace,
} from '../../storage-layout/macroblock/entry.ts';
import { decodeMacroBlock } from '../../storage-layout/macroblock/reader.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { listSets } from '../../storage-layout/plan/tenant-history.ts';
import { readInfoIfThere, writeOnce } from '../../storage-layout/records/info-file.ts';
import { parseTreePath, type SetKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';

const PAGES_PER_MACROBLOCK = MACROBLOCK_BYTES / PAGE_BYTES;

/** The sets whose backup_info is there, by id. */
export async function publishedSets(
  medium: Medium,
  root: TreeRoot,
  tenantId: bigint,
  signal: AbortSignal,
): Promise<readonly BackupInfo[]> {
  const infos: BackupInfo[] = [];
  for (const key of await listSets(medium, root, tenantId, signal)) {
    const info = await readInfoIfThere(medium, tree.backupInfo(root, key), BackupInfoSchema, signal);
    if (info !== undefined) infos.push(info);
  }
  return infos.sort((a, b) => (a.backupSetId < b.backupSetId ? -1 : 1));
}

/** Throws where one group's part of a published set is not whole, or its log in `round` is not there. */
export async function verifyPublished(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  backup: PartitionGroupBackup,
  round: bigint,
  signal: AbortSignal,
): Promise<void> {
  expect(backup.newestPageLsn).toBeLessThanOrEqual(backup.stop?.lsn ?? 0n);
  await checkFilesAreThere(medium, root, key, backup, signal);
  await checkLogIsThere(medium, root, { tenantId: key.tenantId, round }, backup, signal);
  await verifyBlocks(medium, root, key, backup, signal);
}

/** The same for a copy without a log: publishes it for as long as it is read. */
export async function verifyCopy(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  backup: PartitionGroupBackup,
  signal: AbortSignal,
): Promise<void> {
  await checkFilesAreThere(medium, root, key, backup, signal);
  const infoKey = tree.backupInfo(root, key);
  const info = create(BackupInfoSchema, { partitionGroups: [backup] });
  await writeOnce(medium, infoKey, BackupInfoSchema, info, signal);
  await verifyBlocks(medium, root, key, backup, signal);
  await medium.deleteMany([infoKey], signal);
}

/** Files that are written once: seen at one time, they are the same for ever. */
export class WriteOnceFiles {
  readonly #directory: string;
  readonly #seen = new Map<string, string>();

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** Throws when one that was seen is gone or another. */
  async check(): Promise<void> {
    const found = new Map<string, string>();
    for (const entry of await readdir(this.#directory, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const path = join(entry.parentPath, entry.name);
      const kind = parseTreePath(relative(this.#directory, path))?.kind;
      if (kind === undefined || !WRITTEN_ONCE.has(kind)) continue;
      found.set(
        path,
        createHash('sha256')
          .update(await readFile(path))
          .digest('hex'),
      );
    }
    for (const [path, digest] of this.#seen) expect([path, found.get(path)]).toEqual([path, digest]);
    for (const [path, digest] of found) this.#seen.set(path, digest);
  }
}

const WRITTEN_ONCE: ReadonlySet<string> = new Set([
  'pgList',
  'backupInfo',
  'metaFile',
  'macroBlockIndex',
  'mountFile',
  'roundBegin',
  'roundEnd',
  'memberJoined',
  'memberBegin',
  'memberLeft',
  'logIndex',
]);

/** Reads all of it, as a restore does. */
async function verifyBlocks(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  backup: PartitionGroupBackup,
  signal: AbortSignal,
): Promise<void> {
  const source = await openSourceSet(medium, root, key, backup.partitionGroup, signal);
  expect((await readBackupMeta(source, signal)).backupLabel.length).toBeGreaterThan(0);
  const plain = Buffer.alloc(MACROBLOCK_BYTES);
  let bytes = 0n;
  let crc = 0;
  let current = -1;
  for await (const { file, blocks } of readFileBlocks(source, signal)) {
    if (file.fileNumber !== current) crc = 0;
    current = file.fileNumber;
    let end = 0n;
    for (const block of blocks) {
      const data = await readBlock(medium, root, key, backup.partitionGroup, block, plain);
      // Nobody has the checksum of a file of which some blocks were read in part: its pages have theirs.
      if (file.withoutCrc32c) {
        const firstBlock = firstBlockOf(file.path) + block.blockNumber * PAGES_PER_MACROBLOCK;
        expect([file.path, checkExtent(data, firstBlock, true).suspects]).toEqual([file.path, []]);
      }
      crc = crc32c(data, crc);
      bytes += BigInt(data.length);
      end = BigInt(block.blockNumber) * BigInt(MACROBLOCK_BYTES) + BigInt(data.length);
      if (file.path === 'global/pg_control') parseControlFile(data);
    }
    if (end === file.sizeBytes && !file.withoutCrc32c) expect(crc).toBe(file.crc32c);
  }
  expect(bytes).toBe(backup.inputBytes);
}

/** The bytes of a block, its delta in them, in `plain`. */
async function readBlock(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  group: string,
  block: MacroBlockEntry,
  plain: Buffer,
): Promise<Buffer> {
  const decode = async (place: MacroBlockPlace, plainBytes: number, into: Buffer) => {
    const name = tree.macroBlock(root, { ...key, setId: place.setId }, group, place.subTaskId);
    const stored = await medium.readRange(name, place.offset, place.offset + place.storedBytes);
    return decodeMacroBlock(stored, { ...block, ...place, plainBytes }, into, name);
  };
  await decode(block, baseBytes(block), plain);
  if (block.delta === undefined) return applyDelta(plain, block, undefined);
  const { pages } = block.delta;
  const bytes = await decode(block.delta, deltaBytes(pages), Buffer.alloc(deltaBytes(pages)));
  return applyDelta(plain, block, { pages, bytes });
}
