import { expect, test } from 'vitest';
import { z } from 'zod';
import { isError } from '../../../foundation/errors.ts';
import { knownKeys, parseYamlConfig } from '../../../foundation/yaml-config.ts';

const schema = z.strictObject({
  coordinator: z.string(),
  zone: z.string().default('zone1'),
  instances: z.array(z.strictObject({ name: z.string(), port: z.number().int().default(5432) })).default([]),
});

function problem(text: string) {
  try {
    parseYamlConfig(text, 'agent.yaml', schema);
  } catch (error) {
    if (isError(error, 'INVALID_CONFIG')) return error;
    throw error;
  }
  throw new Error('accepted');
}

test('a good file is read with its defaults', () => {
  expect(parseYamlConfig('coordinator: a:1\ninstances:\n  - name: x\n', 'agent.yaml', schema)).toEqual({
    coordinator: 'a:1',
    zone: 'zone1',
    instances: [{ name: 'x', port: 5432 }],
  });
});

test('an unknown key is refused at its place, with the nearest known one', () => {
  const error = problem('coordinator: a:1\ninstances:\n  - name: x\n    prot: 1\n');
  expect(error.message).toBe('agent.yaml:4:5: instances[0].prot: unknown key');
  expect(error.hint).toBe('Did you mean "port"? Known here: name, port.');
});

test('the nearest known key is told also when the first complaint is that it is missing', () => {
  const error = problem('coordinatr: a:1\n');
  expect(error.message).toBe('agent.yaml:1:1: coordinator: missing');
  expect(error.hint).toMatch(/^Did you mean "coordinator"\?/);
});

test('a value of the wrong type is refused at its place', () => {
  const error = problem('coordinator: a:1\ninstances:\n  - name: x\n    port: many\n');
  expect(error.message).toMatch(/^agent\.yaml:4:11: instances\[0\]\.port: invalid input: expected number/);
});

test('a missing key is reported at the object that lacks it, and all problems are listed by place', () => {
  const error = problem('zone: 7\n');
  expect(error.message).toBe('agent.yaml:1:1: coordinator: missing');
  expect(error.detail?.split('\n')).toHaveLength(2);
});

test('a syntax error names line and column', () => {
  expect(problem('coordinator: [a\nzone: b\n').message).toMatch(/^agent\.yaml:\d+:\d+: /);
});

test('an empty file is an empty object', () => {
  expect(problem('').message).toBe('agent.yaml:1:1: coordinator: missing');
});

test('known keys are found through arrays and defaults', () => {
  expect(knownKeys(schema, ['instances', 0])).toEqual(['name', 'port']);
});
