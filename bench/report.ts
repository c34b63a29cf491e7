/** Medians and ratios, the text of them, and its place in README. Pure. */
import { formatSize } from '../foundation/units.ts';
import type { AgentFigures } from './agent.ts';
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
  return formatCells([head, head.map(() => '---'), ...lines]);
}

/** Two sentences: the agent's memory, and how far it was behind under load. */
export function describeAgent({ peakRssBytes, lag }: AgentFigures): string {
  const peaks = [...peakRssBytes].map(([phase, bytes]) => `${phase} ${formatSize(bytes)}`).join(', ');
  const memory = `Peak memory of a real agent, which goes on archiving in every phase: ${peaks}.`;
  if (lag === undefined) return memory;
  const load = `${lag.transactionsPerSecond.toFixed(0)} transactions/s, ${formatSize(lag.logBytesPerSecond)}/s of log`;
  const { medianSeconds, maxSeconds } = lag;
  return (
    `${memory}\n\nArchiving under pgbench -c 4 (${load}): lag as the coordinator shows it, ` +
    `median ${medianSeconds.toFixed(2)} s, at most ${maxSeconds.toFixed(2)} s.`
  );
}

/** What README shows between a pair of marks. */
export const SECTION = {
  backup: { begin: '<!-- bench: begin -->', end: '<!-- bench: end -->' },
  log: { begin: '<!-- bench of the log: begin -->', end: '<!-- bench of the log: end -->' },
} as const;
export type Section = (typeof SECTION)[keyof typeof SECTION];

/** `document` with `text` between the section's two marks. Throws when it has not both. */
export function fillSection(document: string, section: Section, text: string): string {
  const begin = document.indexOf(section.begin) + section.begin.length;
  const end = document.indexOf(section.end);
  if (begin < section.begin.length || end < begin) throw new Error('the document has no place for the table');
  return `${document.slice(0, begin)}\n${text}\n${document.slice(end)}`;
}

export function formatCells(rows: readonly (readonly string[])[]): string {
  return rows.map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}
