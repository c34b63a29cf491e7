/**
 * What a validation reads: a task for each partition group of a set, and for each partition group of a round's log. What
 * was found right not long ago is left out. Pure.
 *
 * A note with findings takes back what earlier ones found right: the next validation reads all of it again.
 */
import type { CheckedLog, Note } from '../../proto/gen/holdfast/v1/records_pb.ts';
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
          return { kind: 'log' as const, round, partitionGroup, bytes, checked, until };
        }),
      ),
    ],
    skipped: skipped.map(({ key }) => key.setId),
  };
}

/** True when the last validation that is noted found nothing, and began at that time or later. */
export function wasRightSince(notes: readonly Note[], sinceUs: bigint): boolean {
  const last = validations(notes).at(-1);
  return last !== undefined && last.findingCount === 0n && last.beginUs >= sinceUs;
}

/** The group's log that was found right at that time or later, neighbours joined. */
export function checkedSince(
  notes: readonly Note[],
  partitionGroup: string,
  sinceUs: bigint,
): readonly CheckedLog[] {
  const all = validations(notes);
  const lastBad = all.findLastIndex((note) => note.findingCount > 0n);
  const logs = all
    .slice(lastBad + 1)
    .filter((note) => note.beginUs >= sinceUs)
    .flatMap((note) => note.logs.filter((log) => log.partitionGroup === partitionGroup));
  return joinLogs(logs);
}

function validations(notes: readonly Note[]) {
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
