/** Runs one program to its end and tells how it went: what the scripts that check and test are made of. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';

export const ROOT = join(import.meta.dirname, '..');

export type Step = {
  readonly name: string;
  readonly command: string;
  readonly arguments: readonly string[];
  /** `inherit`: the program writes to the terminal itself; `capture`: its output is in the result. */
  readonly output: 'inherit' | 'capture';
  readonly environment?: Readonly<Record<string, string>>;
};

export type StepResult = {
  readonly name: string;
  readonly passed: boolean;
  readonly durationMs: number;
  /** Standard output and error, in the order they came; empty when inherited. */
  readonly output: string;
};

/** Runs the step in the checkout's root, its own tools first in PATH. A program that cannot be started fails the step. */
export async function runStep(step: Step): Promise<StepResult> {
  const begin = performance.now();
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const chunks: Buffer[] = [];
  const child = spawn(step.command, [...step.arguments], {
    cwd: ROOT,
    stdio: step.output === 'inherit' ? 'inherit' : ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      ...step.environment,
      PATH: `${join(ROOT, 'node_modules', '.bin')}:${process.env['PATH'] ?? ''}`,
    },
  });
  child.stdout?.on('data', (chunk: Buffer) => chunks.push(chunk));
  child.stderr?.on('data', (chunk: Buffer) => chunks.push(chunk));
  child.once('error', (error) => {
    chunks.push(Buffer.from(`cannot run ${step.command}: ${error.message}\n`));
    resolve(false);
  });
  child.once('close', (code) => resolve(code === 0));
  const passed = await promise;
  return {
    name: step.name,
    passed,
    durationMs: performance.now() - begin,
    output: Buffer.concat(chunks).toString('utf8'),
  };
}

/** `1.2 s`, `3 min 05 s` */
export function formatDuration(durationMs: number): string {
  const seconds = durationMs / 1000;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return `${Math.floor(seconds / 60)} min ${String(Math.floor(seconds % 60)).padStart(2, '0')} s`;
}
