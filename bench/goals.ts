/** The goals for backups, and whether they are met. Pure. */
import type { Costs, Quantity } from './costs.ts';
import { RIVAL, SAME, STEPS_APART, STEPS_IN_A_ROW, USUAL, WORK, ZSTD } from './works.ts';

export type Goal = {
  readonly what: string;
  /** At most. */
  readonly limit: number;
  /** Undefined: it was not measured. */
  readonly value: number | undefined;
  /** The same for a process that has started already, as an agent has. */
  readonly startedValue?: number | undefined;
};

export function judgeGoals(costs: Costs): readonly Goal[] {
  const share = (work: string, quantity: Quantity, tool: string = SAME) =>
    ratio(costs.of(work, tool, quantity), costs.of(work, RIVAL, quantity));
  const started = (work: string, tool: string = SAME) => {
    const seconds = costs.of(work, tool, 'seconds');
    return seconds === undefined ? undefined : seconds - (costs.of(work, tool, 'startSeconds') ?? 0);
  };
  const time = (work: string, limit: number, tool: string = SAME): Goal => ({
    what: `${work}${tool === USUAL ? ' at the default level' : ''}: time`,
    limit,
    value: share(work, 'seconds', tool),
    startedValue: ratio(started(work, tool), costs.of(work, RIVAL, 'seconds')),
  });
  const stored = (work: string, limit: number): Goal => ({
    what: `${work}: stored`,
    limit,
    value: share(work, 'storedBytes'),
  });
  return [
    time(WORK.full, 0.75),
    time(WORK.full, 0.6, USUAL),
    stored(WORK.full, 1),
    time(WORK.scattered, 0.15),
    stored(WORK.scattered, 0.1),
    stored(WORK.tenth, 0.15),
    time(WORK.clustered, 0.15),
    stored(WORK.clustered, 0.5),
    time(WORK.nothing, 0.3),
    stored(WORK.nothing, 0.1),
    time(WORK.restoreFull, 0.8),
    {
      what: `${WORK.restoreTenth}: time, to Holdfast's own ${WORK.restoreFull}`,
      limit: 1.2,
      value: ratio(costs.of(WORK.restoreTenth, SAME, 'seconds'), costs.of(WORK.restoreFull, SAME, 'seconds')),
      startedValue: ratio(started(WORK.restoreTenth), started(WORK.restoreFull)),
    },
    time(WORK.validate, 1),
    {
      what: `${WORK.full}: CPU time, to that of \`${ZSTD}\` on the same files`,
      limit: 1.2,
      value: ratio(costs.of(WORK.full, SAME, 'cpuSeconds'), costs.of(WORK.compress, ZSTD, 'cpuSeconds')),
    },
    {
      what: 'any increment: read, without the files always copied, to the pages changed since their whole blocks',
      limit: 2,
      value: maximum(
        [...STEPS_IN_A_ROW, ...STEPS_APART].flatMap(({ work }) => readPerNeeded(costs, work) ?? []),
      ),
    },
  ];
}

/** What an increment read beside the files that are always copied, in bytes that it needed. */
export function readPerNeeded(costs: Costs, work: string): number | undefined {
  const read = costs.of(work, SAME, 'readBytes');
  const needed = costs.needed(work);
  if (read === undefined || needed === undefined) return undefined;
  return ratio(Math.max(0, read - needed.alwaysCopiedBytes), needed.changedBytes);
}

export function isMet({ value, limit }: Goal): boolean | undefined {
  return value === undefined ? undefined : value <= limit;
}

function ratio(value: number | undefined, of: number | undefined): number | undefined {
  return value === undefined || of === undefined || of === 0 ? undefined : value / of;
}

function maximum(values: readonly number[]): number | undefined {
  return values.length === 0 ? undefined : Math.max(...values);
}
