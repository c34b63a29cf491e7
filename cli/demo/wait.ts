/** Waiting for a condition: asked again and again, never for ever. */
import { setTimeout as wait } from 'node:timers/promises';
import { HoldfastError } from '../../foundation/errors.ts';

export type WaitOptions = {
  /** For the error: `the agent to attach`. */
  readonly what: string;
  readonly timeoutMs: number;
  readonly intervalMs?: number;
  /** What is known when the time is up: the last log lines, the last row seen. */
  readonly explain?: () => Promise<string> | string;
};

/**
 * The first result of `ask` that is not undefined. An error of `ask` counts as "not yet" and is the cause of the TIMEOUT
 * when the time is up; SHUTTING_DOWN and aborts end the wait at once.
 */
export async function waitFor<Result>(
  ask: () => Promise<Result | undefined>,
  options: WaitOptions,
  signal?: AbortSignal,
): Promise<Result> {
  const deadline = performance.now() + options.timeoutMs;
  for (;;) {
    signal?.throwIfAborted();
    let lastError: unknown;
    try {
      const result = await ask();
      if (result !== undefined) return result;
    } catch (error) {
      lastError = error;
    }
    if (performance.now() > deadline) {
      const detail = await options.explain?.();
      throw new HoldfastError('TIMEOUT', `waited ${options.timeoutMs / 1000} s for ${options.what}`, {
        cause: lastError,
        ...(detail === undefined
          ? lastError instanceof Error
            ? { detail: lastError.message }
            : {}
          : { detail }),
      });
    }
    await wait(options.intervalMs ?? 50, undefined, signal === undefined ? {} : { signal });
  }
}
