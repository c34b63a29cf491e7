import { expect, test } from 'vitest';
import { findProblems } from '../../../scripts/tidy.ts';

const texts = (path: string, body: string) =>
  findProblems(path, `/** Header. */\n${body}`).map((problem) => problem.text);

test('a folder imports from itself and from below', () => {
  expect(
    texts('agent/a.ts', "import { x } from '../engine/engine.ts';\nimport { y } from './b.ts';\n"),
  ).toEqual([]);
});

test('agent and coordinator never import each other, and the coordinator no engine', () => {
  expect(texts('agent/a.ts', "import { x } from '../coordinator/main.ts';\n")).toHaveLength(1);
  expect(texts('coordinator/a.ts', "import type {\n  X,\n} from '../agent/main.ts';\n")).toHaveLength(1);
  expect(texts('coordinator/a.ts', "export { x } from '../engine/engine.ts';\n")).toHaveLength(1);
  expect(texts('engine/a.ts', "const x = await import('../cli/sql.ts');\n")).toHaveLength(1);
});

test('a package stays in the folders that its rule names', () => {
  expect(texts('agent/a.ts', "import pg from 'pg';\n")).toHaveLength(1);
  expect(texts('engine/postgres/a.ts', "import pg from 'pg';\n")).toEqual([]);
  expect(texts('storage-layout/clog/a.ts', "import { open } from 'node:fs/promises';\n")).toHaveLength(1);
});

test('relative imports end in .ts and stay inside', () => {
  expect(texts('agent/a.ts', "import { x } from './b';\n")).toHaveLength(1);
  expect(texts('agent/a.ts', "import { x } from '../../b.ts';\n")).toHaveLength(1);
});

test('names are kebab-case and every file has a header', () => {
  expect(texts('agent/someFile.ts', '')).toHaveLength(1);
  expect(findProblems('agent/a.ts', 'export const x = 1;\n')).toHaveLength(1);
});

test('unfinished work and barrels are found', () => {
  expect(texts('agent/a.ts', '// TO'.concat('DO later\n'))).toHaveLength(1);
  expect(texts('agent/a.ts', "export * from './b.ts';\n")).toHaveLength(1);
});
