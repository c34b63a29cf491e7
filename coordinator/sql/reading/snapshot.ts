/**
 * The snapshot that query processes start from: about 25 MB, half a minute of work on a busy machine. It is kept under a
 * name that says what it was made from, so that a coordinator that comes back finds it.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import type { ViewDefinition } from '../reader.ts';
import { buildQuerySnapshot } from './query-process.ts';

export type Snapshot = {
  readonly path: string;
  /** It was there already: it may be damaged, or be of another build of PGlite after all. */
  readonly isKept: boolean;
};

/** The snapshot below `directory`: the kept one, or a new one. What else is there belongs to older views, or to a process that was killed: it goes. */
export async function provideSnapshot(
  directory: string,
  views: readonly ViewDefinition[],
  signal: AbortSignal,
): Promise<Snapshot> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const name = `${await snapshotKey(views)}.tar`;
  const path = join(directory, name);
  for (const other of await readdir(directory)) {
    if (other !== name) await rm(join(directory, other), { recursive: true, force: true });
  }
  if (existsSync(path)) return { path, isKept: true };
  const building = join(directory, `building-${process.pid}`);
  await buildQuerySnapshot(building, views, signal);
  await rename(building, path);
  return { path, isKept: false };
}

/** Of everything that a snapshot's contents follow from. */
async function snapshotKey(views: readonly ViewDefinition[]): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify(views));
  hash.update(await readFile(join(import.meta.dirname, 'query-process-database.ts')));
  hash.update(await readFile(pglitePackage()));
  return hash.digest('hex').slice(0, 32);
}

/** PGlite's own `package.json`: it names the version. */
function pglitePackage(): string {
  const main = createRequire(import.meta.url).resolve('@electric-sql/pglite');
  return join(main, '..', '..', 'package.json');
}
