import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { AGENT_NODE_OPTIONS } from '../../cli/agent-image.ts';

const SCRIPT = join(import.meta.dirname, '../support/large-increment.ts');
const BLOCKS = 5_000_000;
const LIMIT_BYTES = 300 * 2 ** 20;

test('an increment of a database of 10 TB, nearly every macroblock of it changed, takes at most 300 MB', async () => {
  const { stdout } = await promisify(execFile)(process.execPath, [
    ...AGENT_NODE_OPTIONS,
    SCRIPT,
    String(BLOCKS),
  ]);
  const { blocks, deltas, entries, peakBytes } = JSON.parse(stdout) as Record<string, number>;
  process.stderr.write(`${stdout.trim()}\n`);
  expect(blocks).toBeGreaterThanOrEqual(BLOCKS);
  expect(entries).toBe(blocks);
  expect(deltas).toBeGreaterThan(BLOCKS * 0.85);
  expect(peakBytes).toBeLessThan(LIMIT_BYTES);
});
