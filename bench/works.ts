/** The works of the bench, by name, in the order of its tables; and the tools that goals speak of. */
import type { Change } from './changes.ts';

export const RIVAL = 'pgBackRest';
/** At the rival's level. */
export const SAME = 'Holdfast zstd:3';
/** At the default level. */
export const USUAL = 'Holdfast zstd:1';
export const ZSTD = 'zstd -3';

export const COUNT_IN_A_ROW = 10;
const IN_A_ROW: Change = { share: 0.01, spread: 'scattered' };

/** Increments of one full set in this order: none must copy again what an earlier one left scattered. */
const APART: readonly Change[] = [
  { share: 0.001, spread: 'scattered' },
  { share: 0.001, spread: 'clustered' },
  { share: 0.01, spread: 'clustered' },
  { share: 0.1, spread: 'clustered' },
  { share: 0.1, spread: 'scattered' },
];

export type Step = { readonly work: string; readonly change: Change };

export const STEPS_APART: readonly Step[] = APART.map((change) => ({ work: nameOf(change), change }));

/** Each of the one before. */
export const STEPS_IN_A_ROW: readonly Step[] = Array.from({ length: COUNT_IN_A_ROW }, (_, index) => ({
  work: index === 0 ? nameOf(IN_A_ROW) : `${nameOf(IN_A_ROW)}, number ${index + 1} in a row`,
  change: IN_A_ROW,
}));

export const WORK = {
  full: 'full',
  nothing: 'increment, nothing changed',
  scattered: nameOf(IN_A_ROW),
  clustered: nameOf({ share: 0.01, spread: 'clustered' }),
  tenth: `${nameOf(IN_A_ROW)}, number ${COUNT_IN_A_ROW} in a row`,
  restoreFull: 'restore of a full',
  restoreTenth: 'restore of the tenth increment',
  restoreDelta: 'delta restore of the full over the tenth',
  validate: 'validate',
  archive: 'archive of log',
  compress: 'compress alone',
} as const;

/** Rows of the comparison; the increments in a row between the first and the last have a table of their own. */
export const COMPARED: readonly string[] = [
  WORK.full,
  WORK.compress,
  WORK.nothing,
  ...STEPS_APART.slice(0, 2).map(({ work }) => work),
  WORK.scattered,
  WORK.tenth,
  ...STEPS_APART.slice(2).map(({ work }) => work),
  WORK.restoreFull,
  WORK.restoreTenth,
  WORK.restoreDelta,
  WORK.validate,
  WORK.archive,
];

function nameOf({ share, spread }: Change): string {
  return `increment, ${Number((share * 100).toFixed(3))} % ${spread}`;
}
