/** What `--help` looks like, the same for every command: what it does, its options, then examples. */
import type { Command, HelpConfiguration } from 'commander';

export const HELP_STYLE: HelpConfiguration = {
  sortSubcommands: false,
  helpWidth: 100,
  subcommandTerm: (command) => command.name(),
  styleTitle: (title) => title,
};

export type Example = readonly [what: string, command: string];

/** Appends an `Examples:` section. */
export function addExamples(command: Command, examples: readonly Example[]): Command {
  const lines = examples.flatMap(([what, line]) => [`  # ${what}`, `  ${line}`, '']);
  return command.addHelpText('after', `\nExamples:\n${lines.join('\n').trimEnd()}`);
}
