import { describe, expect, test } from 'vitest';
import { formatComparison } from '../../../bench/comparison-report.ts';
import { Costs } from '../../../bench/costs.ts';
import { isMet, judgeGoals, readPerNeeded } from '../../../bench/goals.ts';
import { pagesSince } from '../../../bench/needed-pages.ts';
import type { Cost } from '../../../bench/tool.ts';
import { RIVAL, SAME, USUAL, WORK, ZSTD } from '../../../bench/works.ts';

const MB = 2 ** 20;
const cost = (seconds: number, change: Partial<Cost> = {}): Cost => ({
  seconds,
  cpuSeconds: seconds,
  peakRssBytes: MB,
  ...change,
});

function measured(): Costs {
  const costs = new Costs();
  costs.add(WORK.full, RIVAL, cost(10, { storedBytes: 100 * MB }));
  costs.add(WORK.full, SAME, cost(7, { storedBytes: 101 * MB }));
  costs.add(WORK.full, USUAL, cost(5));
  costs.add(WORK.compress, ZSTD, cost(6));
  costs.add(WORK.scattered, RIVAL, cost(8, { storedBytes: 50 * MB }));
  costs.add(WORK.scattered, SAME, cost(1.6, { storedBytes: 4 * MB, readBytes: 13 * MB, startSeconds: 0.8 }));
  costs.addNeeded(WORK.scattered, { changedBytes: 5 * MB, alwaysCopiedBytes: 3 * MB });
  costs.add(WORK.restoreFull, SAME, cost(5));
  costs.add(WORK.restoreTenth, SAME, cost(6));
  return costs;
}

const goal = (costs: Costs, what: string) => judgeGoals(costs).find((each) => each.what === what);

describe('goals', () => {
  test('are ratios of medians to the rival, met up to their limit', () => {
    const costs = measured();
    const time = goal(costs, 'full: time');
    expect(time).toMatchObject({ limit: 0.75, value: 0.7 });
    expect(time && isMet(time)).toBe(true);
    const stored = goal(costs, 'full: stored');
    expect(stored?.value).toBeCloseTo(1.01);
    expect(stored && isMet(stored)).toBe(false);
    expect(goal(costs, 'full at the default level: time')).toMatchObject({ limit: 0.6, value: 0.5 });
    expect(goal(costs, `${WORK.scattered}: stored`)).toMatchObject({ limit: 0.1, value: 0.08 });
  });

  test("leave Holdfast's start out beside, not in the judgement", () => {
    const found = goal(measured(), `${WORK.scattered}: time`);
    expect(found?.value).toBeCloseTo(0.2);
    expect(found?.startedValue).toBeCloseTo(0.1);
    expect(found && isMet(found)).toBe(false);
  });

  test("compare with Holdfast's own restore, with zstd, and with the pages that changed", () => {
    const values = judgeGoals(measured()).map(({ what, value }) => [what, value] as const);
    const starting = (text: string) => values.find(([what]) => what.startsWith(text))?.[1];
    expect(starting(`${WORK.restoreTenth}: time`)).toBeCloseTo(1.2);
    expect(starting('full: CPU time')).toBeCloseTo(7 / 6);
    expect(starting('any increment: read')).toBeCloseTo(2);
    expect(readPerNeeded(measured(), WORK.tenth)).toBeUndefined();
  });

  test('of what was not measured are neither met nor missed', () => {
    const found = goal(measured(), 'validate: time');
    expect(found?.value).toBeUndefined();
    expect(found && isMet(found)).toBeUndefined();
  });
});

test('a quantity is the median of its runs, the memory their peak', () => {
  const costs = new Costs();
  for (const seconds of [3, 1, 2]) costs.add('work', 'tool', cost(seconds, { peakRssBytes: seconds * MB }));
  expect(costs.of('work', 'tool', 'seconds')).toBe(2);
  expect(costs.of('work', 'tool', 'peakRssBytes')).toBe(3 * MB);
  expect(costs.of('work', 'tool', 'storedBytes')).toBeUndefined();
  expect(costs.of('work', 'other', 'seconds')).toBeUndefined();
});

test('the text has the goals, every figure with its ratio, and the increments in a row', () => {
  const text = formatComparison({ setting: ['what ran.'], costs: measured() });
  expect(text.startsWith('what ran.\n\n')).toBe(true);
  expect(text).toContain('| full: time | ≤ 0.75 | 0.70 | met | 0.70 |');
  expect(text).toContain('| full: stored | ≤ 1 | 1.01 | **missed** |  |');
  expect(text).toContain('| validate: time | ≤ 1 | not measured |  |  |');
  expect(text).toContain('| full | pgBackRest | 10.00 s | 10.00 s |  | 100.00MB | 1.00MB |');
  expect(text).toContain('|  | Holdfast zstd:3 | 7.00 s (0.70 ×) | 7.00 s (0.70 ×) |  | 101.00MB (1.01 ×) |');
  expect(text).toContain(
    '| 1 | 5.00MB + 3.00MB always copied | 13.00MB | 2.00 × | 4.00MB | 50.00MB | 0.080 × |',
  );
});

test('pages since a position are those whose LSN is not before it', () => {
  const block = Buffer.alloc(3 * 8192 + 100);
  const write = (page: number, lsn: bigint) => {
    block.writeUInt32LE(Number(lsn >> 32n), page * 8192);
    block.writeUInt32LE(Number(lsn & 0xffff_ffffn), page * 8192 + 4);
  };
  write(0, 0x1_0000_0010n);
  write(1, 0x1_0000_0020n);
  write(2, 0xffff_ffffn);
  expect(pagesSince(block, 0x1_0000_0010n)).toBe(2);
  expect(pagesSince(block, 0x1_0000_0011n)).toBe(1);
  expect(pagesSince(block, 0n)).toBe(3);
});
