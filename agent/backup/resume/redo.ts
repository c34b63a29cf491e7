/**
 * A destination that fails for a while does not cost a backup its window: what could not be written is done again, under
 * another sub task id, after a delay that doubles, until the destination has failed for longer than a limit without one
 * success in between. Then the attempt fails, and what it has made durable waits for the next one.
 */
import type { Clock } from '../../../foundation/clock.ts';
import { type ErrorCode, HoldfastError } from '../../../foundation/errors.ts';
import type { Logger } from '../../../foundation/log.ts';

/** Sub task ids of an attempt, when the coordinator does not say. */
export const DEFAULT_SUB_TASK_IDS = 1_000_000;
const DEFAULT_WAIT_MS = 600_000;
const FIRST_DELAY_MS = 250;
const LONGEST_DELAY_MS = 10_000;
/** Ids that are kept back at the end of the attempt's for what is done again: with these delays enough for a day. */
const MAX_REDONE = 100_000;

/** Of one file of a backup's end. Their names have room for so many. */
const MAX_TRIES = 400;

/** What an attempt's index is called by, written for the `tries`th time: no other attempt's `retry`. */
export function indexRetry(retry: number, tries: number): number {
  return retry + tries * 1000;
}

/** The same of its meta files. */
export function metaTaskId(taskId: number, tries: number): number {
  return taskId + tries * 10_000_000;
}

/** What passes: a destination that does not answer, has no room, is not mounted, or has lost its share under a file that is being written. */
const PASSING: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'DESTINATION_IO',
  'DESTINATION_FULL',
  'FILE_NOT_FOUND',
  'BACKUP_MOUNT_FILE_NOT_VALID',
]);

export function mayBeRedone(error: HoldfastError): boolean {
  return PASSING.has(error.code);
}

export type RedoDecision = { readonly kind: 'again'; readonly delayMs: number } | { readonly kind: 'giveUp' };

/**
 * `failures`: without a success in between, this one counted; `failingMs`: since the first of them. Several workers meet
 * one outage: their failures within the delay of the first are no more reason to wait. Pure.
 */
export function decideRedo(failures: number, failingMs: number, limitMs: number): RedoDecision {
  if (failingMs >= limitMs) return { kind: 'giveUp' };
  const delayMs = Math.min(FIRST_DELAY_MS * 2 ** Math.min(failures - 1, 16), LONGEST_DELAY_MS);
  return { kind: 'again', delayMs: Math.min(delayMs, limitMs) };
}

export type RedoOptions = {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly firstSubTaskId: number;
  /** 0: the defaults. */
  readonly subTaskIdCount: number;
  readonly limitMs: number;
  /** Told the error that is waited out, and undefined when the destination is back. */
  readonly onWaiting: (error: HoldfastError | undefined) => void;
};

/** The failures of one attempt at its destination. */
export class Redo {
  readonly #options: RedoOptions;
  readonly #limitMs: number;
  /** Of the attempt's ids, behind the last. */
  readonly #endId: number;
  #redone = 0;
  #failures = 0;
  #failingSinceMs: number | undefined;

  constructor(options: RedoOptions) {
    this.#options = options;
    this.#limitMs = options.limitMs === 0 ? DEFAULT_WAIT_MS : options.limitMs;
    const count = options.subTaskIdCount === 0 ? DEFAULT_SUB_TASK_IDS : options.subTaskIdCount;
    this.#endId = options.firstSubTaskId + count;
  }

  /** The id of the attempt's last index, that of the blocks it took over. */
  get takenOverId(): number {
    return this.#endId - 1;
  }

  /** Something is durable. */
  succeeded(): void {
    if (this.#failingSinceMs !== undefined) this.#options.onWaiting(undefined);
    this.#failures = 0;
    this.#failingSinceMs = undefined;
  }

  /** Waits as long as is due, and returns the id under which it is done again. Throws `error` when it is time to give up. */
  async failed(error: HoldfastError, signal: AbortSignal): Promise<number> {
    if (!mayBeRedone(error) || this.#redone >= MAX_REDONE) throw error;
    const { clock, logger, onWaiting } = this.#options;
    this.#failures += 1;
    this.#failingSinceMs ??= clock.monotonicMs();
    const decision = decideRedo(this.#failures, clock.monotonicMs() - this.#failingSinceMs, this.#limitMs);
    if (decision.kind === 'giveUp') throw error;
    logger.warn(
      { err: error, delayMs: decision.delayMs },
      'the destination failed: a sub task is done again',
    );
    onWaiting(error);
    await clock.sleep(decision.delayMs, signal);
    this.#redone += 1;
    return this.#endId - 1 - this.#redone;
  }

  /** Does it until it succeeds; `act` is given `firstId`, then other ids, and how often it was tried before. */
  async untilDone<T>(
    firstId: number,
    act: (subTaskId: number, tries: number) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T> {
    let id = firstId;
    for (let tries = 0; ; tries += 1) {
      try {
        const done = await act(id, tries);
        this.succeeded();
        return done;
      } catch (error) {
        if (!(error instanceof HoldfastError) || tries >= MAX_TRIES) throw error;
        id = await this.failed(error, signal);
      }
    }
  }
}
