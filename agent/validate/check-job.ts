/** What travels between a validation and its worker threads. Plain data: it is cloned. */
import type { Lsn } from '../../foundation/lsn.ts';
import type { DataKey } from '../../storage-layout/encryption/key-ring.ts';
import type { MacroBlockEntry } from '../../storage-layout/macroblock/entry.ts';
import type { Failed } from '../job-pool.ts';
import type { NewFinding } from './findings.ts';

/** A data file of which the job has blocks. */
export type CheckedFile = { readonly path: string; readonly hasPages: boolean };

/** `file`: index into the job's files. */
export type CheckedBlock = MacroBlockEntry & { readonly file: number };

/** At most JOB_BYTES of plain bytes and JOB_BLOCKS blocks. */
export type CheckJob = { readonly files: readonly CheckedFile[]; readonly blocks: readonly CheckedBlock[] };

export const JOB_BYTES = 16 * 1024 * 1024;
export const JOB_BLOCKS = 1024;

/** Settings of a worker for its whole life. */
export type CheckWorkerData = {
  /** May hold credentials: never logged. */
  readonly uri: string;
  readonly keys?: readonly DataKey[] | undefined;
  readonly clusterName: string;
  readonly clusterId: bigint;
  readonly tenantId: bigint;
  readonly fullSetId: bigint;
  readonly partitionGroup: string;
  /** Whether the server had page checksums. */
  readonly pageChecksums: boolean;
  readonly start: Lsn;
  readonly stop: Lsn;
};

/** `whole`: the object itself is gone or cut off, with all blocks behind; else one place of it is meant. */
export type BlockFinding = NewFinding & { readonly whole: boolean; readonly path: string };

export type CheckWorkerMessage =
  | {
      readonly kind: 'done';
      readonly bytes: number;
      readonly blocks: number;
      readonly findings: readonly BlockFinding[];
    }
  | Failed;
