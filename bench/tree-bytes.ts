/** The size of a directory tree. */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';

/** Of all files below the directory; 0 when it is not there. */
export async function treeBytes(path: string): Promise<number> {
  const entries = await readdir(path, { recursive: true, withFileTypes: true }).catch(() => []);
  let bytes = 0;
  for (const entry of entries)
    if (entry.isFile()) bytes += (await stat(join(entry.parentPath, entry.name))).size;
  return bytes;
}
