/** What the bench's texts have in common, the agent's text, and their places in README. Pure. */
import { formatSize } from '../foundation/units.ts';
import type { AgentFigures } from './agent.ts';

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
  agent: { begin: '<!-- bench: begin -->', end: '<!-- bench: end -->' },
  backups: { begin: '<!-- bench of backups: begin -->', end: '<!-- bench of backups: end -->' },
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
