/**
 * The two records that a log file grows by. Their own header fields, behind the common 32 bytes, little-endian:
 *
 *   logBlock: data is WAL, byte for byte          logCheckpoint: no data
 *   offset size                                   offset size
 *        0    4  timeline                              0    4  timeline
 *        4    4  zero                                  4    4  zero
 *        8    8  LSN of the first byte                 8    8  LSN: the end of the log so far
 *       16    8  the archiver's epoch                 16    8  the archiver's epoch
 *       24    8  first commit time, 0: none           24    8  server time: all that was acknowledged before it
 *       32    8  greatest commit time, 0: none                 lies before the LSN
 *
 * Times are microseconds since 1970-01-01 UTC, signed.
 */
import { type Lsn, type Timeline, toLsn, toTimeline } from '../../foundation/lsn.ts';
import { corrupt, type RecordSource } from '../records/header.ts';

export const LOG_BLOCK_EXTENSION_BYTES = 40;
export const LOG_CHECKPOINT_EXTENSION_BYTES = 32;

export type LogBlockHeader = {
  readonly timeline: Timeline;
  readonly begin: Lsn;
  readonly epoch: bigint;
  readonly firstCommitUs: bigint | undefined;
  /** The greatest, not the last by position. */
  readonly lastCommitUs: bigint | undefined;
};

export type LogCheckpointHeader = {
  readonly timeline: Timeline;
  readonly lsn: Lsn;
  readonly epoch: bigint;
  readonly timeUs: bigint;
};

export function encodeLogBlockHeader(header: LogBlockHeader): Buffer {
  const bytes = Buffer.alloc(LOG_BLOCK_EXTENSION_BYTES);
  encodePosition(bytes, header.timeline, header.begin, header.epoch);
  bytes.writeBigInt64LE(header.firstCommitUs ?? 0n, 24);
  bytes.writeBigInt64LE(header.lastCommitUs ?? 0n, 32);
  return bytes;
}

/** Throws DATA_CORRUPT when the extension has another length or an impossible timeline. */
export function decodeLogBlockHeader(bytes: Buffer, offset: number, source: RecordSource): LogBlockHeader {
  checkExtension(bytes, LOG_BLOCK_EXTENSION_BYTES, offset, source);
  return {
    timeline: toTimeline(bytes.readUInt32LE(0)),
    begin: toLsn(bytes.readBigUInt64LE(8)),
    epoch: bytes.readBigUInt64LE(16),
    firstCommitUs: time(bytes.readBigInt64LE(24)),
    lastCommitUs: time(bytes.readBigInt64LE(32)),
  };
}

export function encodeLogCheckpointHeader(header: LogCheckpointHeader): Buffer {
  const bytes = Buffer.alloc(LOG_CHECKPOINT_EXTENSION_BYTES);
  encodePosition(bytes, header.timeline, header.lsn, header.epoch);
  bytes.writeBigInt64LE(header.timeUs, 24);
  return bytes;
}

/** Throws DATA_CORRUPT when the extension has another length or an impossible timeline. */
export function decodeLogCheckpointHeader(
  bytes: Buffer,
  offset: number,
  source: RecordSource,
): LogCheckpointHeader {
  checkExtension(bytes, LOG_CHECKPOINT_EXTENSION_BYTES, offset, source);
  return {
    timeline: toTimeline(bytes.readUInt32LE(0)),
    lsn: toLsn(bytes.readBigUInt64LE(8)),
    epoch: bytes.readBigUInt64LE(16),
    timeUs: bytes.readBigInt64LE(24),
  };
}

function encodePosition(bytes: Buffer, timeline: Timeline, lsn: Lsn, epoch: bigint): void {
  bytes.writeUInt32LE(timeline, 0);
  bytes.writeBigUInt64LE(lsn, 8);
  bytes.writeBigUInt64LE(epoch, 16);
}

function checkExtension(bytes: Buffer, length: number, offset: number, source: RecordSource): void {
  if (bytes.length !== length)
    throw corrupt(source, offset, `a log record with ${bytes.length} header bytes of its own`);
  if (bytes.readUInt32LE(0) === 0) throw corrupt(source, offset, 'a log record of timeline 0');
}

function time(value: bigint): bigint | undefined {
  return value === 0n ? undefined : value;
}
