/**
 * How long a backup or a validation may take: as long as it gets on. Its deadline lies a day behind the last report that told
 * of something new, so that a copy that is throttled for days ends well, and one that hangs is ended. Pure.
 */
import { isDeepStrictEqual } from 'node:util';
import type { TaskKind } from './task-states.ts';

const QUIET_LIMIT_US = 86_400_000_000n;
/** A deadline is not moved for less. */
const WORTHWHILE_US = 60_000_000n;

/** Whether tasks of the kind may take as long as they get on. */
export function isProlonged(kind: TaskKind): boolean {
  return kind === 'BACKUP' || kind === 'VALIDATE';
}

/**
 * The new deadline of a task and of those of its job that wait for it; undefined: it stays. `before` and `report`: progress messages as JSON, the last
 * one of the same attempt (or null) and this one.
 */
export function prolongedDeadlineUs(
  task: { readonly kind: TaskKind; readonly deadline_us: bigint },
  before: unknown,
  report: unknown,
  nowUs: bigint,
): bigint | undefined {
  if (!isProlonged(task.kind) || task.deadline_us === 0n) return undefined;
  if (isDeepStrictEqual(before, report)) return undefined;
  const deadlineUs = nowUs + QUIET_LIMIT_US;
  return deadlineUs - task.deadline_us >= WORTHWHILE_US ? deadlineUs : undefined;
}
