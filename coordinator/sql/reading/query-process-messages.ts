/** What the coordinator and a query process say to each other over the process channel, one request at a time. */

export type QueryProcessRequest =
  /** A frontend message. Answer: the backend's frames. */
  | { readonly kind: 'exchange'; readonly message: Uint8Array }
  /** New rows of views, each as the text of one JSON array. Answer: no frames. */
  | { readonly kind: 'load'; readonly views: readonly { readonly name: string; readonly rows: string }[] };

export type QueryProcessReply =
  | { readonly kind: 'ready'; readonly serverVersion: string }
  | { readonly kind: 'answer'; readonly frames: Uint8Array }
  /** The database is no longer usable; the process ends. */
  | { readonly kind: 'failed'; readonly message: string };
