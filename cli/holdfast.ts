#!/usr/bin/env node
/** The `holdfast` command: runs one subcommand, and turns whatever goes wrong into one message and one exit code. */
import { printError } from './print-error.ts';
import { runProgram } from './program.ts';

// A reader that went away (`holdfast inspect … | head`) is no error of ours.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

try {
  await runProgram(process.argv.slice(2));
} catch (error) {
  process.exitCode = printError(error);
}
