/**
 * What running a statement yields, in order: for a statement with a result `rowDescription`, `row`*, then `complete`;
 * for one without only `complete`; notices anywhere before it. A failure is thrown, never yielded.
 */

/** A typed value. bigint: int8; number: float8 or int4; Date never (it loses microseconds): use `timestampUs`. */
export type SqlValue = null | string | number | bigint | boolean | { readonly timestampUs: bigint };

/** PostgreSQL's type oids of the values that commands return. */
export const TYPE_OIDS = {
  bool: 16,
  int8: 20,
  int4: 23,
  text: 25,
  float8: 701,
  json: 114,
  timestamptz: 1184,
} as const;
export type ResultType = keyof typeof TYPE_OIDS;

export type ResultColumn = { readonly name: string; readonly type: ResultType };

export type SqlNotice = {
  readonly severity: 'NOTICE' | 'WARNING' | 'INFO';
  readonly message: string;
  readonly detail?: string;
  readonly hint?: string;
};

/** What a command yields. `complete` is left to the caller unless the command wants a tag of its own. */
export type CommandEvent =
  | { readonly kind: 'rowDescription'; readonly columns: readonly ResultColumn[] }
  | { readonly kind: 'row'; readonly values: readonly SqlValue[] }
  | ({ readonly kind: 'notice' } & SqlNotice)
  | { readonly kind: 'complete'; readonly tag: string };
