/**
 * CRC-32C (Castagnoli) of WAL records: over what follows the header, then over the header's first 20 bytes
 * (PostgreSQL: ValidXLogRecord). Short runs are summed here, eight bytes a step, because a native call costs about
 * 100 ns (as much as 200 bytes here); longer ones by @node-rs/crc32 (7 GB/s).
 */
import { crc32c } from '@node-rs/crc32';

const HEADER_BYTES = 24;
const CRC_OFFSET = 20;
const NATIVE_FROM_BYTES = 200;
const POLYNOMIAL = 0x82f63b78;

const [T0, T1, T2, T3, T4, T5, T6, T7] = makeTables();

/** True when the record of `length` bytes (header included, at least 24) at `offset` has the checksum it holds. */
export function recordChecksumHolds(
  bytes: Uint8Array,
  view: DataView,
  offset: number,
  length: number,
): boolean {
  const begin = offset + HEADER_BYTES;
  const end = offset + length;
  const body =
    length < NATIVE_FROM_BYTES
      ? sum(view, begin, end, -1)
      : ~crc32c(new Uint8Array(bytes.buffer, bytes.byteOffset + begin, end - begin));
  return ~sum(view, offset, offset + CRC_OFFSET, body) === view.getInt32(offset + CRC_OFFSET, true);
}

/** Goes on with `state` (not inverted) over [begin, end). */
function sum(view: DataView, begin: number, end: number, state: number): number {
  let crc = state;
  let at = begin;
  for (; at + 8 <= end; at += 8) {
    const low = crc ^ view.getInt32(at, true);
    const high = view.getInt32(at + 4, true);
    crc =
      entry(T7, low & 255) ^
      entry(T6, (low >>> 8) & 255) ^
      entry(T5, (low >>> 16) & 255) ^
      entry(T4, low >>> 24) ^
      entry(T3, high & 255) ^
      entry(T2, (high >>> 8) & 255) ^
      entry(T1, (high >>> 16) & 255) ^
      entry(T0, high >>> 24);
  }
  for (; at < end; at += 1) crc = entry(T0, (crc ^ view.getUint8(at)) & 255) ^ (crc >>> 8);
  return crc;
}

function entry(table: Int32Array, index: number): number {
  return table[index] as number; // every table has 256 entries, every index is 0 to 255
}

type Tables = readonly [
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
];

function makeTables(): Tables {
  const table = () => new Int32Array(256);
  const tables: Tables = [table(), table(), table(), table(), table(), table(), table(), table()];
  for (let byte = 0; byte < 256; byte += 1) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc & 1) === 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
    tables[0][byte] = crc;
  }
  for (let byte = 0; byte < 256; byte += 1) {
    let crc = entry(tables[0], byte);
    for (const next of tables.slice(1)) {
      crc = entry(tables[0], crc & 255) ^ (crc >>> 8);
      next[byte] = crc;
    }
  }
  return tables;
}
