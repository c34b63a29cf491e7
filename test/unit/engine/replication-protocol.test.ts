import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { beforePageHeader } from '../../../engine/postgres/identify.ts';
import {
  decodeReplicationMessage,
  encodeStatusUpdate,
} from '../../../engine/postgres/replication-protocol.ts';
import { toLsn } from '../../../foundation/lsn.ts';

describe('messages of the replication stream', () => {
  test('XLogData: where the data begins, where the server is, its clock since 1970', () => {
    const message = Buffer.from(
      ['77', '0000000003000148', '00000000030001f0', '0000000000000001', 'cafe'].join(''),
      'hex',
    );
    expect(decodeReplicationMessage(message)).toEqual({
      kind: 'data',
      begin: 0x3000148n,
      serverEnd: 0x30001f0n,
      serverClockUs: 946_684_800_000_001n,
      data: Buffer.from('cafe', 'hex'),
    });
  });
  test('keepalive with and without a wanted reply', () => {
    const message = (reply: string) => Buffer.from(`6b00000000030001f00000000000000000${reply}`, 'hex');
    expect(decodeReplicationMessage(message('01'))).toMatchObject({
      kind: 'keepalive',
      replyRequested: true,
      serverEnd: 0x30001f0n,
    });
    expect(decodeReplicationMessage(message('00'))).toMatchObject({ replyRequested: false });
  });
  test('anything else, or a message cut short anywhere in its header, is refused', () => {
    const data = Buffer.alloc(25, 0);
    data[0] = 0x77;
    for (let length = 0; length < 25; length += 1)
      expect(() => decodeReplicationMessage(data.subarray(0, length))).toThrow(/not one of the protocol/);
    expect(() => decodeReplicationMessage(Buffer.from('zzz'))).toThrow(/not one of the protocol/);
  });
  test('a status update claims the same position as written, flushed and applied', () => {
    const message = encodeStatusUpdate(toLsn(0x3000148n), 946_684_800_000_005n, true);
    expect(message.toString('hex')).toBe(
      ['72', '0000000003000148', '0000000003000148', '0000000003000148', '0000000000000005', '01'].join(''),
    );
  });
});

describe('the insert position', () => {
  const segment = 16 * 1024 * 1024;
  test('behind a page header that does not exist yet means the page border', () => {
    expect(beforePageHeader(toLsn(BigInt(8192 * 3 + 24)), segment, 8192)).toBe(BigInt(8192 * 3));
    expect(beforePageHeader(toLsn(BigInt(segment + 40)), segment, 8192)).toBe(BigInt(segment));
  });
  test('everywhere else means itself', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 40n }), (value) => {
        const offset = value % 8192n;
        const isFirst = value % BigInt(segment) < 8192n;
        fc.pre(isFirst ? offset !== 40n : offset !== 24n);
        expect(beforePageHeader(toLsn(value), segment, 8192)).toBe(value);
      }),
    );
  });
});
