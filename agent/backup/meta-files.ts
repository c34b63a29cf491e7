/** The meta file of a partition group's backup (label, tablespaces, settings, file list, directories) and its index. */
import { create } from '@bufbuild/protobuf';
import type { DataListing, FileKind as EngineFileKind } from '../../engine/engine.ts';
import {
  type BackupDirectory,
  BackupDirectorySchema,
  type BackupFile,
  BackupFileSchema,
  type BackupMeta,
  BackupMetaSchema,
  DirectoryListSchema,
  FileKind,
  FileListSchema,
  type MetaIndexEntry,
  MetaIndexEntrySchema,
  MetaIndexSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { RECORD, type RecordType } from '../../storage-layout/records/framing.ts';
import {
  type FileFacts,
  RecordFileWriter,
  type RecordPlace,
} from '../../storage-layout/records/record-file.ts';
import { type SetKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';
import type { StoredDataFile } from './gather.ts';

/** Entries per record: with paths of the usual length a fifth of the 1 MiB that a record may have. */
const FILES_PER_RECORD = 2000;
const DIRECTORIES_PER_RECORD = 5000;

const FILE_KINDS: Readonly<Record<EngineFileKind, FileKind>> = {
  main: FileKind.RELATION_MAIN,
  fsm: FileKind.RELATION_FSM,
  vm: FileKind.RELATION_VM,
  init: FileKind.RELATION_INIT,
  other: FileKind.OTHER,
  control: FileKind.CONTROL,
  external: FileKind.EXTERNAL,
};

export type MetaContent = {
  readonly meta: BackupMeta;
  /** In file-number order. */
  readonly files: readonly StoredDataFile[];
  readonly directories: DataListing['directories'];
};

/** What a meta file is made of, as records have it. */
type MetaRecords = {
  readonly meta: BackupMeta;
  readonly files: AsyncIterable<BackupFile> | Iterable<BackupFile>;
  readonly directories: AsyncIterable<BackupDirectory> | Iterable<BackupDirectory>;
};

/** A described file: its key, size and SHA-256. */
export type DescribedFile = { readonly key: string; readonly facts: FileFacts };

/** Writes both files durably. Returns their facts by key. Throws FILE_EXISTS and the medium's errors. */
export async function writeMetaFiles(
  medium: Medium,
  root: TreeRoot,
  setKey: SetKey,
  taskId: number,
  { meta, files, directories }: MetaContent,
  signal: AbortSignal,
): Promise<readonly DescribedFile[]> {
  const records = {
    meta,
    files: files.values().map(formatFile),
    directories: directories.values().map((directory) => create(BackupDirectorySchema, { ...directory })),
  };
  return await writeMetaRecords(medium, root, setKey, taskId, records, signal);
}

/** The same, of what another meta file holds: its lists come as streams. */
export async function writeMetaRecords(
  medium: Medium,
  root: TreeRoot,
  setKey: SetKey,
  taskId: number,
  content: MetaRecords,
  signal: AbortSignal,
): Promise<readonly DescribedFile[]> {
  const metaKey = tree.metaFile(root, setKey, taskId);
  const indexKey = tree.metaIndexFile(root, setKey, taskId);
  const meta = await writeMetaFile(medium, metaKey, content, signal);
  await using index = await RecordFileWriter.create(medium, indexKey, RECORD.metaIndex, signal);
  await index.appendMessage(MetaIndexSchema, create(MetaIndexSchema, { entries: [...meta.entries] }));
  return [
    { key: metaKey, facts: meta.facts },
    { key: indexKey, facts: await index.close() },
  ];
}

async function writeMetaFile(
  medium: Medium,
  key: string,
  content: MetaRecords,
  signal: AbortSignal,
): Promise<{ readonly facts: FileFacts; readonly entries: readonly MetaIndexEntry[] }> {
  await using writer = await RecordFileWriter.create(medium, key, RECORD.backupMeta, signal);
  const entries: MetaIndexEntry[] = [];
  const note = (recordType: RecordType, place: RecordPlace) =>
    entries.push(
      create(MetaIndexEntrySchema, { recordType, offset: BigInt(place.offset), length: place.length }),
    );
  note(RECORD.backupMeta, await writer.appendMessage(BackupMetaSchema, content.meta));
  for await (const files of chunks(content.files, FILES_PER_RECORD)) {
    signal.throwIfAborted();
    const list = create(FileListSchema, { files });
    note(RECORD.fileList, await writer.appendMessage(FileListSchema, list));
  }
  for await (const directories of chunks(content.directories, DIRECTORIES_PER_RECORD)) {
    const list = create(DirectoryListSchema, { directories });
    note(RECORD.directoryList, await writer.appendMessage(DirectoryListSchema, list));
  }
  return { facts: await writer.close(), entries };
}

function formatFile(file: StoredDataFile): BackupFile {
  return create(BackupFileSchema, {
    fileNumber: file.fileNumber,
    path: file.path,
    kind: FILE_KINDS[file.kind],
    sizeBytes: BigInt(file.storedBytes),
    mode: file.mode,
    modifiedUs: BigInt(Math.round(file.modifiedMs * 1000)),
    crc32c: file.crc32c ?? 0,
    withoutCrc32c: file.crc32c === undefined,
    externalPath: file.kind === 'external' ? file.absolutePath : '',
    macroblockCount: file.blockCount,
  });
}

async function* chunks<T>(items: AsyncIterable<T> | Iterable<T>, size: number): AsyncGenerator<T[]> {
  let chunk: T[] = [];
  for await (const item of items) {
    chunk.push(item);
    if (chunk.length < size) continue;
    yield chunk;
    chunk = [];
  }
  if (chunk.length > 0) yield chunk;
}
