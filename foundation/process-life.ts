/**
 * The life of a long-running process: it works until a signal asks it to end.
 *
 *   running ──SIGTERM or SIGINT──► draining ──main ends──► ended (exit code 0)
 *                                     ├── deadline ──────► exit code 5 (TIMEOUT)
 *                                     └── second signal ─► exit code 128 + signal number, at once
 *
 * `main` gets an AbortSignal; when it is aborted it stops accepting, finishes or gives up what it holds, and returns.
 */
import { constants } from 'node:os';
import { ERRORS, HoldfastError, isError } from './errors.ts';
import type { Logger } from './log.ts';

export type ProcessLifeOptions = {
  /** How long `main` may take to end after the first signal. */
  readonly drainMs: number;
  readonly logger: Logger;
  /** Stand-ins for a test; default the process itself. */
  readonly host?: ProcessHost;
};

export type ProcessHost = {
  on(signal: EndSignal, listener: () => void): unknown;
  off(signal: EndSignal, listener: () => void): unknown;
  /** Ends the process and does not come back. */
  exit(code: number): void;
};

export type EndSignal = 'SIGTERM' | 'SIGINT';
const END_SIGNALS: readonly EndSignal[] = ['SIGTERM', 'SIGINT'];

/**
 * Runs `main` until it ends by itself or a signal ends it. Resolves with 0; rejects with what `main` threw, unless that
 * is only the echo of the shutdown that was asked for.
 */
export async function runUntilSignal(
  main: (signal: AbortSignal) => Promise<void>,
  options: ProcessLifeOptions,
): Promise<number> {
  const host = options.host ?? process;
  const controller = new AbortController();
  let deadline: NodeJS.Timeout | undefined;
  const onSignal = (name: EndSignal) => {
    if (controller.signal.aborted) {
      options.logger.warn({ signal: name }, 'second signal: ending at once');
      host.exit(128 + constants.signals[name]);
      return;
    }
    options.logger.info({ signal: name, drainMs: options.drainMs }, 'shutting down');
    deadline = setTimeout(() => {
      options.logger.error({ drainMs: options.drainMs }, 'not drained in time: ending at once');
      host.exit(ERRORS.TIMEOUT.exitCode);
    }, options.drainMs);
    controller.abort(new HoldfastError('SHUTTING_DOWN', `this process is shutting down (${name})`));
  };
  const listeners = END_SIGNALS.map((name) => ({ name, listener: () => onSignal(name) }));
  for (const { name, listener } of listeners) host.on(name, listener);
  try {
    await main(controller.signal);
  } catch (error) {
    if (!controller.signal.aborted || !isShutdownEcho(error, controller.signal)) throw error;
  } finally {
    clearTimeout(deadline);
    for (const { name, listener } of listeners) host.off(name, listener);
  }
  return 0;
}

/** True when the error says no more than that the work was told to stop. */
function isShutdownEcho(error: unknown, signal: AbortSignal): boolean {
  return (
    error === signal.reason ||
    isError(error, 'SHUTTING_DOWN', 'CANCELLED') ||
    (error instanceof Error && error.name === 'AbortError')
  );
}
