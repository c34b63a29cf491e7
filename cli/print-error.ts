/** How the command says that something failed: one line, then DETAIL and HINT as psql writes them. */
import { CommanderError } from 'commander';
import { formatError, HoldfastError, toHoldfastError } from '../foundation/errors.ts';
import { maskCredentials } from '../foundation/log.ts';

/** The text for a person; secrets masked. With `stack` the place in the program too. */
export function describeError(error: HoldfastError, options: { readonly stack: boolean }): string {
  const lines = [`ERROR:  ${formatError(error)}`];
  if (error.detail !== undefined) lines.push(`DETAIL:  ${indent(error.detail)}`);
  if (error.hint !== undefined) lines.push(`HINT:  ${indent(error.hint)}`);
  if (options.stack) {
    lines.push(error.stack ?? '');
    for (let cause = error.cause; cause instanceof Error; cause = cause.cause)
      lines.push(`caused by: ${cause.stack ?? cause.message}`);
  }
  return maskCredentials(lines.join('\n'));
}

/** Prints the error to standard error and returns the exit code that goes with it. */
export function printError(thrown: unknown): number {
  const error = thrown instanceof CommanderError ? fromCommander(thrown) : toHoldfastError(thrown);
  const stack = error.code === 'INTERNAL' || process.env['HOLDFAST_DEBUG'] !== undefined;
  process.stderr.write(`${describeError(error, { stack })}\n`);
  return error.facts.exitCode;
}

/** `error: unknown option '--untill'\n(Did you mean --until?)` as one of our errors. */
function fromCommander(error: CommanderError): HoldfastError {
  const [first = '', ...rest] = error.message.replace(/^error: /, '').split('\n');
  const advice = rest.join(' ').replaceAll(/[()]/g, '').trim();
  const hint = advice === '' ? 'Add --help to see what there is.' : advice;
  return new HoldfastError('INVALID_ARGUMENT', first, { hint });
}

function indent(text: string): string {
  return text.split('\n').join('\n         ');
}
