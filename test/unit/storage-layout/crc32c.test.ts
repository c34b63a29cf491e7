import fc from 'fast-check';
import { expect, it } from 'vitest';
import { combineCrc32c, crc32c } from '../../../storage-layout/crc32c.ts';

it('is Castagnoli: the check value of "123456789" and the vectors of RFC 3720', () => {
  expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283);
  expect(crc32c(Buffer.alloc(32))).toBe(0x8a9136aa);
  expect(crc32c(Buffer.alloc(32, 0xff))).toBe(0x62a8ab43);
  expect(crc32c(Buffer.alloc(0))).toBe(0);
});

it('continues from the checksum of what came before', () => {
  expect(crc32c(Buffer.from('456789'), crc32c(Buffer.from('123')))).toBe(0xe3069283);
});

it('the checksum of a concatenation follows from those of its parts', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.uint8Array({ maxLength: 300 }), (a, b) => {
      expect(combineCrc32c(crc32c(a), crc32c(b), b.length)).toBe(crc32c(Buffer.concat([a, b])));
    }),
  );
});

it('combines lengths beyond 32 bits', () => {
  const zeros = Buffer.alloc(1 << 20);
  const empty = 0;
  const once = crc32c(zeros);
  let combined = once;
  let length = zeros.length;
  while (length < 2 ** 33) {
    combined = combineCrc32c(combined, combined, length);
    length *= 2;
  }
  expect(combineCrc32c(empty, combined, length)).toBe(combined);
  expect(combineCrc32c(combined, once, zeros.length)).toBe(combineCrc32c(once, combined, length)); // both all zeros
});
