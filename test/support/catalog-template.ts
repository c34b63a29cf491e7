/**
 * The state directory of an embedded coordinator that has served nobody yet: its catalog and the snapshot of its query
 * processes, made once for all tests. Making them takes ten seconds of processor time, copying them a tenth of one.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { openPgliteCatalog } from '../../coordinator/catalog/pglite.ts';
import { provideSnapshot } from '../../coordinator/sql/reading/snapshot.ts';

const run = promisify(execFile);
const ROOT = join(import.meta.dirname, '..', '..');
const CACHE = join(ROOT, 'node_modules', '.cache', 'holdfast-tests');
/** What a template follows from. */
const SOURCES = ['coordinator/catalog/migrations', 'coordinator/sql/reading'];

/** Begins `stateDirectory` as a coordinator's that was started once and did nothing; leaves one that is there alone. */
export async function seedStateDirectory(stateDirectory: string): Promise<void> {
  if (existsSync(stateDirectory)) return;
  const template = await provideCatalogTemplate();
  await mkdir(stateDirectory, { recursive: true, mode: 0o700 });
  await run('cp', ['--archive', `${template}/.`, stateDirectory]);
}

/** The template's directory; made when it is missing, whoever makes it first. */
export async function provideCatalogTemplate(): Promise<string> {
  const template = join(CACHE, await templateKey());
  if (existsSync(template)) return template;
  const building = `${template}.${process.pid}`;
  await rm(building, { recursive: true, force: true });
  await mkdir(building, { recursive: true, mode: 0o700 });
  const { catalog } = await openPgliteCatalog(building, 'template', 1n);
  const { views } = catalog;
  await catalog[Symbol.asyncDispose]();
  await provideSnapshot(join(building, 'query-snapshot'), views, new AbortController().signal);
  try {
    await rename(building, template);
  } catch (error) {
    await rm(building, { recursive: true, force: true });
    if (!existsSync(template)) throw error; // somebody else's came first
  }
  return template;
}

async function templateKey(): Promise<string> {
  const hash = createHash('sha256');
  for (const folder of SOURCES) {
    for (const name of (await readdir(join(ROOT, folder))).toSorted())
      hash.update(await readFile(join(ROOT, folder, name)));
  }
  hash.update(await readFile(join(ROOT, 'node_modules', '@electric-sql', 'pglite', 'package.json')));
  return hash.digest('hex').slice(0, 16);
}
