/** Progress counters that all threads of a backup add to and its parent reads. */
const NAMES = ['plainBytes', 'readBytes', 'storedBytes', 'macroblocks', 'files'] as const;
type CounterName = (typeof NAMES)[number];

/** What one added. Plain data: it goes from thread to thread. */
export type Counted = ReadonlyMap<CounterName, number>;

export type CounterValues = Readonly<Record<CounterName, bigint>>;

export class Counters {
  readonly shared: SharedArrayBuffer;
  readonly #values: BigUint64Array;
  readonly #own = new Map<CounterName, number>();

  constructor(shared = new SharedArrayBuffer(NAMES.length * BigUint64Array.BYTES_PER_ELEMENT)) {
    this.shared = shared;
    this.#values = new BigUint64Array(shared);
  }

  add(name: CounterName, amount: number): void {
    Atomics.add(this.#values, NAMES.indexOf(name), BigInt(amount));
    this.#own.set(name, (this.#own.get(name) ?? 0) + amount);
  }

  /** What was added through this object. */
  get counted(): Counted {
    return this.#own;
  }

  /** That did not happen, but for the reading. */
  takeBack(counted: Counted): void {
    for (const [name, amount] of counted)
      if (name !== 'readBytes') Atomics.sub(this.#values, NAMES.indexOf(name), BigInt(amount));
  }

  read(): CounterValues {
    const value = (name: CounterName) => Atomics.load(this.#values, NAMES.indexOf(name));
    return {
      plainBytes: value('plainBytes'),
      readBytes: value('readBytes'),
      storedBytes: value('storedBytes'),
      macroblocks: value('macroblocks'),
      files: value('files'),
    };
  }
}
