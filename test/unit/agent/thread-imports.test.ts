/**
 * What a thread loads is processor time at each start. Protocol buffers alone take 120 ms of it: threads that copy or read
 * blocks, or read log, do without.
 */
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';

const ROOT = join(import.meta.dirname, '..', '..', '..');
/** Imports that are still there at run time. */
const IMPORT = /^(?:import|export)\s(?!type\b)[^'";]*?\bfrom\s+'([^']+)'/gm;

test.each([
  'agent/backup/copy-worker.ts',
  'agent/restore/block-worker.ts',
  'agent/restore/compare-worker.ts',
  'agent/restore/read-ahead-worker.ts',
  'agent/validate/check-worker.ts',
])('%s loads no protocol buffers', async (file) => {
  const packages = await packagesOf(join(ROOT, file));
  expect(packages).toContain('@node-rs/crc32'); // it was looked at
  expect(packages.filter((name) => name.startsWith('@bufbuild/'))).toEqual([]);
});

/** The packages that a file and all that it imports load. */
async function packagesOf(path: string, seen = new Set<string>()): Promise<string[]> {
  if (seen.has(path)) return [];
  seen.add(path);
  const packages: string[] = [];
  for (const [, specifier = ''] of (await readFile(path, 'utf8')).matchAll(IMPORT))
    if (specifier.startsWith('.')) packages.push(...(await packagesOf(join(dirname(path), specifier), seen)));
    else packages.push(specifier);
  return packages;
}
