/** What `holdfast coordinator` and `holdfast agent` have in common: configuration, log, life and end of the process. */
import { type Command, Option } from 'commander';
import type { z } from 'zod';
import { createLogger, LOG_LEVELS, type Logger, type LogLevel } from '../foundation/log.ts';
import { runUntilSignal } from '../foundation/process-life.ts';
import { parseDurationMs } from '../foundation/units.ts';
import { loadYamlConfig } from '../foundation/yaml-config.ts';

export type ProcessOptions = {
  readonly config: string;
  readonly checkConfig?: boolean;
  readonly logLevel?: LogLevel;
  readonly logFormat: 'auto' | 'pretty' | 'json';
  readonly drain: string;
};

export function addProcessOptions(command: Command, fileName: string): Command {
  return command
    .requiredOption('--config <file>', `the configuration, see docs/configuration.md (${fileName})`)
    .option('--check-config', 'check the configuration and end')
    .addOption(
      new Option('--log-level <level>', 'least important line to log; overrides log_level').choices(
        LOG_LEVELS,
      ),
    )
    .addOption(
      new Option('--log-format <format>', 'auto: for people on a terminal, JSON otherwise')
        .choices(['auto', 'pretty', 'json'])
        .default('auto'),
    )
    .option('--drain <duration>', 'how long an orderly end may take', '20s');
}

/** Reads the configuration and runs `main` until it is told to end. */
export async function runProcess<Config extends { readonly log_level?: LogLevel | undefined }>(
  name: string,
  options: ProcessOptions,
  schema: z.ZodType<Config>,
  main: (config: Config, signal: AbortSignal, logger: Logger) => Promise<void>,
): Promise<void> {
  const config = await loadYamlConfig(options.config, schema);
  if (options.checkConfig === true) {
    process.stdout.write(`${options.config}: ok\n`);
    return;
  }
  const level = options.logLevel ?? config.log_level ?? 'info';
  const logger = createLogger({ name, level, format: options.logFormat });
  process.exitCode = await runUntilSignal((signal) => main(config, signal, logger), {
    drainMs: parseDurationMs(options.drain),
    logger,
  });
}
