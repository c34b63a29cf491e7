/** Partition groups of one tenant are restored by one agent at the same time. */
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { freePortIn } from '../../../../agent/restore/free-port.ts';
import { ClaimedDirectories } from '../../../../agent/restore/target-directory.ts';

test('restores that begin at once get ports of their own', async () => {
  const range = { begin: 41_300, end: 41_340 };
  const ports = await Promise.all(Array.from({ length: 8 }, () => freePortIn(range)));
  expect(new Set(ports).size).toBe(8);
  for (const port of ports) expect(port).toBeGreaterThanOrEqual(range.begin);
});

test('a range is used again from its begin, and a port that is taken is passed over', async () => {
  const range = { begin: 41_350, end: 41_352 };
  const ports = [await freePortIn(range), await freePortIn(range), await freePortIn(range)];
  expect(ports).toEqual([41_350, 41_351, 41_350]);
});

test('directories below one that none of them has found are made by each', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'holdfast-side-by-side-'));
  try {
    for (let round = 0; round < 50; round += 1) {
      const parent = join(directory, String(round), 'tenant');
      await Promise.all(
        ['p0', 'p1', 'p2'].map(async (group) => {
          const claimed = new ClaimedDirectories(undefined);
          await claimed.claim(join(parent, group), 0o700, 'the target directory');
          claimed.keep();
        }),
      );
      for (const group of ['p0', 'p1', 'p2'])
        expect((await stat(join(parent, group))).isDirectory()).toBe(true);
    }
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
});
