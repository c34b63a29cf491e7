/**
 * What the backup's parent thread and its workers say to each other.
 *
 *   parent                      worker
 *     ◄──────────── ready         may take a sub task
 *     copy ─────────►
 *     ◄──────────── ready         all of it is read and handed to the medium: the next may come
 *     ◄──────────── copied        its macro_block file is durable: the parent does what is left (durable-sub-task.ts)
 *     ◄──────────── undone        the destination failed: the parent gives the sub task again, under another id
 *     ◄──────────── failed        the backup fails
 */
import type { DataKey } from '../../storage-layout/encryption/key-ring.ts';
import type { MacroBlockFileName } from '../../storage-layout/macroblock/file-name.ts';
import type { SetKey, TreeRoot } from '../../storage-layout/tree.ts';
import type { PlainError } from '../plain-error.ts';
import type { Counted } from './counters.ts';
import type { SubTask } from './plan.ts';

/** What a worker is given first (threads.ts). */
export type WorkerSettings = {
  readonly destinationUri: string;
  readonly keys: readonly DataKey[];
  readonly root: TreeRoot;
  readonly setKey: SetKey;
  readonly group: string;
  readonly compression: string;
  readonly pageChecksums: boolean;
  /** Of the task (throttle.ts): each of its workers may use its share. */
  readonly limits: SharedArrayBuffer;
  readonly workerCount: number;
  readonly counters: SharedArrayBuffer;
};

export type ToWorker =
  | { readonly kind: 'copy'; readonly subTask: SubTask; readonly name: MacroBlockFileName }
  | { readonly kind: 'end' };

/** A page whose checksum stayed wrong over several reads. */
export type SuspectFound = {
  readonly fileNumber: number;
  readonly path: string;
  readonly macroblock: number;
  /** Within the relation segment. */
  readonly pageInFile: number;
  readonly pageLsn: bigint;
};

/** A file that was gone when its piece was to be read. */
export type VanishedFile = { readonly fileNumber: number; readonly beginBlock: number };
/** A file that was shorter than listed: nothing of it from macroblock `endBlock` on was there. */
export type EndFound = { readonly fileNumber: number; readonly endBlock: number };

export type SubTaskCopy = {
  /** Of one that was done again, the first id: its place among the others. */
  readonly subTaskId: number;
  /** Encoded index entries (storage-layout/macroblock), in order. */
  readonly entries: Uint8Array;
  readonly suspects: readonly SuspectFound[];
  readonly vanished: readonly VanishedFile[];
  readonly ended: readonly EndFound[];
  /** Size of the macro_block file. */
  readonly storedBytes: number;
};

export type FromWorker =
  | { readonly kind: 'ready' }
  | {
      readonly kind: 'copied';
      /** By which its files are called. */
      readonly subTaskId: number;
      readonly copy: SubTaskCopy;
      readonly counted: Counted;
    }
  | { readonly kind: 'undone'; readonly subTaskId: number; readonly error: PlainError }
  | { readonly kind: 'failed'; readonly error: PlainError };
