/** What the bench asks of a backup tool, and what it says of each work. */
import type { Measured } from './measured-command.ts';

/**
 * `storedBytes`: what the work added to the repository; `readBytes`: of the database; `startSeconds`: of `seconds`, until
 * the process began its work. Undefined: not known, or none.
 */
export type Cost = Omit<Measured, 'stdout'> & {
  readonly readBytes?: number | undefined;
  readonly storedBytes?: number | undefined;
  readonly startSeconds?: number | undefined;
};

/** A restore over `target`, which `delta` says is a directory that is there. */
export type RestoreOrder = { readonly target: string; readonly of: 'full' | 'last'; readonly delta: boolean };

/** What a tool does not do it does not have. */
export type BackupTool = AsyncDisposable & {
  readonly name: string;
  /** Version and settings. */
  readonly description: string;
  /** Makes an empty repository; whatever was there is gone. */
  prepare(): Promise<void>;
  full(): Promise<Cost>;
  /** Of the backup before. */
  increment?(): Promise<Cost>;
  /** Whether a restore can keep what is right in a directory that is there. */
  readonly restoresDelta?: boolean;
  restore?(order: RestoreOrder): Promise<Cost>;
  /** All that is in the repository. */
  validate?(): Promise<Cost>;
};
