/** `holdfast repair`: what can be made anew at a destination from what is there. */
import type { Command } from 'commander';
import { type RepairedFile, repairIndexes } from '../agent/archive/rebuild-index.ts';
import { formatLsn } from '../foundation/lsn.ts';
import { addExamples } from './help.ts';
import {
  addLogSourceOptions,
  findLogSources,
  type LogSourceOptions,
  openLogDestination,
} from './log-source.ts';

type RepairOptions = LogSourceOptions & { readonly dryRun?: boolean; readonly json?: boolean };

export function registerRepair(program: Command): void {
  const repair = program
    .command('repair')
    .summary('make anew what a destination can tell from its other files')
    .description('Make anew what a destination can tell from its other files.');
  const clog = repair
    .command('clog')
    .summary('check the index of every log file, and make the wrong and missing ones anew')
    .description(
      'Read the log files of a round, compare each with its index file, and make the indexes anew that are damaged, say ' +
        'something else than their log file, or are missing. Log files are never changed. Exit code 4: a log file itself ' +
        'cannot be read.',
    );
  addLogSourceOptions(clog)
    .option('--dry-run', 'only say what is wrong')
    .option('--json', 'one JSON object per log file')
    .action(repairClog);
  addExamples(clog, [
    [
      'what is wrong, without touching it',
      'holdfast repair clog --from file:///backup --tenant orders --dry-run',
    ],
  ]);
}

async function repairClog(options: RepairOptions): Promise<void> {
  const { signal } = new AbortController();
  await using medium = await openLogDestination(options, signal);
  const [source] = await findLogSources(medium, options, signal);
  if (source === undefined) return; // findLogSources has thrown
  const dryRun = options.dryRun === true;
  let files = 0;
  let mended = 0;
  for await (const file of repairIndexes(source, { major: source.start.postgresMajor, dryRun }, signal)) {
    files += 1;
    if (file.verdict === 'unreadable') process.exitCode = 4;
    if (file.verdict === 'wrong' || file.verdict === 'missing') mended += 1;
    if (options.json === true) console.log(toJson(file));
    else if (file.reason !== '') console.log(`${file.fileId}.${file.epoch}: ${describe(file, dryRun)}`);
  }
  if (options.json === true) return;
  console.log(`${files} log files, ${mended} indexes ${dryRun ? 'to be made' : 'made'} anew`);
}

function describe(file: RepairedFile, dryRun: boolean): string {
  if (file.verdict === 'unreadable') return `cannot be read: ${file.reason}`;
  return `${file.reason}; ${dryRun ? 'can be' : 'was'} made anew`;
}

function toJson(file: RepairedFile): string {
  return JSON.stringify({
    ...file,
    fileId: String(file.fileId),
    epoch: String(file.epoch),
    begin: formatLsn(file.begin),
    end: formatLsn(file.end),
  });
}
