/**
 * The index file of one sealed log file: what of it counts, written once by its own archiver or by the one that took over.
 * A record file: a logIndex record (LogIndexInfo), then logIndexBlocks records, then the change map (change-map.ts). It is
 * written whole, in one act; who looks for log reads the records before the change map only. Block entries are 24 bytes,
 * little-endian:
 *
 *   offset size
 *        0    8  LSN of the block's first byte
 *        8    8  offset of the record in the log file
 *       16    4  stored length: the whole record, header included
 *       20    4  plain length: bytes of log
 */
import { create } from '@bufbuild/protobuf';
import { HoldfastError, isError } from '../../foundation/errors.ts';
import { type Lsn, type Timeline, toLsn, toTimeline } from '../../foundation/lsn.ts';
import {
  type LogFileInfo,
  LogFileInfoSchema,
  type LogIndexInfo,
  LogIndexInfoSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { type FileCipher, sealOf } from '../encryption/cipher.ts';
import { beginFile } from '../encryption/key-ring.ts';
import type { Compression } from '../macroblock/compress.ts';
import type { Medium } from '../media/medium.ts';
import {
  encodeFileEnd,
  encodeFileHeader,
  encodeRecord,
  RECORD,
  type RecordType,
} from '../records/framing.ts';
import { corrupt, type RecordSource, unknown } from '../records/header.ts';
import { decodeMessage, encodeMessage } from '../records/messages.ts';
import {
  CHUNK_BYTES,
  type PlacedRecord,
  RecordOrder,
  readRecordFile,
  readRecords,
} from '../records/record-file.ts';
import { recordName } from '../records/types.ts';
import { type RoundKey, type TreeRoot, tree } from '../tree.ts';
import { type ChangeMapParts, type ChangeSummary, encodeChangeMap } from './change-map.ts';
import { REPAIR_HINT } from './repair-hint.ts';

const BLOCK_BYTES = 24;
const BLOCKS_PER_CHUNK = Math.floor(CHUNK_BYTES / BLOCK_BYTES);
/** Holds the summary and the block places of nearly every index. */
const HEAD_BYTES = 32 * 1024;
const CHANGES_COMPRESSION = 'zstd:1';

export type LogBlockPlace = {
  readonly begin: Lsn;
  /** Position of the record in the log file. */
  readonly offset: number;
  /** The whole record, header included. */
  readonly storedBytes: number;
  /** Bytes of log in the block. */
  readonly plainBytes: number;
};
export type LogCheckpointPoint = { readonly lsn: Lsn; readonly timeUs: bigint };
export type LogRestorePointAt = { readonly lsn: Lsn; readonly name: string; readonly timeUs: bigint };

/**
 * The files before a file hold the timeline's log from `since` to its begin, each beginning where the one before it ends,
 * as its archiver saw; `since` being its begin, no file is spoken of. `archivers`: a digest of who wrote them (promise.ts).
 */
export type LogUnbroken = { readonly since: Lsn; readonly archivers: bigint };

/** What the blocks themselves say about a log file. */
export type LogFileFacts = {
  readonly fileId: bigint;
  readonly epoch: bigint;
  readonly timeline: Timeline;
  readonly begin: Lsn;
  readonly end: Lsn;
  /** Undefined: written by one that knew no such promise. */
  readonly unbroken?: LogUnbroken | undefined;
  readonly systemIdentifier: bigint;
  readonly segmentSizeBytes: number;
  /** Bytes of the log file that count; what lies behind them is ignored. */
  readonly acceptedBytes: number;
  readonly blocks: readonly LogBlockPlace[];
  readonly firstCommitUs?: bigint | undefined;
  /** The greatest commit time of this file. */
  readonly lastCommitUs?: bigint | undefined;
  /** The newest: all that was acknowledged before `timeUs` lies before `lsn`. A commit is one too. */
  readonly checkpoint?: LogCheckpointPoint | undefined;
};

/** What only a reader of the log's records knows. */
export type LogFileFindings = {
  /** Running maximum of commit times over this file and those before it; undefined: none so far. */
  readonly maxCommitUs?: bigint | undefined;
  /** The server's checkpoints whose records end in this file. */
  readonly checkpoints: readonly LogCheckpointPoint[];
  /** `lsn`: the end of the record. */
  readonly restorePoints: readonly LogRestorePointAt[];
  /** Where the record began that does not end in this file. */
  readonly unfinishedRecordBegin?: Lsn | undefined;
};

/** An index to be written: with its change map, where one was made. */
export type NewLogIndex = LogFileFacts & NewFindings;
export type NewFindings = LogFileFindings & { readonly changeMap?: ChangeMapParts | undefined };

export type LogFileIndex = LogFileFacts &
  LogFileFindings & {
    /** Of the change map in the index; undefined: none was made. */
    readonly changes?: ChangeSummary | undefined;
  };

/**
 * Writes the index of a sealed file, durably, with its change map when there is one. Throws FILE_EXISTS when someone else
 * has sealed it: read theirs.
 */
export async function writeLogIndex(
  medium: Medium,
  root: TreeRoot,
  round: RoundKey,
  group: string,
  index: NewLogIndex,
  signal?: AbortSignal,
): Promise<void> {
  const key = tree.logIndex(root, round, group, index.fileId, index.epoch);
  const begun = await beginFile(medium, key, RECORD.logIndex, signal);
  await medium.createExclusive(key, encodeLogIndex(round, group, index, begun), signal);
}

/** Reads all but the change map. Throws FILE_NOT_FOUND, DATA_CORRUPT, FORMAT_UNKNOWN. */
export async function readLogIndex(
  medium: Medium,
  root: TreeRoot,
  round: RoundKey,
  group: string,
  file: { readonly fileId: bigint; readonly epoch: bigint },
  signal?: AbortSignal,
): Promise<LogFileIndex> {
  const key = tree.logIndex(root, round, group, file.fileId, file.epoch);
  try {
    const index = await readIndexHead(medium, key, signal);
    if (index.fileId !== file.fileId || index.epoch !== file.epoch)
      throw corrupt({ file: key }, 0, `the index is of file ${index.fileId}.${index.epoch}`);
    return index;
  } catch (error) {
    if (!isError(error, 'DATA_CORRUPT')) throw error;
    throw new HoldfastError('DATA_CORRUPT', error.message, { cause: error, hint: REPAIR_HINT });
  }
}

/** The change map's records as they stand, when all of the file is whole. Throws DATA_CORRUPT, FILE_NOT_FOUND. */
export async function readChangePayloads(
  medium: Medium,
  key: string,
  signal?: AbortSignal,
): Promise<readonly Buffer[]> {
  const payloads: Buffer[] = [];
  for await (const record of readRecordFile(medium, key, RECORD.logIndex, signal))
    if (record.type === RECORD.logIndexChanges) payloads.push(record.payload);
  return payloads;
}

/** The file's bytes. `begun`: its first record, and what seals the others; a plain file by default. */
export function encodeLogIndex(
  round: RoundKey,
  group: string,
  index: NewLogIndex,
  begun: { readonly header: Buffer; readonly cipher: FileCipher | undefined } = {
    header: encodeFileHeader(RECORD.logIndex),
    cipher: undefined,
  },
): Buffer {
  const map = index.changeMap === undefined ? undefined : encodeChangeMap(index.changeMap);
  const info = create(LogIndexInfoSchema, {
    file: logFileInfo(round, group, index),
    end: index.end,
    acceptedBytes: BigInt(index.acceptedBytes),
    checkpoints: index.checkpoints.map((point) => ({ lsn: point.lsn, timeUs: point.timeUs })),
    restorePoints: index.restorePoints.map((point) => ({ ...point })),
    ...(index.maxCommitUs === undefined ? {} : { maxCommitUs: index.maxCommitUs }),
    ...(index.firstCommitUs === undefined ? {} : { firstCommitUs: index.firstCommitUs }),
    ...(index.lastCommitUs === undefined ? {} : { lastCommitUs: index.lastCommitUs }),
    ...(index.checkpoint === undefined ? {} : { checkpoint: { ...index.checkpoint } }),
    ...(index.unfinishedRecordBegin === undefined
      ? {}
      : { unfinishedRecordBegin: index.unfinishedRecordBegin }),
    ...(map === undefined ? {} : { changes: changesInfo(map.summary) }),
  });
  const records = [begun.header];
  const add = (type: RecordType, payload: Uint8Array, compression: Compression = 'none') =>
    records.push(encodeRecord({ type, payload, compression, seal: sealOf(begun.cipher, records.length) }));
  add(RECORD.logIndex, encodeMessage(LogIndexInfoSchema, info));
  for (let first = 0; first < index.blocks.length; first += BLOCKS_PER_CHUNK)
    add(RECORD.logIndexBlocks, encodeBlockPlaces(index.blocks.slice(first, first + BLOCKS_PER_CHUNK)));
  for (const payload of map?.payloads ?? []) add(RECORD.logIndexChanges, payload, CHANGES_COMPRESSION);
  const body = Buffer.concat(records);
  const end = { recordCount: records.length, sizeBytes: body.length };
  return Buffer.concat([body, encodeFileEnd(end, sealOf(begun.cipher, records.length))]);
}

async function readIndexHead(
  medium: Medium,
  key: string,
  signal: AbortSignal | undefined,
): Promise<LogFileIndex> {
  const source = { file: key };
  let info: { readonly message: LogIndexInfo; readonly offset: number } | undefined;
  const blocks: LogBlockPlace[] = [];
  // What stands behind the head is checked by who reads it; without a change map that is the end mark alone.
  const order = new RecordOrder(RECORD.logIndex, source);
  let isWhole = false;
  for await (const record of readRecords(medium, key, signal, HEAD_BYTES)) {
    isWhole = record.type === RECORD.logIndexChanges;
    if (isWhole) break;
    if (!order.next(record)) continue;
    if (info === undefined) info = { message: decodeSummary(record, source), offset: record.offset };
    else blocks.push(...decodeBlockPlaces(record, source));
  }
  if (!isWhole) order.finish();
  if (info === undefined) throw corrupt(source, 0, 'the index does not begin with its summary');
  const index = indexOfInfo(info.message, blocks, info.offset, source);
  checkBlocks(index, info.offset, source);
  return index;
}

function decodeSummary(record: PlacedRecord, source: RecordSource): LogIndexInfo {
  if (record.type !== RECORD.logIndex)
    throw corrupt(source, record.offset, 'the index does not begin with its summary');
  return decodeMessage(LogIndexInfoSchema, record.payload, record.offset, source);
}

function changesInfo({ pageCount, forkCount, walLevelMinimal, unknownSpecial }: ChangeSummary) {
  return {
    pageCount: BigInt(pageCount),
    forkCount: BigInt(forkCount),
    walLevelMinimal,
    ...(unknownSpecial === undefined
      ? {}
      : { unknownSpecial: { ...unknownSpecial, count: BigInt(unknownSpecial.count) } }),
  };
}

function changesOfInfo(changes: LogIndexInfo['changes']): ChangeSummary | undefined {
  if (changes === undefined) return undefined;
  const { unknownSpecial: special } = changes;
  return {
    pageCount: Number(changes.pageCount),
    forkCount: Number(changes.forkCount),
    walLevelMinimal: changes.walLevelMinimal,
    unknownSpecial:
      special === undefined
        ? undefined
        : {
            count: Number(special.count),
            first: toLsn(special.first),
            rmgr: special.rmgr,
            info: special.info,
          },
  };
}

/** The message that says what a log file holds. */
export function logFileInfo(
  round: RoundKey,
  group: string,
  file: Pick<
    LogFileFacts,
    'fileId' | 'epoch' | 'timeline' | 'begin' | 'segmentSizeBytes' | 'systemIdentifier' | 'unbroken'
  >,
): LogFileInfo {
  return create(LogFileInfoSchema, {
    tenantId: round.tenantId,
    round: round.round,
    partitionGroup: group,
    fileId: file.fileId,
    epoch: file.epoch,
    timeline: file.timeline,
    begin: file.begin,
    segmentSizeBytes: file.segmentSizeBytes,
    systemIdentifier: file.systemIdentifier,
    ...(file.unbroken === undefined ? {} : { unbroken: { ...file.unbroken } }),
  });
}

/** What the message promises; undefined when it says nothing. */
export function unbrokenOf({ unbroken }: LogFileInfo): LogUnbroken | undefined {
  return unbroken === undefined ? undefined : { since: toLsn(unbroken.since), archivers: unbroken.archivers };
}

/** The entries of one logIndexBlocks record. */
export function decodeBlockPlaces(record: PlacedRecord, source: RecordSource): LogBlockPlace[] {
  if (record.type !== RECORD.logIndexBlocks)
    throw unknown(source, record.offset, `a ${recordName(record.type)} record in a log index`);
  const { payload } = record;
  if (payload.length % BLOCK_BYTES !== 0)
    throw corrupt(
      source,
      record.offset,
      `${payload.length} bytes of block entries are no whole number of them`,
    );
  const blocks: LogBlockPlace[] = [];
  for (let offset = 0; offset < payload.length; offset += BLOCK_BYTES) {
    blocks.push({
      begin: toLsn(payload.readBigUInt64LE(offset)),
      offset: Number(payload.readBigUInt64LE(offset + 8)),
      storedBytes: payload.readUInt32LE(offset + 16),
      plainBytes: payload.readUInt32LE(offset + 20),
    });
  }
  return blocks;
}

function encodeBlockPlaces(blocks: readonly LogBlockPlace[]): Buffer {
  const payload = Buffer.alloc(blocks.length * BLOCK_BYTES);
  for (const [ordinal, block] of blocks.entries()) {
    const offset = ordinal * BLOCK_BYTES;
    payload.writeBigUInt64LE(block.begin, offset);
    payload.writeBigUInt64LE(BigInt(block.offset), offset + 8);
    payload.writeUInt32LE(block.storedBytes, offset + 16);
    payload.writeUInt32LE(block.plainBytes, offset + 20);
  }
  return payload;
}

function indexOfInfo(
  info: LogIndexInfo,
  blocks: readonly LogBlockPlace[],
  offset: number,
  source: RecordSource,
): LogFileIndex {
  const { file } = info;
  if (file === undefined || file.timeline === 0)
    throw corrupt(source, offset, 'the index does not name its log file');
  return {
    fileId: file.fileId,
    epoch: file.epoch,
    timeline: toTimeline(file.timeline),
    begin: toLsn(file.begin),
    end: toLsn(info.end),
    unbroken: unbrokenOf(file),
    systemIdentifier: file.systemIdentifier,
    segmentSizeBytes: file.segmentSizeBytes,
    acceptedBytes: Number(info.acceptedBytes),
    blocks,
    firstCommitUs: info.firstCommitUs,
    lastCommitUs: info.lastCommitUs,
    maxCommitUs: info.maxCommitUs,
    checkpoint:
      info.checkpoint === undefined
        ? undefined
        : { lsn: toLsn(info.checkpoint.lsn), timeUs: info.checkpoint.timeUs },
    checkpoints: info.checkpoints.map((point) => ({ lsn: toLsn(point.lsn), timeUs: point.timeUs })),
    restorePoints: info.restorePoints.map((point) => ({
      lsn: toLsn(point.lsn),
      name: point.name,
      timeUs: point.timeUs,
    })),
    unfinishedRecordBegin:
      info.unfinishedRecordBegin === undefined ? undefined : toLsn(info.unfinishedRecordBegin),
    changes: changesOfInfo(info.changes),
  };
}

/** The blocks must fill the range without a hole and lie within the accepted length, in order. */
function checkBlocks(index: LogFileIndex, offset: number, source: RecordSource): void {
  let lsn: bigint = index.begin;
  let position = 0;
  for (const block of index.blocks) {
    if (block.begin !== lsn || block.offset < position)
      throw corrupt(source, offset, 'the blocks of the index do not follow each other');
    lsn += BigInt(block.plainBytes);
    position = block.offset + block.storedBytes;
  }
  if (lsn !== index.end || position > index.acceptedBytes)
    throw corrupt(source, offset, 'the blocks of the index do not fill its range');
}
