/** Optional fields that are undefined are left out of what the parser makes (`exactOptionalPropertyTypes`). */

/** `T` whose optional fields may also be given as undefined. */
export type StatementFields<T> = {
  [F in keyof T as object extends Pick<T, F> ? never : F]: T[F];
} & { [F in keyof T as object extends Pick<T, F> ? F : never]?: T[F] | undefined };

export function withFields<T extends object>(fields: StatementFields<T>): T {
  const kept = Object.entries(fields).filter(([, value]) => value !== undefined);
  return Object.fromEntries(kept) as T; // only undefined optional fields are gone
}
