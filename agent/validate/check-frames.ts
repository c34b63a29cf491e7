/**
 * The frame of a macroblock file: what stands before its first block and behind its last. The blocks themselves are read
 * through an index; without one, all of the file is.
 */
import { HoldfastError } from '../../foundation/errors.ts';
import { MacroBlockFileInfoSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { type FileCipher, TAG_BYTES } from '../../storage-layout/encryption/cipher.ts';
import { cipherOf } from '../../storage-layout/encryption/key-ring.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import {
  decodeFileEnd,
  decodeFileHeader,
  decodeRecord,
  RECORD,
} from '../../storage-layout/records/framing.ts';
import { corrupt, HEADER_BYTES, type RecordSource } from '../../storage-layout/records/header.ts';
import { decodeMessage } from '../../storage-layout/records/messages.ts';
import { readRecordFile } from '../../storage-layout/records/record-file.ts';
import { type SetKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';
import { cutOff, type Findings, missing, tolerate } from './findings.ts';

const HEAD_BYTES = 4096;
const END_BYTES = HEADER_BYTES + 16;

/** Checks head and end of one file; one that is known to be lost is passed over. */
export async function checkFrame(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  group: string,
  subTaskId: number,
  findings: Findings,
  signal: AbortSignal,
): Promise<void> {
  const file = tree.macroBlock(root, key, group, subTaskId);
  if (findings.hasWhole(file)) return;
  const stored = await medium.stat(file, signal);
  if (stored === undefined) {
    findings.addWhole(missing(file));
    return;
  }
  let cipher: FileCipher | undefined;
  await tolerate(findings, file, async () => {
    cipher = await checkHeadOf(medium, file, key, subTaskId, group, signal);
  });
  if (!(await hasEndMark(medium, file, stored.sizeBytes, cipher, signal)))
    findings.addWhole(cutOff(file, stored.sizeBytes));
}

/**
 * Returns what opens the file's records. Throws DATA_CORRUPT, FORMAT_UNKNOWN and the medium's errors when the file does not
 * begin as one of that name must.
 */
export async function checkHeadOf(
  medium: Medium,
  file: string,
  key: SetKey,
  subTaskId: number,
  group: string,
  signal?: AbortSignal,
): Promise<FileCipher | undefined> {
  const head = await medium.readRange(file, 0, HEAD_BYTES, undefined, signal);
  const header = decodeRecord(head, 0, { file });
  const cipher = await cipherOf(medium, header, { file }, signal);
  checkHead(head, { file, cipher }, key, subTaskId, group);
  return cipher;
}

/** True when a file of that size ends with the end mark of one. */
export async function hasEndMark(
  medium: Medium,
  file: string,
  sizeBytes: number,
  cipher: FileCipher | undefined,
  signal?: AbortSignal,
): Promise<boolean> {
  const endBytes = END_BYTES + (cipher === undefined ? 0 : TAG_BYTES);
  const begin = Math.max(0, sizeBytes - endBytes);
  const bytes = await medium.readRange(file, begin, sizeBytes, undefined, signal);
  return isEndMark(bytes, { file, base: begin, cipher });
}

/** A file that a synthetic full copied whole says who wrote it: an earlier set. */
function checkHead(
  head: Buffer,
  source: RecordSource,
  { setId, fullSetId }: SetKey,
  subTaskId: number,
  group: string,
): void {
  const header = decodeRecord(head, 0, source);
  if (decodeFileHeader(header, source).contents !== RECORD.macroBlock)
    throw corrupt(source, 0, 'the file is not about macroblocks');
  const owner = decodeRecord(head, header.next, source);
  if (owner.type !== RECORD.macroBlockFile)
    throw corrupt(source, header.next, 'the file does not say whose macroblocks it holds');
  const info = decodeMessage(MacroBlockFileInfoSchema, owner.payload, header.next, source);
  const isOwn = info.backupSetId === setId && info.subTaskId === subTaskId;
  const isCopy = setId === fullSetId && info.backupSetId < setId;
  if ((!isOwn && !isCopy) || info.partitionGroup !== group)
    throw corrupt(source, header.next, `the file says that it is of backup set ${info.backupSetId}`);
}

/** A file whose last bytes are no end mark of its length was cut off, or something stands behind it. */
function isEndMark(bytes: Buffer, source: RecordSource): boolean {
  try {
    const record = decodeRecord(bytes, 0, source);
    return (
      record.type === RECORD.fileEnd &&
      record.next === bytes.length &&
      decodeFileEnd(record, 0, source).sizeBytes === source.base
    );
  } catch (error) {
    if (error instanceof HoldfastError) return false;
    throw error;
  }
}

/** Without an index that can be trusted: every record of every file that this backup wrote. */
export async function checkAllRecords(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  group: string,
  findings: Findings,
  signal: AbortSignal,
): Promise<void> {
  const directory = tree.macroDirectory(root, key.tenantId, key.fullSetId, group);
  const own = new RegExp(`^macro_block_${key.setId}\\.[1-9][0-9]*$`);
  for (const name of await medium.listNames(directory, signal)) {
    if (!own.test(name)) continue;
    const file = `${directory}/${name}`;
    await tolerate(findings, file, async () => {
      for await (const _ of readRecordFile(medium, file, RECORD.macroBlock, signal));
    });
  }
}
