import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { AgentState, type RestoredInstance } from '../../../agent/state.ts';

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-agent-state-'));
});

afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

const instance = (name: string, port: number): RestoredInstance => ({
  name,
  tenant: 'copy',
  tenantId: 1002n,
  partitionGroup: name,
  host: '127.0.0.1',
  port,
  dataDirectory: `/data/${name}`,
});

const restored = (state: AgentState) =>
  state.restoredInstances(undefined).map(({ name, port }) => `${name} ${port}`);

test('instances that are restored at one time are all kept, here and for the next start', async () => {
  const state = await AgentState.open(directory);
  const names = Array.from({ length: 20 }, (_, index) => `p${index}`);
  await Promise.all(names.map((name, index) => state.addRestored(instance(name, 7000 + index))));
  await state.addRestored(instance('p0', 8000));
  const expected = [...names.slice(1).map((name, index) => `${name} ${7001 + index}`), 'p0 8000'];
  expect(restored(state)).toEqual(expected);
  const again = await AgentState.open(directory);
  expect([again.agentUuid, restored(again)]).toEqual([state.agentUuid, expected]);
  expect(await readdir(directory)).toEqual(['agent.json']);
});
