/** Medians and ratios, and the table of them. Pure. */
import { formatSize } from '../foundation/units.ts';
import type { Measured } from './measured-command.ts';

export type Operation = 'backup' | 'restore';
export const SIDES = ['pgBackRest', 'Holdfast zstd:3', 'Holdfast zstd:1'] as const;
export type Side = (typeof SIDES)[number];

export type Row = {
  readonly operation: Operation;
  readonly side: Side;
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly peakRssBytes: number;
  readonly storedBytes: number;
};

/** `results` by `<operation> <side>`. */
export function summarize(
  results: ReadonlyMap<string, readonly Measured[]>,
  stored: Readonly<Record<Side, number>>,
): readonly Row[] {
  return (['backup', 'restore'] as const).flatMap((operation) =>
    SIDES.flatMap((side) => {
      const runs = results.get(`${operation} ${side}`) ?? [];
      if (runs.length === 0) return [];
      return [
        {
          operation,
          side,
          seconds: median(runs.map((run) => run.seconds)),
          cpuSeconds: median(runs.map((run) => run.cpuSeconds)),
          peakRssBytes: Math.max(...runs.map((run) => run.peakRssBytes)),
          storedBytes: stored[side],
        },
      ];
    }),
  );
}

/** Markdown: every figure, and in brackets its ratio to pgBackRest's. */
export function formatTable(rows: readonly Row[]): string {
  const lines = rows.map((row) => {
    const base = rows.find((other) => other.operation === row.operation && other.side === 'pgBackRest');
    const cell = (text: string, value: number, of: number | undefined) =>
      of === undefined || row === base ? text : `${text} (${(value / of).toFixed(2)} ×)`;
    return [
      row.operation,
      row.side,
      cell(`${row.seconds.toFixed(2)} s`, row.seconds, base?.seconds),
      cell(`${row.cpuSeconds.toFixed(2)} s`, row.cpuSeconds, base?.cpuSeconds),
      cell(formatSize(row.storedBytes), row.storedBytes, base?.storedBytes),
      formatSize(row.peakRssBytes),
    ];
  });
  const head = ['', '', 'time', 'CPU time', 'stored', 'peak memory'];
  return [head, head.map(() => '---'), ...lines].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}
