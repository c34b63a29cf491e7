/**
 * `npm test`: Debian packages, `npm run check`, then unit tests, end-to-end tests and fault tests. Everything runs even when
 * something before it failed. The last line is `<n> passed, <n> failed`; a failed check counts as a failed test.
 *
 *   --matrix             every test on PostgreSQL 14 to 18 (HOLDFAST_TEST_MAJORS=14,15,16,17,18)
 *   --only unit,e2e,...  some parts only: check, unit, e2e, faults; and soak, which runs by its name only
 *                        (15 minutes; HOLDFAST_SOAK_SECONDS says another time)
 */
import { readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import { formatError, HoldfastError, toHoldfastError } from '../foundation/errors.ts';
import { didYouMean } from '../foundation/suggest.ts';
import { runChecks } from './check.ts';
import { ensureDebianPackages, TEST_PACKAGES } from './debian-packages.ts';
import { provideReachableServers } from './reachable-servers.ts';
import { formatDuration, runStep } from './run-step.ts';

const PARTS = ['check', 'unit', 'e2e', 'faults'] as const;
const NAMED_PARTS = [...PARTS, 'soak'] as const;
type Part = (typeof NAMED_PARTS)[number];
type Counts = { readonly passed: number; readonly failed: number; readonly skipped: number };
/** How many of a part's files are named with the time that they took. */
const SLOWEST = 8;

const { values } = parseArgs({ options: { matrix: { type: 'boolean' }, only: { type: 'string' } } });

async function main(): Promise<number> {
  const parts = chosenParts(values.only);
  if (parts.some((part) => part !== 'check' && part !== 'unit')) await ensureDebianPackages(TEST_PACKAGES);
  await using servers = await provideReachableServers();
  const begin = performance.now();
  const all: Counts[] = [];
  for (const part of parts) {
    console.log(`\n== ${part} ==`);
    all.push(
      part === 'check' ? { ...(await runChecks()), skipped: 0 } : await runTests(part, servers.environment),
    );
  }
  const sum = (pick: (counts: Counts) => number) => all.reduce((total, counts) => total + pick(counts), 0);
  const skipped = sum((counts) => counts.skipped);
  console.log(
    `\n${parts.join(', ')} in ${formatDuration(performance.now() - begin)}${skipped > 0 ? `, ${skipped} skipped` : ''}`,
  );
  console.log(`${sum((counts) => counts.passed)} passed, ${sum((counts) => counts.failed)} failed`);
  return sum((counts) => counts.failed) === 0 && sum((counts) => counts.passed) > 0 ? 0 : 1;
}

function chosenParts(only: string | undefined): readonly Part[] {
  if (only === undefined) return PARTS;
  const wanted = only.split(',').map((part) => part.trim());
  for (const part of wanted) {
    if (!(NAMED_PARTS as readonly string[]).includes(part))
      throw new HoldfastError('INVALID_ARGUMENT', `--only: there is no part "${part}"`, {
        hint: `The parts are ${NAMED_PARTS.join(', ')}.${didYouMean(part, NAMED_PARTS)}`,
      });
  }
  return NAMED_PARTS.filter((part) => wanted.includes(part));
}

/** Runs one vitest project. A run that ends without a report, or a file that cannot be loaded, is a failure. */
async function runTests(project: Part, servers: Readonly<Record<string, string>>): Promise<Counts> {
  const report = join(tmpdir(), `holdfast-test-${process.pid}-${project}.json`);
  const beginMs = performance.now();
  const result = await runStep({
    name: project,
    command: 'vitest',
    arguments: [
      'run',
      '--project',
      project,
      '--passWithNoTests',
      '--reporter=default',
      '--reporter=json',
      `--outputFile.json=${report}`,
    ],
    output: 'inherit',
    environment: {
      // The programs that tests start by the hundred are compiled once.
      NODE_COMPILE_CACHE: join(import.meta.dirname, '..', 'node_modules', '.cache', 'compiled'),
      ...servers,
      ...(values.matrix === true ? { HOLDFAST_TEST_MAJORS: '14,15,16,17,18' } : {}),
    },
  });
  const counts = await readReport(report);
  console.log(`${project} in ${formatDuration(performance.now() - beginMs)}`);
  await rm(report, { force: true });
  // A leaked process or an unhandled rejection fails the run without failing a test.
  return result.passed || counts.failed > 0 ? counts : { ...counts, failed: 1 };
}

async function readReport(path: string): Promise<Counts> {
  try {
    const report = JSON.parse(await readFile(path, 'utf8')) as VitestReport; // written by vitest a moment ago
    console.log(`\nslowest: ${slowestFiles(report)}`);
    const unloaded = report.testResults.filter(
      (file) => file.status === 'failed' && file.assertionResults.every((each) => each.status !== 'failed'),
    ).length;
    return {
      passed: report.numPassedTests,
      failed: report.numFailedTests + unloaded,
      skipped: report.numPendingTests + report.numTodoTests,
    };
  } catch {
    return { passed: 0, failed: 1, skipped: 0 }; // no report: vitest itself broke, and said why
  }
}

function slowestFiles({ testResults }: VitestReport): string {
  return testResults
    .map(({ name, startTime, endTime }) => ({ name: basename(name), durationMs: endTime - startTime }))
    .toSorted((a, b) => b.durationMs - a.durationMs)
    .slice(0, SLOWEST)
    .map(({ name, durationMs }) => `${name} ${formatDuration(durationMs)}`)
    .join(', ');
}

/** The part of vitest's JSON report that is read here. */
type VitestReport = {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
  readonly numTodoTests: number;
  readonly testResults: readonly {
    readonly name: string;
    readonly startTime: number;
    readonly endTime: number;
    readonly status: string;
    readonly assertionResults: readonly { readonly status: string }[];
  }[];
};

try {
  process.exitCode = await main();
} catch (thrown) {
  const error = toHoldfastError(thrown);
  console.error(
    [formatError(error), error.detail, error.hint].filter((text) => text !== undefined).join('\n'),
  );
  console.log('0 passed, 1 failed');
  process.exitCode = 1;
}
