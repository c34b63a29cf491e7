/** The command line as a commander program: strict about what it is given, and able to say what was meant. */
import { Command, CommanderError } from 'commander';
import { HoldfastError } from '../foundation/errors.ts';
import { didYouMean } from '../foundation/suggest.ts';
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
  refuseUnknownCommand(args);
  try {
    await program.parseAsync([...args], { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return; // help or version was printed
    if (error.code === 'commander.missingMandatoryOptionValue') refuseUnknownOption(program, args);
    throw error;
  }
}

/** Commander answers `help <nonsense>` and `<nonsense> --help` with the general help. */
function refuseUnknownCommand(args: readonly string[]): void {
  const name = commandIn(args);
  const known = COMMANDS.map((entry) => entry.name);
  if (name === undefined || name === 'help' || known.includes(name)) return;
  throw new HoldfastError('INVALID_ARGUMENT', `unknown command '${name}'`, { hint: advise(name, known) });
}

/** An option that is required is missing because another one was mistyped: say that. */
function refuseUnknownOption(program: Command, args: readonly string[]): void {
  const command = program.commands.find((candidate) => candidate.name() === commandIn(args));
  const [unknown] = command?.parseOptions(args.slice(1)).unknown ?? [];
  if (command === undefined || unknown === undefined) return;
  const known = command.options.flatMap((option) => option.long ?? []);
  throw new HoldfastError('INVALID_ARGUMENT', `unknown option '${unknown}'`, {
    hint: advise(unknown, known),
  });
}

function advise(word: string, known: readonly string[]): string {
  return didYouMean(word, known).trim() || 'Add --help to see what there is.';
}
