/**
 * pg_control: 8,192 bytes, of which fewer than 300 count. Offsets on x86-64, little-endian, from catalog/pg_control.h:
 *
 *   offset size field                     offset size field
 *        0    8 system_identifier            144    4 minRecoveryPointTLI
 *        8    4 pg_control_version           152    8 backupStartPoint
 *       12    4 catalog_version_no           160    8 backupEndPoint
 *       16    4 state                        168    1 backupEndRequired
 *       32    8 checkPoint                   172    4 wal_level
 *       40    8 checkPointCopy.redo          216    4 blcksz
 *       48    4 checkPointCopy.ThisTimeLineID   220 4 relseg_size
 *       56    1 checkPointCopy.fullPageWrites   224 4 xlog_blcksz
 *      104    8 checkPointCopy.time          228    4 xlog_seg_size
 *      136    8 minRecoveryPoint             252    4 data_checksum_version
 *
 *   pg_control_version   PostgreSQL   crc at   the CRC-32C covers [0, crc)
 *   1300                 13 to 16        288
 *   1700                 17              288
 *   1800                 18              292
 *
 * The server overwrites the file in place, so a reader can see half of each of two versions: it is read again until its
 * checksum holds.
 */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { crc32c } from '@node-rs/crc32';
import { HoldfastError } from '../../foundation/errors.ts';
import { type Lsn, type Timeline, toLsn, toTimeline } from '../../foundation/lsn.ts';

export const CONTROL_FILE_PATH = 'global/pg_control';
export const CONTROL_FILE_BYTES = 8192;
const READ_ATTEMPTS = 50;
const READ_INTERVAL_MS = 20;

const CRC_OFFSETS: ReadonlyMap<number, number> = new Map([
  [1300, 288],
  [1700, 288],
  [1800, 292],
]);

const STATES = [
  'starting up',
  'shut down',
  'shut down in recovery',
  'shutting down',
  'in crash recovery',
  'in archive recovery',
  'in production',
] as const;

export type ControlFile = {
  readonly systemIdentifier: bigint;
  readonly controlVersion: number;
  readonly catalogVersion: number;
  readonly state: (typeof STATES)[number] | 'unknown';
  readonly checkpointLsn: Lsn;
  readonly redoLsn: Lsn;
  readonly timeline: Timeline;
  readonly fullPageWrites: boolean;
  /** Seconds since 1970. */
  readonly checkpointTime: bigint;
  readonly minRecoveryLsn: Lsn;
  /** 0: none. */
  readonly minRecoveryTimeline: number;
  readonly backupStartLsn: Lsn;
  readonly backupEndLsn: Lsn;
  readonly backupEndRequired: boolean;
  readonly walLevel: number;
  readonly blockSizeBytes: number;
  readonly segmentPages: number;
  readonly walBlockSizeBytes: number;
  readonly walSegmentSizeBytes: number;
  /** 0: page checksums are off. */
  readonly pageChecksumVersion: number;
};

/** Throws FORMAT_UNKNOWN for a version that is not in the table, DATA_CORRUPT when too short or the checksum is wrong. */
export function parseControlFile(bytes: Uint8Array): ControlFile {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  checkControlFile(view);
  return {
    systemIdentifier: view.readBigUInt64LE(0),
    controlVersion: view.readUInt32LE(8),
    catalogVersion: view.readUInt32LE(12),
    state: STATES[view.readUInt32LE(16)] ?? 'unknown',
    checkpointLsn: toLsn(view.readBigUInt64LE(32)),
    redoLsn: toLsn(view.readBigUInt64LE(40)),
    timeline: toTimeline(view.readUInt32LE(48)),
    fullPageWrites: view.readUInt8(56) !== 0,
    checkpointTime: view.readBigInt64LE(104),
    minRecoveryLsn: toLsn(view.readBigUInt64LE(136)),
    minRecoveryTimeline: view.readUInt32LE(144),
    backupStartLsn: toLsn(view.readBigUInt64LE(152)),
    backupEndLsn: toLsn(view.readBigUInt64LE(160)),
    backupEndRequired: view.readUInt8(168) !== 0,
    walLevel: view.readUInt32LE(172),
    blockSizeBytes: view.readUInt32LE(216),
    segmentPages: view.readUInt32LE(220),
    walBlockSizeBytes: view.readUInt32LE(224),
    walSegmentSizeBytes: view.readUInt32LE(228),
    pageChecksumVersion: view.readUInt32LE(252),
  };
}

/** The control file's 8,192 bytes, re-read until its checksum holds; DATA_CORRUPT when it never does (a second). */
export async function readControlFile(dataDirectory: string, signal: AbortSignal): Promise<Buffer> {
  const path = join(dataDirectory, CONTROL_FILE_PATH);
  for (let attempt = 1; ; attempt += 1) {
    signal.throwIfAborted();
    const bytes = await readOnce(path);
    try {
      checkControlFile(bytes);
      return bytes;
    } catch (error) {
      if (attempt === READ_ATTEMPTS) throw error;
    }
    await wait(READ_INTERVAL_MS, undefined, { signal });
  }
}

async function readOnce(path: string): Promise<Buffer> {
  await using file = await open(path, 'r');
  const bytes = Buffer.alloc(CONTROL_FILE_BYTES);
  const { bytesRead } = await file.read(bytes, 0, bytes.length, 0);
  return bytes.subarray(0, bytesRead);
}

function checkControlFile(bytes: Buffer): void {
  if (bytes.length < 512) {
    throw new HoldfastError('DATA_CORRUPT', `${CONTROL_FILE_PATH} has only ${bytes.length} bytes`);
  }
  const version = bytes.readUInt32LE(8);
  const crcOffset = CRC_OFFSETS.get(version);
  if (crcOffset === undefined) {
    throw new HoldfastError('FORMAT_UNKNOWN', `${CONTROL_FILE_PATH} has version ${version}`, {
      hint: 'Holdfast knows PostgreSQL 14 to 18.',
    });
  }
  if (crc32c(bytes.subarray(0, crcOffset)) !== bytes.readUInt32LE(crcOffset)) {
    throw new HoldfastError('DATA_CORRUPT', `${CONTROL_FILE_PATH} has a wrong checksum`);
  }
}
