/** `holdfast sql` and `holdfast events`: a coordinator's admin service from the command line. */
import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { create } from '@bufbuild/protobuf';
import { type Command, Option } from 'commander';
import { HoldfastError } from '../foundation/errors.ts';
import {
  AdminService,
  type Event,
  type WatchEventsRequest,
  WatchEventsRequestSchema,
} from '../proto/gen/holdfast/v1/admin_pb.ts';
import { makeClient } from '../proto/grpc-service.ts';
import { addExamples } from './help.ts';
import { type AdminClient, runSql } from './sql/run.ts';
import { FORMATS, type Format } from './sql/tables.ts';
import { formatTimestamp } from './sql/values.ts';

const DEFAULT_COORDINATOR = '127.0.0.1:2882';
const DEFAULT_USER = 'root';
const PASSWORD_VARIABLE = 'HOLDFAST_PASSWORD';

type SqlOptions = {
  readonly command?: readonly string[];
  readonly file?: string;
  readonly coordinator: string;
  readonly user: string;
  readonly passwordFile?: string;
  readonly format: Format;
};

export function registerSql(program: Command): void {
  const command = program
    .command('sql')
    .summary('run admin statements on a coordinator')
    .description(
      'Run admin and reading statements on a coordinator, over gRPC. The statements come from -c, from a file, or from ' +
        'standard input. Results go to standard output, notices and progress to standard error.\n\n' +
        `The password comes from --password-file, or from the variable ${PASSWORD_VARIABLE}.`,
    )
    .option(
      '-c, --command <sql>',
      'statements to run; may be given again',
      (statements: string, before: string[] | undefined) => [...(before ?? []), statements],
    )
    .option('-f, --file <path>', 'a file of statements to run; - is standard input')
    .option('--coordinator <host:port>', "the coordinator's gRPC address", DEFAULT_COORDINATOR)
    .option('-U, --user <name>', 'log in as this user', DEFAULT_USER)
    .option('--password-file <path>', 'a file that holds the password')
    .addOption(new Option('--format <format>', 'how results are written').choices(FORMATS).default('aligned'))
    .action(runStatements);
  addExamples(command, [
    ['begin archiving', `holdfast sql -c "ALTER SYSTEM ARCHIVELOG TENANT = orders"`],
    ['back up and wait', `holdfast sql -c "ALTER SYSTEM BACKUP TENANT = orders WAIT"`],
    ['for a script', `holdfast sql --format json -c "SELECT * FROM CDB_OB_BACKUP_SET_FILES"`],
    ['many statements', 'holdfast sql -f statements.sql'],
  ]);
}

async function runStatements(options: SqlOptions): Promise<void> {
  const password = await readPassword(options.passwordFile);
  const strings = await readStatements(options);
  const { user, format } = options;
  await withClient(options.coordinator, async (client, signal) => {
    for (const statements of strings)
      await runSql(
        client,
        statements,
        { user, password, format, stdout: process.stdout, stderr: process.stderr },
        signal,
      );
  });
}

async function readStatements({ command, file }: SqlOptions): Promise<readonly string[]> {
  const fromFile =
    file === undefined ? [] : [file === '-' ? await text(process.stdin) : await readText(file)];
  if (command !== undefined || file !== undefined) return [...(command ?? []), ...fromFile];
  if (process.stdin.isTTY)
    throw new HoldfastError('INVALID_ARGUMENT', 'there is nothing to run', {
      hint: 'Give -c "…" or -f file, or write the statements to standard input.',
    });
  return [await text(process.stdin)];
}

async function readPassword(path: string | undefined): Promise<string> {
  if (path === undefined) return process.env[PASSWORD_VARIABLE] ?? '';
  return (await readText(path)).replace(/\r?\n$/, '');
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    throw new HoldfastError('INVALID_ARGUMENT', `cannot read ${path}`, { cause, detail: String(cause) });
  }
}

/** A client until `work` is done; Ctrl-C cancels it. An unreachable coordinator is named. */
async function withClient(
  address: string,
  work: (client: AdminClient, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const interrupted = new AbortController();
  const interrupt = () => interrupted.abort(new HoldfastError('QUERY_CANCELLED', 'cancelled by the user'));
  process.once('SIGINT', interrupt);
  const client = makeClient(AdminService, address);
  try {
    await work(client, interrupted.signal);
  } catch (error) {
    if (!(error instanceof HoldfastError) || error.code !== 'AGENT_UNREACHABLE') throw error;
    throw new HoldfastError('SERVER_UNREACHABLE', `cannot reach the coordinator at ${address}`, {
      cause: error,
      detail: error.message,
      hint: 'Is it running? Give its gRPC address with --coordinator.',
    });
  } finally {
    process.off('SIGINT', interrupt);
    client.close();
  }
}

type EventOptions = {
  readonly follow?: boolean;
  readonly after?: string;
  readonly coordinator: string;
  readonly user: string;
  readonly passwordFile?: string;
  readonly format: Format;
};

const EVENTS_SHOWN = 1000;

export function registerEvents(program: Command): void {
  const command = program
    .command('events')
    .summary('print what happens on a coordinator, as it happens')
    .description(
      'Print the events of a coordinator: those in CDB_OB_EVENT_HISTORY, then with --follow new ones as they happen.',
    )
    .option('-F, --follow', 'go on until interrupted')
    .option('--after <event id>', 'only events after this one; default: from the first')
    .option('--coordinator <host:port>', "the coordinator's gRPC address", DEFAULT_COORDINATOR)
    .option('-U, --user <name>', 'log in as this user', DEFAULT_USER)
    .option('--password-file <path>', 'a file that holds the password')
    .addOption(
      new Option('--format <format>', 'how past events are written').choices(FORMATS).default('aligned'),
    )
    .action(events);
  addExamples(command, [
    ['what happened', 'holdfast events'],
    ['and what happens next', 'holdfast events --follow'],
  ]);
}

async function events(options: EventOptions): Promise<void> {
  const { after = '0' } = options;
  if (!/^\d{1,19}$/.test(after))
    throw new HoldfastError('INVALID_ARGUMENT', `--after needs an event id, not "${after}"`);
  if (options.follow === true) {
    const request = create(WatchEventsRequestSchema, {
      afterEventId: BigInt(after),
      user: options.user,
      password: await readPassword(options.passwordFile),
    });
    await withClient(options.coordinator, (client, signal) => follow(client, request, signal));
    return;
  }
  const command = [
    `SELECT * FROM (SELECT * FROM CDB_OB_EVENT_HISTORY WHERE event_id > ${after} ORDER BY event_id DESC LIMIT ${EVENTS_SHOWN}) recent ORDER BY event_id`,
  ];
  await runStatements({ ...options, command });
}

/** Until Ctrl-C, which is how it is meant to end. */
async function follow(client: AdminClient, request: WatchEventsRequest, signal: AbortSignal): Promise<void> {
  try {
    for await (const event of client.watchEvents(request, { signal }))
      process.stdout.write(`${formatEvent(event)}\n`);
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

function formatEvent({ timeUs, severity, module, event, tenantName, message }: Event): string {
  const tenant = tenantName === '' ? '' : ` [${tenantName}]`;
  return `${formatTimestamp(timeUs)} ${severity.padEnd(7)} ${module}.${event}${tenant} ${message}`;
}
