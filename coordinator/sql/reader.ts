/**
 * Who answers reading statements. A `ReadingSession` is one client's place in the catalog: a query process of its own
 * (embedded catalog) or a connection under the reader role (PostgreSQL catalog). It speaks raw messages of the
 * PostgreSQL protocol, one exchange at a time.
 */
import type { Frame } from './wire/frames.ts';

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

/** A role with rights on the views only, for a PostgreSQL catalog. */
export type ReaderLogin = {
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user: string;
  readonly password: string;
  readonly ssl: boolean;
};

export type ReadingSession = AsyncDisposable & {
  /**
   * To be called outside of a transaction before a run of messages: makes the views that `texts` mention (all of them
   * when undefined) show the present. True when the unnamed prepared statement is lost by it.
   */
  refresh(texts: readonly string[] | undefined, signal: AbortSignal): Promise<boolean>;
  /**
   * Sends one frontend message and yields the frames of its answer up to the one that completes it (an error included).
   * When `signal` aborts, the running statement is stopped and the session is over. Throws HoldfastError: what the
   * signal was aborted with, or SERVER_UNREACHABLE when the other side is gone.
   */
  exchange(message: Buffer, signal: AbortSignal): AsyncIterable<Frame>;
};

export type Reader = AsyncDisposable & {
  /** Throws TOO_MANY_SESSIONS when all places are taken. */
  open(signal: AbortSignal): Promise<ReadingSession>;
  /** PostgreSQL's version, `18.6`: clients choose their catalog queries by it. */
  serverVersion(): Promise<string>;
};
