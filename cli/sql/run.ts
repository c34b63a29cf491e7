/** Runs a string of statements on a coordinator and prints what comes, as it comes. */
import { assertNever } from '../../foundation/assert.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import type {
  AdminService,
  Column,
  ExecuteResponse,
  Notice,
  Value,
} from '../../proto/gen/holdfast/v1/admin_pb.ts';
import { fromErrorDetail, type ServiceClient } from '../../proto/grpc-service.ts';
import { ProgressLine } from '../progress-line.ts';
import { formatCaret } from './caret.ts';
import { type Format, formatTable } from './tables.ts';

export type AdminClient = ServiceClient<typeof AdminService>;

export type RunOptions = {
  readonly user: string;
  readonly password: string;
  readonly format: Format;
  readonly stdout: NodeJS.WritableStream;
  readonly stderr: NodeJS.WriteStream;
};

/** Throws the HoldfastError that a statement failed with, its place in the statement shown in `detail`. */
export async function runSql(
  client: AdminClient,
  sql: string,
  options: RunOptions,
  signal: AbortSignal,
): Promise<void> {
  using progress = new ProgressLine(options.stderr);
  const printer = new Printer(options, progress);
  const request = {
    $typeName: 'holdfast.v1.ExecuteRequest' as const,
    sql,
    user: options.user,
    password: options.password,
  };
  for await (const response of client.execute(request, { signal })) {
    if (response.kind.case === 'error') throw withCaret(sql, fromErrorDetail(response.kind.value));
    printer.print(response);
  }
}

/** The error with the line that it points at in front of its detail. */
function withCaret(sql: string, error: HoldfastError): HoldfastError {
  if (error.position === undefined) return error;
  const place = formatCaret(sql, error.position);
  return new HoldfastError(error.code, `${error.message}\n${place}`, {
    cause: error.cause,
    ...(error.detail === undefined ? {} : { detail: error.detail }),
    ...(error.hint === undefined ? {} : { hint: error.hint }),
  });
}

class Printer {
  readonly #options: RunOptions;
  readonly #progress: ProgressLine;
  #columns: readonly Column[] | undefined;
  #rows: (readonly Value[])[] = [];

  constructor(options: RunOptions, progress: ProgressLine) {
    this.#options = options;
    this.#progress = progress;
  }

  print({ kind }: ExecuteResponse): void {
    switch (kind.case) {
      case 'rowDescription':
        this.#columns = kind.value.columns;
        this.#rows = [];
        return;
      case 'row':
        this.#rows.push(kind.value.values);
        return;
      case 'notice':
        this.#printNotice(kind.value);
        return;
      case 'commandComplete':
        this.#complete(kind.value.tag);
        return;
      case 'error':
      case undefined:
        return;
      default:
        assertNever(kind);
    }
  }

  #complete(tag: string): void {
    const { format, stdout } = this.#options;
    this.#progress[Symbol.dispose]();
    if (this.#columns !== undefined)
      stdout.write(formatTable({ columns: this.#columns, rows: this.#rows }, format));
    else if (format === 'aligned') stdout.write(`${tag}\n`);
    this.#columns = undefined;
  }

  /** Progress (INFO) is one line that moves on a terminal, and lines elsewhere. */
  #printNotice({ severity, message, detail, hint }: Notice): void {
    const { stderr } = this.#options;
    if (severity === 'INFO' && stderr.isTTY) {
      this.#progress.show(message);
      return;
    }
    this.#progress[Symbol.dispose]();
    stderr.write(`${severity}:  ${message}\n`);
    if (detail !== '') stderr.write(`DETAIL:  ${detail}\n`);
    if (hint !== '') stderr.write(`HINT:  ${hint}\n`);
  }
}
