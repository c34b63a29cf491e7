/** What travels between a synthetic full and its worker threads. Plain data: it is cloned. */
import type { Lsn } from '../../../foundation/lsn.ts';
import type { DataKey } from '../../../storage-layout/encryption/key-ring.ts';
import type { MacroBlockEntry } from '../../../storage-layout/macroblock/entry.ts';
import type { SetKey, TreeRoot } from '../../../storage-layout/tree.ts';
import type { Failed } from '../../job-pool.ts';
import type { FileCopy } from './plan.ts';

export type SyntheticFile = { readonly path: string; readonly hasPages: boolean };

/** `copiedTo`: the sub task of the copied file that it is in; undefined: it is written anew. `file`: index into the job's. */
export type SyntheticBlock = MacroBlockEntry & {
  readonly file: number;
  readonly copiedTo: number | undefined;
};

export type SyntheticJob =
  | { readonly kind: 'copy'; readonly copy: FileCopy }
  | {
      readonly kind: 'blocks';
      /** Names the macroblock file of what is written anew. */
      readonly subTaskId: number;
      readonly files: readonly SyntheticFile[];
      /** In the order of the index. */
      readonly blocks: readonly SyntheticBlock[];
    };

/** Settings of a worker for its whole life. */
export type SyntheticWorkerData = {
  /** May hold credentials: never logged. */
  readonly destinationUri: string;
  readonly keys: readonly DataKey[];
  readonly root: TreeRoot;
  readonly group: string;
  readonly source: SetKey;
  readonly target: SetKey;
  readonly compression: string;
  /** Whether the server had page checksums, and the source's pages were checked. */
  readonly pageChecksums: boolean;
  readonly start: Lsn;
  readonly stop: Lsn;
  /** Of the task (throttle.ts): each of its workers may use its share. */
  readonly limits: SharedArrayBuffer;
  readonly workerCount: number;
  readonly counters: SharedArrayBuffer;
};

export type SyntheticWorkerMessage =
  | {
      readonly kind: 'done';
      readonly subTaskId: number;
      /** Encoded index entries of what was written anew, in order. */
      readonly entries: Uint8Array;
      /** Size of the file that was copied or written. */
      readonly storedBytes: number;
    }
  | Failed;
