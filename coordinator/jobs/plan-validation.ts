/**
 * What a validation reads: a task for each partition group of a set, and for each partition group of a round's log. What
 * was found right not long ago is left out. Pure.
 *
 * A note with findings takes back what earlier ones found right: the next validation reads all of it again.
 */
import type { CheckedLog, Note, ValidatedNote } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { SetKey } from '../../storage-layout/tree.ts';

export type SetToValidate = {
  readonly key: SetKey;
  readonly groups: readonly { readonly partitionGroup: string; readonly bytes: bigint }[];
  readonly notes: readonly Note[];
};

export type RoundToValidate = {
  readonly round: bigint;
  readonly groups: readonly {
    readonly partitionGroup: string;
    readonly bytes: bigint;
    /** What was archived up to there must be there. */
    readonly until?: { readonly timeline: number; readonly lsn: bigint } | undefined;
  }[];
  readonly notes: readonly Note[];
};

export type PlannedValidation = { readonly partitionGroup: string; readonly bytes: bigint } & (
  | { readonly kind: 'set'; readonly key: SetKey }
  | {
      readonly kind: 'log';
      readonly round: bigint;
      readonly checked: readonly CheckedLog[];
      readonly until: { readonly timeline: number; readonly lsn: bigint } | undefined;
    }
);

export type ValidationPlan = {
  readonly tasks: readonly PlannedValidation[];
  /** Sets that are left out. */
  readonly skipped: readonly bigint[];
};

/** `sinceUs`: what was found right at that time or later is left out; undefined: nothing is. */
export function planValidation(
  sets: readonly SetToValidate[],
  rounds: readonly RoundToValidate[],
  sinceUs: bigint | undefined,
): ValidationPlan {
  const skipped = sets.filter(({ notes }) => sinceUs !== undefined && wasRightSince(notes, sinceUs));
  const wanted = sets.filter((set) => !skipped.includes(set));
  return {
    tasks: [
      ...wanted.flatMap(({ key, groups }) =>
        groups.map((group) => ({ ...group, kind: 'set' as const, key })),
      ),
      ...rounds.flatMap(({ round, groups, notes }) =>
        groups.map(({ partitionGroup, bytes, until }) => {
          const checked = sinceUs === undefined ? [] : checkedSince(notes, partitionGroup, sinceUs);
          const left = until === undefined ? bytes : uncheckedBytes(bytes, until, checked);
          return { kind: 'log' as const, round, partitionGroup, bytes: left, checked, until };
        }),
      ),
    ],
    skipped: skipped.map(({ key }) => key.setId),
  };
}

/**
 * True when the last validation that is noted found nothing, and began at that time or later, and behind all that ever
 * found something: one that ran beside such a one may have read what is damaged before it was.
 */
export function wasRightSince(notes: readonly Note[], sinceUs: bigint): boolean {
  const all = validations(notes);
  const last = all.at(-1);
  return last !== undefined && last.findingCount === 0n && last.beginUs >= laterOf(sinceUs, lastBadUs(all));
}

/** The group's log that was found right at that time or later, neighbours joined. */
export function checkedSince(
  notes: readonly Note[],
  partitionGroup: string,
  sinceUs: bigint,
): readonly CheckedLog[] {
  const all = validations(notes);
  const lastBad = all.findLastIndex((note) => note.findingCount > 0n);
  const rightUs = laterOf(sinceUs, lastBadUs(all));
  const logs = all
    .slice(lastBad + 1)
    .filter((note) => note.beginUs >= rightUs)
    .flatMap((note) => note.logs.filter((log) => log.partitionGroup === partitionGroup));
  return joinLogs(logs);
}

/** When the last validation that found something had ended; 0: none did. */
function lastBadUs(all: readonly ValidatedNote[]): bigint {
  return all.filter((note) => note.findingCount > 0n).reduce((us, note) => laterOf(us, note.endUs), 0n);
}

function laterOf(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}

/**
 * About what is left to read of the `bytes` of log before `until`. Positions go on from one timeline to the next, so what
 * was checked of any of them counts once.
 */
function uncheckedBytes(
  bytes: bigint,
  until: { readonly lsn: bigint },
  checked: readonly CheckedLog[],
): bigint {
  let left = 0n;
  let at = until.lsn - bytes;
  for (const log of checked.toSorted((a, b) => (a.begin < b.begin ? -1 : 1))) {
    const begin = log.begin < until.lsn ? log.begin : until.lsn;
    if (begin > at) left += begin - at;
    at = laterOf(at, log.end);
  }
  return until.lsn > at ? left + until.lsn - at : left;
}

function validations(notes: readonly Note[]): readonly ValidatedNote[] {
  return notes.flatMap((note) => (note.kind.case === 'validated' ? [note.kind.value] : []));
}

function joinLogs(logs: readonly CheckedLog[]): readonly CheckedLog[] {
  const joined: CheckedLog[] = [];
  const inOrder = logs.toSorted((a, b) => a.timeline - b.timeline || (a.begin < b.begin ? -1 : 1));
  for (const log of inOrder) {
    const last = joined.at(-1);
    if (last?.timeline === log.timeline && log.begin <= last.end) {
      if (log.end > last.end) joined[joined.length - 1] = { ...last, end: log.end };
    } else joined.push({ ...log });
  }
  return joined;
}
