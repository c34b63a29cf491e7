/**
 * Messages inside a physical replication stream (protocol-replication, "Streaming Replication Protocol"). Integers are
 * big-endian; times are microseconds since 2000-01-01 UTC.
 *
 *   XLogData ('w')               keepalive ('k')             standby status update ('r')
 *   0  1  'w'                    0  1  'k'                   0  1  'r'
 *   1  8  start of the data      1  8  end of the log        1  8  written up to
 *   9  8  end of the log         9  8  server's clock        9  8  flushed up to
 *   17 8  server's clock         17 1  reply wanted          17 8  applied up to
 *   25 .. log bytes                                          25 8  our clock
 *                                                            33 1  reply wanted
 */
import { HoldfastError } from '../../foundation/errors.ts';
import { type Lsn, toLsn } from '../../foundation/lsn.ts';

const POSTGRES_EPOCH_US = 946_684_800_000_000n;
const DATA = 0x77;
const KEEPALIVE = 0x6b;
const STATUS_UPDATE = 0x72;
const DATA_HEADER_BYTES = 25;
const KEEPALIVE_BYTES = 18;
const STATUS_UPDATE_BYTES = 34;

export type ReplicationMessage =
  | {
      readonly kind: 'data';
      readonly begin: Lsn;
      readonly serverEnd: Lsn;
      readonly serverClockUs: bigint;
      readonly data: Buffer;
    }
  | {
      readonly kind: 'keepalive';
      readonly serverEnd: Lsn;
      readonly serverClockUs: bigint;
      readonly replyRequested: boolean;
    };

/** Reads one CopyData payload; `data` is a view on it. Times become microseconds since 1970. Throws INTERNAL for what no server sends. */
export function decodeReplicationMessage(message: Buffer): ReplicationMessage {
  const kind = message[0];
  if (kind === DATA && message.length >= DATA_HEADER_BYTES) {
    return {
      kind: 'data',
      begin: toLsn(message.readBigUInt64BE(1)),
      serverEnd: toLsn(message.readBigUInt64BE(9)),
      serverClockUs: message.readBigInt64BE(17) + POSTGRES_EPOCH_US,
      data: message.subarray(DATA_HEADER_BYTES),
    };
  }
  if (kind === KEEPALIVE && message.length >= KEEPALIVE_BYTES) {
    return {
      kind: 'keepalive',
      serverEnd: toLsn(message.readBigUInt64BE(1)),
      serverClockUs: message.readBigInt64BE(9) + POSTGRES_EPOCH_US,
      replyRequested: message[17] === 1,
    };
  }
  throw new HoldfastError(
    'INTERNAL',
    `replication stream: message of kind ${kind ?? 'none'} and ${message.length} bytes is not one of the protocol`,
  );
}

/**
 * Written, flushed and applied are all `durable`: nothing else may be claimed, and a commit that waits for any of the
 * three (synchronous_commit remote_write, on, remote_apply) waits for the archive. `nowUs` is since 1970.
 */
export function encodeStatusUpdate(durable: Lsn, nowUs: bigint, replyRequested: boolean): Buffer {
  const message = Buffer.alloc(STATUS_UPDATE_BYTES);
  message[0] = STATUS_UPDATE;
  message.writeBigUInt64BE(durable, 1);
  message.writeBigUInt64BE(durable, 9);
  message.writeBigUInt64BE(durable, 17);
  message.writeBigInt64BE(nowUs - POSTGRES_EPOCH_US, 25);
  message[33] = replyRequested ? 1 : 0;
  return message;
}
