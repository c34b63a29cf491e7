/** A destination may be hostile: no path of its file list may leave the directory that is restored into. */
import { HoldfastError } from '../../foundation/errors.ts';

/** Files that only a server or a restore makes. */
const RESERVED: ReadonlySet<string> = new Set([
  'HOLDFAST_RESTORE_INCOMPLETE',
  'backup_label',
  'backup_manifest',
  'postmaster.opts',
  'postmaster.pid',
  'recovery.signal',
  'standby.signal',
  'tablespace_map',
]);

/**
 * Refuses what is no plain relative path: empty, absolute, with `.`, `..` or empty components, or with a NUL. Throws
 * DATA_CORRUPT naming the path.
 */
export function checkRelativePath(path: string): void {
  const bad =
    path === '' ||
    path.includes('\0') ||
    path.split('/').some((component) => component === '' || component === '.' || component === '..');
  if (bad)
    throw new HoldfastError(
      'DATA_CORRUPT',
      `the backup lists a path that leads out: ${JSON.stringify(path)}`,
    );
}

/** `checkRelativePath`, and refuses the names that a backup never holds. */
export function checkFilePath(path: string): void {
  checkRelativePath(path);
  if (RESERVED.has(path))
    throw new HoldfastError('DATA_CORRUPT', `the backup lists a file that no backup holds: ${path}`);
}
