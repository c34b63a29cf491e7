/** What travels between the restore and its worker threads. Plain data: it is cloned. */
import type { Lsn } from '../../foundation/lsn.ts';
import type { DataKey } from '../../storage-layout/encryption/key-ring.ts';
import type { MacroBlockEntry } from '../../storage-layout/macroblock/entry.ts';
import type { Failed } from '../job-pool.ts';

/** A file to create with its final size; what no block fills stays a hole of zeros. */
export type TargetFile = {
  readonly path: string;
  readonly sizeBytes: number;
  readonly mode: number;
};

export type StoredBlock = Pick<
  MacroBlockEntry,
  | 'fileNumber'
  | 'blockNumber'
  | 'setId'
  | 'subTaskId'
  | 'offset'
  | 'storedBytes'
  | 'plainBytes'
  | 'crc32c'
  | 'compression'
  | 'wholeBytes'
  | 'delta'
> & {
  /** Index into the job's files. */
  readonly file: number;
  /** Where its first byte goes. */
  readonly position: number;
  /** Undefined: the file holds no pages. */
  readonly newestPageLsn: Lsn | undefined;
};

/** At most JOB_BYTES of plain bytes and JOB_ITEMS files and blocks. */
export type BlockJob = { readonly files: readonly TargetFile[]; readonly blocks: readonly StoredBlock[] };

export const JOB_BYTES = 16 * 1024 * 1024;
export const JOB_ITEMS = 1024;

/** Where blocks come from, and whose the files become. */
export type BlockSource = {
  /** `macro_block_<set>.<sub task>` keys are built from these. */
  readonly clusterName: string;
  readonly clusterId: bigint;
  readonly tenantId: bigint;
  readonly fullSetId: bigint;
  readonly partitionGroup: string;
  readonly owner: { readonly uid: number; readonly gid: number } | undefined;
};

/** Settings of a worker for its whole life. */
export type BlockWorkerData = BlockSource & {
  /** May hold credentials: never logged. */
  readonly uri: string;
  readonly keys?: readonly DataKey[] | undefined;
};

export type BlockWorkerMessage =
  | { readonly kind: 'done'; readonly bytes: number; readonly blocks: number }
  | Failed;
