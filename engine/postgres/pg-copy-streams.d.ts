/** The part of pg-copy-streams that is used; the package has no types of its own. */
declare module 'pg-copy-streams' {
  import type { Duplex, DuplexOptions } from 'node:stream';
  import type { Submittable } from 'pg';

  /** A CopyBoth conversation (START_REPLICATION). With `alignOnCopyDataFrame` each chunk is one CopyData payload. */
  export function both(
    text: string,
    options?: DuplexOptions & { readonly alignOnCopyDataFrame?: boolean },
  ): Duplex & Submittable;
}
