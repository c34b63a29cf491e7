/** CRC-32C (Castagnoli), and the checksum of a concatenation from the checksums of its parts. */
import { crc32c as nativeCrc32c } from '@node-rs/crc32';

/** CRC-32C of `data`, continued from `previous` (0 at the beginning). */
export function crc32c(data: Uint8Array, previous = 0): number {
  return nativeCrc32c(data, previous);
}

/**
 * CRC-32C of A followed by B, from theirs and the length of B. Appending n zero bits to A multiplies its checksum by
 * x^n modulo the polynomial; B's is then added. O(log lengthB).
 */
export function combineCrc32c(a: number, b: number, lengthB: number): number {
  if (lengthB !== shift.length) shift = { length: lengthB, power: powerOfX(lengthB * 8) };
  return (multiply(shift.power, a) ^ b) >>> 0;
}

/** Castagnoli's polynomial, reflected: bit 31 is the coefficient of x^0. */
const POLYNOMIAL = 0x82f63b78;
const ONE = 0x8000_0000;
/** Of the last length: nearly all parts are macroblocks of one length. */
let shift = { length: 0, power: ONE };

/** Product of two reflected polynomials modulo POLYNOMIAL. */
function multiply(a: number, b: number): number {
  let product = 0;
  let shifted = b;
  for (let bit = ONE; bit !== 0; bit >>>= 1) {
    if ((a & bit) !== 0) product ^= shifted;
    shifted = (shifted & 1) === 0 ? shifted >>> 1 : (shifted >>> 1) ^ POLYNOMIAL;
  }
  return product >>> 0;
}

/** x^exponent modulo POLYNOMIAL, by squaring. */
function powerOfX(exponent: number): number {
  let result = ONE;
  let square = ONE >>> 1; // x^1
  for (let rest = exponent; rest > 0; rest = Math.floor(rest / 2)) {
    if (rest % 2 === 1) result = multiply(square, result);
    square = multiply(square, square);
  }
  return result;
}
