/** `holdfast demo`, which `npm run demo` runs. */
import { chown, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { silentLogger } from '../../foundation/log.ts';
import { runUntilSignal } from '../../foundation/process-life.ts';
import { addExamples } from '../help.ts';
import { ChildProcesses, endRecordedProcesses } from './child-processes.ts';
import { type DemoResult, runDemo } from './demo.ts';
import { createNarrator, type Narrator } from './narrator.ts';
import { isRoot, runUnprivileged, UNPRIVILEGED } from './unprivileged.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const DIRECTORY = join(ROOT, '.demo');

type Options = { readonly keep?: boolean; readonly prepared?: boolean };

export function registerDemo(program: Command): void {
  const command = program
    .command('demo')
    .summary('show it all on a real PostgreSQL server')
    .description(
      'Show it all on a real PostgreSQL server: archive, back up under load, lose data, restore to the last instant ' +
        'before the loss, compare every row. Takes about a minute. Asks nothing; touches nothing but .demo/ in the ' +
        'checkout. As root, everything runs as the user nobody.',
    )
    .option('--keep', 'leave everything running, and print how to reach it')
    .addOption(new Option('--prepared', '.demo/ is there and empty').hideHelp())
    .action(async (options: Options) => {
      process.exitCode = await demo(options);
    });
  addExamples(command, [
    ['from a fresh clone', 'npm run demo'],
    ['look around afterwards', 'npm run demo -- --keep'],
  ]);
}

async function demo(options: Options): Promise<number> {
  if (options.prepared !== true) await clearDirectory();
  if (isRoot())
    return await runUnprivileged(join(ROOT, 'cli', 'holdfast.ts'), [
      'demo',
      '--prepared',
      ...(options.keep === true ? ['--keep'] : []),
    ]);
  let exitCode = 1;
  const signalled = await runUntilSignal(
    async (signal) => {
      exitCode = await play(options.keep === true, signal);
    },
    { drainMs: 60_000, logger: silentLogger() },
  );
  return signalled === 0 ? exitCode : signalled;
}

/** Ends what an earlier run left running, and empties `.demo/`. */
async function clearDirectory(): Promise<void> {
  const ended = await endRecordedProcesses(DIRECTORY);
  if (ended.length > 0) process.stdout.write(`Ended the earlier demo: ${ended.join(', ')}\n`);
  await rm(DIRECTORY, { recursive: true, force: true });
  await mkdir(DIRECTORY, { recursive: true });
  if (isRoot()) await chown(DIRECTORY, UNPRIVILEGED.uid, UNPRIVILEGED.gid);
}

async function play(keep: boolean, signal: AbortSignal): Promise<number> {
  const begin = performance.now();
  const narrator = createNarrator((text) => process.stdout.write(text));
  const processes = await ChildProcesses.open(DIRECTORY);
  let result: DemoResult | undefined;
  try {
    result = await runDemo({ root: ROOT, directory: DIRECTORY, processes, narrator }, signal);
  } finally {
    printTimings(narrator, performance.now() - begin);
    if (keep && result !== undefined) printConnections(result);
    else await processes[Symbol.asyncDispose]();
  }
  return printVerdict(result);
}

function printTimings(narrator: Narrator, totalMs: number): void {
  const lines = narrator
    .timings()
    .map(({ title, durationMs }) => `  ${(durationMs / 1000).toFixed(1).padStart(6)} s  ${title}`);
  process.stdout.write(
    `\nTimings\n${lines.join('\n')}\n  ${(totalMs / 1000).toFixed(1).padStart(6)} s  in all\n`,
  );
}

function printConnections({ stage, restoredPort }: DemoResult): void {
  process.stdout.write(`
Everything is left running; the next demo ends it.
  psql -h 127.0.0.1 -p ${stage.sqlPort} -U ${stage.adminUser} oceanbase   # the coordinator
  psql -h 127.0.0.1 -p ${stage.source.port} -U postgres shop      # the shop, after the accident
  psql -h 127.0.0.1 -p ${restoredPort} -U postgres shop      # the shop, restored
`);
}

function printVerdict({ differences, tables, rows, restoredTo }: DemoResult): number {
  if (differences.length === 0) {
    process.stdout.write(`\nRESTORED EXACTLY: ${tables} tables, ${rows} rows as of ${restoredTo}\n`);
    return 0;
  }
  process.stdout.write(`\nNOT RESTORED EXACTLY, as of ${restoredTo}:\n  ${differences.join('\n  ')}\n`);
  return 1;
}
