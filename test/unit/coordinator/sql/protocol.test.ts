import fc from 'fast-check';
import { expect, test } from 'vitest';
import { dataRow, formatTimestamp } from '../../../../coordinator/sql/wire/backend-messages.ts';
import { FrameSplitter, frame } from '../../../../coordinator/sql/wire/frames.ts';
import { decodeFrontend, encodeParse } from '../../../../coordinator/sql/wire/frontend-messages.ts';
import { makeScramSecret, startScram } from '../../../../coordinator/sql/wire/scram.ts';
import { isError } from '../../../../foundation/errors.ts';

test('frames come out whole however the bytes are cut', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 50 })), fc.array(fc.nat(60)), (bodies, cuts) => {
      const all = Buffer.concat(bodies.map((body) => frame('Q', Buffer.from(body))));
      const splitter = new FrameSplitter(1000);
      const found: string[] = [];
      let at = 0;
      for (const cut of [...cuts, all.length]) {
        for (const { bytes } of splitter.push(all.subarray(at, Math.min(all.length, at + cut))))
          found.push(bytes.subarray(5).toString('hex'));
        at = Math.min(all.length, at + cut);
      }
      expect(found).toEqual(bodies.map((body) => Buffer.from(body).toString('hex')));
    }),
  );
});

test('a length that cannot be is refused', () => {
  for (const length of [-1, 0, 3, 1001, 0x7fff_ffff]) {
    const bytes = Buffer.alloc(5, 'Q');
    bytes.writeInt32BE(length, 1);
    expect(() => new FrameSplitter(1000).push(bytes)).toThrow(/protocol message/);
  }
});

test('a message that is cut anywhere is refused, never read beyond its end', () => {
  const whole = encodeParse('name', 'SELECT 1');
  expect(decodeFrontend({ type: 'P', bytes: whole })).toEqual({
    kind: 'parse',
    name: 'name',
    sql: 'SELECT 1',
    parameterTypes: 0,
  });
  for (let end = 5; end < whole.length; end += 1)
    expect(() => decodeFrontend({ type: 'P', bytes: whole.subarray(0, end) })).toThrow(/shorter/);
});

test('any bytes of any type decode or are refused', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...'QPBDCESHXdcfpZ'.split('')),
      fc.uint8Array({ maxLength: 60 }),
      (type, body) => {
        try {
          decodeFrontend({ type, bytes: frame(type, Buffer.from(body)) });
        } catch (error) {
          if (!isError(error, 'INVALID_ARGUMENT')) throw error;
        }
      },
    ),
  );
});

test('SCRAM-SHA-256 gives the messages of RFC 7677', async () => {
  const secret = await makeScramSecret('pencil', Buffer.from('W22ZaJ0SNY7soEsUEjb6gQ==', 'base64'));
  const scram = startScram(secret, '%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0');
  expect(scram.first('n,,n=user,r=rOprNGfwEbeRWgbNEkqO')).toBe(
    'r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096',
  );
  const final =
    'c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=';
  expect(scram.final(final)).toBe('v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=');
  expect(scram.final(final.replace('p=dHz', 'p=eHz'))).toBeUndefined();
  expect(scram.final(final.replace('c=biws', 'c=eSws'))).toBeUndefined();
  expect(scram.final('')).toBeUndefined();
});

test('values have PostgreSQL text and binary forms', () => {
  expect(formatTimestamp(1_795_223_132_000_001n)).toBe('2026-11-21 01:05:32.000001+00');
  expect(formatTimestamp(-1n)).toBe('1969-12-31 23:59:59.999999+00');
  expect(formatTimestamp(0n)).toBe('1970-01-01 00:00:00+00');
  expect(dataRow(['é', null, 5n]).toString('hex')).toBe('4400000015000300000002c3a9ffffffff0000000135');
  const columns = [
    { name: 'a', type: 'int8' },
    { name: 'b', type: 'timestamptz' },
  ] as const;
  expect(dataRow([1n, { timestampUs: 946_684_800_000_001n }], columns, [1]).toString('hex')).toBe(
    '440000001e0002000000080000000000000001000000080000000000000001',
  );
});
