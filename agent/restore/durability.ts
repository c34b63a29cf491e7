/**
 * Making a restored directory durable. One syncfs per file system (`sync -f`, coreutils and busybox) costs a fraction
 * of an fsync per file; where there is no such program, every file and directory is fsynced.
 */
import { execFile } from 'node:child_process';
import { open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { HoldfastError } from '../../foundation/errors.ts';

const run = promisify(execFile);

/** Makes all below `directories` durable. Throws RESTORE_FAILED when it cannot be. */
export async function syncTrees(directories: readonly string[], signal: AbortSignal): Promise<void> {
  const devices = new Map<number, string>();
  for (const directory of directories) devices.set((await stat(directory)).dev, directory);
  for (const directory of devices.values()) {
    try {
      await run('sync', ['-f', directory], { signal });
    } catch (error) {
      signal.throwIfAborted();
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
        throw new HoldfastError('RESTORE_FAILED', `cannot make ${directory} durable`, { cause: error });
      }
      for (const tree of directories) await syncEach(tree, signal);
      return;
    }
  }
}

/** Makes one file or directory durable. */
export async function syncPath(path: string): Promise<void> {
  await using file = await open(path, 'r');
  await file.sync();
}

async function syncEach(path: string, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  for (const entry of await readdir(path, { withFileTypes: true })) {
    const child = join(path, entry.name);
    if (entry.isDirectory()) await syncEach(child, signal);
    else if (entry.isFile()) await syncPath(child);
  }
  await syncPath(path);
}
