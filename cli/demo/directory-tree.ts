/** A directory drawn as a tree, long listings cut short. */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { formatSize } from '../../foundation/units.ts';

/** More entries than this in one directory are counted instead of named. */
const MAX_ENTRIES = 8;

/** Lines of the tree below `directory`, sizes behind files. */
export async function drawTree(directory: string): Promise<string[]> {
  const entries = (await readdir(directory, { withFileTypes: true })).toSorted((a, b) =>
    a.name.localeCompare(b.name, 'en', { numeric: true }),
  );
  const shown = entries.length > MAX_ENTRIES ? entries.slice(0, MAX_ENTRIES - 1) : entries;
  const lines: string[] = [];
  for (const [index, entry] of shown.entries()) {
    const last = index === shown.length - 1 && shown.length === entries.length;
    const path = join(directory, entry.name);
    const size = entry.isDirectory() ? '/' : `  ${formatSize((await stat(path)).size)}`;
    lines.push(`${last ? '└── ' : '├── '}${entry.name}${size}`);
    if (entry.isDirectory())
      for (const line of await drawTree(path)) lines.push(`${last ? '    ' : '│   '}${line}`);
  }
  if (shown.length < entries.length) lines.push(`└── … ${entries.length - shown.length} more`);
  return lines;
}
