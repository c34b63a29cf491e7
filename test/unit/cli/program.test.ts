import { CommanderError } from 'commander';
import { expect, test } from 'vitest';
import { COMMANDS, commandIn } from '../../../cli/commands.ts';
import { describeError } from '../../../cli/print-error.ts';
import { runProgram } from '../../../cli/program.ts';
import { HoldfastError } from '../../../foundation/errors.ts';

async function refusal(...args: readonly string[]): Promise<string> {
  try {
    await runProgram(args);
  } catch (error) {
    if (error instanceof CommanderError) return error.message;
    throw error;
  }
  throw new Error('accepted');
}

test('an unknown command is refused with the nearest one', async () => {
  for (const args of [['coordinater'], ['help', 'coordinater'], ['coordinater', '--help']])
    await expect(runProgram(args)).rejects.toMatchObject({
      message: "unknown command 'coordinater'",
      hint: 'Did you mean "coordinator"?',
    });
});

test('a mistyped option is named also where a required one is missing', async () => {
  await expect(runProgram(['agent', '--confg', 'agent.yaml'])).rejects.toMatchObject({
    message: "unknown option '--confg'",
    hint: 'Did you mean "--config"?',
  });
  expect(await refusal('agent')).toContain("required option '--config <file>' not specified");
});

test('an unknown option is refused with the nearest one', async () => {
  expect(await refusal('version', '--hepl')).toContain('Did you mean --help?');
});

test('the command is the first word, or the one after help', () => {
  expect(commandIn(['--foo', 'sql', '-c', 'x'])).toBe('sql');
  expect(commandIn(['help', 'restore'])).toBe('restore');
  expect(commandIn([])).toBeUndefined();
});

test('every command of the table registers itself under its name', async () => {
  const { Command } = await import('commander');
  for (const entry of COMMANDS) {
    const program = new Command();
    (await entry.load())(program);
    expect(program.commands.map((command) => command.name())).toEqual([entry.name]);
    expect(program.commands[0]?.helpInformation()).toContain('Options:');
  }
});

test('an error is printed as message, DETAIL and HINT, without secrets', () => {
  const error = new HoldfastError('BACKUP_CAN_NOT_START', 'log archive of tenant "orders" is STOP', {
    detail: 'destination s3://b?access_key=hunter2',
    hint: 'ALTER SYSTEM ARCHIVELOG TENANT = orders',
  });
  expect(describeError(error, { stack: false })).toBe(
    [
      'ERROR:  OB-9040 BACKUP_CAN_NOT_START: log archive of tenant "orders" is STOP',
      'DETAIL:  destination s3://b?access_key=***',
      'HINT:  ALTER SYSTEM ARCHIVELOG TENANT = orders',
    ].join('\n'),
  );
});
