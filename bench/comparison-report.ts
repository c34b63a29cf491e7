/** The text of what `comparison.ts` measured: the goals, every figure, and the increments in a row. Pure. */
import { formatSize } from '../foundation/units.ts';
import type { Costs, Quantity } from './costs.ts';
import { isMet, judgeGoals, readPerNeeded } from './goals.ts';
import { formatCells } from './report.ts';
import { COMPARED, RIVAL, SAME, STEPS_IN_A_ROW, WORK } from './works.ts';

export type Comparison = {
  /** What ran, on what: sentences. */
  readonly setting: readonly string[];
  readonly costs: Costs;
};

export function formatComparison({ setting, costs }: Comparison): string {
  return [
    setting.join('\n'),
    `The goals, as ratios to ${RIVAL}'s where nothing else is said. The start of Holdfast's process, about ` +
      `${(costs.of(WORK.nothing, SAME, 'startSeconds') ?? 0).toFixed(2)} s, is in all its times; an agent has it behind it:`,
    goalsTable(costs),
    `All figures, in brackets the ratio to ${RIVAL}'s. Read: of the database; stored: what the work added.`,
    costsTable(costs),
    'Increments in a row, 1 % of the pages of the table changed before each, scattered. Needed: the pages changed since ' +
      'their whole blocks, found by the LSNs of all pages, and the files that are always copied whole.',
    rowTable(costs),
  ].join('\n\n');
}

function goalsTable(costs: Costs): string {
  const rows = judgeGoals(costs).map((goal) => {
    const met = isMet(goal);
    const { what, limit, value, startedValue } = goal;
    return [
      what,
      `≤ ${limit}`,
      value === undefined ? 'not measured' : value.toFixed(decimals(value)),
      met === undefined ? '' : met ? 'met' : '**missed**',
      startedValue === undefined ? '' : startedValue.toFixed(decimals(startedValue)),
    ];
  });
  return table(['', 'goal', 'measured', '', "without Holdfast's start"], rows);
}

function costsTable(costs: Costs): string {
  const rows = COMPARED.flatMap((work) =>
    costs.tools(work).map((tool, index) => {
      const cell = (quantity: Quantity, format: (value: number) => string) => {
        const value = costs.of(work, tool, quantity);
        if (value === undefined) return '';
        const of = costs.of(work, RIVAL, quantity);
        const isRatio = tool !== RIVAL && of !== undefined && of > 0;
        return isRatio ? `${format(value)} (${formatRatio(value / of)})` : format(value);
      };
      const seconds = (value: number) => `${value.toFixed(2)} s`;
      return [
        index === 0 ? work : '',
        tool,
        cell('seconds', seconds),
        cell('cpuSeconds', seconds),
        cell('readBytes', formatSize),
        cell('storedBytes', formatSize),
        formatSize(costs.of(work, tool, 'peakRssBytes') ?? 0),
      ];
    }),
  );
  return table(['', '', 'time', 'CPU time', 'read', 'stored', 'peak memory'], rows);
}

function rowTable(costs: Costs): string {
  const rows = STEPS_IN_A_ROW.map(({ work }, index) => {
    const bytes = (value: number | undefined) => (value === undefined ? '' : formatSize(value));
    const needed = costs.needed(work);
    const stored = costs.of(work, SAME, 'storedBytes');
    const rival = costs.of(work, RIVAL, 'storedBytes');
    const perNeeded = readPerNeeded(costs, work);
    return [
      String(index + 1),
      needed === undefined
        ? ''
        : `${bytes(needed.changedBytes)} + ${bytes(needed.alwaysCopiedBytes)} always copied`,
      bytes(costs.of(work, SAME, 'readBytes')),
      perNeeded === undefined ? '' : formatRatio(perNeeded),
      bytes(stored),
      bytes(rival),
      stored === undefined || rival === undefined ? '' : formatRatio(stored / rival),
    ];
  });
  const head = ['', 'needed', 'read', 'read / changed (goal ≤ 2)', 'stored', `stored by ${RIVAL}`, 'ratio'];
  return table(head, rows);
}

function formatRatio(value: number): string {
  return `${value.toFixed(decimals(value))} ×`;
}

/** Small ratios keep two digits that count. */
function decimals(value: number): number {
  return value < 0.1 ? 3 : 2;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return formatCells([head, head.map(() => '---'), ...rows]);
}
