/** Chance that can be repeated: the seed is printed, and HOLDFAST_TEST_SEED sets it. */

export type Random = {
  readonly seed: number;
  /** [0, 1) */
  next(): number;
  /** An integer in [begin, end). */
  between(begin: number, end: number): number;
};

/** mulberry32: small, good enough to choose moments. */
export function createRandom(purpose: string): Random {
  const seed = Number(process.env['HOLDFAST_TEST_SEED'] ?? Date.now() % 2 ** 31);
  process.stderr.write(`${purpose}: HOLDFAST_TEST_SEED=${seed}\n`);
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return { seed, next, between: (begin, end) => begin + Math.floor(next() * (end - begin)) };
}
