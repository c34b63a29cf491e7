/** Assertions for bugs: conditions that no input, however bad, may violate. */

/** Throws when `condition` is false. The message says which invariant was broken. */
export function assert(condition: boolean, invariant: string): asserts condition {
  if (!condition) throw new Error(`bug: ${invariant}`);
}

/** Ends a switch over a union: the compiler refuses it while a variant is missing. */
export function assertNever(value: never): never {
  throw new Error(`bug: unexpected variant ${JSON.stringify(value)}`);
}

/** The value, or a bug if it is undefined or null. */
export function defined<T>(value: T | undefined | null, what: string): T {
  if (value === undefined || value === null) throw new Error(`bug: ${what} is missing`);
  return value;
}
