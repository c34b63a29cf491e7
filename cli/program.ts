/** The command line as a commander program: strict about what it is given, and able to say what was meant. */
import { Command, CommanderError } from 'commander';
import { COMMANDS, commandIn } from './commands.ts';
import { addExamples, HELP_STYLE } from './help.ts';
import { versionLine } from './version.ts';

/** The program with the command in `args` (what follows `holdfast`) fully registered, the others by name only. */
async function buildProgram(args: readonly string[]): Promise<Command> {
  const program = new Command('holdfast')
    .description('Physical backup for PostgreSQL fleets: one statement backs a tenant up, one restores it.')
    .version(versionLine(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'show help')
    .helpCommand('help [command]', 'show help for a command')
    .configureHelp(HELP_STYLE)
    .configureOutput({ outputError: () => undefined }) // errors are printed by print-error.ts
    .showSuggestionAfterError(true)
    .exitOverride();
  addExamples(program, [
    ['see it all work, on real servers, in two minutes', 'holdfast demo'],
    ['run the two kinds of processes', 'holdfast coordinator --config deploy/coordinator.yaml'],
    ['begin archiving, then back up', `holdfast sql -c "ALTER SYSTEM ARCHIVELOG TENANT = orders"`],
    ['restore without any of them', `holdfast restore --from file:///backup --tenant orders --to /restored`],
  ]);
  program.addHelpText('after', '\n`holdfast <command> --help` explains a command.');
  const wanted = commandIn(args);
  for (const entry of COMMANDS) {
    if (entry.name === wanted) (await entry.load())(program);
    else program.command(entry.name).description(entry.summary);
  }
  return program;
}

/** Runs one command line. Throws HoldfastError, or CommanderError for a line that is refused. */
export async function runProgram(args: readonly string[]): Promise<void> {
  const program = await buildProgram(args);
  if (args.length === 0) {
    program.outputHelp();
    return;
  }
  try {
    await program.parseAsync([...args], { from: 'user' });
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return; // help or version was printed
    throw error;
  }
}
