/**
 * The archiver of one partition group as a state machine.
 *
 * ```
 *  state       does                                              event        next
 *  ----------  ------------------------------------------------  -----------  ----------
 *  opening     checks mount_file                                 opened       connecting
 *                                                                failed       waiting
 *                                                                drain        ended
 *                                                                interrupted  ended
 *  connecting  identifies the server and its lineage, reads      streaming    streaming
 *              where along it the log ends at the destination,   failed       waiting
 *              makes the slot, starts the stream; the slot       drain        ended
 *              held, seals predecessors' files                   interrupted  ended
 *  streaming   receives, inspects, buffers; appends; after each  timelineEnded opening
 *              durable append acknowledges; seals full files;    failed       waiting
 *              at a timeline's end the next one follows          drain        draining
 *                                                                interrupted  ended
 *  waiting     backs off (100 ms … 5 s) with what it waits for   waited       opening
 *              and the last error in its progress; what is due   drain        ended
 *              next may be gone from the server meanwhile        interrupted  ended
 *  draining    reads no more; flushes and seals what was         drained      ended
 *              received                                          failed       ended
 *  ended       -
 * ```
 *
 * Invariants
 *  1. Every way into `streaming` leads through `opening`: where to go on is read at the destination, along the server's lineage, never remembered.
 *  2. Acknowledged ≤ durable: the server is told a position only after the append that holds it has resolved.
 *  3. A file to which an append failed is never appended to again: `failed` leads to a new file id.
 *  4. Log of another system, of a timeline that does not descend from what is archived, or from a rewound server is never
 *     written: `interrupted`, by name.
 *  5. Nothing is cut: a predecessor's file keeps its bytes; its index says how many count.
 *  6. An index is written for a predecessor's file only while the slot is held, and if the file has not grown since it was
 *     read: a predecessor that still lives can then have nothing acknowledged that the index leaves out.
 */
import type { ErrorCode, HoldfastError } from '../../foundation/errors.ts';

export type ArchiverState = 'opening' | 'connecting' | 'streaming' | 'waiting' | 'draining' | 'ended';
export type ArchiverEvent =
  | 'opened'
  | 'streaming'
  | 'timelineEnded'
  | 'failed'
  | 'waited'
  | 'drain'
  | 'drained'
  | 'interrupted';

export const TRANSITIONS: Readonly<
  Record<ArchiverState, Readonly<Partial<Record<ArchiverEvent, ArchiverState>>>>
> = {
  opening: { opened: 'connecting', failed: 'waiting', drain: 'ended', interrupted: 'ended' },
  connecting: { streaming: 'streaming', failed: 'waiting', drain: 'ended', interrupted: 'ended' },
  streaming: { timelineEnded: 'opening', failed: 'waiting', drain: 'draining', interrupted: 'ended' },
  waiting: { waited: 'opening', drain: 'ended', interrupted: 'ended' },
  draining: { drained: 'ended', failed: 'ended' },
  ended: {},
};

/** The next state. An event that the table does not have for the state is a bug. */
export function nextState(state: ArchiverState, event: ArchiverEvent): ArchiverState {
  const next = TRANSITIONS[state][event];
  if (next === undefined) throw new Error(`bug: archiver in state ${state} got ${event}`);
  return next;
}

/** What a failure means for the archiver. */
export type FailureKind =
  /** The log at the destination has a hole, or would get one: the round ends by name. */
  | 'interrupted'
  /** Tried again for ever, with the error in the progress. */
  | 'retry'
  /** This attempt ends; the coordinator decides. */
  | 'fatal';

const INTERRUPTING: ReadonlySet<ErrorCode> = new Set([
  'LOG_GAP',
  'LOG_CONFLICT',
  'LOG_ARCHIVE_INTERRUPTED',
  'SYSTEM_IDENTIFIER_MISMATCH',
  'WAL_UNREADABLE',
  'DATA_CORRUPT',
  'FORMAT_UNKNOWN',
]);

/** Not retryable in general, but for an archiver they are an outage that someone can mend while it waits. */
const MENDABLE: ReadonlySet<ErrorCode> = new Set([
  'PRIVILEGE',
  'SERVER_PRECHECK_FAILED',
  'INVALID_BACKUP_DEST',
  'BACKUP_MOUNT_FILE_NOT_VALID',
  'FILE_EXISTS',
  'FILE_NOT_FOUND',
]);

export function classifyFailure(error: HoldfastError): FailureKind {
  if (INTERRUPTING.has(error.code)) return 'interrupted';
  if (error.code === 'LOG_ARCHIVE_LEADER_CHANGED' || error.code === 'SHUTTING_DOWN') return 'fatal';
  return error.facts.retryable || MENDABLE.has(error.code) ? 'retry' : 'fatal';
}
