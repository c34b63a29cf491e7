/**
 * The house rules that no other tool keeps: who may import whom, where a package may be used, how files are named, that
 * relative imports end in `.ts`, that a file begins by saying what it is, and that nothing unfinished is left lying.
 * `findProblems` is pure; the script reads the files and prints what it finds as `path:line: problem`.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { ROOT } from './run-step.ts';

const EVERY_LAYER = [
  'foundation',
  'proto',
  'storage-layout',
  'engine',
  'agent',
  'coordinator',
  'console',
  'cli',
  'scripts',
  'test',
  'bench',
] as const;
type Layer = (typeof EVERY_LAYER)[number];

/**
 * The layering: a file imports from its own folder and from these. coordinator and agent meet only in proto; the
 * coordinator knows no engine.
 */
const MAY_IMPORT: Readonly<Record<Layer, readonly Layer[]>> = {
  foundation: [],
  proto: ['foundation'],
  'storage-layout': ['foundation', 'proto'],
  engine: ['foundation', 'proto', 'storage-layout'],
  agent: ['foundation', 'proto', 'storage-layout', 'engine'],
  coordinator: ['foundation', 'proto', 'storage-layout'],
  console: ['foundation', 'proto', 'storage-layout', 'coordinator'],
  cli: ['foundation', 'proto', 'storage-layout', 'engine', 'agent', 'coordinator', 'console'],
  scripts: EVERY_LAYER,
  test: EVERY_LAYER,
  bench: EVERY_LAYER,
};

/** Packages (and Node's own modules) that only some folders may use, because a design rule says so. */
const ONLY_IN: Readonly<Record<string, { readonly folders: readonly string[]; readonly rule: string }>> = {
  '@aws-sdk/client-s3': {
    folders: ['storage-layout/media'],
    rule: 'only storage-layout/media speaks to a store',
  },
  '@electric-sql/pglite': { folders: ['coordinator'], rule: 'only the coordinator has a catalog' },
  '@grpc/grpc-js': {
    folders: ['proto', 'agent', 'coordinator', 'cli'],
    rule: 'only the processes speak gRPC',
  },
  pg: {
    folders: ['engine/postgres', 'coordinator', 'cli'],
    rule: 'only engine/postgres speaks to a database that is backed up',
  },
  'pg-copy-streams': { folders: ['engine/postgres', 'cli'], rule: 'only engine/postgres replicates' },
  chevrotain: { folders: ['coordinator/sql'], rule: 'only coordinator/sql has a grammar' },
  commander: { folders: ['cli'], rule: 'only cli has a command line' },
  pino: { folders: ['foundation'], rule: 'loggers are made by foundation/log.ts' },
  yaml: { folders: ['foundation'], rule: 'configuration is read by foundation/yaml-config.ts' },
};

/** Beyond this a file has outgrown its one idea. */
const MAX_LINES = 500;
/** Words of unfinished work; spelt so that this file does not find itself. */
const UNFINISHED = /\b(T[O]DO|F[I]XME|X[X]X)\b/;
const SOURCE_NAME = /^[a-z0-9]+(-[a-z0-9]+)*(\.test|\.d)?\.ts$/;
const FOLDER_NAME = /^[a-z0-9]+(-[a-z0-9]+)*$/;

export type Problem = { readonly path: string; readonly line: number; readonly text: string };

/** What is wrong with one TypeScript file. `path` is relative to the root, '/'-separated. */
export function findProblems(path: string, source: string): Problem[] {
  const layer = path.split('/')[0] ?? '';
  const problems = [...nameProblems(path), ...importProblems(path, layer, source)];
  const lines = source.split('\n');
  for (const [index, line] of lines.entries())
    if (UNFINISHED.test(line)) problems.push({ path, line: index + 1, text: 'unfinished work is left here' });
  if (/^export \* /m.test(source)) problems.push({ path, line: 1, text: 'no barrels: export names' });
  if (!path.endsWith('.test.ts') && !/^(#!.*\n)?\/\*\*/.test(source))
    problems.push({ path, line: 1, text: 'begin with a header: what the file is and what it keeps true' });
  if (lines.length > MAX_LINES)
    problems.push({ path, line: MAX_LINES, text: `longer than ${MAX_LINES} lines: more than one idea?` });
  return problems;
}

function nameProblems(path: string): Problem[] {
  const folders = path.split('/');
  const name = folders.pop() ?? '';
  const problems: Problem[] = [];
  if (!SOURCE_NAME.test(name) && !name.endsWith('.config.ts'))
    problems.push({ path, line: 1, text: 'file names are kebab-case' });
  if (!folders.every((folder) => FOLDER_NAME.test(folder)))
    problems.push({ path, line: 1, text: 'folder names are kebab-case' });
  if (name.endsWith('.test.ts') && folders[0] !== 'test')
    problems.push({ path, line: 1, text: 'tests live under test/' });
  return problems;
}

function importProblems(path: string, layer: string, source: string): Problem[] {
  const problems: Problem[] = [];
  for (const { specifier, line } of importsOf(source)) {
    const text = specifier.startsWith('.')
      ? relativeProblem(path, layer, specifier)
      : packageProblem(path, layer, specifier);
    if (text !== undefined) problems.push({ path, line, text });
  }
  return problems;
}

function relativeProblem(path: string, layer: string, specifier: string): string | undefined {
  const target = posix.join(posix.dirname(path), specifier);
  if (target.startsWith('..')) return `"${specifier}" leaves the repository`;
  if (!/\.(ts|json|sql)$/.test(specifier)) return `"${specifier}": relative imports end in .ts`;
  if (target === 'package.json') return undefined;
  const targetLayer = target.split('/')[0] ?? '';
  if (layer === targetLayer || !isLayer(layer)) return undefined;
  if (isLayer(targetLayer) && MAY_IMPORT[layer].includes(targetLayer)) return undefined;
  return `${layer}/ may not import from ${targetLayer}/ ("${specifier}")`;
}

function packageProblem(path: string, layer: string, specifier: string): string | undefined {
  if (['scripts', 'test', 'bench'].includes(layer) || !isLayer(layer)) return undefined;
  if (layer === 'storage-layout' && !path.startsWith('storage-layout/media/') && /^node:fs\b/.test(specifier))
    return 'only storage-layout/media speaks to a store';
  const name = specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');
  const limit = ONLY_IN[name];
  if (limit === undefined || limit.folders.some((folder) => path.startsWith(`${folder}/`))) return undefined;
  return `"${specifier}": ${limit.rule}`;
}

function isLayer(name: string): name is Layer {
  return (EVERY_LAYER as readonly string[]).includes(name);
}

/** Every import and re-export, static or dynamic with a literal. */
function importsOf(source: string): { readonly specifier: string; readonly line: number }[] {
  const found: { specifier: string; line: number }[] = [];
  const patterns = [
    /^(?:import|export)\s[^'";]*?\bfrom\s+'([^']+)'/gm,
    /^import\s+'([^']+)'/gm,
    /\bimport\('([^']+)'\)/g,
  ];
  for (const pattern of patterns) {
    for (const match of source.matchAll(pattern)) {
      const line = source.slice(0, match.index).split('\n').length;
      if (match[1] !== undefined) found.push({ specifier: match[1], line });
    }
  }
  return found;
}

/** Every TypeScript file of the project, generated code left out. */
async function sourceFiles(): Promise<string[]> {
  const found: string[] = [];
  for (const layer of EVERY_LAYER) {
    for (const name of await readdir(join(ROOT, layer), { recursive: true }).catch(() => [] as string[])) {
      const path = posix.join(layer, name.replaceAll('\\', '/'));
      if (path.endsWith('.ts') && !path.startsWith('proto/gen/')) found.push(path);
    }
  }
  return found.toSorted();
}

async function main(): Promise<number> {
  const files = await sourceFiles();
  let count = 0;
  for (const path of files) {
    for (const problem of findProblems(path, await readFile(join(ROOT, path), 'utf8'))) {
      console.log(`${problem.path}:${problem.line}: ${problem.text}`);
      count += 1;
    }
  }
  console.log(`${files.length} files, ${count} problems`);
  return count === 0 ? 0 : 1;
}

if (import.meta.main) process.exitCode = await main();
