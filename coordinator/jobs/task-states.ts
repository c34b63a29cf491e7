/**
 * The life of a task: one partition group's part of a job, done by one agent at a time.
 *
 *   PENDING ──dispatch──► RUNNING ──succeed──► SUCCEEDED
 *      ▲  │                 │ │ ├────fail────► FAILED
 *      │  └─cancel─► CANCELLED│ └───cancel───► CANCELLING ──stopped, lose──► CANCELLED
 *      └──────── retry, lose ─┘                    └──succeed──► SUCCEEDED
 *
 * Task invariants (docs/states.md):
 * T1. Each dispatch is a new attempt; what any other attempt reports is ignored.
 * T2. A final state never changes.
 * T3. A task that is RUNNING or CANCELLING names its server; it is lost when that agent's lease ends, or when it is
 *     attached and did not declare the task.
 */
import type { ErrorCode } from '../../foundation/errors.ts';
import { DESTINATION_CODES, ERRORS } from '../../foundation/errors.ts';
import type { TransitionTable } from './state-machine.ts';

export type TaskState = 'PENDING' | 'RUNNING' | 'CANCELLING' | 'SUCCEEDED' | 'FAILED' | 'CANCELLED';
export type TaskEvent = 'dispatch' | 'succeed' | 'fail' | 'retry' | 'lose' | 'cancel' | 'stopped';
export type TaskKind = 'ARCHIVE' | 'BACKUP' | 'RESTORE' | 'CHECK' | 'VALIDATE';

export const TASK_TRANSITIONS: TransitionTable<TaskState, TaskEvent> = {
  PENDING: { dispatch: 'RUNNING', cancel: 'CANCELLED', fail: 'FAILED' },
  RUNNING: { succeed: 'SUCCEEDED', fail: 'FAILED', retry: 'PENDING', lose: 'PENDING', cancel: 'CANCELLING' },
  CANCELLING: { succeed: 'SUCCEEDED', stopped: 'CANCELLED', lose: 'CANCELLED' },
  SUCCEEDED: {},
  FAILED: {},
  CANCELLED: {},
};

/** How often a task of each kind may fail before it is given up; archiving goes on until it is stopped. */
const MAX_FAILURES: Readonly<Record<TaskKind, number>> = {
  ARCHIVE: Number.POSITIVE_INFINITY,
  BACKUP: 3,
  RESTORE: 1,
  CHECK: 1,
  VALIDATE: 3,
};

/**
 * A server that recovers from a crash, or a share that is mounted again, is away for a while, and what was copied before is
 * not copied again.
 */
const MAX_FAILURES_WHILE_AWAY = 8;
const AWAY: ReadonlySet<ErrorCode> = new Set<ErrorCode>(['SERVER_UNREACHABLE', ...DESTINATION_CODES]);

/** Errors that no further attempt of any kind can mend. */
const HOPELESS: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'LOG_GAP',
  'LOG_CONFLICT',
  'WAL_UNREADABLE',
  'DATA_CORRUPT',
  'FORMAT_UNKNOWN',
  'SYSTEM_IDENTIFIER_MISMATCH',
  'LOG_ARCHIVE_INTERRUPTED',
  'BACKUP_MOUNT_FILE_NOT_VALID',
  'NOT_SUPPORTED',
  'INVALID_ARGUMENT',
  'INVALID_BACKUP_DEST',
  'SERVER_PRECHECK_FAILED',
]);

/** A catalog that has lost its last minutes gives an attempt's number, and so its names, again; the next has others. */
const isTaken = (kind: TaskKind, code: ErrorCode) => kind === 'BACKUP' && code === 'FILE_EXISTS';

const FIRST_DELAY_MS = 500;
const MAX_DELAY_MS = 30_000;

export type FailureDecision =
  | { readonly kind: 'retry'; readonly delayMs: number }
  | { readonly kind: 'giveUp' };

/**
 * What to do after a failure. `failures` counts this one. A backup or restore is tried again only when the error says
 * that this can help; archiving is tried again after any error that does not prove a hole. Pure.
 */
export function decideAfterFailure(kind: TaskKind, code: ErrorCode, failures: number): FailureDecision {
  const mayComeBack = kind === 'BACKUP' && AWAY.has(code);
  if (failures >= (mayComeBack ? MAX_FAILURES_WHILE_AWAY : MAX_FAILURES[kind])) return { kind: 'giveUp' };
  if (HOPELESS.has(code) && !mayComeBack) return { kind: 'giveUp' };
  const canHelp = kind === 'ARCHIVE' || ERRORS[code].retryable || mayComeBack || isTaken(kind, code);
  if (!canHelp) return { kind: 'giveUp' };
  return { kind: 'retry', delayMs: Math.min(FIRST_DELAY_MS * 2 ** Math.min(failures - 1, 10), MAX_DELAY_MS) };
}
