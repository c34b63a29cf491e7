/** The documents of the repository, for the tests that keep them and the code equal. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

const ROOT = join(import.meta.dirname, '..', '..');

/** Relative to the repository. */
export async function listDocuments(): Promise<readonly string[]> {
  const names = await readdir(join(ROOT, 'docs'));
  return ['README.md', ...names.filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`)];
}

export async function readDocument(path: string): Promise<string> {
  return await readFile(join(ROOT, path), 'utf8');
}

/** What stands below each heading of the second level, by the heading, up to the next. */
export function sectionsOf(text: string): ReadonlyMap<string, string> {
  const parts = text.split(/^## /m).slice(1);
  return new Map(
    parts.map((part) => {
      const [heading = ''] = part.split('\n', 1);
      return [heading, part.slice(heading.length)];
    }),
  );
}

/** The tables in order; each is its rows without the two of its head, a row its cells. `\|` in a cell is a bar. */
export function tablesOf(text: string): readonly (readonly (readonly string[])[])[] {
  const tables = text.matchAll(/^\|.*(?:\n\|.*)*/gm);
  return [...tables].map(([table]) => table.split('\n').slice(2).map(cellsOf));
}

function cellsOf(line: string): readonly string[] {
  const inside = line.replace(/^\|/, '').replace(/\|\s*$/, '');
  return inside.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll('\\|', '|'));
}

/** What stands in backquotes. */
export function codeIn(text: string): readonly string[] {
  return [...text.matchAll(/`([^`]+)`/g)].map((match) => match[1] ?? '');
}
