/**
 * Structured logs (pino): one JSON line per event, or lines for people when they go to a terminal.
 *
 * Invariant: no secret leaves through a log. Fields with a secret's name are replaced (`REDACTED_FIELDS`, at the top and
 * one level down), and every line, whatever its shape, is searched for credentials inside URIs before it is written.
 */
import { isatty } from 'node:tty';
import { type DestinationStream, destination, type Logger, pino } from 'pino';
import { PinoPretty } from 'pino-pretty';
import { formatError, HoldfastError } from './errors.ts';

export type { Logger };

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export type LogOptions = {
  /** Which process speaks: `coordinator`, `agent`. */
  readonly name: string;
  readonly level?: LogLevel;
  /** Default `auto`: for people when standard error is a terminal, JSON otherwise. */
  readonly format?: 'auto' | 'pretty' | 'json';
  /** Where lines go; default standard error, so that standard output stays the command's own. */
  readonly stream?: DestinationStream;
};

const REDACTED_FIELDS = [
  'password',
  'passphrase',
  'token',
  'secret',
  'accessId',
  'accessKey',
  'access_id',
  'access_key',
  'authorization',
];

/** A logger; make children with `logger.child({ job: '7' })`. Errors go under `err`. */
export function createLogger(options: LogOptions): Logger {
  const format = options.format ?? 'auto';
  const pretty = format === 'pretty' || (format === 'auto' && options.stream === undefined && isatty(2));
  const stream = options.stream ?? destination({ fd: 2, sync: true });
  return pino(
    {
      name: options.name,
      level: options.level ?? 'info',
      base: { pid: process.pid },
      redact: {
        paths: REDACTED_FIELDS.flatMap((field) => [field, `*.${field}`]),
        censor: '***',
      },
      serializers: { err: serializeError },
      hooks: { streamWrite: maskCredentials },
    },
    pretty
      ? PinoPretty({
          destination: stream,
          sync: true,
          colorize: isatty(2),
          ignore: 'pid,name',
          messageFormat: '{name}: {msg}',
          translateTime: 'SYS:HH:MM:ss.l',
        })
      : stream,
  );
}

/** A logger that says nothing: for tests and for commands that print their own lines. */
export function silentLogger(): Logger {
  return pino({ level: 'silent' });
}

/** Replaces passwords and keys inside URIs and connection strings by `***`, wherever they stand in the text. */
export function maskCredentials(text: string): string {
  return text
    .replaceAll(/\b(access_id|access_key|password|secret|token)=[^&"'\\\s]+/gi, '$1=***')
    .replaceAll(/(\b[a-z][a-z0-9+.-]*:\/\/[^/@\s:"]*):[^/@\s"]+@/gi, '$1:***@');
}

/** What a log line says of an error. Bigints and cycles cannot break it: only strings enter. */
function serializeError(error: unknown): unknown {
  if (!(error instanceof Error)) return String(error);
  const causes: string[] = [];
  for (let cause = error.cause; cause instanceof Error && causes.length < 5; cause = cause.cause)
    causes.push(`${cause.name}: ${cause.message}`);
  return {
    message: error instanceof HoldfastError ? formatError(error) : `${error.name}: ${error.message}`,
    ...(error instanceof HoldfastError && error.detail !== undefined ? { detail: error.detail } : {}),
    ...(error instanceof HoldfastError && error.hint !== undefined ? { hint: error.hint } : {}),
    ...(causes.length > 0 ? { causes } : {}),
    stack: error.stack ?? '',
  };
}
