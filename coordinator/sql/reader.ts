/**
 * Who answers reading statements. A `ReadingSession` is one client's place in the catalog: a query process of its own
 * (embedded catalog) or a connection under the reader role (PostgreSQL catalog). It speaks raw PostgreSQL protocol
 * messages, one exchange at a time.
 */

export type ViewColumn = {
  /** Lower case. */
  readonly name: string;
  /** As PostgreSQL writes it: `bigint`, `text`, `timestamp with time zone`, `numeric`, … */
  readonly type: string;
};
export type ViewDefinition = { readonly name: string; readonly columns: readonly ViewColumn[] };

/** What the embedded catalog offers to query processes. The catalog (coordinator/catalog) satisfies it. */
export type ViewSource = {
  readonly views: readonly ViewDefinition[];
  /** Moves with every commit that can change what a view shows. */
  changeCounter(): number;
  /** The view's rows now, as the text of one JSON array of objects (PostgreSQL's `json_agg(row)`; `[]` when empty). */
  readView(name: string, signal: AbortSignal): Promise<string>;
};
