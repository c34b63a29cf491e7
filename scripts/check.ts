/** `npm run check`: everything that can be known without running the program. All steps run; one that fails fails the check. */
import { formatDuration, runStep, type Step } from './run-step.ts';

const STEPS: readonly Step[] = [
  step('types', 'tsc'),
  step('lint', 'oxlint', '--type-aware'),
  step('format', 'biome', 'check', '--linter-enabled=false', '.'),
  step('tidy', 'node', 'scripts/tidy.ts'),
  step('dead code', 'knip'),
  step('protocol', 'buf', 'lint'),
];

function step(name: string, command: string, ...args: readonly string[]): Step {
  return { name, command, arguments: args, output: 'capture' };
}

/** Runs every step, prints each with its time, and the output of those that failed. */
export async function runChecks(): Promise<{ readonly passed: number; readonly failed: number }> {
  let failed = 0;
  for (const each of STEPS) {
    const result = await runStep(each);
    console.log(
      `${result.passed ? 'ok  ' : 'FAIL'}  ${each.name.padEnd(10)} ${formatDuration(result.durationMs).padStart(8)}`,
    );
    if (!result.passed) {
      failed += 1;
      console.log(result.output.trimEnd());
    }
  }
  return { passed: STEPS.length - failed, failed };
}

if (import.meta.main) process.exitCode = (await runChecks()).failed === 0 ? 0 : 1;
