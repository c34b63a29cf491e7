/** Damage to files of a destination, and how to undo it. */
import { open, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { parseTreePath, type TreePath } from '../../storage-layout/tree.ts';

export type Damage = 'flip' | 'truncate' | 'delete';

/** The files of one kind below the destination, by name. */
export async function filesOfKind(destination: string, kind: TreePath['kind']): Promise<readonly string[]> {
  const files: string[] = [];
  for (const entry of await readdir(destination, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isFile() && parseTreePath(relative(destination, path))?.kind === kind) files.push(path);
  }
  return files.toSorted((a, b) => a.localeCompare(b, 'en', { numeric: true }));
}

/** Damages the file at a place (0 to 1 of its length); disposing puts it back. */
export async function damage(path: string, how: Damage, place = 0.5): Promise<AsyncDisposable> {
  const before = await readFile(path);
  const { mode, uid, gid } = await stat(path);
  const offset = Math.min(Math.floor(before.length * place), before.length - 1);
  if (how === 'delete') await rm(path);
  else if (how === 'truncate') await truncate(path, offset);
  else {
    await using file = await open(path, 'r+');
    await file.write(Buffer.of((before[offset] ?? 0) ^ 0x40), 0, 1, offset);
  }
  return {
    async [Symbol.asyncDispose]() {
      await writeFile(path, before, { mode });
      await using file = await open(path, 'r');
      await file.chown(uid, gid);
    },
  };
}
