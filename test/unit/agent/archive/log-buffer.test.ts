/** The archiver's ring against a model: a plain list of bytes. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type LogBlock, LogBuffer } from '../../../../agent/archive/log-buffer.ts';
import { toLsn } from '../../../../foundation/lsn.ts';

const BEGIN = 0x1000000n;
const CAPACITY_BYTES = 64;

function pieceAt(position: number) {
  return {
    begin: toLsn(BEGIN + BigInt(position)),
    events: [],
    touches: { pages: new Uint32Array(0), changes: [] },
    unfinishedRecordBegin: undefined,
    receivedMs: position,
  };
}

/** Bytes that depend on their position alone. */
function bytesAt(position: number, length: number): Buffer {
  return Buffer.from(Array.from({ length }, (_, index) => ((position + index) * 167) & 0xff));
}

describe('The log buffer', () => {
  it('gives back every byte once, in order, whatever is pushed, taken and released when', () => {
    const step = fc.oneof(
      fc.record({ kind: fc.constant('push' as const), bytes: fc.integer({ min: 1, max: 24 }) }),
      fc.record({ kind: fc.constant('take' as const), bytes: fc.integer({ min: 1, max: 40 }) }),
      fc.record({ kind: fc.constant('release' as const), bytes: fc.constant(0) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const buffer = new LogBuffer(CAPACITY_BYTES);
        let pushed = 0;
        let taken = 0;
        let block: LogBlock | undefined;
        const check = () => {
          if (block === undefined) return;
          const position = Number(block.begin - BEGIN);
          expect(Buffer.from(block.data)).toEqual(bytesAt(position, block.data.length));
        };
        for (const { kind, bytes } of steps) {
          if (kind === 'push' && buffer.hasRoomFor(bytes)) {
            buffer.push(pieceAt(pushed), bytesAt(pushed, bytes));
            pushed += bytes;
          } else if (kind === 'take' && block === undefined) {
            block = buffer.take(bytes);
            expect(block === undefined).toBe(pushed === taken);
            if (block !== undefined) {
              expect(block.begin).toBe(BEGIN + BigInt(taken));
              expect(block.pieces.reduce((sum, piece) => sum + piece.sizeBytes, 0)).toBe(block.data.length);
              if (block.pieces.length > 1) expect(block.data.length).toBeLessThanOrEqual(bytes);
              taken += block.data.length;
              expect(block.end).toBe(BEGIN + BigInt(taken));
            }
          } else if (kind === 'release' && block !== undefined) {
            check();
            buffer.release();
            block = undefined;
          }
          check(); // what is being written is not written over
          expect(buffer.sizeBytes).toBe(pushed - taken);
          expect(buffer.oldestReceivedMs === undefined).toBe(pushed === taken);
        }
      }),
    );
  });

  it('has room for its whole capacity when it is empty, wherever it was filled before', () => {
    const buffer = new LogBuffer(CAPACITY_BYTES);
    for (let position = 0; position < 200; position += 40) {
      buffer.push(pieceAt(position), bytesAt(position, 40));
      buffer.take(CAPACITY_BYTES);
      expect(buffer.hasRoomFor(CAPACITY_BYTES)).toBe(false);
      buffer.release();
      expect(buffer.hasRoomFor(CAPACITY_BYTES)).toBe(true);
    }
  });

  it('goes on at its beginning, in a block of its own, and never over bytes that wait', () => {
    const buffer = new LogBuffer(CAPACITY_BYTES);
    buffer.push(pieceAt(0), bytesAt(0, 30));
    buffer.push(pieceAt(30), bytesAt(30, 30));
    buffer.take(30);
    expect(buffer.hasRoomFor(10)).toBe(false);
    buffer.release();
    expect(buffer.hasRoomFor(31)).toBe(false);
    buffer.push(pieceAt(60), bytesAt(60, 30));
    expect(buffer.hasRoomFor(1)).toBe(false);
    expect(() => buffer.push(pieceAt(90), bytesAt(90, 1))).toThrow(/beyond the limit/);
    expect(buffer.take(CAPACITY_BYTES)?.data.length).toBe(30);
    buffer.release();
    expect(Buffer.from(buffer.take(CAPACITY_BYTES)?.data ?? [])).toEqual(bytesAt(60, 30));
  });

  it('refuses a piece that does not follow the one before', () => {
    const buffer = new LogBuffer(CAPACITY_BYTES);
    buffer.push(pieceAt(0), bytesAt(0, 10));
    expect(() => buffer.push(pieceAt(11), bytesAt(11, 10))).toThrow(/directly behind/);
  });
});
