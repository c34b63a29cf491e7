/** The text of what `log.ts` measured, each figure beside the goal for it. Pure. */
import { formatSize } from '../foundation/units.ts';
import type { ArchiveThroughput } from './archive.ts';
import type { LagFigures } from './lag.ts';
import type { LogName } from './log-workload.ts';
import { CLIENTS } from './pgbench.ts';
import type { RecoveryFigures } from './recovery.ts';
import { formatCells, median } from './report.ts';

export type LogFigures = {
  readonly machine: string;
  /** The first is the rival. */
  readonly throughput: ReadonlyMap<string, ArchiveThroughput>;
  readonly lags: readonly LagFigures[];
  readonly recoveries: readonly RecoveryFigures[];
};

/** Decimal megabytes, as the goal is. */
const MEGABYTE = 1e6;
const GOAL = {
  throughput: '≥ 150 MB',
  memory: '≤ 200 MB',
  size: new Map([
    ['Holdfast zstd:1', '≤ 1.10 ×'],
    ['Holdfast zstd:3', '≤ 1.02 ×'],
  ]),
  lag: new Map([
    ['1s', 'p50 ≤ 1.2 s, p99 ≤ 2 s'],
    ['100ms', 'p99 ≤ 0.4 s'],
  ]),
  replay: '≤ 1.00 ×',
} as const;

const LOG: Readonly<Record<LogName, string>> = {
  mixed: '(small transactions, bulk loads, index builds)',
  fewPages: 'about 500 pages, which is replayed fastest of all',
};

export function formatLogReport({ machine, throughput, lags, recoveries }: LogFigures): string {
  const bytes = throughput.values().next().value?.bytes ?? 0;
  return [
    machine,
    `${formatSize(bytes)} of log (small transactions, bulk loads, index builds), parsed, mapped, compressed and synced:`,
    throughputTable(throughput),
    `From an acknowledged commit until it is durable at the destination, a real agent under pgbench -c ${CLIENTS}:`,
    lagTable(lags),
    ...recoveries.flatMap((recovery) => [
      `${formatSize(recovery.logBytes)} of log ${LOG[recovery.log]}, replayed by a restored server, until it has ` +
        `replayed all (median of ${recovery.cpSeconds.length} in turn):`,
      recoveryTable(recovery),
    ]),
  ].join('\n\n');
}

function throughputTable(throughput: ReadonlyMap<string, ArchiveThroughput>): string {
  const rival = throughput.values().next().value;
  const rows = [...throughput].map(([name, found]) => {
    const isRival = found === rival;
    const withGoal = (text: string, goal: string | undefined) =>
      isRival || goal === undefined ? text : `${text} (goal ${goal})`;
    const ratio = found.storedBytes / (rival?.storedBytes ?? Number.NaN);
    return [
      name,
      megabytes(found.bytes / found.seconds),
      withGoal(megabytes(found.bytes / found.cpuSeconds), GOAL.throughput),
      withGoal(megabytes(found.peakRssBytes), GOAL.memory),
      isRival
        ? megabytes(found.storedBytes)
        : withGoal(`${megabytes(found.storedBytes)}, ${ratio.toFixed(3)} ×`, GOAL.size.get(name)),
    ];
  });
  return table(['', 'per second', 'per second of one core', 'peak memory', 'stored'], rows);
}

function lagTable(lags: readonly LagFigures[]): string {
  const rows = lags.map((lag) => [
    lag.interval,
    `${lag.transactionsPerSecond.toFixed(0)} transactions/s, ${formatSize(lag.logBytesPerSecond)}/s`,
    `${lag.p50Seconds.toFixed(2)} s`,
    `${lag.p99Seconds.toFixed(2)} s`,
    `${lag.maxSeconds.toFixed(2)} s`,
    GOAL.lag.get(lag.interval) ?? '',
  ]);
  return table(['log_archive_checkpoint_interval', 'load', 'p50', 'p99', 'longest', 'goal'], rows);
}

function recoveryTable({ logBytes, cpSeconds, holdfastSeconds }: RecoveryFigures): string {
  const cp = median(cpSeconds);
  const holdfast = median(holdfastSeconds);
  const row = (name: string, seconds: number, ratio: string) => [
    name,
    `${seconds.toFixed(2)} s`,
    `${megabytes(logBytes / seconds)}/s`,
    ratio,
  ];
  return table(
    ['', 'time', 'log', ''],
    [
      row('restore_command = cp', cp, ''),
      row('Holdfast', holdfast, `${(holdfast / cp).toFixed(2)} × (goal ${GOAL.replay})`),
    ],
  );
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return formatCells([head, head.map(() => '---'), ...rows]);
}

function megabytes(bytes: number): string {
  return `${(bytes / MEGABYTE).toFixed(0)} MB`;
}
