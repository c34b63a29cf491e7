/**
 * The table of subcommands. A command's own module is loaded only when the command is run or its help is asked for, so
 * that `holdfast --help` starts at once and a command does not pay for the others.
 */
import type { Command } from 'commander';

/** Adds one subcommand, with its options, examples and action, to the program. */
type Register = (program: Command) => void;

export type CommandEntry = {
  readonly name: string;
  readonly summary: string;
  readonly load: () => Promise<Register>;
};

export const COMMANDS: readonly CommandEntry[] = [
  {
    name: 'coordinator',
    summary: 'run the coordinator: takes admin statements, splits them into tasks, keeps the catalog',
    load: async () => (await import('./coordinator.ts')).registerCoordinator,
  },
  {
    name: 'agent',
    summary: 'run the agent of one database node: archives its log, copies its data, lays restores down',
    load: async () => (await import('./agent.ts')).registerAgent,
  },
  {
    name: 'sql',
    summary: 'run admin statements on a coordinator',
    load: async () => (await import('./sql.ts')).registerSql,
  },
  {
    name: 'events',
    summary: 'print what happens on a coordinator, as it happens',
    load: async () => (await import('./sql.ts')).registerEvents,
  },
  {
    name: 'restore',
    summary: 'restore from a destination alone, without coordinator or catalog',
    load: async () => (await import('./restore.ts')).registerRestore,
  },
  {
    name: 'inspect',
    summary: 'show what a destination holds, or decode any single file of it',
    load: async () => (await import('./inspect.ts')).registerInspect,
  },
  {
    name: 'validate',
    summary: 'read a destination and say what is not as it was written',
    load: async () => (await import('./validate.ts')).registerValidate,
  },
  {
    name: 'log',
    summary: 'read the archived log: what was committed when, and segments as files',
    load: async () => (await import('./log.ts')).registerLog,
  },
  {
    name: 'repair',
    summary: 'make anew what a destination can tell from its other files',
    load: async () => (await import('./repair.ts')).registerRepair,
  },
  {
    name: 'demo',
    summary: 'show it all on a real PostgreSQL server: back up, lose data, restore to the instant before',
    load: async () => (await import('./demo/command.ts')).registerDemo,
  },
  {
    name: 'version',
    summary: 'print the version',
    load: async () => (await import('./version.ts')).registerVersion,
  },
];

/** The command that the arguments name: the first word, or the one after `help`. */
export function commandIn(args: readonly string[]): string | undefined {
  const words = args.filter((arg) => !arg.startsWith('-'));
  return words[0] === 'help' ? words[1] : words[0];
}
