import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HoldfastError } from '../../../foundation/errors.ts';
import { crc32c } from '../../../storage-layout/crc32c.ts';
import {
  decodeFileEnd,
  decodeFileHeader,
  decodeRecord,
  encodeFileEnd,
  encodeFileHeader,
  encodeRecord,
  RECORD,
} from '../../../storage-layout/records/framing.ts';
import { sampleBytes } from './support.ts';

const SOURCE = { file: 'a/file' };
const PLAIN = encodeRecord({
  type: RECORD.timelineHistory,
  payload: Buffer.from('history'),
  extension: Buffer.from([1, 2, 3]),
});
const PACKED = encodeRecord({
  type: RECORD.timelineHistory,
  payload: Buffer.alloc(500, 'ab'),
  compression: 'zstd:3',
});

describe('a record', () => {
  it('has these bytes', () => {
    expect(
      encodeRecord({ type: RECORD.timelineHistory, payload: Buffer.from('1\t0/3000000\tx\n') }).toString(
        'hex',
      ),
    ).toBe(
      '484c444601001d000000200016a2f4dc0e0000000e0000002a5c7cf600000000' +
        '3109302f333030303030300978' +
        '0a',
    );
  });

  it('is read back with its type, payload, extension and end', () => {
    const record = decodeRecord(Buffer.concat([Buffer.from('xx'), PLAIN, Buffer.from('yy')]), 2, SOURCE);
    expect(record).toMatchObject({ type: RECORD.timelineHistory, next: 2 + PLAIN.length });
    expect(record.payload.toString()).toBe('history');
    expect([...record.extension]).toEqual([1, 2, 3]);
  });

  it('round-trips for any payload, extension and compression', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 2000 }),
        fc.uint8Array({ maxLength: 64 }),
        fc.constantFrom('none' as const, 'zstd:1' as const, 'zstd:19' as const),
        (payload, extension, compression) => {
          const bytes = encodeRecord({
            type: RECORD.macroBlock,
            payload,
            extension,
            compression,
          });
          const record = decodeRecord(bytes, 0, SOURCE);
          expect(record.payload.equals(payload)).toBe(true);
          expect(record.extension.equals(extension)).toBe(true);
          expect(record.next).toBe(bytes.length);
        },
      ),
    );
  });

  it.each([
    ['plain', PLAIN],
    ['compressed', PACKED],
  ])('cut short at any offset, %s, is DATA_CORRUPT naming file and place', (_, bytes) => {
    for (let length = 0; length < bytes.length; length += 1) {
      const error = errorOf(() => decodeRecord(bytes.subarray(0, length), 0, { file: 'a/file', base: 100 }));
      expect(error.code).toBe('DATA_CORRUPT');
      expect(error.message).toMatch(/^a\/file at offset 100: /);
    }
  });

  it.each([
    ['plain', PLAIN],
    ['compressed', PACKED],
  ])('with any one bit changed, %s, is DATA_CORRUPT', (_, bytes) => {
    for (let bit = 0; bit < bytes.length * 8; bit += 1) {
      const damaged = Buffer.from(bytes);
      damaged.writeUInt8(damaged.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
      expect(errorOf(() => decodeRecord(damaged, 0, SOURCE)).code).toBe('DATA_CORRUPT');
    }
  });

  it.each([
    ['a newer header version', 4, 2, /header version 2/],
    ['an unknown record type', 6, 9999 & 0xff, /record type/],
    ['an unknown compression', 8, 7, /compression 7/],
    ['an unknown encryption', 9, 2, /encryption 2/],
  ])('of %s is refused by name', (_, offset, value, message) => {
    const error = errorOf(() => decodeRecord(resealed(PLAIN, offset, value), 0, SOURCE));
    expect(error.code).toBe('FORMAT_UNKNOWN');
    expect(error.message).toMatch(message);
  });

  it('that claims to be longer than any record may be is refused before memory is taken', () => {
    const bytes = resealed(PACKED, 19, 0xff); // plain length beyond 4 billion
    expect(errorOf(() => decodeRecord(bytes, 0, SOURCE)).code).toBe('DATA_CORRUPT');
  });

  it('whose frame decompresses to another length is DATA_CORRUPT', () => {
    for (const plainBytes of [499, 501]) {
      const bytes = Buffer.from(PACKED);
      bytes.writeUInt32LE(plainBytes, 16);
      expect(errorOf(() => decodeRecord(resealed(bytes, 8, 1), 0, SOURCE)).code).toBe('DATA_CORRUPT');
    }
    expect(decodeRecord(PACKED, 0, SOURCE).payload.length).toBe(500); // what failed before harms nothing
  });
});

describe('file header and end mark', () => {
  it('round-trip', () => {
    const fileId = sampleBytes(16);
    const header = decodeRecord(encodeFileHeader(RECORD.logBlock, fileId), 0, SOURCE);
    expect(decodeFileHeader(header, SOURCE)).toEqual({ contents: RECORD.logBlock, fileId });
    const end = decodeRecord(encodeFileEnd({ recordCount: 3, sizeBytes: 2 ** 40 }), 0, SOURCE);
    expect(decodeFileEnd(end, 0, SOURCE)).toEqual({ recordCount: 3, sizeBytes: 2 ** 40 });
  });

  it('every file has another id', () => {
    expect(encodeFileHeader(RECORD.logBlock)).not.toEqual(encodeFileHeader(RECORD.logBlock));
  });

  it('a file that begins with something else is refused', () => {
    const record = decodeRecord(PLAIN, 0, SOURCE);
    expect(errorOf(() => decodeFileHeader(record, SOURCE)).code).toBe('DATA_CORRUPT');
  });
});

/** `bytes` with one byte set and the header's checksum made right again. */
function resealed(bytes: Buffer, offset: number, value: number): Buffer {
  const changed = Buffer.from(bytes);
  changed.writeUInt8(value, offset);
  changed.writeUInt32LE(0, 12);
  changed.writeUInt32LE(crc32c(changed.subarray(0, changed.readUInt16LE(10))), 12);
  return changed;
}

function errorOf(act: () => unknown): HoldfastError {
  try {
    act();
  } catch (error) {
    if (error instanceof HoldfastError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}
