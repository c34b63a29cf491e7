/**
 * A backup set at its destination, as a restore reads it: the commit point, then the meta and index files after their
 * SHA-256 has been compared with the commit point's, then the file list and the block index as streams in step.
 */
import { createHash } from 'node:crypto';
import { CONTROL_FILE_PATH } from '../../engine/postgres/control-file.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import {
  type BackupDirectory,
  type BackupFile,
  type BackupInfo,
  BackupInfoSchema,
  type BackupMeta,
  BackupMetaSchema,
  DirectoryListSchema,
  FileKind,
  FileListSchema,
  type PartitionGroupBackup,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { MACROBLOCK_BYTES, type MacroBlockEntry } from '../../storage-layout/macroblock/entry.ts';
import { EntryStream } from '../../storage-layout/macroblock/entry-stream.ts';
import { readIndexChunks } from '../../storage-layout/macroblock/index.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { RECORD } from '../../storage-layout/records/framing.ts';
import { readInfo } from '../../storage-layout/records/info-file.ts';
import { decodeMessage } from '../../storage-layout/records/messages.ts';
import { readRecordFile } from '../../storage-layout/records/record-file.ts';
import { parseTreePath, type SetKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';
import { checkFilePath, checkRelativePath } from './safe-path.ts';

const READ_BYTES = 4 * 1024 * 1024;
/** A block that does not shrink is stored as it is, behind its header. */
const MAX_STORED_BYTES = MACROBLOCK_BYTES + 65_536;

export type SourceSet = {
  readonly medium: Medium;
  readonly root: TreeRoot;
  readonly key: SetKey;
  readonly info: BackupInfo;
  readonly backup: PartitionGroupBackup;
  readonly metaKey: string;
  readonly indexKey: string;
};

/** Where the file list and the block index are. */
type Lists = Pick<SourceSet, 'medium' | 'metaKey' | 'indexKey'>;

export type FileBlocks = { readonly file: BackupFile; readonly blocks: readonly MacroBlockEntry[] };

/**
 * Opens one partition group's part of a published set and checks its meta and index files. Throws INVALID_BACKUP_SET_ID
 * when the set was never published, DATA_CORRUPT when a file is not what the commit point says.
 */
export async function openSourceSet(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  partitionGroup: string,
  signal: AbortSignal,
): Promise<SourceSet> {
  const info = await readInfo(medium, tree.backupInfo(root, key), BackupInfoSchema, signal);
  const backup = info.partitionGroups.find((group) => group.partitionGroup === partitionGroup);
  if (backup === undefined) {
    throw new HoldfastError(
      'INVALID_BACKUP_SET_ID',
      `backup set ${key.setId} holds no partition group "${partitionGroup}"`,
    );
  }
  const directory = tree.backupSetDirectory(root, key.tenantId, key.fullSetId);
  const keys = backup.files.map((file) => {
    checkRelativePath(file.path);
    return { ...file, key: `${directory}/${file.path}` };
  });
  for (const file of keys) await checkDigest(medium, file, signal);
  const ofKind = (kind: 'metaFile' | 'macroBlockIndex') =>
    keys.find((file) => parseTreePath(file.key)?.kind === kind)?.key;
  const metaKey = ofKind('metaFile');
  const indexKey = ofKind('macroBlockIndex');
  if (metaKey === undefined || indexKey === undefined) {
    throw new HoldfastError('DATA_CORRUPT', `${tree.backupInfo(root, key)} names no meta or no index file`);
  }
  return { medium, root, key, info, backup, metaKey, indexKey };
}

/** The meta file's first record. */
export async function readBackupMeta(
  source: Pick<SourceSet, 'medium' | 'metaKey'>,
  signal: AbortSignal,
): Promise<BackupMeta> {
  for await (const record of readRecordFile(source.medium, source.metaKey, RECORD.backupMeta, signal)) {
    if (record.type === RECORD.backupMeta)
      return decodeMessage(BackupMetaSchema, record.payload, record.offset, { file: source.metaKey });
    break;
  }
  throw new HoldfastError('DATA_CORRUPT', `${source.metaKey} does not begin with a backup's metadata`);
}

/** Every directory of the baseline, parents first. Throws DATA_CORRUPT for one that leads out. */
export async function* readDirectories(source: Lists, signal: AbortSignal): AsyncGenerator<BackupDirectory> {
  for await (const record of readRecordFile(source.medium, source.metaKey, RECORD.backupMeta, signal)) {
    if (record.type !== RECORD.directoryList) continue;
    const list = decodeMessage(DirectoryListSchema, record.payload, record.offset, { file: source.metaKey });
    for (const directory of list.directories) {
      checkRelativePath(directory.path);
      yield directory;
    }
  }
}

/** The file list in file-number order. Throws DATA_CORRUPT for a path that leads out. */
export async function* readFiles(source: Lists, signal: AbortSignal): AsyncGenerator<BackupFile> {
  let previous = -1;
  for await (const record of readRecordFile(source.medium, source.metaKey, RECORD.backupMeta, signal)) {
    if (record.type !== RECORD.fileList) continue;
    const list = decodeMessage(FileListSchema, record.payload, record.offset, { file: source.metaKey });
    for (const file of list.files) {
      checkFilePath(file.path);
      // The control file makes the directory a database: it is known by its kind, and laid down last.
      if (isControlFile(file) !== (file.path === CONTROL_FILE_PATH))
        throw new HoldfastError('DATA_CORRUPT', `${source.metaKey}: ${file.path} has the wrong kind`);
      if (file.fileNumber <= previous) {
        throw new HoldfastError(
          'DATA_CORRUPT',
          `${source.metaKey} at offset ${record.offset}: the file list is out of order`,
        );
      }
      previous = file.fileNumber;
      yield file;
    }
  }
}

/**
 * Each file with its blocks, in file order: a file larger than MAX_BLOCKS macroblocks comes in several parts. Throws
 * DATA_CORRUPT when a block has no file, or a file's blocks are not all of the file, each byte once.
 */
export async function* readFileBlocks(source: Lists, signal: AbortSignal): AsyncGenerator<FileBlocks> {
  const index = new EntryStream(readIndexChunks(source.medium, source.indexKey, signal));
  for await (const file of readFiles(source, signal)) {
    let count = 0;
    let part: MacroBlockEntry[] = [];
    for (;;) {
      const entry = await index.peek();
      if (entry === undefined || entry.fileNumber > file.fileNumber) break;
      checkEntry(source, file, entry, count);
      index.take();
      part.push(entry);
      count += 1;
      if (part.length === MAX_BLOCKS) {
        yield { file, blocks: part };
        part = [];
      }
    }
    if (count !== file.macroblockCount || count !== blocksOf(file)) {
      throw new HoldfastError(
        'DATA_CORRUPT',
        `${source.indexKey} has ${count} macroblocks of ${file.path}, the file list says ${file.macroblockCount} of ${file.sizeBytes} bytes`,
      );
    }
    if (part.length > 0 || count === 0) yield { file, blocks: part };
  }
  if ((await index.peek()) !== undefined)
    throw new HoldfastError(
      'DATA_CORRUPT',
      `${source.indexKey} has macroblocks of files that are not listed`,
    );
}

export const MAX_BLOCKS = 8;

/** The control file's place in the list: it is laid down last. */
export function isControlFile(file: BackupFile): boolean {
  return file.kind === FileKind.CONTROL;
}

function blocksOf(file: BackupFile): number {
  return Math.ceil(Number(file.sizeBytes) / MACROBLOCK_BYTES);
}

/** `blockNo`: which of the file's blocks is the next. */
function checkEntry(source: Lists, file: BackupFile, entry: MacroBlockEntry, blockNo: number): void {
  if (entry.fileNumber !== file.fileNumber) {
    throw new HoldfastError(
      'DATA_CORRUPT',
      `${source.indexKey} has a macroblock of file ${entry.fileNumber}, which is not listed`,
    );
  }
  const begin = BigInt(blockNo) * BigInt(MACROBLOCK_BYTES);
  const left = file.sizeBytes - begin;
  const wantedBytes = left < BigInt(MACROBLOCK_BYTES) ? left : BigInt(MACROBLOCK_BYTES);
  if (entry.blockNumber !== blockNo || wantedBytes <= 0n || BigInt(entry.plainBytes) !== wantedBytes) {
    throw new HoldfastError(
      'DATA_CORRUPT',
      `${source.indexKey}: macroblock ${entry.blockNumber} of ${entry.plainBytes} bytes is not the next of ${file.path}, which has ${file.sizeBytes} bytes`,
    );
  }
  const storedBytes = Math.max(entry.storedBytes, entry.delta?.storedBytes ?? 0);
  if (storedBytes > MAX_STORED_BYTES) {
    throw new HoldfastError(
      'DATA_CORRUPT',
      `${source.indexKey}: macroblock ${entry.blockNumber} of ${file.path} is stored in ${storedBytes} bytes`,
    );
  }
}

/** Compares a whole file with what the commit point says. Throws DATA_CORRUPT, FILE_NOT_FOUND. */
export async function checkDigest(
  medium: Medium,
  file: { readonly key: string; readonly sizeBytes: bigint; readonly sha256: Uint8Array },
  signal: AbortSignal,
): Promise<void> {
  const hash = createHash('sha256');
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
  let position = 0;
  for (;;) {
    const part = await medium.readRange(file.key, position, position + READ_BYTES, buffer, signal);
    hash.update(part);
    position += part.length;
    if (part.length < READ_BYTES) break;
  }
  if (BigInt(position) !== file.sizeBytes) {
    throw new HoldfastError(
      'DATA_CORRUPT',
      `${file.key} at offset ${position}: the file ends here, the backup says ${file.sizeBytes} bytes`,
    );
  }
  if (!hash.digest().equals(file.sha256)) {
    throw new HoldfastError(
      'DATA_CORRUPT',
      `${file.key} at offset 0: the file of ${position} bytes has another SHA-256 than the backup says`,
    );
  }
}
