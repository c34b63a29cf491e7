/** The snapshot of the query processes: kept from one start to the next, made anew when it is damaged. */
import { mkdtemp, readdir, rm, stat, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { startPgliteReader } from '../../coordinator/sql/reading/pglite-reader.ts';
import { makeStandInCatalog } from '../support/sql-front-end.ts';

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-snapshot-'));
});

afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

/** A coordinator's reader from start to stop, with two clients at once. */
async function serve(): Promise<void> {
  await using reader = startPgliteReader({ views: makeStandInCatalog(), directory });
  const { signal } = new AbortController();
  expect(await reader.serverVersion()).toMatch(/^\d+/);
  await using _one = await reader.open(signal);
  await using _other = await reader.open(signal);
}

async function kept(): Promise<{ readonly path: string; readonly inode: number; readonly bytes: number }> {
  const names = await readdir(join(directory, 'query-snapshot'));
  expect(names).toHaveLength(1);
  const path = join(directory, 'query-snapshot', names[0] ?? '');
  const { ino, size } = await stat(path);
  return { path, inode: ino, bytes: size };
}

test('is kept, and made anew when what was kept cannot be used', async () => {
  await serve();
  const first = await kept();
  await serve();
  expect(await kept()).toEqual(first);
  await truncate(first.path, 5000);
  await serve();
  expect((await kept()).bytes).toBeGreaterThan(1_000_000);
}, 120_000);
