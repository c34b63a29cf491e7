/** `holdfast log`: what the archived log holds, and its segments as files. */
import { randomUUID } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';
import { type Command, InvalidArgumentError } from 'commander';
import { historyTimeline, readArchivedSegment, readHistory } from '../agent/restore/archived-file.ts';
import { VolumeCounter } from '../engine/postgres/wal/volume.ts';
import { HoldfastError, isError, toHoldfastError } from '../foundation/errors.ts';
import { parseInstantUs } from '../foundation/instant.ts';
import { formatLsn, parseLsn, type Timeline, toTimeline } from '../foundation/lsn.ts';
import { formatSize } from '../foundation/units.ts';
import { formatInstant } from '../storage-layout/plan/windows.ts';
import { addExamples } from './help.ts';
import {
  beginsBehind,
  findStretch,
  type LogBound,
  type LogStretch,
  lsnBound,
  readEvents,
  readerOptions,
  type StretchRange,
  type TimedEvent,
  timeOf,
} from './log-events.ts';
import {
  addLogSourceOptions,
  findLogSources,
  type LogSource,
  type LogSourceOptions,
  openLog,
  openLogDestination,
} from './log-source.ts';
import { printError } from './print-error.ts';

type ReadOptions = LogSourceOptions & {
  readonly since?: LogBound;
  readonly until?: LogBound;
  readonly timeline?: Timeline;
  readonly json?: boolean;
};

/** Added to the exit code when it is not known whether the file is there: above 125, a recovering server stops. */
const FETCH_FAILED = 200;

export function registerLog(program: Command): void {
  const log = program
    .command('log')
    .summary('read the archived log: what was committed when, and segments as files')
    .description('Read the archived log of one partition group, from the destination alone.');
  const list = log
    .command('list')
    .summary('list commits, restore points, checkpoints and timeline switches')
    .description('List what happened, in the order of the log: to choose the instant before an accident.');
  addReadOptions(list).action(async (options: ReadOptions) => await reading(options, listEvents));
  addExamples(list, [
    [
      'what was committed around an accident',
      `holdfast log list --from file:///backup --since '2026-11-21 14:00Z' --until '2026-11-21 14:10Z'`,
    ],
  ]);
  const show = log
    .command('show')
    .summary('show what is archived, and the volume of the log by relation')
    .description('Show the archived ranges, and how much log each relation made in a stretch of them.');
  addReadOptions(show).action(async (options: ReadOptions) => await reading(options, showVolume));
  addExamples(show, [
    ['which table wrote all that', `holdfast log show --from file:///backup --since '2026-11-21 14:00Z'`],
  ]);
  const fetch = log
    .command('fetch')
    .summary('write one archived segment or timeline history to a file')
    .description(
      'Write one archived segment, or timeline history, to a file, bit for bit as the server had it. Exit code 4: it is ' +
        'not in the archive. Above 200: that could not be found out, and a recovering server stops instead of ending its log.',
    )
    .argument('<name>', 'the name of a segment or history, as %f of restore_command')
    .argument('<path>', 'the file to write, as %p');
  addLogSourceOptions(fetch).action(fetchFile);
  addExamples(fetch, [
    [
      "a standby's setting",
      `restore_command = 'holdfast log fetch --from file:///backup --tenant orders %f %p'`,
    ],
  ]);
}

function addReadOptions(command: Command): Command {
  return addLogSourceOptions(command)
    .option('--since <time or position>', 'from this time, or log position X/X, on', bound)
    .option('--until <time or position>', 'up to this time, or log position X/X', bound)
    .option('--timeline <number>', 'only this timeline', timeline)
    .option('--json', 'one JSON object per line');
}

async function reading(
  options: ReadOptions,
  act: (context: ReadContext, options: ReadOptions, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const { signal } = new AbortController();
  await using medium = await openLogDestination(options, signal);
  const sources = await findLogSources(medium, options, signal);
  const stretch: LogStretch = { since: options.since, until: options.until, timeline: options.timeline };
  if (options.json !== true && act === listEvents) console.log(LIST_HEADING);
  const [newest] = sources;
  const isBounded = stretch.since !== undefined || stretch.until !== undefined;
  let hasAnswered = false;
  // A stretch may lie in earlier rounds, or in several; without one the newest round is read.
  for (const source of isBounded ? sources.toReversed() : sources.slice(0, 1)) {
    const context = await contextOf(source, stretch, act === listEvents, signal);
    if (isBounded && context.ranges.length === 0) continue;
    hasAnswered = true;
    await act(context, options, signal);
  }
  if (hasAnswered || newest === undefined) return;
  await act({ ...(await contextOf(newest, stretch, false, signal)), ranges: [] }, options, signal);
}

/** `everyCommit`: also where only one that is out of order can be inside. A volume is of whole files, and does without. */
async function contextOf(
  source: LogSource,
  stretch: LogStretch,
  everyCommit: boolean,
  signal: AbortSignal,
): Promise<ReadContext> {
  const log = await openLog(source, signal);
  const coverage = await log.coverage(signal);
  const found = await findStretch(log, coverage, stretch, source.start.segmentSizeBytes, signal);
  const ranges = everyCommit ? found : found.filter((range) => !beginsBehind(range, stretch));
  return { source, log, coverage, stretch, ranges };
}

type ReadContext = {
  readonly source: LogSource;
  readonly log: Awaited<ReturnType<typeof openLog>>;
  readonly coverage: Awaited<ReturnType<Awaited<ReturnType<typeof openLog>>['coverage']>>;
  readonly stretch: LogStretch;
  readonly ranges: readonly StretchRange[];
};

async function listEvents(
  { source, log, stretch, ranges }: ReadContext,
  options: ReadOptions,
  signal: AbortSignal,
): Promise<void> {
  for await (const event of readEvents(source, log, ranges, stretch, signal)) {
    if (event.kind === 'switch') continue; // of segments: says nothing of what happened
    console.log(options.json === true ? toJson(event, source.round.round) : formatEvent(event));
  }
}

const LIST_HEADING = `${'time'.padEnd(27)}  ${'timeline'.padStart(8)}  ${'position'.padEnd(17)}  what`;

function formatEvent(event: TimedEvent): string {
  const timeUs = timeOf(event);
  const time = (timeUs === undefined ? '' : formatInstant(timeUs)).padEnd(27);
  const position = formatLsn(event.begin).padEnd(17);
  return `${time}  ${String(event.timeline).padStart(8)}  ${position}  ${describe(event)}`;
}

function describe(event: TimedEvent): string {
  switch (event.kind) {
    case 'commit':
    case 'abort':
      return `${event.kind} ${event.xid}`;
    case 'restorePoint':
      return `restore point "${event.name}"`;
    case 'checkpoint':
      return `${event.shutdown ? 'shutdown checkpoint' : 'checkpoint'}, redo ${formatLsn(event.redo)}`;
    case 'endOfRecovery':
      return `timeline ${event.timeline} begins, from ${event.previousTimeline}`;
    case 'walLevel':
      return `wal_level ${['minimal', 'replica', 'logical'][event.walLevel] ?? event.walLevel}`;
    case 'createTablespace':
      return `create tablespace ${event.oid} at ${event.location}`;
    default:
      return event.kind;
  }
}

function toJson(event: TimedEvent, round: bigint): string {
  const timeUs = timeOf(event);
  return JSON.stringify(
    {
      ...event,
      begin: formatLsn(event.begin),
      end: formatLsn(event.end),
      ...(timeUs === undefined ? {} : { time: formatInstant(timeUs) }),
      round: String(round),
    },
    (key, value: unknown) =>
      typeof value === 'bigint' ? (key === 'redo' ? formatLsn(value) : String(value)) : value,
  );
}

async function showVolume(
  { source, log, coverage, ranges }: ReadContext,
  options: ReadOptions,
  signal: AbortSignal,
): Promise<void> {
  const counter = new VolumeCounter();
  for (const range of ranges) {
    const chunks = log.read(range.timeline, range.begin, range.end, signal);
    await counter.add(chunks, readerOptions(source, range), range.from, signal);
  }
  const volume = counter.volume();
  if (options.json === true) {
    for (const range of coverage)
      console.log(
        JSON.stringify({
          kind: 'range',
          timeline: range.timeline,
          begin: formatLsn(range.begin),
          end: formatLsn(range.end),
          ...(range.checkpointUs === undefined ? {} : { until: formatInstant(range.checkpointUs) }),
          round: String(source.round.round),
        }),
      );
    for (const relation of volume.relations) console.log(JSON.stringify({ kind: 'relation', ...relation }));
    for (const other of volume.others) console.log(JSON.stringify({ kind: 'other', ...other }));
    return;
  }
  console.log(`Partition group ${source.group}, round ${source.round.round}`);
  for (const range of coverage) {
    const until = range.checkpointUs === undefined ? '' : `, until ${formatInstant(range.checkpointUs)}`;
    console.log(
      `  timeline ${range.timeline}: ${formatLsn(range.begin)} to ${formatLsn(range.end)} (${formatSize(range.end - range.begin)})${until}`,
    );
  }
  console.log(
    `\n${'tablespace/database/relation'.padEnd(32)}  ${'records'.padStart(10)}  ${'log'.padStart(10)}`,
  );
  for (const { tablespace, database, relation, records, bytes } of volume.relations)
    console.log(volumeLine(`${tablespace}/${database}/${relation}`, records, bytes));
  for (const { resourceManager, records, bytes } of volume.others)
    console.log(volumeLine(`(${resourceManager})`, records, bytes));
}

function volumeLine(name: string, records: number, bytes: number): string {
  return `${name.padEnd(32)}  ${String(records).padStart(10)}  ${formatSize(bytes).padStart(10)}`;
}

async function fetchFile(name: string, path: string, options: LogSourceOptions): Promise<void> {
  try {
    await fetchTo(name, path, options);
  } catch (error) {
    if (isError(error, 'FILE_NOT_FOUND')) throw error;
    const failure = toHoldfastError(error);
    printError(failure);
    process.exitCode = FETCH_FAILED + failure.facts.exitCode;
  }
}

async function fetchTo(name: string, path: string, options: LogSourceOptions): Promise<void> {
  const { signal } = new AbortController();
  await using medium = await openLogDestination(options, signal);
  for (const source of await findLogSources(medium, options, signal)) {
    const data = await readFrom(source, name, signal);
    if (data === undefined) continue;
    await writeWhole(path, data);
    return;
  }
  throw new HoldfastError('FILE_NOT_FOUND', `${name} is not in the archive at ${medium.displayUri}`);
}

async function readFrom(source: LogSource, name: string, signal: AbortSignal): Promise<Buffer | undefined> {
  const history = historyTimeline(name);
  if (history !== undefined) return await readHistory(source, history, signal);
  const log = await openLog(source, signal);
  return await readArchivedSegment(source, log, name, source.start.segmentSizeBytes, signal);
}

/** The server may look at the file as soon as it is there. */
async function writeWhole(path: string, data: Buffer): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  try {
    {
      await using file = await open(temporary, 'wx', 0o600);
      await file.writeFile(data);
      await file.sync();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw new HoldfastError('DESTINATION_IO', `cannot write ${path}`, { cause: error });
  }
}

function bound(text: string): LogBound {
  try {
    if (text.includes('/')) return lsnBound(parseLsn(text));
    return { kind: 'time', timeUs: parseInstantUs(text) };
  } catch (error) {
    throw new InvalidArgumentError(error instanceof HoldfastError ? error.message : String(error));
  }
}

function timeline(text: string): Timeline {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('Write a number of at least 1.');
  return toTimeline(value);
}
