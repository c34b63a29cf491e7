/**
 * What the reader of archived log (read-ahead.ts) and its thread say to each other.
 *
 *   reader                     thread
 *     stretch ──────►                read it
 *     ◄──────────── chunk            the next bytes of the log, in a slot; it belongs to the reader
 *     free ─────────►                the slot may be filled again
 *     ◄──────────── read             the stretch is at its end
 *     ◄──────────── failed           nothing more comes
 */
import type { Lsn } from '../../foundation/lsn.ts';
import type { LogStretch } from '../../storage-layout/clog/lookup.ts';
import type { DataKey } from '../../storage-layout/encryption/key-ring.ts';
import type { PlainError } from '../plain-error.ts';

/** What the thread is given first. */
export type ReadAheadSettings = {
  /** May hold credentials: never logged. */
  readonly uri: string;
  /** Of the round. Never logged, never shown. */
  readonly keys: readonly DataKey[];
  /** How many chunks are read ahead. */
  readonly slotCount: number;
};

export type ToReadAhead =
  | ({ readonly kind: 'stretch' } & LogStretch)
  | { readonly kind: 'free'; readonly slot: number };

export type FromReadAhead =
  | {
      readonly kind: 'chunk';
      readonly slot: number;
      /** The slot's memory, when it is new. */
      readonly memory: SharedArrayBuffer | undefined;
      readonly begin: Lsn;
      readonly offset: number;
      readonly sizeBytes: number;
    }
  | { readonly kind: 'read' }
  | { readonly kind: 'failed'; readonly error: PlainError };
