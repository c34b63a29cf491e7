/**
 * What a validation notes at the destination beside sets and rounds. Right is noted of a set only when all its tasks
 * succeeded, and nobody found anything in it. Damage is noted whatever became of the rest, and beside everything that needs
 * what is damaged: sets of one full backup share macroblocks, and sets need log of their round. Pure.
 *
 * Where it is only known that something was found (a task that was given up, findings beyond those that are listed), all that
 * it may concern is noted: what is noted for nothing is read once more, what is not noted would be passed over.
 */
import { create } from '@bufbuild/protobuf';
import {
  type ValidateFinding,
  ValidateProgressSchema,
  type ValidateResult,
  ValidateResultSchema,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { type Note, NoteSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { NotePlace } from '../../storage-layout/records/notes.ts';
import { type RoundKey, type SetKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';
import type { Task } from '../catalog/jobs.ts';
import { validateTaskSpec } from './specs.ts';
import { messageFromJson } from './task-results.ts';

/** What the destination has of the tenant. */
export type Noteworthy = { readonly sets: readonly SetKey[]; readonly rounds: readonly RoundKey[] };

/** Which job notes it, and when. */
export type Stamp = Pick<Note, 'jobId' | 'epoch' | 'timeUs'>;

export type PlacedNote = { readonly place: NotePlace; readonly note: Note };

/** What is known of one task when no more will be. */
export type Outcome = {
  readonly subject: NotePlace;
  /** Undefined: it was not done. */
  readonly result: ValidateResult | undefined;
  readonly findings: readonly ValidateFinding[];
  /** How many more there are. */
  readonly unlisted: bigint;
  readonly beginUs: bigint;
  readonly endUs: bigint;
};

type EndedTask = Pick<Task, 'state' | 'spec' | 'progress' | 'result' | 'started_us' | 'ended_us'>;

/** Of tasks that have ended. What one that was not done has found is in its last report. */
export function outcomesOf(tenantId: bigint, tasks: readonly EndedTask[]): readonly Outcome[] {
  return tasks.map((task) => {
    const subject = subjectOf(tenantId, task);
    if (task.state !== 'SUCCEEDED') {
      const { findingCount } = messageFromJson(ValidateProgressSchema, task.progress ?? {});
      const times = { beginUs: task.started_us, endUs: task.ended_us };
      return { subject, result: undefined, findings: [], unlisted: findingCount, ...times };
    }
    const result = messageFromJson(ValidateResultSchema, task.result);
    const { findings, findingCount, beginUs, endUs } = result;
    return { subject, result, findings, unlisted: findingCount - BigInt(findings.length), beginUs, endUs };
  });
}

function subjectOf(tenantId: bigint, task: EndedTask): NotePlace {
  const { setId, fullSetId, round } = validateTaskSpec.parse(task.spec).subject;
  return setId === undefined || fullSetId === undefined
    ? { kind: 'round', key: { tenantId, round: BigInt(round ?? 0) } }
    : { kind: 'set', key: { tenantId, setId: BigInt(setId), fullSetId: BigInt(fullSetId) } };
}

export function hasFindings(outcomes: readonly Outcome[]): boolean {
  return outcomes.some(({ findings, unlisted }) => findings.length > 0 || unlisted > 0n);
}

export function notesOf(
  root: TreeRoot,
  stamp: Stamp,
  outcomes: readonly Outcome[],
  noteworthy: Noteworthy,
): readonly PlacedNote[] {
  const places = new Map<string, NotePlace>(
    [
      ...outcomes.map(({ subject }) => subject),
      ...noteworthy.sets.map((key) => ({ kind: 'set', key }) as const),
      ...noteworthy.rounds.map((key) => ({ kind: 'round', key }) as const),
    ].map((place) => [nameOf(place), place]),
  );
  return [...places.values()].flatMap((place) => {
    const note = noteOf(root, stamp, outcomes, place);
    return note === undefined ? [] : [{ place, note }];
  });
}

/** Undefined: it was not read, or not all of it, and nothing is known to be wrong. */
function noteOf(
  root: TreeRoot,
  stamp: Stamp,
  outcomes: readonly Outcome[],
  place: NotePlace,
): Note | undefined {
  const own = outcomes.filter(({ subject }) => nameOf(subject) === nameOf(place));
  const others = outcomes.filter((outcome) => !own.includes(outcome));
  const results = own.flatMap(({ result }) => (result === undefined ? [] : [result]));
  const findingCount = countFindings(root, own, others, place);
  const isDone = results.length > 0 && (place.kind === 'round' || results.length === own.length);
  if (findingCount === 0n && !isDone) return undefined;
  const sources = [
    ...own.filter(({ result, unlisted }) => result !== undefined || unlisted > 0n),
    ...others.filter((outcome) => countHits(root, outcome, place) > 0),
  ];
  const sum = (value: (result: ValidateResult) => bigint) =>
    results.reduce((all, one) => all + value(one), 0n);
  return create(NoteSchema, {
    ...stamp,
    kind: {
      case: 'validated',
      value: {
        beginUs: sources.map(({ beginUs }) => beginUs).reduce((a, b) => (a < b ? a : b)),
        endUs: sources.map(({ endUs }) => endUs).reduce((a, b) => (a > b ? a : b)),
        macroblockCount: sum((result) => result.macroblockCount),
        bytes: sum((result) => result.bytes),
        logBytes: sum((result) => result.logBytes),
        findingCount,
        logs: results.flatMap((result) => result.logs),
      },
    },
  });
}

/** Its own, and those of others that hit it; the same damage that several found counts once. */
function countFindings(
  root: TreeRoot,
  own: readonly Outcome[],
  others: readonly Outcome[],
  place: NotePlace,
): bigint {
  const listed = own.flatMap(({ findings }) => findings);
  const known = new Set(listed.map(damageOf));
  const more = others.flatMap((outcome) => hits(root, outcome, place)).map(damageOf);
  const added = new Set(more.filter((damage) => !known.has(damage))).size;
  const unlisted = [...own, ...others.filter(({ subject }) => mayHit(subject, place))].reduce(
    (sum, outcome) => sum + outcome.unlisted,
    0n,
  );
  return BigInt(listed.length + added) + unlisted;
}

function countHits(root: TreeRoot, outcome: Outcome, place: NotePlace): number {
  const isPossible = outcome.unlisted > 0n && mayHit(outcome.subject, place);
  return hits(root, outcome, place).length + (isPossible ? 1 : 0);
}

function damageOf({ object, offset }: ValidateFinding): string {
  return `${object}@${offset}`;
}

/** The findings that name the set as one that needs what is damaged, or that are in the round's directory. */
function hits(root: TreeRoot, { findings }: Outcome, place: NotePlace): readonly ValidateFinding[] {
  if (place.kind === 'set')
    return findings.filter(({ backupSetIds }) => backupSetIds.includes(place.key.setId));
  const directory = `${tree.roundDirectory(root, place.key)}/`;
  return findings.filter(({ object }) => object.startsWith(directory));
}

/** Whether damage that a task of `subject` finds may be in what `place` needs. */
function mayHit(subject: NotePlace, place: NotePlace): boolean {
  if (place.kind === 'round') return subject.kind === 'set'; // its own log is of some round
  return subject.kind === 'round' || subject.key.fullSetId === place.key.fullSetId;
}

function nameOf(place: NotePlace): string {
  return place.kind === 'set' ? `set ${place.key.setId}` : `round ${place.key.round}`;
}
