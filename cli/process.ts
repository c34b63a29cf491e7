/** What `holdfast coordinator` and `holdfast agent` have in common: configuration, log, life and end of the process. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { z } from 'zod';
import { createLogger, LOG_LEVELS, type Logger, type LogLevel } from '../foundation/log.ts';
import { runUntilSignal } from '../foundation/process-life.ts';
import { parseDurationMs } from '../foundation/units.ts';
import { loadYamlConfig } from '../foundation/yaml-config.ts';

export type ProcessOptions = {
  readonly config: string;
  readonly checkConfig?: boolean;
  readonly logLevel: LogLevel;
  readonly logFormat: 'auto' | 'pretty' | 'json';
  readonly drain: number;
};

export function addProcessOptions(command: Command, fileName: string): Command {
  return command
    .requiredOption('--config <file>', `the configuration, see docs/configuration.md (${fileName})`)
    .option('--check-config', 'check the configuration and end')
    .addOption(
      new Option('--log-level <level>', 'least important line to log').choices(LOG_LEVELS).default('info'),
    )
    .addOption(
      new Option('--log-format <format>', 'auto: for people on a terminal, JSON otherwise')
        .choices(['auto', 'pretty', 'json'])
        .default('auto'),
    )
    .option('--drain <duration>', 'how long an orderly end may take', parseDrain, 20_000);
}

/** Reads the configuration and runs `main` until it is told to end. */
export async function runProcess<Schema extends z.ZodType>(
  name: string,
  options: ProcessOptions,
  schema: Schema,
  main: (config: z.output<Schema>, signal: AbortSignal, logger: Logger) => Promise<void>,
): Promise<void> {
  const config = await loadYamlConfig(options.config, schema);
  if (options.checkConfig === true) {
    process.stdout.write(`${options.config}: ok\n`);
    return;
  }
  const logger = createLogger({ name, level: options.logLevel, format: options.logFormat });
  process.exitCode = await runUntilSignal((signal) => main(config, signal, logger), {
    drainMs: options.drain,
    logger,
  });
}

function parseDrain(text: string): number {
  try {
    return parseDurationMs(text);
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message); // parseDurationMs throws HoldfastError only
  }
}
