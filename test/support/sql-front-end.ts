/** A wire front end with a small catalog of two views and a few commands, for tests of the SQL layer itself. */
import { spawn } from 'node:child_process';
import { type Credentials, makeCredentials } from '../../coordinator/sql/credentials.ts';
import type { ExecuteCommand, SqlServices } from '../../coordinator/sql/execute.ts';
import type { Reader, ViewSource } from '../../coordinator/sql/reader.ts';
import { startPgliteReader } from '../../coordinator/sql/reading/pglite-reader.ts';
import type { AdminStatement } from '../../coordinator/sql/statements.ts';
import { startWireServer } from '../../coordinator/sql/wire/server.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { createLogger } from '../../foundation/log.ts';

export const USER = 'root';
export const PASSWORD = "s3cret' pass";

export type StandInCatalog = ViewSource & {
  /** Adds a backup set, as a commit would. */
  addSet(path: string): void;
  readonly reads: string[];
};

export function makeStandInCatalog(): StandInCatalog {
  const sets: {
    bs_key: number;
    tenant_id: string;
    output_bytes: string;
    start_time: string;
    path: string;
  }[] = [];
  const reads: string[] = [];
  let commits = 0;
  return {
    reads,
    views: [
      {
        name: 'cdb_ob_backup_set_files',
        columns: [
          { name: 'bs_key', type: 'bigint' },
          { name: 'tenant_id', type: 'bigint' },
          { name: 'output_bytes', type: 'numeric' },
          { name: 'start_time', type: 'timestamp with time zone' },
          { name: 'path', type: 'text' },
        ],
      },
      {
        name: 'dba_ob_tenants',
        columns: [
          { name: 'tenant_id', type: 'bigint' },
          { name: 'tenant_name', type: 'text' },
        ],
      },
    ],
    changeCounter: () => commits,
    addSet(path) {
      commits += 1;
      sets.push({
        bs_key: commits,
        tenant_id: '1001',
        output_bytes: '123456789012345678901',
        start_time: '2026-11-21T01:02:03.123456+00:00',
        path,
      });
    },
    async readView(name) {
      reads.push(name);
      return name === 'dba_ob_tenants'
        ? '[{"tenant_id":1001,"tenant_name":"orders"}]'
        : JSON.stringify(sets).replaceAll(/"(\d+)"/g, '$1');
    },
  };
}

export type FrontEndForTest = AsyncDisposable & {
  readonly port: number;
  readonly services: SqlServices;
  readonly credentials: Credentials;
  readonly catalog: StandInCatalog;
  /** The admin statements that ran, in order. */
  readonly executed: AdminStatement[];
  queryTimeoutMs: number;
};

export async function startFrontEnd(
  options: { readonly reader?: (catalog: StandInCatalog) => Reader; readonly maxProcesses?: number } = {},
): Promise<FrontEndForTest> {
  const catalog = makeStandInCatalog();
  catalog.addSet('backup_set_1_full');
  const executed: AdminStatement[] = [];
  const reader =
    options.reader?.(catalog) ??
    startPgliteReader({ views: catalog, maxProcesses: options.maxProcesses ?? 4 });
  const credentials = await makeCredentials([{ user: USER, password: PASSWORD }]);
  const services: SqlServices = {
    reader,
    queryTimeoutMs: () => front.queryTimeoutMs,
    executeCommand: standInCommands(executed),
  };
  const logger = createLogger({ name: 'coordinator', level: 'silent' });
  const server = await startWireServer({ host: '127.0.0.1', port: 0, credentials, services, logger });
  const front: FrontEndForTest = {
    port: server.port,
    services,
    credentials,
    catalog,
    executed,
    queryTimeoutMs: 30_000,
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
      await reader[Symbol.asyncDispose]();
    },
  };
  return front;
}

function standInCommands(executed: AdminStatement[]): ExecuteCommand {
  return async function* (statement, _session, signal) {
    executed.push(statement);
    if (statement.kind === 'showParameters') {
      yield {
        kind: 'rowDescription',
        columns: [
          { name: 'name', type: 'text' },
          { name: 'value', type: 'int8' },
          { name: 'changed', type: 'timestamptz' },
        ],
      };
      yield { kind: 'row', values: ['backup_concurrency', 4n, { timestampUs: 1_795_223_132_000_001n }] };
      yield { kind: 'row', values: ['backup_dest', null, null] };
      return;
    }
    if (statement.kind === 'noArchiveLog')
      throw new HoldfastError('ALREADY_NO_LOG_ARCHIVE_BACKUP', 'log archive of tenant "orders" is STOP', {
        detail: 'Round 1 ended at 0/3000148.',
        hint: 'ALTER SYSTEM ARCHIVELOG;',
      });
    if (statement.kind === 'backup' && statement.wait) await untilAborted(signal);
    yield { kind: 'notice', severity: 'NOTICE', message: 'job 7 started' };
  };
}

async function untilAborted(signal: AbortSignal): Promise<void> {
  const { promise, reject } = Promise.withResolvers<void>();
  signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
  await promise;
}

export type PsqlResult = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

/** Debian's psql. `interruptAfterMs`: Ctrl-C then. */
export async function psql(
  port: number,
  args: readonly string[],
  options: { readonly input?: string; readonly password?: string; readonly interruptAfterMs?: number } = {},
): Promise<PsqlResult> {
  const child = spawn(
    '/usr/bin/psql',
    ['-X', '-h', '127.0.0.1', '-p', String(port), '-U', USER, '-d', 'oceanbase', ...args],
    {
      env: {
        PATH: '/usr/bin:/bin',
        PGPASSWORD: options.password ?? PASSWORD,
        PGCONNECT_TIMEOUT: '20',
        LC_ALL: 'C.UTF-8',
      },
    },
  );
  const output = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (output.stdout += chunk));
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (output.stderr += chunk));
  child.stdin.end(options.input ?? '');
  const timer =
    options.interruptAfterMs === undefined
      ? undefined
      : setTimeout(() => child.kill('SIGINT'), options.interruptAfterMs);
  const { promise, resolve } = Promise.withResolvers<number | null>();
  child.once('close', resolve);
  const code = await promise;
  clearTimeout(timer);
  return { code, ...output };
}
