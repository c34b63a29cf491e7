/**
 * The lives of jobs. A job is one statement's work; its tasks are done by agents, its own steps by the coordinator.
 *
 *   BACKUP:  PREPARE ─claimed─► DOING ─copied─► WAIT_LOG ─covered─► PUBLISH ─published─► COMPLETED
 *            DOING ─becomeFull─► PREPARE: an increment that cannot be made begins again as a full backup
 *   RESTORE: CREATE_TENANT ─created─► RESTORE ─restored─► RESTORE_SUCCESS
 *   VALIDATE: SCHEDULE ─planned─► DOING ─checked─► RECORD ─recorded─► FINISHED
 *   ARCHIVE: RUNNING ─ended─► COMPLETED          CHECK: RUNNING ─ended─► COMPLETED
 *
 * `fail` leads to FAILED (RESTORE_FAIL) and `cancel` to CANCELLING, then CANCELLED, from every state before the commit
 * point; PUBLISH is past it, so it knows neither: it is repeated until it is done (or found impossible, before the
 * write, by `fail`).
 *
 * Job invariants (docs/states.md):
 * J1. A job's state is its row: a restarted coordinator goes on from it, and every step may be repeated.
 * J2. A backup set's id is claimed by its pg_list at the destination before a task is made for it.
 * J3. COMPLETED only after backup_info is at the destination, which is written only after the destination itself showed
 *     the log from each start to each stop, and every newest page LSN is at or before its stop.
 * J4. A final job has only final tasks, or tasks that are being cancelled.
 * J5. Cancelling needs no destination (a validation notes what it had found there, if it can be done in time).
 */
import type { TransitionTable } from './state-machine.ts';

export type BackupState =
  | 'PREPARE'
  | 'DOING'
  | 'WAIT_LOG'
  | 'PUBLISH'
  | 'COMPLETED'
  | 'FAILED'
  | 'CANCELLING'
  | 'CANCELLED';
export type BackupEvent =
  | 'claimed'
  | 'copied'
  | 'covered'
  | 'published'
  | 'fail'
  | 'cancel'
  | 'stopped'
  | 'becomeFull';

export const BACKUP_TRANSITIONS: TransitionTable<BackupState, BackupEvent> = {
  PREPARE: { claimed: 'DOING', fail: 'FAILED', cancel: 'CANCELLING' },
  DOING: { copied: 'WAIT_LOG', becomeFull: 'PREPARE', fail: 'FAILED', cancel: 'CANCELLING' },
  WAIT_LOG: { covered: 'PUBLISH', fail: 'FAILED', cancel: 'CANCELLING' },
  PUBLISH: { published: 'COMPLETED', fail: 'FAILED' },
  COMPLETED: {},
  FAILED: {},
  CANCELLING: { stopped: 'CANCELLED' },
  CANCELLED: {},
};

export type RestoreState =
  | 'CREATE_TENANT'
  | 'RESTORE_SYS_REPLICA'
  | 'RESTORE_USER_REPLICA'
  | 'RESTORE_LOG'
  | 'POST_CHECK'
  | 'RESTORE_SUCCESS'
  | 'RESTORE_FAIL'
  | 'CANCELLING'
  | 'CANCELLED';
export type RestoreEvent =
  | 'systemData'
  | 'userData'
  | 'log'
  | 'check'
  | 'restored'
  | 'fail'
  | 'cancel'
  | 'stopped';

/** Every phase that an agent may report next, later ones included: a short phase may pass unseen; a retry begins again. */
const PHASES = {
  systemData: 'RESTORE_SYS_REPLICA',
  userData: 'RESTORE_USER_REPLICA',
  log: 'RESTORE_LOG',
  check: 'POST_CHECK',
  restored: 'RESTORE_SUCCESS',
  fail: 'RESTORE_FAIL',
  cancel: 'CANCELLING',
} as const;

export const RESTORE_TRANSITIONS: TransitionTable<RestoreState, RestoreEvent> = {
  CREATE_TENANT: PHASES,
  RESTORE_SYS_REPLICA: PHASES,
  RESTORE_USER_REPLICA: PHASES,
  RESTORE_LOG: PHASES,
  POST_CHECK: PHASES,
  RESTORE_SUCCESS: {},
  RESTORE_FAIL: {},
  CANCELLING: { stopped: 'CANCELLED' },
  CANCELLED: {},
};

export type ValidateState =
  | 'SCHEDULE'
  | 'DOING'
  | 'RECORD'
  | 'FINISHED'
  | 'FAILED'
  | 'CANCELLING'
  | 'CANCELLED';
export type ValidateEvent = 'planned' | 'checked' | 'recorded' | 'fail' | 'cancel' | 'stopped';

/** States as OceanBase names them. Agents read in DOING; whatever they find, it is noted first, and fails the job then. */
export const VALIDATE_TRANSITIONS: TransitionTable<ValidateState, ValidateEvent> = {
  SCHEDULE: { planned: 'DOING', fail: 'FAILED', cancel: 'CANCELLING' },
  DOING: { checked: 'RECORD', cancel: 'CANCELLING' },
  RECORD: { recorded: 'FINISHED', fail: 'FAILED', cancel: 'CANCELLING' },
  FINISHED: {},
  FAILED: {},
  CANCELLING: { stopped: 'CANCELLED' },
  CANCELLED: {},
};

/** The life of archive and check jobs: all they do is in their tasks (and, for archiving, in the round). */
export type SimpleState = 'RUNNING' | 'COMPLETED' | 'FAILED' | 'CANCELLED';
export type SimpleEvent = 'ended' | 'fail' | 'cancel';

export const SIMPLE_TRANSITIONS: TransitionTable<SimpleState, SimpleEvent> = {
  RUNNING: { ended: 'COMPLETED', fail: 'FAILED', cancel: 'CANCELLED' },
  COMPLETED: {},
  FAILED: {},
  CANCELLED: {},
};

export type JobState = BackupState | RestoreState | ValidateState | SimpleState;

const FINAL: ReadonlySet<JobState> = new Set<JobState>([
  'COMPLETED',
  'FINISHED',
  'FAILED',
  'CANCELLED',
  'RESTORE_SUCCESS',
  'RESTORE_FAIL',
]);

export function isFinalJobState(state: JobState): boolean {
  return FINAL.has(state);
}
