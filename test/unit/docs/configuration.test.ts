import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { z } from 'zod';
import { agentConfigSchema } from '../../../agent/config.ts';
import { coordinatorConfigSchema } from '../../../coordinator/config.ts';
import { PARAMETERS } from '../../../coordinator/parameters/table.ts';
import { knownKeys, loadYamlConfig } from '../../../foundation/yaml-config.ts';
import { codeIn, readDocument, sectionsOf, tablesOf } from '../../support/documents.ts';

const ROOT = join(import.meta.dirname, '..', '..', '..');

/** `instances[].name`, … : every key of the schema, as docs/configuration.md writes it. */
function documentedKeys(schema: z.ZodType, path: readonly PropertyKey[] = [], prefix = ''): string[] {
  return knownKeys(schema, path).flatMap((key) => {
    const name = `${prefix}${key}`;
    const below = documentedKeys(schema, [...path, key], `${name}.`);
    const elements = documentedKeys(schema, [...path, key, 0], `${name}[].`);
    return [name, ...(below.length > 0 ? below : elements)];
  });
}

/** The first column of the tables under a heading. */
async function keysUnder(heading: string): Promise<readonly string[]> {
  const section = sectionsOf(await readDocument('docs/configuration.md')).get(heading) ?? '';
  return tablesOf(section).flatMap((rows) => rows.flatMap(([first = '']) => codeIn(first)));
}

test('docs/configuration.md has every key of coordinator.yaml, and no other', async () => {
  expect((await keysUnder('coordinator.yaml')).toSorted()).toEqual(
    documentedKeys(coordinatorConfigSchema).toSorted(),
  );
});

test('docs/configuration.md has every key of agent.yaml, and no other', async () => {
  expect((await keysUnder('agent.yaml')).toSorted()).toEqual(documentedKeys(agentConfigSchema).toSorted());
});

test('docs/configuration.md has every parameter, and no other', async () => {
  expect(await keysUnder('Parameters')).toEqual(PARAMETERS.map((parameter) => parameter.name));
});

test('every sample configuration is accepted', async () => {
  let count = 0;
  for (const directory of ['deploy', 'deploy/compose'])
    for (const name of (await readdir(join(ROOT, directory))).filter((each) => each.endsWith('.yaml'))) {
      const path = join(ROOT, directory, name);
      if (name.startsWith('coordinator')) await loadYamlConfig(path, coordinatorConfigSchema);
      else await loadYamlConfig(path, agentConfigSchema);
      count += 1;
    }
  expect(count).toBe(5);
});
